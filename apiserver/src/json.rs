//! JSON with what Kubernetes adds to it: fields that stand twice are found, and errors read as Go's do.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Parses a value; the second part names fields that stood twice, of which the last one counts.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Value, Vec<String>), String> {
    let mut twice = Vec::new();
    let mut de = serde_json::Deserializer::from_slice(bytes);
    let seed = Seed {
        path: String::new(),
        twice: &mut twice,
    };
    let value = seed.deserialize(&mut de).and_then(|v| de.end().map(|()| v));
    match value {
        Ok(value) => Ok((value, twice)),
        Err(e) => Err(go_error(bytes, &e)),
    }
}

/// The start of a text, for messages.
pub(crate) fn excerpt(text: &str) -> String {
    if text.len() <= 1024 {
        return text.to_owned();
    }
    let mut end = 1024;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
}

/// What Go's decoder calls a value.
pub(crate) fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A body as refusals of it show it: its beginning, in hexadecimal digits unless it looks like an object.
pub(crate) fn summary(body: &[u8]) -> String {
    const LONGEST: usize = 30;
    if body.is_empty() {
        return "<empty>".to_owned();
    }
    let start = &body[..body.len().min(LONGEST)];
    let mut text = if body[0] == b'{' {
        String::from_utf8_lossy(start).into_owned()
    } else {
        hex::encode(start)
    };
    if body.len() > LONGEST {
        text.push_str(" ...");
    }
    text
}

/// About what a value takes when it is written, in bytes.
pub(crate) fn size(value: &Value) -> usize {
    match value {
        Value::Object(map) => map.iter().map(|(k, v)| k.len() + 4 + size(v)).sum::<usize>() + 1,
        Value::Array(list) => list.iter().map(|v| 1 + size(v)).sum::<usize>() + 1,
        Value::String(text) => text.len() + 2,
        _ => 4,
    }
}

/// A parse error in the words of Go's decoder.
pub(crate) fn go_error(bytes: &[u8], e: &serde_json::Error) -> String {
    if e.is_eof() || bytes.is_empty() {
        return "unexpected end of JSON input".into();
    }
    let mut offset = 0;
    for (n, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        if n + 1 == e.line() {
            offset += e.column().saturating_sub(1);
            break;
        }
        offset += line.len();
    }
    let Some(byte) = bytes.get(offset.min(bytes.len() - 1)) else {
        return e.to_string();
    };
    let shown = match byte {
        b'\'' => "\\'".to_owned(),
        b if b.is_ascii_graphic() || *b == b' ' => char::from(*b).to_string(),
        b => format!("\\x{b:02x}"),
    };
    let text = e.to_string();
    if text.starts_with("expected ident") {
        return literal(bytes, offset, &shown).unwrap_or(text);
    }
    let place = if text.starts_with("trailing comma") && *byte == b'}' {
        "looking for beginning of object key string"
    } else if text.starts_with("trailing comma") {
        "looking for beginning of value"
    } else if text.starts_with("key must be a string") {
        "looking for beginning of object key string"
    } else if text.starts_with("expected value") {
        "looking for beginning of value"
    } else if text.starts_with("expected `:`") {
        "after object key"
    } else if text.starts_with("expected `,` or `}`") {
        "after object key:value pair"
    } else if text.starts_with("expected `,` or `]`") {
        "after array element"
    } else if text.starts_with("trailing characters") {
        "after top-level value"
    } else {
        return text;
    };
    format!("invalid character '{shown}' {place}")
}

/// The error of a word that is none of the three, at its first wrong letter.
fn literal(bytes: &[u8], wrong: usize, shown: &str) -> Option<String> {
    ["null", "true", "false"].into_iter().find_map(|word| {
        (1..word.len()).rev().find_map(|n| {
            let begun = bytes.get(wrong.checked_sub(n)?..wrong)?;
            let expected = word[n..].chars().next()?;
            (begun == &word.as_bytes()[..n])
                .then(|| format!("invalid character '{shown}' in literal {word} (expecting '{expected}')"))
        })
    })
}

struct Seed<'a> {
    path: String,
    twice: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let seed = Seed {
                path: format!("{}[{}]", self.path, list.len()),
                twice: self.twice,
            };
            match seq.next_element_seed(seed)? {
                Some(v) => list.push(v),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = if self.path.is_empty() {
                key.clone()
            } else {
                format!("{}.{key}", self.path)
            };
            let value = map.next_value_seed(Seed {
                path: path.clone(),
                twice: self.twice,
            })?;
            if out.insert(key, value).is_some() && !self.twice.contains(&path) {
                if self.twice.len() > 100 {
                    return Err(A::Error::custom("too many duplicate fields"));
                }
                self.twice.push(path);
            }
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_stand_twice_are_named() {
        let (value, twice) = parse(br#"{"a": {"b": 1, "b": 2}, "c": [{"d": 1, "d": 1}]}"#).unwrap();
        assert_eq!(value["a"]["b"], 2, "the last one counts");
        assert_eq!(twice, ["a.b", "c[0].d"]);
    }

    proptest::proptest! {
        #[test]
        fn reads_what_serde_json_reads(text in "[\\[\\]{}:,\"a-c0-9. etrufalsn-]{0,40}") {
            let theirs = serde_json::from_str::<Value>(&text).ok();
            let ours = parse(text.as_bytes()).ok().map(|(v, _)| v);
            proptest::prop_assert_eq!(ours, theirs);
        }
    }
}
