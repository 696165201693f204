//! Tidegate's own: provisioned concurrency that changes by itself, and warming up.

use crate::errors::{Exception, Refusal, from_control};
use crate::provisioned::{UNPUBLISHED, named, refused};
use crate::request::{Answer, Call, Gateway};
use crate::validation::references::Kind;
use api::tidegate::{Scaling, ScalingNow, ScalingWindow, WarmUp};
use control::Because;
use model::provisioned::{Tracking, Window};
use model::{FunctionName, Qualifier};

/// Seconds of calm before less is kept, unless others are given.
const COOL_DOWN_S: u32 = 300;
/// The longest calm.
const COOL_DOWN_S_MAX: u32 = 86_400;
/// The shortest window: it is looked every second, so less could be missed.
const WINDOW_S_MIN: u32 = 10;
/// The longest window, a week.
const WINDOW_S_MAX: u32 = 604_800;

/// GET /tidegate/v1/functions/{name}/scaling
pub async fn get(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (of, qualifier) = named(gateway, &call, UNPUBLISHED)?;
    let found = gateway.control.scaling(&of.name, &qualifier).await;
    match found.map_err(|error| refused(gateway, &of, error))? {
        Some(now) => Answer::of(200, &shown(now)),
        None => Err(Refusal::new(Exception::ResourceNotFound, "Nothing scales this version or alias.")),
    }
}

/// PUT /tidegate/v1/functions/{name}/scaling
pub async fn put(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (of, qualifier) = named(gateway, &call, UNPUBLISHED)?;
    let wanted: Scaling = serde_json::from_slice(&call.body)
        .map_err(|error| Refusal::invalid(format!("The scaling cannot be read: {error}")))?;
    let record = judge(&of.name, &qualifier, wanted, gateway.limits.scaling_windows)?;
    let put = gateway.control.put_scaling(record).await;
    Answer::of(200, &shown(put.map_err(|error| refused(gateway, &of, error))?))
}

/// DELETE /tidegate/v1/functions/{name}/scaling
pub async fn delete(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let (of, qualifier) = named(gateway, &call, UNPUBLISHED)?;
    let deleted = gateway.control.delete_scaling(&of.name, &qualifier).await;
    deleted.map_err(|error| refused(gateway, &of, error))?;
    Ok(Answer::empty(204))
}

/// POST /tidegate/v1/functions/{name}/warm-up
pub async fn warm_up(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let given = call.query.get("Qualifier");
    let of = gateway.place.function(call.operation, Kind::Plain, call.parameter(0), given)?;
    let wanted: WarmUp = serde_json::from_slice(&call.body)
        .map_err(|error| Refusal::invalid(format!("The warm-up cannot be read: {error}")))?;
    let max = gateway.limits.instances;
    if wanted.count == 0 || wanted.count > max {
        return Err(Refusal::invalid(format!("count must be from 1 to {max}, not {}.", wanted.count)));
    }
    let arn = gateway.place.arn(&of.name, of.qualifier.as_ref());
    let warmed = gateway.control.warm_up(&of.name, of.qualifier.as_ref(), wanted.count).await;
    warmed.map_err(|error| from_control(error, &arn))?;
    Answer::of(202, &wanted)
}

fn judge(
    name: &FunctionName,
    qualifier: &Qualifier,
    wanted: Scaling,
    windows_max: usize,
) -> Result<model::Scaling, Refusal> {
    let refuse = |text: String| Err(Refusal::invalid(text));
    let Scaling { min, max, utilisation, cool_down_s, windows, now: _ } = wanted;
    if max == 0 || min > max {
        return refuse(format!("max must be 1 or more and no less than min; they are {max} and {min}."));
    }
    if let Some(utilisation) = utilisation.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
        return refuse(format!("utilisation must be more than 0 and at most 1, not {utilisation}."));
    }
    if cool_down_s.is_some_and(|seconds| seconds > COOL_DOWN_S_MAX) {
        return refuse(format!("cool_down_s must be at most {COOL_DOWN_S_MAX}."));
    }
    if windows.len() > windows_max {
        return refuse(format!("There may be at most {windows_max} windows, not {}.", windows.len()));
    }
    if let Some(window) = windows.iter().find(|w| !(WINDOW_S_MIN..=WINDOW_S_MAX).contains(&w.duration_s)) {
        let seconds = window.duration_s;
        return refuse(format!("duration_s must be from {WINDOW_S_MIN} to {WINDOW_S_MAX}, not {seconds}."));
    }
    let cool_down_s = cool_down_s.unwrap_or(COOL_DOWN_S);
    Ok(model::Scaling {
        function: name.clone(),
        qualifier: qualifier.to_string(),
        min,
        max,
        tracking: utilisation.map(|utilisation| Tracking { utilisation, cool_down_s }),
        windows: windows.into_iter().map(window).collect(),
    })
}

fn window(sent: ScalingWindow) -> Window {
    Window { cron: sent.cron, time_zone: sent.time_zone, duration_s: sent.duration_s, count: sent.count }
}

fn shown(now: control::ScalingNow) -> Scaling {
    let because = now.because.map(|because| match because {
        Because::Bounds => "bounds",
        Because::Busy => "busy",
        Because::Calm => "calm",
        Because::Steady => "steady",
    });
    let windows = now.record.windows.into_iter().map(|window| ScalingWindow {
        cron: window.cron,
        time_zone: window.time_zone,
        duration_s: window.duration_s,
        count: window.count,
    });
    Scaling {
        min: now.record.min,
        max: now.record.max,
        utilisation: now.record.tracking.map(|tracking| tracking.utilisation),
        cool_down_s: now.record.tracking.map(|tracking| tracking.cool_down_s),
        windows: windows.collect(),
        now: Some(ScalingNow {
            min: now.min_now,
            provisioned: now.requested,
            in_use: now.in_use,
            because: because.map(str::to_owned),
            refused: now.refused,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_taken() {
        let (name, qualifier) = (FunctionName::parse("f").unwrap(), Qualifier::Alias("live".into()));
        let check = |sent: serde_json::Value, want: &str| {
            let got = serde_json::from_value::<Scaling>(sent.clone()).map_err(|error| error.to_string());
            let got = got.and_then(|wanted| judge(&name, &qualifier, wanted, 24).map_err(|refusal| refusal.message));
            let got =
                got.map_or_else(|text| text, |record| format!("{} {} {:?}", record.min, record.max, record.tracking));
            assert!(got.starts_with(want), "{sent}: {got} does not start with {want}");
        };
        check(json!({ "max": 3 }), "0 3 None");
        check(
            json!({ "min": 1, "max": 3, "utilisation": 0.7 }),
            "1 3 Some(Tracking { utilisation: 0.7, cool_down_s: 300 })",
        );
        check(json!({ "max": 3, "windows": [{ "cron": "0 8 * * *", "duration_s": 60, "count": 2 }] }), "0 3 None");
        check(json!({}), "missing field `max`");
        check(json!({ "max": 0 }), "max must be 1 or more");
        check(json!({ "min": 4, "max": 3 }), "max must be 1 or more and no less than min; they are 3 and 4.");
        check(json!({ "max": 3, "utilisation": 0.0 }), "utilisation must be more than 0");
        check(json!({ "max": 3, "utilisation": 1.1 }), "utilisation must be more than 0");
        check(json!({ "max": 3, "cool_down_s": 90_000 }), "cool_down_s must be at most");
        check(
            json!({ "max": 3, "windows": [{ "cron": "0 8 * * *", "duration_s": 1, "count": 2 }] }),
            "duration_s must be",
        );
        let window = json!({ "cron": "0 8 * * *", "duration_s": 60, "count": 2 });
        check(json!({ "max": 3, "windows": vec![window; 25] }), "There may be at most 24 windows");
        check(json!({ "max": 3, "surprise": 1 }), "unknown field");
    }
}
