//! Touching the kernel: the privileged launcher and the sandboxes it makes.
//!
//! The wall: the only crate with `unsafe` code and the only process with privilege. Everything here is synchronous and
//! single-threaded; nothing here parses bytes from the network. Modules stand in suggested reading order: what the
//! caller sees first, then one sandbox from the outside in.
#![deny(clippy::undocumented_unsafe_blocks)]
#![allow(unsafe_code)]

pub mod config;
pub mod doctor;
pub mod image;
pub mod launcher;
pub mod wire;

mod abilities;
mod cgroup;
mod cloner;
mod guest;
mod imagepool;
mod init;
mod inside;
mod instance;
mod interpreters;
mod links;
mod making;
mod netpool;
mod network;
mod prepare;
mod scratch;
mod seccomp;
mod shape;
mod staging;
mod stock;
mod sys;
mod zygote;

pub use config::{Config, RuntimeSource};
pub use doctor::doctor;
pub use prepare::{Error, Prepared, prepare};
