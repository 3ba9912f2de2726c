//! Lists as JSON, made and sent piece by piece: a list of everything is never in memory as one text.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use tokio::time::{Duration, Instant};

use super::list::{Listed, wrap};
use crate::catalog::Resource;
use crate::store::Stored;

/// A list that takes less is sent in one piece, with its length.
const WHOLE: usize = 256 << 10;
/// About how much is made at a time.
const PIECE: usize = 64 << 10;
/// A client that takes longer for a list holds old states for too long, and is cut.
const LONGEST: Duration = Duration::from_secs(300);

struct Sending {
    resource: Arc<Resource>,
    items: std::vec::IntoIter<Arc<Stored>>,
    first: bool,
    /// What follows the items.
    tail: Option<Vec<u8>>,
    /// What is made already.
    ready: Vec<u8>,
    deadline: Instant,
}

/// The body of a list.
pub(crate) fn body(resource: &Arc<Resource>, listed: Listed) -> Body {
    let shell = wrap(resource, Vec::new(), listed.rv, &listed.token, listed.remaining);
    let size: usize = listed.items.iter().map(|o| o.json.len() + 1).sum();
    let mut ready = Vec::with_capacity(size.min(PIECE) + 1024);
    ready.extend_from_slice(b"{\"apiVersion\":");
    ready.extend_from_slice(shell["apiVersion"].to_string().as_bytes());
    ready.extend_from_slice(b",\"items\":[");
    let mut tail = b"],\"kind\":".to_vec();
    tail.extend_from_slice(shell["kind"].to_string().as_bytes());
    tail.extend_from_slice(b",\"metadata\":");
    tail.extend_from_slice(shell["metadata"].to_string().as_bytes());
    tail.push(b'}');
    let mut sending = Sending {
        resource: resource.clone(),
        items: listed.items.into_iter(),
        first: true,
        tail: Some(tail),
        ready,
        deadline: Instant::now() + LONGEST,
    };
    if size <= WHOLE {
        while sending.more() {}
        return Body::from(sending.ready);
    }
    Body::from_stream(stream::unfold(sending, |mut s| async move {
        if Instant::now() > s.deadline {
            let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "the list was not read in time");
            s.tail = None;
            s.items = Vec::new().into_iter();
            s.ready.clear();
            return Some((Err(late), s));
        }
        while s.ready.len() < PIECE && s.more() {}
        let piece = std::mem::take(&mut s.ready);
        (!piece.is_empty()).then(|| (Ok(Bytes::from(piece)), s))
    }))
}

impl Sending {
    /// Makes the next item, or the end; false when there is nothing left to make.
    fn more(&mut self) -> bool {
        let Some(object) = self.items.next() else {
            let Some(tail) = self.tail.take() else {
                return false;
            };
            self.ready.extend_from_slice(&tail);
            return true;
        };
        if !self.first {
            self.ready.push(b',');
        }
        self.first = false;
        if self.resource.custom() && self.resource.verbatim(&object) {
            self.ready.extend_from_slice(&object.json);
        } else if self.resource.verbatim(&object) {
            untyped(&object.json, &mut self.ready);
        } else {
            let mut value = self.resource.decode(&object);
            if !self.resource.custom()
                && let Some(map) = value.as_object_mut()
            {
                map.shift_remove("kind");
                map.shift_remove("apiVersion");
            }
            self.ready.extend_from_slice(value.to_string().as_bytes());
        }
        true
    }
}

/// An object without its `kind` and `apiVersion`, as the lists of built-in kinds hold it. `json` is an object
/// as serde_json writes it: without spaces.
fn untyped(json: &[u8], out: &mut Vec<u8>) {
    out.push(b'{');
    let mut at = 1;
    let mut left = 2;
    let mut first = true;
    while at < json.len() && json[at] == b'"' {
        if left == 0 {
            // Both are out: the rest is copied as it is, with the closing brace.
            if !first {
                out.push(b',');
            }
            out.extend_from_slice(&json[at..]);
            return;
        }
        let key = string_end(json, at);
        let value = key + 1;
        let end = value_end(json, value);
        if matches!(&json[at..key], b"\"kind\"" | b"\"apiVersion\"") {
            left -= 1;
        } else {
            if !first {
                out.push(b',');
            }
            first = false;
            out.extend_from_slice(&json[at..end]);
        }
        at = end + 1;
    }
    out.push(b'}');
}

/// The position after the string that begins at `at`.
fn string_end(json: &[u8], at: usize) -> usize {
    let mut i = at + 1;
    while i < json.len() {
        match json[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    json.len()
}

/// The position after the value that begins at `at`.
fn value_end(json: &[u8], at: usize) -> usize {
    let mut depth = 0usize;
    let mut i = at;
    while i < json.len() {
        match json[i] {
            b'"' => {
                i = string_end(json, i);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return i,
            b'}' | b']' => depth -= 1,
            b',' if depth == 0 => return i,
            _ => {}
        }
        i += 1;
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn check(value: &Value) {
        let mut out = Vec::new();
        untyped(value.to_string().as_bytes(), &mut out);
        let mut want: Map<String, Value> = value.as_object().unwrap().clone();
        want.shift_remove("kind");
        want.shift_remove("apiVersion");
        assert_eq!(String::from_utf8(out).unwrap(), Value::Object(want).to_string());
    }

    #[test]
    fn the_type_is_taken_out_wherever_it_stands() {
        check(&json!({}));
        check(&json!({"kind": "A"}));
        check(&json!({"apiVersion": "v1", "kind": "A"}));
        check(&json!({"apiVersion": "v1", "kind": "A", "metadata": {"name": "x"}}));
        check(
            &json!({"metadata": {"kind": "inner", "apiVersion": "}],\"{"}, "kind": "A", "data": [1, {"kind": 2}], "apiVersion": "v1"}),
        );
        check(
            &json!({"a\"kind\"": "\\", "kind": "\\\"", "z": null, "apiVersion": "v1", "y": [[], {}, "]"], "x": -1.5}),
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z\"\\\\{}\\[\\],: \u{e9}\n]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((key(), inner), 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    fn key() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("kind".to_owned()),
            Just("apiVersion".to_owned()),
            "[a-z\"\\\\,:]{0,5}"
        ]
    }

    proptest! {
        #[test]
        fn any_object(members in prop::collection::vec((key(), any_json()), 0..6)) {
            check(&Value::Object(members.into_iter().collect()));
        }
    }
}
