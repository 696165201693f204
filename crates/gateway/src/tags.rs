//! TagResource, UntagResource and ListTags. Only functions have tags.

use crate::errors::{Refusal, from_control};
use crate::request::{Answer, Call, Gateway};
use crate::validation::{self, Fields, Violations};
use api::lambda::ListTags;

/// TagResource
pub async fn tag(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let name = gateway.place.taggable(call.operation, call.parameter(0))?;
    let value = validation::parse(&call.body)?;
    let mut violations = Violations::default();
    let tags = validation::tags::read(&Fields::of(&value)?, &mut violations)?;
    if tags.is_none() {
        violations.missing("tags");
    }
    violations.finish()?;
    let tags = tags.unwrap_or_default();
    if tags.is_empty() {
        // Recorded so on AWS.
        return Err(Refusal::invalid("An error occurred and the request cannot be processed."));
    }
    let arn = gateway.place.arn(&name, None);
    gateway.control.tag(&name, tags).await.map_err(|error| from_control(error, &arn))?;
    Ok(Answer::empty(204))
}

/// UntagResource
pub async fn untag(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let name = gateway.place.taggable(call.operation, call.parameter(0))?;
    let keys = call.query.all("tagKeys");
    let mut violations = Violations::default();
    validation::tags::check_keys(&keys, &mut violations);
    violations.finish()?;
    let arn = gateway.place.arn(&name, None);
    gateway.control.untag(&name, keys).await.map_err(|error| from_control(error, &arn))?;
    Ok(Answer::empty(204))
}

/// ListTags
pub async fn list(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let name = gateway.place.taggable(call.operation, call.parameter(0))?;
    let arn = gateway.place.arn(&name, None);
    let function = gateway.control.function(&name).await.map_err(|error| from_control(error, &arn))?;
    Answer::of(200, &ListTags { tags: function.tags })
}
