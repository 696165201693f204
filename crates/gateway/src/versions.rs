//! PublishVersion and ListVersionsByFunction.

use crate::errors::{Refusal, from_control};
use crate::paging::{items, marker, read_marker};
use crate::request::{Answer, Call, Gateway};
use crate::validation::{Violations, aliases};
use crate::view::{self, Detail};
use api::lambda::ListVersions;
use control::AtVersion;
use model::{Qualifier, Version};

/// The most items that a caller may ask for.
const MAX_ITEMS: i64 = 10_000;

/// PublishVersion
pub async fn publish(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let name = gateway.place.unqualified(call.operation, call.parameter(0))?;
    let wish = aliases::publication(&call.body)?;
    let arn = gateway.place.arn(&name, None);
    let made = gateway.control.publish_version(&name, wish).await.map_err(|error| from_control(error, &arn))?;
    Answer::of(201, &view::configuration(&made, &gateway.place, Some(&qualifier(&made)), Detail::Full))
}

/// ListVersionsByFunction
pub async fn list(gateway: &Gateway, call: Call) -> Result<Answer, Refusal> {
    let name = gateway.place.unqualified(call.operation, call.parameter(0))?;
    let mut violations = Violations::default();
    let items = items(gateway, &call, &mut violations, MAX_ITEMS)?;
    violations.finish()?;
    let after = read_marker(&call, |text| text.parse::<u64>().ok())?;
    let arn = gateway.place.arn(&name, None);
    let listed = gateway.control.versions(&name, after, items).await;
    let (versions, more) = listed.map_err(|error| from_control(error, &arn))?;
    let next_marker = versions.last().filter(|_| more).map(|last| marker(&number(last.version).to_string()));
    let show = |at: &AtVersion| view::configuration(at, &gateway.place, Some(&qualifier(at)), Detail::Listed);
    Answer::of(200, &ListVersions { next_marker, versions: versions.iter().map(show).collect() })
}

/// The qualifier that leads to exactly this version.
pub fn qualifier(at: &AtVersion) -> Qualifier {
    Qualifier::Version(at.version)
}

/// A version's place in lists: `$LATEST` comes first.
pub fn number(version: Version) -> u64 {
    match version {
        Version::Latest => 0,
        Version::Number(number) => number,
    }
}
