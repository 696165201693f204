//! Measurements beside comparators, in the same run on the same machine; ratios matter more than numbers.
//!
//! The wall: nothing of Tidegate's own code is in here. The platform is driven through its binary and its public API,
//! and looked at through `/proc`, as anybody could. Modules stand in suggested reading order.
#![forbid(unsafe_code)]

pub mod figures;
pub mod http;
pub mod load;
pub mod native;
pub mod nginx;
pub mod options;
pub mod plain;
pub mod plan;
pub mod platform;
pub mod process;
pub mod rivals;
pub mod rows;
pub mod runc;
pub mod table;

/// What went wrong, in words for the developer.
#[derive(Debug)]
pub struct Failure(pub String);

impl Failure {
    /// For `map_err`: what was being done, and the cause.
    pub fn during<E: std::fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> Failure {
        let what = what.into();
        move |cause| Failure(format!("{what}: {cause}"))
    }
}
