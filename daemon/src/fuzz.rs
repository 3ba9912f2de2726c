//! What every daemon reads: requests at its metrics and probe addresses, answers to probes, its saved inputs. For
//! the fuzzer, and for the replay of what it found.
#![allow(clippy::unwrap_used)]

#[path = "../../fuzz/input.rs"]
mod input;

use std::sync::OnceLock;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Serialize;
use serde::de::DeserializeOwned;
use strait_api::mcs::{ServiceExport, ServiceImport};
use strait_api::records::{Cluster, ExportedService, Gateway, Member};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;

use crate::saved;
use crate::status::{Status, judge};

const REASON: &str = "the tunnel device is gone";

/// Connections that never touched a network.
struct Line(mpsc::UnboundedReceiver<DuplexStream>);

impl axum::serve::Listener for Line {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.recv().await {
            Some(stream) => (stream, ()),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<()> {
        Ok(())
    }
}

type Served = (tokio::runtime::Runtime, mpsc::UnboundedSender<DuplexStream>);

/// A daemon that is not ready.
fn served() -> &'static Served {
    static SERVED: OnceLock<Served> = OnceLock::new();
    SERVED.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (dial, line) = mpsc::unbounded_channel();
        let status = Status::default();
        status.unready(REASON);
        runtime.spawn(async move { axum::serve(Line(line), status.router()).await });
        (runtime, dial)
    })
}

/// A request to a daemon that is not ready, and an answer to a probe: none hangs, the daemon is called ready by
/// nothing, and only an answer of HTTP with a 200 is a yes.
pub fn probe(data: &[u8]) {
    if let Err(why) = judge(data) {
        assert!(!why.is_empty() && !why.contains('\n'), "{why:?}");
    } else {
        let said = String::from_utf8_lossy(data);
        let mut words = said.split_whitespace();
        assert!(words.next().unwrap().starts_with("HTTP/1."));
        assert_eq!(words.next(), Some("200"));
    }

    let (runtime, dial) = served();
    let answer = runtime.block_on(async {
        let (near, far) = duplex(1 << 20);
        dial.send(far).unwrap();
        let (mut read, mut write) = tokio::io::split(near);
        // The other side may have had enough already.
        let _ = write.write_all(&data[..data.len().min(1 << 16)]).await;
        let _ = write.shutdown().await;
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(10), read.read_to_end(&mut answer))
            .await
            .expect("the connection is kept open")
            .unwrap();
        answer
    });
    // Who begins with HTTP/2's preface is answered in its frames.
    let frames = data.starts_with(b"PRI * HTTP/2.0");
    assert!(
        answer.is_empty() || frames || answer.starts_with(b"HTTP/1."),
        "{}",
        answer.escape_ascii()
    );
    let asks = |path: &[u8]| data.windows(path.len()).any(|part| part == path);
    if !asks(b"/healthz") && !asks(b"/metrics") {
        assert!(judge(&answer).is_err(), "{}", answer.escape_ascii());
    }
}

/// A file of saved inputs: what is understood of it is written as it was read.
pub fn saved(data: &[u8]) {
    fn kind<K: DeserializeOwned + Serialize>(data: &[u8]) {
        if let Ok(objects) = saved::read::<K>(data) {
            let once = saved::written(&objects).unwrap();
            let again = saved::read::<K>(&once).unwrap();
            assert_eq!(again.len(), objects.len());
            assert_eq!(saved::written(&again).unwrap(), once);
        }
    }
    kind::<Cluster>(data);
    kind::<Gateway>(data);
    kind::<ExportedService>(data);
    kind::<Member>(data);
    kind::<ServiceExport>(data);
    kind::<ServiceImport>(data);
    kind::<Node>(data);
    kind::<Namespace>(data);
    kind::<Service>(data);
    kind::<EndpointSlice>(data);
}

#[cfg(test)]
mod tests {
    use super::input::replay;

    #[test]
    fn probes_that_were_found_hold() {
        replay("probe", super::probe);
    }

    #[test]
    fn files_that_were_found_hold() {
        replay("saved", super::saved);
    }
}
