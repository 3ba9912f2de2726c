//! What becomes of a program whose output nobody reads any longer.
#![allow(unsafe_code)]

/// Lets a closed pipe on standard output end this process quietly, as it ends `cat` and `ls`. Rust ignores
/// SIGPIPE at start and `println!` then panics. Not for daemons: they outlive whoever reads their log.
pub fn end_when_closed() {
    // SAFETY: SIG_DFL installs no handler of ours, so there is none that could run at a bad moment.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
