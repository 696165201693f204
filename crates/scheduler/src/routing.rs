//! Which version an invocation runs.

use model::function::{Spec, Target};
use model::{Qualifier, Version};
use std::sync::Arc;

/// Why an invocation leads to no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoute {
    /// There is no function of this name.
    FunctionMissing,
    /// The function has no version of this number.
    VersionMissing,
    /// The function has no alias of this name.
    AliasMissing,
    /// The function is there but takes no invocations.
    NotReady {
        /// `Pending`, `Failed` or `Inactive`.
        state: &'static str,
    },
}

/// Picks what runs from what the snapshot holds under the function's name. Only `$LATEST` exists so far, which is also
/// what no qualifier means.
pub fn route(target: Option<&Target>, qualifier: Option<&Qualifier>) -> Result<Arc<Spec>, NoRoute> {
    let target = target.ok_or(NoRoute::FunctionMissing)?;
    match qualifier {
        None | Some(Qualifier::Version(Version::Latest)) => {}
        Some(Qualifier::Version(Version::Number(_))) => return Err(NoRoute::VersionMissing),
        Some(Qualifier::Alias(_)) => return Err(NoRoute::AliasMissing),
    }
    match target {
        Target::Ready(spec) => Ok(Arc::clone(spec)),
        Target::NotReady { state } => Err(NoRoute::NotReady { state }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{AccountId, Digest, FunctionArn, FunctionName, Generation, Region, Runtime};
    use std::collections::BTreeMap;

    fn spec() -> Arc<Spec> {
        let arn = FunctionArn {
            region: Region::parse("us-east-1").unwrap(),
            account: AccountId::parse("000000000000").unwrap(),
            name: FunctionName::parse("f").unwrap(),
            qualifier: None,
        };
        Arc::new(Spec {
            arn,
            version: Version::Latest,
            generation: Generation(7),
            runtime: Runtime("python3.12".into()),
            handler: "m.h".into(),
            timeout_ms: 3_000,
            memory_mb: 128,
            ephemeral_mb: 512,
            environment: BTreeMap::new(),
            package: Digest([0; 32]),
            network: model::function::Network::Nat,
            instance_concurrency: 1,
            log_group: "/aws/lambda/f".into(),
        })
    }

    #[test]
    fn every_combination() {
        let ready = Target::Ready(spec());
        let pending = Target::NotReady { state: "Pending" };
        let not_ready = Err(NoRoute::NotReady { state: "Pending" });
        for (qualifier, want_ready, want_pending) in [
            (None, Ok(7), not_ready),
            (Some("$LATEST"), Ok(7), not_ready),
            (Some("1"), Err(NoRoute::VersionMissing), Err(NoRoute::VersionMissing)),
            (Some("live"), Err(NoRoute::AliasMissing), Err(NoRoute::AliasMissing)),
        ] {
            let parsed = qualifier.map(|text| Qualifier::parse(text).unwrap());
            let generation = |target| route(target, parsed.as_ref()).map(|spec| spec.generation.0);
            assert_eq!(generation(Some(&ready)), want_ready, "{qualifier:?}");
            assert_eq!(generation(Some(&pending)), want_pending, "{qualifier:?}");
            assert_eq!(generation(None), Err(NoRoute::FunctionMissing), "{qualifier:?}");
        }
    }
}
