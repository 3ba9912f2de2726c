//! From `lab up` to the supervisor and back, over a socket pair that is the supervisor's standard input:
//! listening sockets of the host's loopback go in, progress comes out. While it is open, somebody cares.

use std::io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

/// Most listening sockets in one lab: twelve clusters and the broker.
const MAX_SOCKETS: usize = 16;

/// What the supervisor tells its maker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Progress {
    /// A step begins.
    Step(String),
    /// Everything is up.
    Ready,
    /// It could not be done.
    Failed {
        /// What and why.
        error: String,
        /// The process whose log may say more.
        log: Option<String>,
    },
}

/// Sends the sockets.
pub(crate) fn send_sockets(to: &UnixStream, sockets: &[TcpListener]) -> Result<()> {
    ensure!(sockets.len() <= MAX_SOCKETS, "too many clusters");
    let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(|s| s.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ensure!(
        ancillary.push(SendAncillaryMessage::ScmRights(&fds)),
        "too many sockets for one message"
    );
    sendmsg(to, &[IoSlice::new(b"s")], &mut ancillary, SendFlags::empty())
        .context("cannot hand the sockets over")?;
    Ok(())
}

/// Receives the sockets.
pub(crate) fn receive_sockets(from: &UnixStream) -> Result<Vec<TcpListener>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8];
    let got = recvmsg(
        from,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .context("cannot take the sockets over")?;
    ensure!(got.bytes == 1, "whoever started the lab is gone");
    let mut sockets = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            sockets.extend(fds.map(TcpListener::from));
        }
    }
    Ok(sockets)
}

/// The standard input as the socket that it is.
pub(crate) fn from_stdin() -> Result<UnixStream> {
    let fd: OwnedFd = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("cannot take the standard input over")?;
    Ok(UnixStream::from(fd))
}

/// Tells the maker. It may be gone: the lab does not depend on it once it is ready.
pub(crate) fn tell(mut to: &UnixStream, progress: &Progress) {
    let sent = serde_json::to_string(progress)
        .map_err(io::Error::other)
        .and_then(|line| to.write_all(format!("{line}\n").as_bytes()));
    if let Err(error) = sent {
        tracing::debug!("nobody listens to the lab's progress: {error}");
    }
}

/// What the supervisor tells, until it ends.
pub(crate) fn listen(from: UnixStream) -> impl Iterator<Item = Result<Progress>> {
    BufReader::new(from).lines().map(|line| {
        let line = line.context("cannot hear the supervisor")?;
        serde_json::from_str(&line).with_context(|| format!("the supervisor said {line:?}"))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_socket_handed_over_still_listens() {
        let (a, b) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        send_sockets(&a, &[listener]).unwrap();
        let sockets = receive_sockets(&b).unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let (mut server, _) = sockets[0].accept().unwrap();
        server.write_all(b"hello").unwrap();
        drop(server);
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn a_maker_that_is_gone_is_an_error() {
        let (a, b) = UnixStream::pair().unwrap();
        drop(a);
        assert!(receive_sockets(&b).unwrap_err().to_string().contains("gone"));
    }

    #[test]
    fn progress_arrives_in_order() {
        let (a, b) = UnixStream::pair().unwrap();
        let told = [
            Progress::Step("x".into()),
            Progress::Failed {
                error: "e".into(),
                log: None,
            },
        ];
        told.iter().for_each(|p| tell(&a, p));
        drop(a);
        let heard: Vec<Progress> = listen(b).map(Result::unwrap).collect();
        assert_eq!(heard, told);
    }
}
