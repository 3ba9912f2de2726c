//! The lines.

use std::io::BufRead;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::store::Stored;

const KIND: &str = "strait-apiserver-backup";
const FORMAT: u32 = 1;
/// The longest line: an object is much smaller.
const LONGEST: u64 = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    kind: String,
    format: u32,
    version: u64,
    taken: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FileLine {
    pub(super) file: String,
    pub(super) text: String,
}

/// Takes `{"resource":"r","object":{…}}` apart, as [`Writer::object`] writes it.
fn object_line(line: &[u8]) -> Option<(&str, &str)> {
    let line = std::str::from_utf8(line).ok()?;
    let rest = line.strip_prefix("{\"resource\":\"")?.strip_suffix("}\n")?;
    let (resource, object) = rest.split_once("\",\"object\":")?;
    serde_json::from_str::<serde::de::IgnoredAny>(object).ok()?;
    Some((resource, object))
}

#[derive(Debug, Serialize, Deserialize)]
struct End {
    objects: usize,
    sha256: String,
}

/// What a backup is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Resource version that it shows.
    pub version: u64,
    /// When it was taken.
    pub taken: String,
    /// Objects in it.
    pub objects: usize,
}

/// A backup that is read and found whole.
pub(crate) struct Backup {
    pub(crate) summary: Summary,
    pub(super) files: Vec<FileLine>,
    /// Resource and JSON of every object.
    pub(crate) objects: Vec<(String, Bytes)>,
}

/// Makes the lines, and their digest.
pub(super) struct Writer {
    digest: Sha256,
    objects: usize,
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

impl Writer {
    pub(super) fn begin(version: u64) -> (Self, Vec<u8>) {
        let mut this = Writer {
            digest: Sha256::new(),
            objects: 0,
        };
        let head = line(&Head {
            kind: KIND.into(),
            format: FORMAT,
            version,
            taken: crate::rest::now(),
        });
        this.digest.update(&head);
        (this, head)
    }

    pub(super) fn file(&mut self, name: &str, text: &str) -> Vec<u8> {
        let line = line(&FileLine {
            file: name.into(),
            text: text.into(),
        });
        self.digest.update(&line);
        line
    }

    pub(super) fn object(&mut self, resource: &str, object: &Stored) -> Vec<u8> {
        let mut line = b"{\"resource\":".to_vec();
        line.extend_from_slice(serde_json::Value::from(resource).to_string().as_bytes());
        line.extend_from_slice(b",\"object\":");
        line.extend_from_slice(&object.json);
        line.extend_from_slice(b"}\n");
        self.digest.update(&line);
        self.objects += 1;
        line
    }

    pub(super) fn end(self) -> Vec<u8> {
        line(&End {
            objects: self.objects,
            sha256: hex::encode(self.digest.finalize()),
        })
    }
}

fn wrong(why: impl std::fmt::Display) -> Error {
    Error::Backup(format!("{why}"))
}

/// Reads lines, one at a time, and checks them to the end.
fn read(
    mut from: impl BufRead,
    mut take: impl FnMut(Line<'_>) -> Result<(), Error>,
) -> Result<Summary, Error> {
    let mut digest = Sha256::new();
    let mut text = Vec::new();
    let mut next = |text: &mut Vec<u8>| -> Result<bool, Error> {
        text.clear();
        let n = std::io::Read::take(&mut from, LONGEST)
            .read_until(b'\n', text)
            .map_err(|e| wrong(format!("it cannot be read: {e}")))?;
        Ok(n > 0 && text.ends_with(b"\n"))
    };
    if !next(&mut text)? {
        return Err(wrong("it is empty, or no backup"));
    }
    let head: Head = serde_json::from_slice(&text).map_err(|_| wrong("it is no backup of an API server"))?;
    if head.kind != KIND {
        return Err(wrong(format!(
            "it is a {:?}, no backup of an API server",
            head.kind
        )));
    }
    if head.format != FORMAT {
        return Err(wrong(format!(
            "it has format {}, and this program knows {FORMAT} only",
            head.format
        )));
    }
    digest.update(&text);
    let mut objects = 0;
    loop {
        if !next(&mut text)? {
            return Err(wrong(format!(
                "it ends after {objects} objects without its last line: it was cut off"
            )));
        }
        if text.starts_with(b"{\"objects\"")
            && let Ok(end) = serde_json::from_slice::<End>(&text)
        {
            if end.objects != objects || end.sha256 != hex::encode(digest.finalize()) {
                return Err(wrong("its content does not fit its digest: it was changed"));
            }
            if next(&mut text)? || !text.is_empty() {
                return Err(wrong("something follows its end"));
            }
            return Ok(Summary {
                version: head.version,
                taken: head.taken,
                objects,
            });
        }
        digest.update(&text);
        let bad = || wrong(format!("the line after {objects} objects is no part of one"));
        if text.starts_with(b"{\"file\"") {
            take(Line::File(serde_json::from_slice(&text).map_err(|_| bad())?))?;
        } else {
            let (resource, object) = object_line(&text).ok_or_else(bad)?;
            take(Line::Object(resource, object))?;
            objects += 1;
        }
    }
}

enum Line<'a> {
    File(FileLine),
    Object(&'a str, &'a str),
}

/// Checks that a backup is whole.
pub fn verify(from: impl BufRead) -> Result<Summary, Error> {
    read(from, |_| Ok(()))
}

impl Backup {
    /// Reads and checks all of one.
    pub(crate) fn read(from: impl BufRead) -> Result<Self, Error> {
        let (mut files, mut objects) = (Vec::new(), Vec::new());
        let summary = read(from, |line| {
            match line {
                Line::File(file) => files.push(file),
                Line::Object(resource, json) => {
                    let json = Bytes::copy_from_slice(json.as_bytes());
                    let stored = Stored::from_json(json.clone()).map_err(wrong)?;
                    if stored.name.is_empty() || resource.is_empty() || resource.contains('/') {
                        return Err(wrong("an object in it has no name or no resource"));
                    }
                    objects.push((resource.to_owned(), json));
                }
            }
            Ok(())
        })?;
        Ok(Backup {
            summary,
            files,
            objects,
        })
    }
}
