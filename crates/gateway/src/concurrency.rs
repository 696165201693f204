//! PutFunctionConcurrency, GetFunctionConcurrency and DeleteFunctionConcurrency: what a function has reserved.

use crate::errors::{Refusal, from_control};
use crate::request::{Answer, Call, Gateway};
use crate::validation::{self, Fields, Violations};
use api::lambda::Concurrency;

/// PutFunctionConcurrency
pub async fn put(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let name = gateway.place.unqualified(call.operation, call.parameter(0))?;
    let wanted = wanted(&call.body)?;
    let arn = gateway.place.arn(&name, None);
    let share = gateway.control.reserve(&name, Some(wanted)).await.map_err(|error| from_control(error, &arn))?;
    Answer::of(200, &shown(share))
}

/// GetFunctionConcurrency
pub async fn get(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let name = gateway.place.unqualified(call.operation, call.parameter(0))?;
    let arn = gateway.place.arn(&name, None);
    let share = gateway.control.share(&name).await.map_err(|error| from_control(error, &arn))?;
    Answer::of(200, &shown(share))
}

/// DeleteFunctionConcurrency
pub async fn delete(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let name = gateway.place.unqualified(call.operation, call.parameter(0))?;
    let arn = gateway.place.arn(&name, None);
    gateway.control.reserve(&name, None).await.map_err(|error| from_control(error, &arn))?;
    Ok(Answer::empty(204))
}

/// What the API shows of a share.
pub fn shown(share: model::Share) -> Concurrency {
    Concurrency { reserved_concurrent_executions: share.reserved }
}

fn wanted(body: &[u8]) -> Result<u32, Refusal> {
    let value = validation::parse(body)?;
    let sent = Fields::of(&value)?.integer("ReservedConcurrentExecutions")?;
    let mut violations = Violations::default();
    match sent {
        None => violations.missing("reservedConcurrentExecutions"),
        Some(number) => violations.range(number, "reservedConcurrentExecutions", 0, i64::MAX),
    }
    violations.finish()?;
    // No account has so much; what is too large is refused for that reason.
    Ok(u32::try_from(sent.unwrap_or(0)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        let check = |body: &str, want: Result<u32, &str>| {
            let got = wanted(body.as_bytes()).map_err(|refusal| refusal.message);
            assert_eq!(got, want.map_err(str::to_owned), "{body}");
        };
        check(r#"{"ReservedConcurrentExecutions": 0}"#, Ok(0));
        check(r#"{"ReservedConcurrentExecutions": 4294967296}"#, Ok(u32::MAX));
        let one = "1 validation error detected:";
        let at = "at 'reservedConcurrentExecutions' failed to satisfy constraint: Member must";
        check("", Err(&format!("{one} Value null {at} not be null")));
        check(
            r#"{"ReservedConcurrentExecutions": -1}"#,
            Err(&format!("{one} Value '-1' {at} have value greater than or equal to 0")),
        );
        assert!(wanted(br#"{"ReservedConcurrentExecutions": "many"}"#).is_err());
    }
}
