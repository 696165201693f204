//! What is told of how an invocation came to its instance: for explanations, and behind Lambda's own fields in the REPORT
//! line. Nothing is said of the usual, a used instance with a free slot, so that most lines are exactly Lambda's.

use crate::guest::Instance;
use crate::outcomes::Ending;
use model::invocation::{Met, Start, Wait};
use scheduler::pool::{Cold, Dispatched, InstanceId, Lane, Waited};
use std::fmt::Write;

/// What an invocation met.
pub fn met(why: Dispatched, pool_id: InstanceId, on: &Instance) -> Met {
    let cold = match why.cold {
        Cold::Warm => None,
        Cold::FirstUse { reason } => {
            let without_snapshot = on.snapshot.and_then(Result::err).map(|why| why.text());
            Some(Start { reason: reason.text(), sandbox_us: on.sandbox_us, evicted: on.evicted, without_snapshot })
        }
    };
    let waited = match why.waited {
        Waited::Not => None,
        Waited::ForSlot { us } | Waited::ForStart { us } => Some(Wait { us, reason: why.waited.text() }),
    };
    let lane = match why.lane {
        Lane::OnDemand => None,
        Lane::Provisioned | Lane::SpillOver => Some(why.lane.text()),
    };
    Met { instance: pool_id, cold, waited, lane, was_frozen: why.was_frozen }
}

/// Why an outcome is a function error.
pub fn ended(ending: &Ending) -> &'static str {
    match ending {
        Ending::Reported { .. } => "the function raised an error",
        Ending::TimedOut => "the function's time was over",
        Ending::Exited { out_of_memory: true, .. } => "the instance ran out of memory",
        Ending::Exited { .. } => "the function's process ended",
        Ending::ResponseTooLarge => "the answer was too large",
        Ending::ProtocolBroken => "the runtime sent something malformed",
        Ending::InvalidEntrypoint { .. } => "the function's program could not be started",
    }
}

/// The REPORT line's further fields, each with a tab behind it as Lambda's have.
pub fn fields(text: &mut String, queued_us: u64, met: &Met) {
    if let Some(start) = met.cold {
        field(text, format_args!("Cold Start: {}", start.reason));
        field(text, format_args!("Sandbox Duration: {:.2} ms", ms(start.sandbox_us)));
        if let Some(why) = start.without_snapshot {
            field(text, format_args!("Without Snapshot: {why}"));
        }
        if start.evicted > 0 {
            field(text, format_args!("Evicted: {}", start.evicted));
        }
    }
    if queued_us > 0 {
        field(text, format_args!("Throttle Wait: {:.2} ms (concurrency was used up)", ms(queued_us)));
    }
    if let Some(wait) = met.waited {
        field(text, format_args!("Queued: {:.2} ms ({})", ms(wait.us), wait.reason));
    }
}

fn field(text: &mut String, field: std::fmt::Arguments<'_>) {
    // A text takes everything.
    let _ = write!(text, "{field}\t");
}

fn ms(us: u64) -> f64 {
    us as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_unusual_is_told() {
        let check = |queued_us, met: Met, want: &str| {
            let mut text = String::new();
            fields(&mut text, queued_us, &met);
            assert_eq!(text, want, "{met:?}");
        };
        let used = Met { instance: 7, ..Met::default() };
        check(0, used, "");
        check(0, Met { lane: Some("provisioned"), was_frozen: true, ..used }, "");
        let wait = Wait { us: 3_204, reason: Waited::ForSlot { us: 3_204 }.text() };
        check(0, Met { waited: Some(wait), ..used }, "Queued: 3.20 ms (waited for a freed slot)\t");
        check(12_000, used, "Throttle Wait: 12.00 ms (concurrency was used up)\t");
        let start =
            Start { reason: "the version had no instance", sandbox_us: 900, evicted: 0, without_snapshot: None };
        check(
            0,
            Met { cold: Some(start), ..used },
            "Cold Start: the version had no instance\tSandbox Duration: 0.90 ms\t",
        );
        let plain = Some(Start { without_snapshot: Some("why"), ..start });
        check(
            0,
            Met { cold: plain, ..used },
            "Cold Start: the version had no instance\tSandbox Duration: 0.90 ms\tWithout Snapshot: why\t",
        );
        let evicting = Some(Start { evicted: 2, ..start });
        check(
            0,
            Met { cold: evicting, ..used },
            "Cold Start: the version had no instance\tSandbox Duration: 0.90 ms\tEvicted: 2\t",
        );
    }
}
