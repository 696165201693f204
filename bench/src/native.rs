//! The function in native code, which the custom runtime and the plain server share.

use std::sync::atomic::{AtomicU64, Ordering};

/// The handler of a bootstrap that asks for the next event together with its answer to the last one.
pub const AHEAD: &str = "ahead";

static INVOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Greets whom the event names. The name is taken over as JSON text, so whatever escapes it has stay right.
pub fn handle(event: &[u8]) -> String {
    let event = String::from_utf8_lossy(event);
    let name = event.split_once("\"name\":\"").and_then(|(_, rest)| rest.split('"').next()).unwrap_or("nobody");
    let invocations = INVOCATIONS.fetch_add(1, Ordering::Relaxed) + 1;
    format!("{{\"greeting\":\"Hello, {name}\",\"invocations\":{invocations}}}")
}
