//! Why an invocation took as long as it did, or was refused.

use crate::errors::{Exception, Refusal};
use crate::request::{Answer, Call, Gateway};
use api::tidegate::{ColdStart, Explanation, Step};
use model::invocation::Report;
use router::journal::{End, Record, Steps};

/// GET /tidegate/v1/explain/{request_id}
pub async fn explain(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let id = call.parameter(0);
    match gateway.router.explain(id) {
        Some(record) => Answer::of(200, &explanation(record)),
        None => Err(Refusal::new(
            Exception::ResourceNotFound,
            format!(
                "Nothing is known of an invocation {id}: it never came here, has not ended yet, or is too long ago."
            ),
        )),
    }
}

fn explanation(record: Record) -> Explanation {
    let spec = &record.spec;
    let mut told = Explanation {
        request_id: record.id.to_string(),
        function: spec.name().to_string(),
        version: spec.version.to_string(),
        time_ms: record.at_ms,
        end: String::new(),
        reason: None,
        throttle: None,
        instance: None,
        lane: None,
        cold_start: None,
        steps: before(&record.steps),
    };
    match record.end {
        End::Ran(report) => ran(&mut told, &report, record.steps.worker_us),
        End::Refused(error) => {
            told.end = word(&error).to_owned();
            told.reason = Some(reason(&error));
            if let router::Error::Throttled { throttle, .. } = error {
                told.throttle = Some(throttle.cause.label().to_owned());
            }
        }
    }
    told
}

/// The steps on the way to the worker.
fn before(steps: &Steps) -> Vec<Step> {
    let mut told = vec![
        Step { name: "route".to_owned(), us: steps.route_us, note: None },
        Step { name: "admit".to_owned(), us: steps.admit_us.saturating_sub(steps.queued_us), note: None },
    ];
    if steps.queued_us > 0 {
        let note = Some("concurrency was used up".to_owned());
        told.push(Step { name: "queue".to_owned(), us: steps.queued_us, note });
    }
    told
}

fn ran(told: &mut Explanation, report: &Report, worker_us: u64) {
    let met = &report.met;
    told.end = if report.ended.is_some() { "function_error" } else { "success" }.to_owned();
    told.reason = report.ended.map(str::to_owned);
    told.instance = (met.instance > 0).then_some(met.instance);
    told.lane = met.lane.map(str::to_owned);
    told.cold_start = met.cold.map(|start| ColdStart {
        reason: start.reason.to_owned(),
        sandbox_us: start.sandbox_us,
        init_us: report.init_us.unwrap_or(0),
        restored: report.restored,
        without_snapshot: start.without_snapshot.map(str::to_owned),
        evicted: start.evicted,
    });
    let waited = met.waited.map(|wait| wait.reason);
    let note = waited.or(met.was_frozen.then_some("the instance was frozen"));
    let rest_us = worker_us.saturating_sub(report.queue_us + report.duration_us);
    told.steps.extend([
        Step { name: "slot".to_owned(), us: report.queue_us, note: note.map(str::to_owned) },
        Step { name: "invoke".to_owned(), us: report.duration_us, note: None },
        Step { name: "answer".to_owned(), us: rest_us, note: None },
    ]);
}

fn word(error: &router::Error) -> &'static str {
    match error {
        router::Error::Throttled { .. } => "throttled",
        router::Error::Draining => "draining",
        router::Error::NoRoute(_)
        | router::Error::RestoreHookFailed
        | router::Error::RestoreTimedOut
        | router::Error::Worker(_) => "failed",
    }
}

/// What went wrong inside is for the operator, so the platform's own failures are not told here.
fn reason(error: &router::Error) -> String {
    match error {
        router::Error::Throttled { throttle, .. } => throttle.cause.text().to_owned(),
        router::Error::Draining => "the server is shutting down".to_owned(),
        router::Error::NoRoute(_) => "the function was changed meanwhile".to_owned(),
        router::Error::RestoreHookFailed => "a hook after the restore of the snapshot failed".to_owned(),
        router::Error::RestoreTimedOut => "the restore of the snapshot took too long".to_owned(),
        router::Error::Worker(_) => "the platform failed; its log says more".to_owned(),
    }
}
