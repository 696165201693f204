//! Bytes: every shape that crosses a process. The wall is a wire: inner types are never wire types, except the
//! newtypes of `model`.
#![forbid(unsafe_code)]

pub mod channel;
pub mod lambda;
pub mod launcher;
pub mod runtime_api;
pub mod tidegate;
