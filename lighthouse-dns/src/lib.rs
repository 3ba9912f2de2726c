//! Services of the clusterset: export, import, and their names.
//!
//! [`controllers`] publishes what this cluster exports and makes ServiceImports and EndpointSlices of what
//! all clusters export; it is the services half of `strait agent`. [`dns`] is `strait dns`, which answers
//! `clusterset.local`. This crate watches, applies and serves; what is exported, imported and answered is
//! decided in `strait_core::services` and `strait_core::dns`, and it must not route nor carry records
//! between clusters (that is the mirror's). Read [`controllers`] first.

mod changes;
pub mod controllers;
mod convert;
pub mod dns;
