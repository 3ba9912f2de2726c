//! Field ownership and server-side apply.

mod compare;
mod handover;
mod manager;
mod merge;
mod set;

pub(crate) use manager::{Manager, apply, record_update};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use set::FieldSet;
