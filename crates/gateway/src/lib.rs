//! Placeholder while the crate is being written.
#![forbid(unsafe_code)]

pub mod auth;
