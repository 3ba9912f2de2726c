//! The audit log: who asked for what, and what came of it, as `audit.k8s.io/v1` Events of level Metadata,
//! one a line. Never a body, a token, or the text of an error (which may quote a Secret).
//!
//! Requests do not wait for the log. A thread writes it; when the disk is full, or slower than the requests
//! come, events are dropped, counted, and the loss is logged once it ends. Serving goes on: a server that
//! refuses everything because its log is full would be the worse failure for a network.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::auth::User;
use crate::auth::rbac::Attributes;
use crate::error::Error;

/// Events that wait to be written, at most.
const QUEUE: usize = 8192;
/// How often lost events are looked for while nothing is written.
const IDLE: Duration = Duration::from_secs(1);
/// Longest user agent and path that are written down.
const LONGEST: usize = 1024;

/// Where the audit log goes.
#[derive(Debug, Clone)]
pub struct Audit {
    /// The file. Full ones stand beside it: `.1` is the latest.
    pub path: PathBuf,
    /// Size at which a new file begins, in bytes.
    pub max_bytes: u64,
    /// Full files that are kept.
    pub backups: usize,
}

impl Audit {
    /// At this path: 100 MiB a file, and ten full ones.
    pub fn new(path: PathBuf) -> Self {
        Audit {
            path,
            max_bytes: 100 << 20,
            backups: 10,
        }
    }
}

/// What is known of a request while it is served.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) id: String,
    received: Timestamp,
    uri: String,
    agent: String,
    pub(crate) source: Option<IpAddr>,
    verb: String,
    pub(crate) user: Option<User>,
    pub(crate) impersonated: Option<User>,
    object: Option<Value>,
    pub(crate) allowed: Option<bool>,
    code: u16,
    reason: &'static str,
}

fn cut(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let kept: String = text.chars().take(LONGEST / 4).collect();
    format!("{kept}...TRUNCATED")
}

/// The path and query, without what might be a credential.
fn shown(uri: &http::Uri) -> String {
    let Some(query) = uri.query() else {
        return cut(uri.path());
    };
    let hide = |pair: &str| {
        let name = pair.split('=').next().unwrap_or_default().to_lowercase();
        let secret = ["token", "password", "secret", "authorization"]
            .iter()
            .any(|s| name.contains(s));
        if secret {
            format!("{name}=REDACTED")
        } else {
            pair.to_owned()
        }
    };
    let pairs: Vec<String> = query.split('&').map(hide).collect();
    cut(&format!("{}?{}", uri.path(), pairs.join("&")))
}

impl Entry {
    /// Of a request that has just come. `id`: what the client calls it, if it names it sensibly.
    pub(crate) fn new(method: &http::Method, uri: &http::Uri, agent: &str, id: Option<&str>) -> Self {
        let sensible = |id: &&str| {
            (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        Entry {
            id: id.filter(sensible).map_or_else(crate::auth::uuid, str::to_owned),
            received: Timestamp::now(),
            uri: shown(uri),
            agent: cut(agent),
            source: None,
            verb: method.as_str().to_lowercase(),
            user: None,
            impersonated: None,
            object: None,
            allowed: None,
            code: 0,
            reason: "",
        }
    }

    /// What was asked for.
    pub(crate) fn asked(&mut self, a: &Attributes, version: &str) {
        self.verb.clone_from(&a.verb);
        if a.path.is_some() {
            return;
        }
        let mut object = Map::new();
        for (key, value) in [
            ("resource", a.resource.as_str()),
            ("namespace", &a.namespace),
            ("name", &a.name),
            ("apiGroup", &a.group),
            ("apiVersion", version),
            ("subresource", &a.subresource),
        ] {
            if !value.is_empty() {
                object.insert(key.into(), value.into());
            }
        }
        self.object = Some(Value::Object(object));
    }

    /// What came of it.
    pub(crate) fn answered(&mut self, code: u16, reason: &'static str) {
        self.code = code;
        self.reason = reason;
    }

    fn line(&self, stage: &str) -> Vec<u8> {
        let user = |u: &User| {
            let mut value = u.to_value();
            // What else is known of a user may be anything; the name and groups say who it was.
            if let Some(map) = value.as_object_mut() {
                map.shift_remove("extra");
            }
            value
        };
        let mut event = json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata",
            "auditID": self.id, "stage": stage, "requestURI": self.uri, "verb": self.verb});
        event["user"] = self.user.as_ref().map_or_else(|| json!({}), user);
        if let Some(other) = &self.impersonated {
            event["impersonatedUser"] = user(other);
        }
        if let Some(source) = self.source {
            event["sourceIPs"] = json!([source.to_string()]);
        }
        if !self.agent.is_empty() {
            event["userAgent"] = self.agent.clone().into();
        }
        if let Some(object) = &self.object {
            event["objectRef"] = object.clone();
        }
        if self.code != 0 {
            let mut status = json!({"metadata": {}});
            if !self.reason.is_empty() {
                status["status"] = "Failure".into();
                status["reason"] = self.reason.into();
            }
            status["code"] = self.code.into();
            event["responseStatus"] = status;
        }
        event["requestReceivedTimestamp"] = time(self.received).into();
        event["stageTimestamp"] = time(Timestamp::now()).into();
        if let Some(allowed) = self.allowed {
            let decision = if allowed { "allow" } else { "forbid" };
            event["annotations"] =
                json!({"authorization.k8s.io/decision": decision, "authorization.k8s.io/reason": ""});
        }
        let mut line = event.to_string().into_bytes();
        line.push(b'\n');
        line
    }
}

fn time(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// The log. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    queue: SyncSender<Vec<u8>>,
    lost: Arc<AtomicU64>,
}

impl Log {
    /// Opens the file, and starts the thread that writes it, which ends with the last clone.
    pub(crate) fn start(audit: Audit) -> Result<Self, Error> {
        let file = Rotating::open(audit)?;
        let (queue, lines) = mpsc::sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = lost.clone();
        std::thread::Builder::new()
            .name("audit-log".into())
            .spawn(move || write(file, &lines, &counter))
            .map_err(|e| Error::Other(format!("the audit log's thread cannot start: {e}")))?;
        Ok(Log { queue, lost })
    }

    /// Notes a stage of a request.
    pub(crate) fn note(&self, entry: &Entry, stage: &str) {
        if self.queue.try_send(entry.line(stage)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write(mut file: Rotating, lines: &Receiver<Vec<u8>>, lost: &AtomicU64) {
    let mut failing = false;
    loop {
        match lines.recv_timeout(IDLE) {
            Ok(line) => match file.append(&line) {
                Ok(()) => failing = false,
                Err(e) => {
                    lost.fetch_add(1, Ordering::Relaxed);
                    if !failing {
                        tracing::error!(path = %file.audit.path.display(), error = %e,
                            "the audit log cannot be written: events are lost until it can, and requests are served on");
                    }
                    failing = true;
                }
            },
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if !failing {
            let events = lost.swap(0, Ordering::Relaxed);
            if events > 0 {
                tracing::warn!(events, path = %file.audit.path.display(), "events were lost for the audit log");
            }
        }
    }
}

/// The file, and the full ones beside it.
#[derive(Debug)]
struct Rotating {
    audit: Audit,
    file: Option<File>,
    /// Length up to which the file holds whole lines.
    length: u64,
    /// Length at which a new file begins.
    limit: u64,
}

impl Rotating {
    fn open(audit: Audit) -> Result<Self, Error> {
        let limit = audit.max_bytes;
        let mut this = Rotating {
            audit,
            file: None,
            length: 0,
            limit,
        };
        let fail = |path: &Path, source| Error::File {
            path: path.to_owned(),
            what: "opened for the audit log".into(),
            source,
        };
        this.begin().map_err(|e| fail(&this.audit.path, e))?;
        // Where a link leads, the full files stay too.
        let real = std::fs::canonicalize(&this.audit.path);
        this.audit.path = real.map_err(|e| fail(&this.audit.path, e))?;
        Ok(this)
    }

    fn begin(&mut self) -> std::io::Result<()> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.audit.path)?;
        self.length = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn append(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self.length > 0 && self.length + line.len() as u64 > self.limit {
            match self.rotate() {
                Ok(()) => self.limit = self.audit.max_bytes,
                Err(e) => {
                    // A log that grows is better than none. It is tried again when as much has come as goes
                    // into a file.
                    tracing::error!(path = %self.audit.path.display(), error = %e,
                        "the full audit log cannot be put beside the new one, and grows");
                    self.limit = self.length.saturating_add(self.audit.max_bytes);
                }
            }
        }
        if self.file.is_none() {
            self.begin()?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        match file.write_all(line) {
            Ok(()) => {
                self.length += line.len() as u64;
                Ok(())
            }
            Err(e) => {
                // No half line stays, so that the next one stands on its own.
                let cut = file.set_len(self.length);
                self.file = None;
                cut.and(Err(e))
            }
        }
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        self.file = None;
        let name = |n: usize| numbered(&self.audit.path, n);
        if self.audit.backups == 0 {
            std::fs::remove_file(&self.audit.path)?;
        } else {
            for n in (1..self.audit.backups).rev() {
                match std::fs::rename(name(n), name(n + 1)) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
            }
            std::fs::rename(&self.audit.path, name(1))?;
        }
        self.length = 0;
        self.begin()
    }
}

fn numbered(path: &Path, n: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_are_few() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let audit = Audit {
            path: path.clone(),
            max_bytes: 40,
            backups: 2,
        };
        let mut file = Rotating::open(audit.clone()).unwrap();
        for n in 0..20 {
            file.append(format!("line {n:02} of the log\n").as_bytes())
                .unwrap();
        }
        let read = |p: &Path| std::fs::read_to_string(p).unwrap();
        assert_eq!(read(&path), "line 18 of the log\nline 19 of the log\n");
        assert_eq!(
            read(&numbered(&path, 1)),
            "line 16 of the log\nline 17 of the log\n"
        );
        assert_eq!(
            read(&numbered(&path, 2)),
            "line 14 of the log\nline 15 of the log\n"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        // A later start goes on where this one ended.
        drop(file);
        let mut file = Rotating::open(audit).unwrap();
        file.append(b"line 20 of the log\n").unwrap();
        assert_eq!(read(&path), "line 20 of the log\n");
    }

    #[test]
    fn the_log_stays_where_a_link_leads() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let link = dir.path().join("audit.log");
        // The file itself is not there yet.
        std::os::unix::fs::symlink(other.join("real.log"), &link).unwrap();
        let audit = Audit {
            path: link.clone(),
            max_bytes: 40,
            backups: 2,
        };
        for start in 0..2 {
            let mut file = Rotating::open(audit.clone()).unwrap();
            for n in 0..5 {
                file.append(format!("line {start}{n} of the log\n").as_bytes())
                    .unwrap();
            }
        }
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        let read = |name: &str| std::fs::read_to_string(other.join(name)).unwrap();
        assert_eq!(std::fs::read_to_string(&link).unwrap(), read("real.log"));
        assert_eq!(read("real.log"), "line 13 of the log\nline 14 of the log\n");
        assert_eq!(read("real.log.1"), "line 11 of the log\nline 12 of the log\n");
        assert_eq!(std::fs::read_dir(&other).unwrap().count(), 3);
    }

    #[test]
    fn a_log_that_cannot_be_put_aside_grows_and_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        // Something stands in the way, which holds for root too.
        let way = numbered(&path, 1);
        std::fs::create_dir_all(way.join("full")).unwrap();
        let mut file = Rotating::open(Audit {
            path: path.clone(),
            max_bytes: 40,
            backups: 1,
        })
        .unwrap();
        let mut add = |n: usize| {
            file.append(format!("line {n:02} of the log\n").as_bytes())
                .unwrap();
        };
        (0..7).for_each(&mut add);
        let lines = |p: &Path| std::fs::read_to_string(p).unwrap().lines().count();
        assert_eq!(lines(&path), 7);
        std::fs::remove_dir_all(&way).unwrap();
        (7..10).for_each(&mut add);
        assert_eq!(lines(&path) + lines(&way), 10, "every line is in one of them");
        assert!(lines(&path) <= 2);
        // A folder that does not take the log at all is told of at once.
        let nowhere = Audit::new(dir.path().join("missing/audit.log"));
        let e = Rotating::open(nowhere).unwrap_err().to_string();
        assert!(
            e.contains("missing/audit.log cannot be opened for the audit log"),
            "{e}"
        );
    }

    #[test]
    fn credentials_in_a_query_are_not_written_down() {
        let uri = "/api/v1/pods?limit=5&access_token=abc&Password=x&continue=y"
            .parse()
            .unwrap();
        assert_eq!(
            shown(&uri),
            "/api/v1/pods?limit=5&access_token=REDACTED&password=REDACTED&continue=y"
        );
        let long: http::Uri = format!("/{}", "x".repeat(5000)).parse().unwrap();
        assert!(shown(&long).ends_with("...TRUNCATED") && shown(&long).len() < 400);
        let entry = Entry::new(&http::Method::GET, &uri, "", Some("evil\" id"));
        assert_eq!(entry.id.len(), 36, "a name of its own");
    }
}
