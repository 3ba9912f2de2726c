//! What a command prints: all of it, or an error.

use std::io::{self, Write as _};

/// Standard output does not take what was to be printed.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub struct PrintError(#[from] io::Error);

/// Prints a line, or lines; their end is added.
///
/// # Errors
/// If it cannot be written to its end, as on a full disk.
pub fn print(text: &str) -> Result<(), PrintError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}
