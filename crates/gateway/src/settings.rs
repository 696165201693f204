//! Settings of a function that are Tidegate's own.

use crate::errors::{Refusal, from_control};
use crate::request::{Answer, Call, Gateway};
use api::tidegate::Settings;
use control::ConfigChange;
use model::concurrency::{Queue, Share};
use model::{Function, FunctionName, Limits, Runtime, RuntimeFamily};

/// Places in a queue for which no length was given.
const QUEUE_LENGTH: u32 = 100;

/// GET /tidegate/v1/functions/{name}/settings
pub async fn get(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (name, function) = read(gateway, &call).await?;
    Answer::of(200, &shown(&function, gateway.control.share_of(&name)))
}

/// PUT /tidegate/v1/functions/{name}/settings
pub async fn put(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (name, mut function) = read(gateway, &call).await?;
    let wanted: Settings = serde_json::from_slice(&call.body)
        .map_err(|error| Refusal::invalid(format!("The settings cannot be read: {error}")))?;
    let change = change(&wanted, &function, &gateway.limits)?;
    let mut share = gateway.control.share_of(&name);
    let queue = queue(&wanted, share.queue, &gateway.limits)?;
    let arn = gateway.place.arn(&name, None);
    // Nothing is changed if a change of the function is not possible now.
    if change != ConfigChange::default() {
        function = gateway.control.update_config(&name, change).await.map_err(|error| from_control(error, &arn))?;
    }
    if queue != share.queue {
        share = gateway.control.set_queue(&name, queue).await.map_err(|error| from_control(error, &arn))?;
    }
    Answer::of(200, &shown(&function, share))
}

async fn read(gateway: &Gateway, call: &Call) -> Result<(FunctionName, Function), Refusal> {
    let name = gateway.place.unqualified(call.operation, call.parameter(0))?;
    let arn = gateway.place.arn(&name, None);
    let function = gateway.control.function(&name).await.map_err(|error| from_control(error, &arn))?;
    Ok((name, function))
}

fn shown(function: &Function, share: Share) -> Settings {
    Settings {
        network: Some(function.config.network),
        concurrency: Some(function.config.instance_concurrency),
        queue_ms: Some(share.queue.map_or(0, |queue| queue.wait_ms)),
        queue_length: share.queue.map(|queue| queue.length),
    }
}

/// What of the wanted settings differs from the present ones; the default if nothing does.
fn change(wanted: &Settings, function: &Function, limits: &Limits) -> Result<ConfigChange, Refusal> {
    let present = &function.config;
    if let Some(concurrency) = wanted.concurrency {
        check_concurrency(concurrency, present.runtime.as_ref(), limits.instance_concurrency_max)?;
    }
    Ok(ConfigChange {
        network: wanted.network.filter(|network| *network != present.network),
        instance_concurrency: wanted.concurrency.filter(|wanted| *wanted != present.instance_concurrency),
        ..ConfigChange::default()
    })
}

/// Python's and Node.js's shims take several invocations at once, and custom runtimes do if several of their threads
/// ask for the next one.
fn check_concurrency(wanted: u32, runtime: Option<&Runtime>, max: u32) -> Result<(), Refusal> {
    if wanted == 0 || wanted > max {
        return Err(Refusal::invalid(format!("concurrency must be from 1 to {max}, not {wanted}.")));
    }
    match runtime.map(|runtime| (runtime, runtime.family())) {
        Some((_, RuntimeFamily::Python { .. } | RuntimeFamily::Node { .. } | RuntimeFamily::Provided)) => Ok(()),
        _ if wanted == 1 => Ok(()),
        Some((runtime, RuntimeFamily::Other)) => {
            Err(Refusal::invalid(format!("Instances of {} run one invocation at a time.", runtime.0)))
        }
        None => Err(Refusal::invalid("Instances of images run one invocation at a time.")),
    }
}

/// The queue that is wanted; what is not said stays as it is.
fn queue(wanted: &Settings, present: Option<Queue>, limits: &Limits) -> Result<Option<Queue>, Refusal> {
    let in_range = |name: &str, value: u32, min: u32, max: u32| match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(Refusal::invalid(format!("{name} must be from {min} to {max}, not {value}."))),
    };
    if let Some(wait_ms) = wanted.queue_ms {
        in_range("queue_ms", wait_ms, 0, limits.queue_ms_max)?;
    }
    if let Some(length) = wanted.queue_length {
        in_range("queue_length", length, 1, limits.queue_length_max)?;
    }
    let wait_ms = wanted.queue_ms.unwrap_or(present.map_or(0, |queue| queue.wait_ms));
    let length = wanted.queue_length.or(present.map(|queue| queue.length));
    match (wait_ms, wanted.queue_length) {
        (0, Some(_)) => Err(Refusal::invalid("queue_length needs a queue_ms that is not 0.")),
        (0, None) => Ok(None),
        (wait_ms, _) => {
            let length = length.unwrap_or(QUEUE_LENGTH.min(limits.queue_length_max.max(1)));
            Ok(Some(Queue { wait_ms, length }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_run_several_at_a_time() {
        let check = |wanted, runtime: Option<&str>, want: &str| {
            let runtime = runtime.map(|id| Runtime(id.to_owned()));
            let got = check_concurrency(wanted, runtime.as_ref(), 1_000);
            assert_eq!(got.err().map_or(String::new(), |refusal| refusal.message), want, "{wanted} {runtime:?}");
        };
        for runtime in ["python3.12", "nodejs22.x", "provided.al2023"] {
            check(1, Some(runtime), "");
            check(1_000, Some(runtime), "");
            check(0, Some(runtime), "concurrency must be from 1 to 1000, not 0.");
            check(1_001, Some(runtime), "concurrency must be from 1 to 1000, not 1001.");
        }
        check(1, Some("java21"), "");
        check(2, Some("java21"), "Instances of java21 run one invocation at a time.");
        check(1, None, "");
        check(2, None, "Instances of images run one invocation at a time.");
    }

    #[test]
    fn queues() {
        let limits = Limits { queue_ms_max: 500, queue_length_max: 50, ..Limits::default() };
        let check = |queue_ms, queue_length, present: Option<(u32, u32)>, want: Result<Option<(u32, u32)>, &str>| {
            let present = present.map(|(wait_ms, length)| Queue { wait_ms, length });
            let wanted = Settings { queue_ms, queue_length, ..Settings::default() };
            let got = queue(&wanted, present, &limits);
            let got = got.map(|queue| queue.map(|queue| (queue.wait_ms, queue.length)));
            assert_eq!(got.map_err(|refusal| refusal.message), want.map_err(str::to_owned), "{wanted:?} {present:?}");
        };
        check(None, None, None, Ok(None));
        check(None, None, Some((5, 6)), Ok(Some((5, 6))));
        check(Some(500), None, None, Ok(Some((500, 50))));
        check(Some(500), Some(7), None, Ok(Some((500, 7))));
        check(Some(9), None, Some((5, 6)), Ok(Some((9, 6))));
        check(None, Some(9), Some((5, 6)), Ok(Some((5, 9))));
        check(Some(0), None, Some((5, 6)), Ok(None));
        check(Some(501), None, None, Err("queue_ms must be from 0 to 500, not 501."));
        check(Some(1), Some(51), None, Err("queue_length must be from 1 to 50, not 51."));
        check(Some(1), Some(0), None, Err("queue_length must be from 1 to 50, not 0."));
        check(None, Some(5), None, Err("queue_length needs a queue_ms that is not 0."));
        check(Some(0), Some(5), None, Err("queue_length needs a queue_ms that is not 0."));
    }
}
