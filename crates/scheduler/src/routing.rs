//! Which version an invocation runs.

use model::function::Spec;
use model::snapshot::{Split, Target, Targets};
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

/// Picks what runs from what the snapshot holds under the function's name. No qualifier means `$LATEST`. `draw` is a
/// random number from 0 to, but not including, 1: an alias of two versions leads to the additional one if the draw is
/// below its weight. Draws that are independent of one another divide invocations as the weights say.
pub fn route(targets: Option<&Targets>, qualifier: Option<&Qualifier>, draw: f64) -> Result<Arc<Spec>, NoRoute> {
    let targets = targets.ok_or(NoRoute::FunctionMissing)?;
    let version = match qualifier {
        None => Version::Latest,
        Some(Qualifier::Version(version)) => *version,
        Some(Qualifier::Alias(name)) => drawn(targets.aliases.get(name).ok_or(NoRoute::AliasMissing)?, draw),
    };
    match targets.version(version) {
        None => Err(NoRoute::VersionMissing),
        Some(Target::Ready(spec)) => Ok(Arc::clone(spec)),
        Some(Target::NotReady { state }) => Err(NoRoute::NotReady { state }),
    }
}

/// The version that a draw falls to.
fn drawn(split: &Split, draw: f64) -> Version {
    match split.additional {
        Some((version, weight)) if draw < weight => Version::Number(version),
        Some(_) | None => split.main,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{AccountId, Digest, FunctionArn, FunctionName, Generation, Region, Runtime};
    use std::collections::BTreeMap;

    fn ready(generation: u64) -> Target {
        let arn = FunctionArn {
            region: Region::parse("us-east-1").unwrap(),
            account: AccountId::parse("000000000000").unwrap(),
            name: FunctionName::parse("f").unwrap(),
            qualifier: None,
        };
        Target::Ready(Arc::new(Spec {
            arn,
            version: Version::Latest,
            generation: Generation(generation),
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
            snap_start: false,
        }))
    }

    /// Versions 1 and 2 run as generations 1 and 2, version 3 is Pending, `$LATEST` is what is given.
    fn targets(latest: Target) -> Targets {
        let split = |main, additional| Split { main, additional };
        Targets {
            latest,
            versions: [(1, ready(1)), (2, ready(2)), (3, Target::NotReady { state: "Pending" })].into(),
            aliases: [
                ("one".to_owned(), split(Version::Number(1), None)),
                ("both".to_owned(), split(Version::Number(1), Some((2, 0.25)))),
                ("never".to_owned(), split(Version::Number(1), Some((2, 0.0)))),
                ("always".to_owned(), split(Version::Number(1), Some((2, 1.0)))),
                ("latest".to_owned(), split(Version::Latest, None)),
                ("gone".to_owned(), split(Version::Number(9), None)),
            ]
            .into(),
        }
    }

    #[test]
    fn every_combination() {
        let (with, without) = (targets(ready(7)), targets(Target::NotReady { state: "Inactive" }));
        const PENDING: Result<u64, NoRoute> = Err(NoRoute::NotReady { state: "Pending" });
        const INACTIVE: Result<u64, NoRoute> = Err(NoRoute::NotReady { state: "Inactive" });
        const NO_VERSION: Result<u64, NoRoute> = Err(NoRoute::VersionMissing);
        const NO_ALIAS: Result<u64, NoRoute> = Err(NoRoute::AliasMissing);
        for (qualifier, draw, want_with, want_without) in [
            (None, 0.0, Ok(7), INACTIVE),
            (Some("$LATEST"), 0.0, Ok(7), INACTIVE),
            (Some("1"), 0.0, Ok(1), Ok(1)),
            (Some("3"), 0.0, PENDING, PENDING),
            (Some("4"), 0.0, NO_VERSION, NO_VERSION),
            (Some("one"), 0.0, Ok(1), Ok(1)),
            (Some("both"), 0.0, Ok(2), Ok(2)),
            (Some("both"), 0.249, Ok(2), Ok(2)),
            (Some("both"), 0.25, Ok(1), Ok(1)),
            (Some("never"), 0.0, Ok(1), Ok(1)),
            (Some("always"), 0.999, Ok(2), Ok(2)),
            (Some("latest"), 0.5, Ok(7), INACTIVE),
            (Some("gone"), 0.5, NO_VERSION, NO_VERSION),
            (Some("live"), 0.5, NO_ALIAS, NO_ALIAS),
        ] {
            let parsed = qualifier.map(|text| Qualifier::parse(text).unwrap());
            let generation = |targets| route(targets, parsed.as_ref(), draw).map(|spec| spec.generation.0);
            assert_eq!(generation(Some(&with)), want_with, "{qualifier:?} {draw}");
            assert_eq!(generation(Some(&without)), want_without, "{qualifier:?} {draw}");
            assert_eq!(generation(None), Err(NoRoute::FunctionMissing), "{qualifier:?}");
        }
    }

    proptest::proptest! {
        /// Draws that are spread evenly fall to the additional version in exactly its share.
        #[test]
        fn shares_are_the_weights(weight in 0u32..=1_000) {
            let split = Split { main: Version::Number(1), additional: Some((2, f64::from(weight) / 1_000.0)) };
            let additional = (0..1_000).filter(|at| {
                drawn(&split, (f64::from(*at) + 0.5) / 1_000.0) == Version::Number(2)
            });
            proptest::prop_assert_eq!(additional.count() as u32, weight);
        }
    }
}
