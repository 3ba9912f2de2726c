//! Plans carried out on a real kernel, with traffic through it.

mod bed;
mod drift;
mod language;
mod traffic;
