//! Placeholder while the crate is being written.
#![allow(unsafe_code)]
