//! Thinking: which version, may it run, where, and when again.
//!
//! The wall: no clock, no randomness, no I/O, no log, no async. Time, ids and chance are arguments; every decision
//! is a value that carries its reason as data. Whoever calls carries the decisions out and reports what happened.
//! The crate's own `clippy.toml` keeps the wall; `sim` runs this very code under a simulated clock.
//!
//! Modules stand in suggested reading order: first what one synchronous invocation meets on its way, then what
//! happens to instances and functions beside it.
#![forbid(unsafe_code)]
#![deny(missing_docs, clippy::wildcard_enum_match_arm)]
#![deny(clippy::disallowed_macros, clippy::disallowed_methods, clippy::disallowed_types)]

pub mod routing;

pub mod admission;

pub mod queueing;

pub mod pool;

pub mod instance;

pub mod lifetimes;

pub mod keep_alive;

pub mod eviction;

pub mod sharing;

pub mod function_state;

pub mod provisioned;
