//! One line of a function's log on its way from the worker to the disk.

use crate::name::{FunctionName, Version};
use std::sync::Arc;

/// A line of a function's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Whose log.
    pub function: FunctionName,
    /// The version that ran.
    pub version: Version,
    /// The log stream: `YYYY/MM/DD/[version]<32 hex>`, one per instance.
    pub stream: Arc<str>,
    /// Milliseconds since the Unix epoch, as the worker read it.
    pub time_ms: u64,
    /// The text without its line end; invalid UTF-8 replaced.
    pub text: String,
}
