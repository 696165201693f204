//! The vocabulary: names, ids, limits and plain values that every other crate speaks.
//!
//! The wall: nothing here can do anything. No I/O, no clock, no randomness, no logging; only values,
//! their parsing and their text forms. Modules stand in suggested reading order.
#![forbid(unsafe_code)]

pub mod arn;
pub mod concurrency;
pub mod digest;
pub mod function;
pub mod invocation;
pub mod limits;
pub mod log;
pub mod name;
pub mod provisioned;
pub mod published;
pub mod runtime;
pub mod snapshot;

pub use arn::{FunctionArn, FunctionReference, ReferenceError};
pub use concurrency::{Share, Shares};
pub use digest::Digest;
pub use function::{Function, Generation, Spec};
pub use invocation::{Invocation, InvocationId, Outcome};
pub use limits::Limits;
pub use name::{AccountId, FunctionName, NameError, Qualifier, Region, Version};
pub use provisioned::{Provisioned, Scaling};
pub use published::{Alias, Published};
pub use runtime::{Runtime, RuntimeFamily};
pub use snapshot::Snapshot;
