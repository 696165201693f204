//! The loop that runs instances on one machine: starts them through the launcher, speaks to the guests, collects
//! their logs and figures.
//!
//! The wall: the machine boundary. A worker never sees the registry; a machine may vanish, and what its worker knew is
//! rebuilt. Only this crate speaks to a guest, and every guest byte is hostile.
#![forbid(unsafe_code)]

mod budget;
mod channel;
mod environment;
mod guest;
mod invoke;
mod launches;
mod link;
mod logs;
mod metrics;
mod outcomes;
mod provision;
mod runtime_api;
mod service;
mod snapstart;
mod start;
mod told;
mod versions;

pub use invoke::Held;
pub use provision::{ProvisionFailure, ProvisionedCounts};
pub use scheduler::keep_alive::Policy as KeepAlive;
pub use service::{Config, Error, Handle, Interpreters, LogSink, Service};
pub use snapstart::InitFailed;
