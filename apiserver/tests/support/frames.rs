//! A client that writes the frames of HTTP/2 by hand (RFC 9113), and headers without compression (RFC 7541).

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::wire::{Wire, client};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

const PATIENCE: Duration = Duration::from_secs(60);

/// One frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection.
pub(crate) struct Frames {
    read: ReadHalf<TlsStream<TcpStream>>,
    write: BufWriter<WriteHalf<TlsStream<TcpStream>>>,
    waiting: Vec<Frame>,
}

/// Names and values as literals that are not to be indexed.
pub(crate) fn headers(method: &str, path: &str, token: &str) -> Vec<u8> {
    let bearer = format!("Bearer {token}");
    let mut all = vec![
        (":method", method),
        (":scheme", "https"),
        (":path", path),
        (":authority", "x"),
    ];
    if !token.is_empty() {
        all.push(("authorization", &bearer));
    }
    let mut block = Vec::new();
    for (name, value) in all {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "a length of one byte");
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

impl Frames {
    pub(crate) async fn open(address: SocketAddr, ca: &str) -> Frames {
        let mut config = (*client(ca, None)).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let wire = Wire::open(address, config.into()).await.unwrap();
        let (read, write) = tokio::io::split(wire.stream);
        let mut this = Frames {
            read,
            write: BufWriter::with_capacity(32 << 10, write),
            waiting: Vec::new(),
        };
        this.write
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        this.send(SETTINGS, 0, 0, &[]).await.unwrap();
        this
    }

    /// Writes a frame, which may wait here for more.
    pub(crate) async fn write(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> std::io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend_from_slice(payload);
        self.write.write_all(&frame).await
    }

    pub(crate) async fn flush(&mut self) -> std::io::Result<()> {
        self.write.flush().await
    }

    pub(crate) async fn send(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> std::io::Result<()> {
        self.write(kind, flags, stream, payload).await?;
        self.flush().await
    }

    /// The next frame, until the connection ends.
    pub(crate) async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.read.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.read.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    /// The next frame of this kind on this stream; others wait for their turn.
    pub(crate) async fn next(&mut self, kind: u8, stream: u32) -> Frame {
        let wanted = |f: &Frame| f.kind == kind && f.stream == stream;
        if let Some(at) = self.waiting.iter().position(wanted) {
            return self.waiting.remove(at);
        }
        let search = async {
            loop {
                let frame = self.read().await.expect("the connection goes on");
                if wanted(&frame) {
                    return frame;
                }
                self.waiting.push(frame);
            }
        };
        tokio::time::timeout(PATIENCE, search)
            .await
            .unwrap_or_else(|_| panic!("no frame of kind {kind} on stream {stream}"))
    }
}
