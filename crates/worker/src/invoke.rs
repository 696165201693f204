//! The worker's part of the spine: a slot, the exchange with the guest, the log and the figures.

use crate::guest::{Answer, Instance};
use crate::logs::{InstanceLog, now_ms};
use crate::outcomes::Ending;
use crate::service::{Handle, Shared};
use crate::start::Failure;
use crate::told;
use crate::versions::{Grant, Versioned};
use bytes::Bytes;
use model::invocation::{Completed, Invocation, Outcome, Refusal, Report};
use scheduler::instance::Event as Move;
use scheduler::pool::{Cold, Dispatched, Event, InstanceId};
use std::fmt::{self, Write};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Beyond two Inits and the function's own timeout, a wait for a slot is hopeless.
const WAIT_SLACK: Duration = Duration::from_secs(10);

/// How many instances may turn out dead under one invocation before it is given up.
const DEAD_INSTANCES_MAX: u32 = 3;

impl Handle {
    /// Shows the worker's metrics in `registry`.
    pub fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        self.shared.metrics.register(registry);
    }

    /// Runs an invocation to its answer. A caller that goes away while waiting gives up its place; once the guest has
    /// the invocation it runs to its end, as on Lambda. `held` is dropped when the invocation has ended, whoever waits.
    pub async fn invoke(&self, invocation: Invocation, held: Held) -> Result<Completed, Refusal> {
        let shared = &self.shared;
        let arrived = Instant::now();
        let version = shared.version(&invocation.spec).ok_or(Refusal::Draining)?;
        version.invoked_ms.store(now_ms(), Ordering::Relaxed);
        let wait_max = Duration::from_millis(shared.limits.init_ms + 2 * invocation.spec.timeout_ms) + WAIT_SLACK;
        let invocation = Arc::new(invocation);
        let mut held = held;
        for _ in 0..DEAD_INSTANCES_MAX {
            let grant = version.slot(shared, wait_max).await;
            let queue_us = arrived.elapsed().as_micros() as u64;
            let run = match grant {
                Grant::Refused(refusal) => return Err(refusal),
                Grant::Failed(failure) => return not_started(shared, &invocation, &failure, queue_us),
                Grant::Slot { instance, on, why } => Run {
                    slot: Slot { shared: shared.clone(), version: version.clone(), pool_id: instance, on },
                    why,
                    invocation: invocation.clone(),
                    queue_us,
                    held,
                },
            };
            match Carried::new(run.carry()).await {
                Ok(completed) => return Ok(completed),
                // The instance had died unnoticed.
                Err(back) => held = back,
            }
        }
        Err(Refusal::Failed { cause: "instance after instance was gone before it could be used".to_owned() })
    }
}

/// What is held while an invocation runs, and given back by dropping it.
pub type Held = Box<dyn Send + Sync>;

/// One invocation on one instance.
struct Run {
    slot: Slot,
    why: Dispatched,
    invocation: Arc<Invocation>,
    queue_us: u64,
    held: Held,
}

/// Work that goes on by itself if whoever waits for it goes away.
struct Carried<F: Future + Send + 'static>(Option<Pin<Box<F>>>)
where
    F::Output: Send;

impl<F: Future + Send + 'static> Carried<F>
where
    F::Output: Send,
{
    fn new(work: F) -> Carried<F> {
        Carried(Some(Box::pin(work)))
    }
}

impl<F: Future + Send + 'static> Future for Carried<F>
where
    F::Output: Send,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // Taken out, so that work that panics is not taken up again.
        let Some(mut work) = self.0.take() else { return Poll::Pending };
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.0 = Some(work);
        }
        polled
    }
}

impl<F: Future + Send + 'static> Drop for Carried<F>
where
    F::Output: Send,
{
    fn drop(&mut self) {
        // Outside the runtime, at the server's end, nothing goes on.
        if let (Some(work), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

impl Run {
    /// Gives back what was held if the guest never had the invocation.
    async fn carry(self) -> Result<Completed, Held> {
        let Run { slot, why, invocation, queue_us, held } = self;
        let on = &slot.on;
        let timeout = Duration::from_millis(invocation.spec.timeout_ms);
        let deadline = tokio::time::Instant::now() + timeout;
        let deadline_ms = now_ms() + invocation.spec.timeout_ms;
        let first = matches!(why.cold, Cold::FirstUse { .. });
        on.log.start(&invocation.id, start_line(&invocation), first);

        let begun = Instant::now();
        let answer = tokio::time::timeout_at(deadline, on.run(&invocation, deadline_ms)).await;
        let duration = begun.elapsed();

        let (result, after) = slot.judge(answer.unwrap_or(Answer::Ended(Ending::TimedOut)));
        let Some(result) = result else {
            on.log.forget(&invocation.id);
            slot.give_back(after, deadline);
            return Err(held);
        };
        let init_us = first.then_some(on.init_us);
        let memory_used_mb = on.memory.peak_mb_after(duration, now_ms(), &on.exit);
        let (duration_us, met) = (duration.as_micros() as u64, told::met(why, slot.pool_id, on));
        slot.shared.metrics.met(&met);
        let restored = first && on.snapshot == Some(Ok(()));
        let report = Report { duration_us, queue_us, init_us, restored, memory_used_mb, met, ended: None };
        let completed = complete(&slot.shared, &invocation, &on.log, result, report);
        // Given back first: whoever has the answer may send the next invocation at once.
        drop(held);
        slot.give_back(after, deadline);
        Ok(completed)
    }
}

/// A slot that was granted, until it is given back.
struct Slot {
    shared: Arc<Shared>,
    version: Arc<Versioned>,
    pool_id: InstanceId,
    on: Arc<Instance>,
}

/// What becomes of the instance behind an invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// The next one may come.
    Fit,
    /// No further one; those that are under way may end, each within its own time.
    Last,
    /// It ends now, with all that is under way on it.
    End,
}

impl Slot {
    /// The result of an answer, if the guest had the invocation, and what becomes of the instance.
    fn judge(&self, answer: Answer) -> (Option<Result<Bytes, Ending>>, (After, Move)) {
        // Checked again here: the guest is hostile.
        let bytes_max = self.shared.limits.response_payload_bytes;
        match answer {
            Answer::NotTaken => (None, (After::End, Move::ProcessEnded)),
            Answer::Success(payload) if payload.len() as u64 > bytes_max => {
                (Some(Err(Ending::ResponseTooLarge)), (After::Fit, Move::Responded))
            }
            Answer::Success(payload) => (Some(Ok(payload)), (After::Fit, Move::Responded)),
            Answer::Last(ending) => (Some(Err(ending)), (After::End, Move::StopOrdered)),
            Answer::Ended(ending) => {
                let after = match &ending {
                    Ending::Reported { .. } | Ending::ResponseTooLarge => (After::Fit, Move::Responded),
                    Ending::TimedOut => (After::Last, Move::TimedOut),
                    Ending::ProtocolBroken | Ending::InvalidEntrypoint { .. } => (After::End, Move::ProtocolBroken),
                    Ending::Exited { .. } => (After::End, Move::ProcessEnded),
                };
                (Some(Err(ending)), after)
            }
        }
    }

    /// Returns the slot, or sees to it that the instance ends. A custom runtime's slot is free when it asks for more
    /// work, for which it has until the deadline.
    fn give_back(self, (after, event): (After, Move), deadline: tokio::time::Instant) {
        if after == After::Fit && !self.on.has_settled() {
            tokio::spawn(self.settle(deadline));
            return;
        }
        self.leave(after, event);
    }

    async fn settle(self, deadline: tokio::time::Instant) {
        match tokio::time::timeout_at(deadline, self.on.settle()).await {
            Ok(()) => self.leave(After::Fit, Move::Responded),
            Err(_) => self.leave(After::Last, Move::StopOrdered),
        }
    }

    fn leave(self, after: After, event: Move) {
        let last_of_unfit = self.on.life.leave(event);
        let event = match after {
            // Of an instance that is unfit the pool knows already, and takes no notice.
            After::Fit => Event::Done { instance: self.pool_id },
            // The pool learns at once that nothing more is to be sent there.
            After::Last | After::End => Event::Unfit { instance: self.pool_id },
        };
        self.version.step(&self.shared, event);
        if last_of_unfit || after == After::End {
            self.shared.launches.kill(self.on.id);
        }
    }
}

/// The outcome of an invocation whose instance could not be initialised.
fn not_started(
    shared: &Shared,
    invocation: &Invocation,
    failure: &Failure,
    queue_us: u64,
) -> Result<Completed, Refusal> {
    let (ending, log, init_us, memory_used_mb) = match failure {
        Failure::Full => return Err(Refusal::NoCapacity),
        Failure::RestoreHook => return Err(Refusal::RestoreHookFailed),
        Failure::RestoreTimedOut => return Err(Refusal::RestoreTimedOut),
        Failure::Platform { cause } => return Err(Refusal::Failed { cause: cause.clone() }),
        Failure::Function { ending, log, init_us, memory_mb } => (ending, log, *init_us, *memory_mb),
    };
    log.start(&invocation.id, start_line(invocation), true);
    let report = Report { duration_us: init_us, queue_us, memory_used_mb, ..Report::default() };
    Ok(complete(shared, invocation, log, Err(ending.clone()), report))
}

fn complete(
    shared: &Shared,
    invocation: &Invocation,
    log: &InstanceLog,
    result: Result<Bytes, Ending>,
    mut report: Report,
) -> Completed {
    let (id, spec) = (&invocation.id, &invocation.spec);
    let mut lines = Vec::with_capacity(3);
    let (outcome, status) = match result {
        Ok(payload) => (Outcome::Success { payload }, String::new()),
        Err(ending) => {
            let payload = ending.payload(id, spec.timeout_ms, shared.limits.response_payload_bytes);
            lines.extend(ending_line(&ending, invocation));
            report.ended = Some(told::ended(&ending));
            (Outcome::FunctionError { payload }, status_of(&ending))
        }
    };
    lines.push(format!("END RequestId: {id}"));
    lines.push(report_line(invocation, &report, &status));
    let log_tail = Bytes::from(log.end(id, lines));
    Completed { outcome, report, log_tail }
}

fn start_line(invocation: &Invocation) -> String {
    format!("START RequestId: {} Version: {}", invocation.id, invocation.spec.version)
}

/// What the platform adds to the log for endings that the guest could not log itself.
fn ending_line(ending: &Ending, invocation: &Invocation) -> Option<String> {
    let id = &invocation.id;
    match ending {
        Ending::TimedOut => {
            let seconds = invocation.spec.timeout_ms as f64 / 1_000.0;
            Some(format!("{} {id} Task timed out after {seconds:.2} seconds", timestamp()))
        }
        Ending::Exited { .. } | Ending::ProtocolBroken | Ending::InvalidEntrypoint { .. } => {
            let payload = ending.payload(id, invocation.spec.timeout_ms, 0);
            let value: serde_json::Value = serde_json::from_slice(&payload).unwrap_or_default();
            let text = value["errorMessage"].as_str().unwrap_or_default().to_owned();
            let kind = value["errorType"].as_str().unwrap_or_default().to_owned();
            Some(format!("{text} {kind}"))
        }
        Ending::Reported { .. } | Ending::ResponseTooLarge => None,
    }
}

fn timestamp() -> String {
    let now = time::OffsetDateTime::now_utc();
    let (hour, minute, second) = now.to_hms();
    format!("{}T{hour:02}:{minute:02}:{second:02}.{:03}Z", now.date(), now.millisecond())
}

fn status_of(ending: &Ending) -> String {
    match ending {
        Ending::TimedOut => "Status: timeout\t".to_owned(),
        Ending::Exited { .. }
        | Ending::ProtocolBroken
        | Ending::InvalidEntrypoint { .. }
        | Ending::ResponseTooLarge => format!("Status: error\tError Type: {}\t", ending.error_type()),
        // A handler's own error is not one of the runtime's.
        Ending::Reported { .. } => String::new(),
    }
}

/// The REPORT line; Init is billed with the first invocation, as on Lambda since August 2025.
fn report_line(invocation: &Invocation, report: &Report, status: &str) -> String {
    let init_us = report.init_us.unwrap_or(0);
    let billed_ms = (report.duration_us + init_us).div_ceil(1_000);
    let mut line = String::with_capacity(LINE_BYTES);
    // Writing to a String cannot fail.
    let _ = write!(
        line,
        "REPORT RequestId: {}\tDuration: {} ms\tBilled Duration: {billed_ms} ms\tMemory Size: {} MB\t\
         Max Memory Used: {} MB\t",
        invocation.id,
        Ms(report.duration_us),
        invocation.spec.memory_mb,
        report.memory_used_mb,
    );
    let _ = match report.init_us {
        Some(us) if report.restored => {
            let billed_ms = us.div_ceil(1_000);
            write!(line, "Restore Duration: {} ms\tBilled Restore Duration: {billed_ms} ms\t", Ms(us))
        }
        Some(us) => write!(line, "Init Duration: {} ms\t", Ms(us)),
        None => Ok(()),
    };
    line.push_str(status);
    told::fields(&mut line, invocation.queued_us, &report.met);
    line
}

/// What a line of the platform mostly takes.
const LINE_BYTES: usize = 256;

/// Microseconds, shown as milliseconds with two decimals.
struct Ms(u64);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = self.0.saturating_add(5) / 10;
        write!(f, "{}.{:02}", hundredths / 100, hundredths % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds() {
        for (us, want) in
            [(0, "0.00"), (4, "0.00"), (5, "0.01"), (994, "0.99"), (995, "1.00"), (123_456_785, "123456.79")]
        {
            assert_eq!(Ms(us).to_string(), want);
        }
    }
}
