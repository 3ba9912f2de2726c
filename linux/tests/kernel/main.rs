//! Plans carried out on a real kernel, with traffic through it.
#![allow(clippy::unwrap_used)]

mod bed;
mod drift;
mod histories;
mod language;
mod traffic;
mod wanted;
