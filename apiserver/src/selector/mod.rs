//! Label and field selectors.

mod field;
mod label;
mod object;

pub(crate) use field::{FieldSelector, Fields};
pub(crate) use label::LabelSelector;
pub(crate) use object::check;
