//! The three patches that are not apply.

mod json;
mod merge;
mod strategic;

pub(crate) use json::{Refused, json_patch};
pub(crate) use merge::merge_patch;
pub(crate) use strategic::strategic_merge_patch;
