//! What the replay test is made of.

pub(crate) mod normalise;
pub(crate) mod replay;
