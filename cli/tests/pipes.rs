//! Output that nobody reads to its end.

#![allow(clippy::unwrap_used)]

use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

#[test]
fn what_cannot_be_printed_is_an_error_and_no_panic() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_strait"))
        .args(["completion", "bash"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "strait: cannot write to standard output: No space left on device (os error 28)\n"
    );
}

#[test]
fn a_closed_pipe_ends_a_command_without_a_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_strait"))
        .args(["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 64]).unwrap();
    drop(stdout);
    let end = child.wait_with_output().unwrap();
    // The script is longer than a pipe holds, so that the program meets the closed end.
    assert_eq!(end.status.signal(), Some(13), "{:?}", end.status);
    assert_eq!(String::from_utf8_lossy(&end.stderr), "");
}
