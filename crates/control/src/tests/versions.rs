//! Versions and aliases against the real registry.

use super::*;
use crate::error::WeightFault;
use crate::{AliasChange, AtVersion, NewAlias, Publication};
use model::{Qualifier, Version};

async fn published(handle: &Handle, text: &str) -> AtVersion {
    handle.publish_version(&name(text), Publication::default()).await.unwrap()
}

fn to_version(text: &str, version: Version) -> NewAlias {
    NewAlias { name: text.to_owned(), version, additional: Vec::new(), description: String::new() }
}

fn code(zip: &[u8], publish: bool) -> CodeChange {
    let code = CodeSource::Zip(zip.to_vec().into());
    CodeChange { code, architecture: None, dry_run: false, publish, revision_id: None }
}

/// The same file as in [`ZIP_A`], with an archive comment.
fn other_zip() -> Vec<u8> {
    let mut zip = ZIP_A.to_vec();
    *zip.iter_mut().nth_back(1).unwrap() = 1;
    zip.push(b'!');
    zip
}

/// What everything of a function leads to, for people.
fn shown(bench: &Bench, text: &str) -> String {
    let snapshot = bench.snapshot.load();
    let Some(targets) = snapshot.functions.get(&name(text)) else { return "none".to_owned() };
    let of = |target: &Target| match target {
        Target::Ready(spec) => format!("{}s", spec.timeout_ms / 1_000),
        Target::NotReady { state } => (*state).to_owned(),
    };
    let versions = targets.versions.iter().map(|(number, target)| format!("{number}={}", of(target)));
    let aliases = targets.aliases.iter().map(|(alias, split)| match split.additional {
        Some((other, weight)) => format!("{alias}>{},{other}:{weight}", split.main),
        None => format!("{alias}>{}", split.main),
    });
    let latest = format!("$LATEST={}", of(&targets.latest));
    std::iter::once(latest).chain(versions).chain(aliases).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn versions_are_frozen_and_numbered() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    handle.create_function(new("f", "provided")).await.unwrap();
    let latest = settled(&handle, "f").await;
    let one = published(&handle, "f").await;
    assert_eq!((one.version, &one.function.state), (Version::Number(1), &State::Active));
    assert_ne!(one.function.generation, latest.generation);
    assert_ne!(one.function.revision_id, latest.revision_id);
    assert_ne!(handle.function(&name("f")).await.unwrap().revision_id, latest.revision_id, "publishing is a write");
    // Nothing has changed: the same version again, whatever the description.
    let described = Publication { description: Some("other".into()), ..Publication::default() };
    assert_eq!(handle.publish_version(&name("f"), described).await.unwrap(), one);
    handle.update_config(&name("f"), to_runtime("provided", 7)).await.unwrap();
    settled(&handle, "f").await;
    let two = handle
        .publish_version(&name("f"), Publication { description: Some("two".into()), ..Publication::default() })
        .await
        .unwrap();
    assert_eq!((two.version, two.function.config.description.as_str()), (Version::Number(2), "two"));
    assert_eq!(shown(&bench, "f"), "$LATEST=7s 1=3s 2=7s");
    // A number is never given twice.
    handle.delete_version(&name("f"), 2).await.unwrap();
    handle.delete_version(&name("f"), 2).await.unwrap();
    assert_eq!(published(&handle, "f").await.version, Version::Number(3));
    assert_eq!(shown(&bench, "f"), "$LATEST=7s 1=3s 3=7s");
    let at = handle.function_at(&name("f"), Some(&Qualifier::Version(Version::Number(1)))).await.unwrap();
    assert_eq!(at, one);
    handle.delete_function(&name("f")).await.unwrap();
    assert!(matches!(handle.delete_version(&name("f"), 1).await, Err(Error::NotFound { .. })));
    handle.create_function(new("f", "provided")).await.unwrap();
    settled(&handle, "f").await;
    assert_eq!(shown(&bench, "f"), "$LATEST=3s");
    assert_eq!(published(&handle, "f").await.version, Version::Number(1), "a new function counts anew");
}

#[tokio::test]
async fn preconditions_of_publishing() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    // Until the launcher has looked for interpreters this one stays Pending.
    handle.create_function(new("failed", "python3.12")).await.unwrap();
    let busy = handle.publish_version(&name("failed"), Publication::default()).await;
    assert!(matches!(busy, Err(Error::Busy { .. })), "{busy:?}");
    bench.probed(&[]);
    handle.create_function(new("f", "provided")).await.unwrap();
    let function = settled(&handle, "f").await;
    let digest = function.code.digest;
    for (given, revision_id, want) in [
        (Some(Digest([1; 32])), None, "CodeMismatch"),
        (Some(digest), Some("other"), "RevisionMismatch"),
        (Some(digest), Some(function.revision_id.as_str()), "Ok"),
    ] {
        let wish = Publication {
            code: given.map(|digest| ("x".to_owned(), Some(digest))),
            revision_id: revision_id.map(str::to_owned),
            description: None,
        };
        let got = format!("{:?}", handle.publish_version(&name("f"), wish).await);
        assert!(got.contains(want), "{got} has no {want}");
    }
    settled(&handle, "failed").await;
    let refused = handle.publish_version(&name("failed"), Publication::default()).await;
    assert!(matches!(refused, Err(Error::NothingToPublish { .. })), "{refused:?}");
    let missing = handle.publish_version(&name("missing"), Publication::default()).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn publishing_with_creations_and_updates() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    let created = handle.create_function(NewFunction { publish: true, ..new("f", "provided") }).await.unwrap();
    assert_eq!((created.version, matches!(created.function.state, State::Pending(_))), (Version::Number(1), true));
    // An alias waits for the version that it points to.
    handle.create_alias(&name("f"), to_version("live", Version::Number(1))).await.unwrap();
    assert_eq!(shown(&bench, "f").replace("$LATEST=Pending", "$LATEST=3s"), "$LATEST=3s 1=3s live>1");
    settled(&handle, "f").await;
    let same = handle.update_code(&name("f"), code(ZIP_A, true)).await.unwrap();
    assert_eq!(same.version, Version::Number(1), "the very code and configuration of version 1");
    settled(&handle, "f").await;
    let updated = handle.update_code(&name("f"), code(&other_zip(), true)).await.unwrap();
    assert_eq!(updated.version, Version::Number(2));
    let change = AliasChange { version: Some(Version::Number(2)), ..AliasChange::default() };
    handle.update_alias(&name("f"), "live", change).await.unwrap();
    let targets = bench.snapshot.load().functions[&name("f")].clone();
    assert!(matches!(&targets.versions[&2], Target::Ready(spec) if spec.package == updated.function.code.digest));
    let (listed, more) = handle.versions(&name("f"), None, 2).await.unwrap();
    assert_eq!(
        (listed.iter().map(|at| at.version).collect::<Vec<_>>(), more),
        (vec![Version::Latest, Version::Number(1)], true)
    );
    let (listed, more) = handle.versions(&name("f"), Some(1), 2).await.unwrap();
    assert_eq!((listed.iter().map(|at| at.version).collect::<Vec<_>>(), more), (vec![Version::Number(2)], false));
}

#[tokio::test]
async fn versions_and_aliases_outlive_the_server() {
    let bench = Bench::new();
    let (service, handle) = bench.start().await;
    handle.create_function(new("f", "provided")).await.unwrap();
    settled(&handle, "f").await;
    published(&handle, "f").await;
    handle.update_config(&name("f"), to_runtime("provided", 4)).await.unwrap();
    settled(&handle, "f").await;
    published(&handle, "f").await;
    let both = NewAlias { additional: vec![(2, 0.5)], ..to_version("both", Version::Number(1)) };
    handle.create_alias(&name("f"), both).await.unwrap();
    let before = shown(&bench, "f");
    assert_eq!(before, "$LATEST=4s 1=3s 2=4s both>1,2:0.5");
    drop((service, handle));
    bench.snapshot.store(Arc::default());
    let (_service, _handle) = bench.start().await;
    assert_eq!(shown(&bench, "f"), before);
}

/// The server ended between the record of a version and the end of its transition.
#[tokio::test]
async fn versions_that_an_earlier_run_left_pending_are_completed() {
    let bench = Bench::new();
    let (service, handle) = bench.start().await;
    handle.create_function(new("f", "provided")).await.unwrap();
    settled(&handle, "f").await;
    published(&handle, "f").await;
    {
        let registry = handle.shared.config.store.registry();
        let mut version = registry.version(&name("f"), 1).unwrap().unwrap();
        (version.function.state, version.function.last_update) = scheduler::function_state::created();
        registry.rewrite_version(&version).unwrap();
    }
    drop((service, handle));
    let (service, handle) = bench.start().await;
    assert_eq!(shown(&bench, "f"), "$LATEST=3s 1=Pending");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(service.run(async {
        let _ = stopped.await;
    }));
    handle.until_settled(&name("f"), Version::Number(1), PATIENCE).await;
    assert_eq!(shown(&bench, "f"), "$LATEST=3s 1=3s");
    drop(stop);
    running.await.unwrap();
}

#[tokio::test]
async fn packages_of_versions_stay() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    handle.create_function(new("f", "provided")).await.unwrap();
    let first = settled(&handle, "f").await.code.digest;
    published(&handle, "f").await;
    let second = handle.update_code(&name("f"), code(&other_zip(), false)).await.unwrap().function.code.digest;
    settled(&handle, "f").await;
    let kept = || {
        let packages = handle.shared.config.store.packages();
        (packages.contains(&first), packages.contains(&second))
    };
    let collect = || async {
        handle.shared.forget_grace();
        handle.shared.collect().await;
    };
    collect().await;
    assert_eq!(kept(), (true, true));
    handle.delete_version(&name("f"), 1).await.unwrap();
    collect().await;
    assert_eq!(kept(), (false, true));
}

#[tokio::test]
async fn the_rules_of_aliases() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    handle.create_function(new("f", "provided")).await.unwrap();
    settled(&handle, "f").await;
    published(&handle, "f").await;
    let change = |change: ConfigChange| async {
        handle.update_config(&name("f"), change).await.unwrap();
        settled(&handle, "f").await;
        published(&handle, "f").await;
    };
    change(to_runtime("provided", 4)).await;
    change(ConfigChange { role: Some("arn:aws:iam::000000000000:role/s".into()), ..ConfigChange::default() }).await;
    let queue = [("DeadLetterConfig".to_owned(), Some("{}".to_owned()))].into();
    let role = Some("arn:aws:iam::000000000000:role/r".into());
    change(ConfigChange { role, echoed: queue, ..ConfigChange::default() }).await;
    let check = async |main: Version, additional: &[(u64, f64)], want: &str| {
        let new = NewAlias { additional: additional.to_vec(), ..to_version("a", main) };
        let got = handle.create_alias(&name("f"), new).await;
        let text = match &got {
            Ok(alias) => format!("{} {:?}", alias.version, alias.additional),
            Err(Error::Weights(fault)) => format!("{fault:?}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(text, want);
        handle.delete_alias(&name("f"), "a").await.unwrap();
    };
    let one = Version::Number(1);
    check(one, &[], "1 {}").await;
    check(Version::Latest, &[], "$LATEST {}").await;
    check(one, &[(2, 0.1)], "1 {2: 0.1}").await;
    check(Version::Number(9), &[], "the function f has no version 9").await;
    check(one, &[(9, 0.1)], "the function f has no version 9").await;
    check(one, &[(2, 0.1), (3, 0.1)], "TooMany").await;
    check(one, &[(1, 0.1)], "Twice { number: 1 }").await;
    check(Version::Latest, &[(1, 0.1)], "Latest").await;
    check(one, &[(3, 0.1)], "Roles").await;
    check(one, &[(4, 0.1)], "DeadLetters").await;
}

#[tokio::test]
async fn the_life_of_an_alias() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    let f = name("f");
    handle.create_function(new("f", "provided")).await.unwrap();
    settled(&handle, "f").await;
    published(&handle, "f").await;
    handle.update_config(&f, to_runtime("provided", 4)).await.unwrap();
    settled(&handle, "f").await;
    published(&handle, "f").await;
    let made = handle.create_alias(&f, to_version("live", Version::Number(1))).await.unwrap();
    let again = handle.create_alias(&f, to_version("live", Version::Number(2))).await;
    assert!(matches!(again, Err(Error::AliasExists { .. })));
    let weights = AliasChange { additional: Some(vec![(2, 0.25)]), ..AliasChange::default() };
    let weighted = handle.update_alias(&f, "live", weights).await.unwrap();
    assert_ne!(weighted.revision_id, made.revision_id);
    assert_eq!(shown(&bench, "f"), "$LATEST=4s 1=3s 2=4s live>1,2:0.25");
    let stale = AliasChange { revision_id: Some(made.revision_id), ..AliasChange::default() };
    assert!(matches!(handle.update_alias(&f, "live", stale).await, Err(Error::RevisionMismatch { .. })));
    // What is not given stays; the whole is checked.
    let onto_itself = AliasChange { version: Some(Version::Number(2)), ..AliasChange::default() };
    let refused = handle.update_alias(&f, "live", onto_itself).await;
    assert!(matches!(refused, Err(Error::Weights(WeightFault::Twice { number: 2 }))));
    for number in [1, 2] {
        let refused = handle.delete_version(&f, number).await;
        assert!(matches!(&refused, Err(Error::PointedTo { aliases }) if aliases == &["live"]), "{refused:?}");
    }
    let moved = AliasChange {
        version: Some(Version::Number(2)),
        additional: Some(Vec::new()),
        description: Some("d".into()),
        revision_id: Some(weighted.revision_id),
    };
    handle.update_alias(&f, "live", moved).await.unwrap();
    assert_eq!(shown(&bench, "f"), "$LATEST=4s 1=3s 2=4s live>2");
    handle.delete_version(&f, 1).await.unwrap();
    handle.create_alias(&f, to_version("also", Version::Latest)).await.unwrap();
    let names = |aliases: Vec<model::Alias>| aliases.into_iter().map(|alias| alias.name).collect::<Vec<_>>().join(" ");
    let (all, more) = handle.aliases(&f, None, None, 9).await.unwrap();
    assert_eq!((names(all).as_str(), more), ("also live", false));
    let (one, more) = handle.aliases(&f, None, Some("also".into()), 1).await.unwrap();
    assert_eq!((names(one).as_str(), more), ("live", false));
    let (of_two, _) = handle.aliases(&f, Some(Version::Number(2)), None, 9).await.unwrap();
    assert_eq!(names(of_two), "live");
    handle.delete_alias(&f, "live").await.unwrap();
    handle.delete_alias(&f, "live").await.unwrap();
    assert!(matches!(handle.alias(&f, "live").await, Err(Error::AliasMissing { .. })));
    let nowhere = handle.update_alias(&f, "live", AliasChange::default()).await;
    assert!(matches!(nowhere, Err(Error::AliasMissing { .. })));
    assert!(matches!(handle.alias(&name("g"), "live").await, Err(Error::NotFound { .. })));
    assert_eq!(shown(&bench, "f"), "$LATEST=4s 2=4s also>$LATEST");
}

#[tokio::test]
async fn all_versions_of_all_functions_in_pages() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    for text in ["a", "b", "c"] {
        handle.create_function(NewFunction { publish: text != "b", ..new(text, "provided") }).await.unwrap();
        settled(&handle, text).await;
    }
    handle.update_config(&name("a"), to_runtime("provided", 4)).await.unwrap();
    settled(&handle, "a").await;
    published(&handle, "a").await;
    for limit in 1..8 {
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let (page, more) = handle.all_versions(after, limit).await.unwrap();
            assert!(page.len() <= limit);
            seen.extend(page.iter().map(|at| format!("{}:{}", at.function.name, at.version)));
            let Some(last) = page.last().filter(|_| more) else { break };
            let number = if let Version::Number(number) = last.version { number } else { 0 };
            after = Some((last.function.name.clone(), number));
        }
        assert_eq!(seen.join(" "), "a:$LATEST a:1 a:2 b:$LATEST c:$LATEST c:1", "{limit}");
    }
}
