//! The real store and the real state machine, with interpreters and instances as the tests say.

use crate::*;
use api::launcher::Interpreter;
use model::function::{Config as FunctionConfig, LastUpdate, Network, State, Target};
use model::{Function, Runtime};
use std::sync::Mutex as Lock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use store::Expect;
use tempfile::TempDir;

mod provisioned;
mod scaling;
mod versions;

/// A zip of one executable `bootstrap`.
const ZIP_A: &[u8] = b"PK\x03\x04\x14\x00\x00\x00\x00\x00\x00\x00!\x5c\x1d\x9d\xfb\x04\x0a\x00\x00\x00\x0a\x00\x00\x00\x09\x00\x00\x00bootstrap#!/bin/sh\x0aPK\x01\x02\x14\x03\x14\x00\x00\x00\x00\x00\x00\x00!\x5c\x1d\x9d\xfb\x04\x0a\x00\x00\x00\x0a\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xed\x01\x00\x00\x00\x00bootstrapPK\x05\x06\x00\x00\x00\x00\x01\x00\x01\x007\x00\x00\x001\x00\x00\x00\x00\x00";
/// Bounds every wait of these tests.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    dir: TempDir,
    snapshot: Arc<ArcSwap<Snapshot>>,
    shares: Arc<ArcSwap<Shares>>,
    interpreters: watch::Sender<Interpreters>,
    in_use: Arc<AtomicBool>,
    last_invoked_ms: Arc<AtomicU64>,
    changes: Arc<AtomicU64>,
    workers: provisioned::Workers,
    limits: Limits,
}

impl Bench {
    fn new() -> Bench {
        Bench {
            dir: tempfile::tempdir().unwrap(),
            snapshot: Arc::default(),
            shares: Arc::default(),
            interpreters: watch::channel(None).0,
            in_use: Arc::default(),
            last_invoked_ms: Arc::default(),
            changes: Arc::default(),
            workers: provisioned::Workers::default(),
            limits: Limits::default(),
        }
    }

    fn config(&self, store: Store) -> Config {
        let (in_use, last_invoked_ms, changes) =
            (self.in_use.clone(), self.last_invoked_ms.clone(), self.changes.clone());
        Config {
            account: AccountId::parse("000000000000").unwrap(),
            region: Region::parse("us-east-1").unwrap(),
            limits: self.limits.clone(),
            s3: None,
            store,
            snapshot: self.snapshot.clone(),
            shares: self.shares.clone(),
            shares_changed: Box::new(|| {}),
            changed: Box::new(move |_| {
                changes.fetch_add(1, Ordering::Relaxed);
            }),
            interpreters: self.interpreters.subscribe(),
            take_snapshot: Box::new(|_| Box::pin(async { Ok(true) })),
            in_use: Box::new(move |_| in_use.load(Ordering::Relaxed)),
            last_invoked: Box::new(move |_| Some(last_invoked_ms.load(Ordering::Relaxed))),
            provision: self.workers.provision(),
            provisioned: self.workers.provisioned(),
            warm_up: self.workers.warm_up(),
        }
    }

    /// A transition that is just ending may still hold the data folder of the server before.
    async fn start(&self) -> (Service, Handle) {
        let open = async {
            loop {
                match Store::open(self.dir.path()) {
                    Ok(store) => return store,
                    Err(store::Error::InUse { .. }) => tokio::time::sleep(Duration::from_millis(2)).await,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let store = tokio::time::timeout(PATIENCE, open).await.unwrap();
        Service::new(self.config(store)).unwrap()
    }

    fn probed(&self, runtimes: &[&str]) {
        let found = runtimes.iter().map(|id| {
            let interpreter =
                Interpreter { runtime: Runtime((*id).into()), path: "/usr/bin/env".into(), version: String::new() };
            ((*id).to_owned(), interpreter)
        });
        self.interpreters.send_replace(Some(found.collect()));
    }

    fn target(&self, text: &str) -> String {
        match self.snapshot.load().functions.get(&name(text)).map(|targets| &targets.latest) {
            None => "none".to_owned(),
            Some(Target::NotReady { state }) => (*state).to_owned(),
            Some(Target::Ready(spec)) => format!("runs {} {} s", spec.runtime.0, spec.timeout_ms / 1_000),
        }
    }
}

fn name(text: &str) -> FunctionName {
    FunctionName::parse(text).unwrap()
}

fn new(text: &str, runtime: &str) -> NewFunction {
    let config = FunctionConfig {
        runtime: Some(Runtime(runtime.into())),
        role: "arn:aws:iam::000000000000:role/r".into(),
        handler: Some("a.b".into()),
        description: String::new(),
        timeout_s: 3,
        memory_mb: 128,
        ephemeral_mb: 512,
        environment: BTreeMap::new(),
        architecture: "x86_64".into(),
        package_type: "Zip".into(),
        network: Network::Nat,
        instance_concurrency: 1,
        echoed: BTreeMap::new(),
    };
    let code = CodeSource::Zip(bytes::Bytes::from_static(ZIP_A));
    NewFunction { name: name(text), config, tags: BTreeMap::new(), code, publish: false }
}

fn to_runtime(id: &str, timeout_s: u32) -> ConfigChange {
    ConfigChange { runtime: Some(Runtime(id.into())), timeout_s: Some(timeout_s), ..ConfigChange::default() }
}

/// Waits until the function is neither Pending nor being updated.
async fn settled(handle: &Handle, text: &str) -> Function {
    let look = async {
        loop {
            let function = handle.function(&name(text)).await.unwrap();
            if !scheduler::function_state::is_busy(&function) {
                return function;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap()
}

fn reason(function: &Function) -> String {
    match (&function.state, &function.last_update) {
        (State::Failed(reason), _) | (_, Some(LastUpdate::Failed(reason))) => {
            format!("{}: {}", reason.code, reason.text)
        }
        _ => String::new(),
    }
}

#[tokio::test]
async fn a_function_becomes_active_and_may_be_deleted() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    let created = handle.create_function(new("f", "provided.al2023")).await.unwrap().function;
    assert!(matches!(&created.state, State::Pending(reason) if reason.code == "Creating"));
    assert_eq!(created.last_update, None);
    let active = settled(&handle, "f").await;
    assert_eq!((&active.state, &active.last_update), (&State::Active, &Some(LastUpdate::Successful)));
    assert_ne!(active.revision_id, created.revision_id);
    assert_eq!(bench.target("f"), "runs provided.al2023 3 s");
    assert!(matches!(handle.create_function(new("f", "provided")).await, Err(Error::Exists { .. })));
    handle.delete_function(&name("f")).await.unwrap();
    assert_eq!(bench.target("f"), "none");
    assert!(matches!(handle.delete_function(&name("f")).await, Err(Error::NotFound { .. })));
    assert!(bench.changes.load(Ordering::Relaxed) >= 4, "the first, Pending, Active and deleted");
}

#[tokio::test]
async fn a_runtime_that_is_missing_is_named() {
    let bench = Bench::new();
    bench.probed(&["python3.11"]);
    let (_service, handle) = bench.start().await;
    for (text, runtime, want) in [
        ("p", "python3.11", ""),
        (
            "q",
            "python3.14",
            "InvalidRuntime: The runtime python3.14 is not on this machine. Install its interpreter, or add to the \
             server's configuration file the section [runtimes.\"python3.14\"] with the line interpreter = \
             \"/path/to/python3.14\" (or root = \"/path/to/its/root\") and restart the server;",
        ),
        ("j", "java21", "InvalidRuntime: Tidegate cannot run java21 by itself."),
    ] {
        handle.create_function(new(text, runtime)).await.unwrap();
        let function = settled(&handle, text).await;
        assert!(reason(&function).starts_with(want), "{} does not start with {want}", reason(&function));
        assert_eq!(bench.target(text), if want.is_empty() { "runs python3.11 3 s" } else { "Failed" });
    }
}

#[tokio::test]
async fn a_transition_waits_for_the_interpreters_and_refuses_updates_meanwhile() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    handle.create_function(new("f", "python3.11")).await.unwrap();
    assert_eq!(bench.target("f"), "Pending");
    let busy = handle.update_config(&name("f"), to_runtime("python3.11", 4)).await;
    assert!(matches!(busy, Err(Error::Busy { .. })));
    let tags = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    handle.tag(&name("f"), tags).await.unwrap();
    bench.probed(&["python3.11"]);
    let function = settled(&handle, "f").await;
    assert_eq!((function.state, function.tags.len()), (State::Active, 1));
}

#[tokio::test]
async fn a_failed_update_leaves_what_runs_also_after_a_restart() {
    let bench = Bench::new();
    bench.probed(&["python3.11"]);
    {
        let (_service, handle) = bench.start().await;
        handle.create_function(new("f", "python3.11")).await.unwrap();
        settled(&handle, "f").await;
        for timeout_s in [7, 8] {
            let begun = handle.update_config(&name("f"), to_runtime("ruby3.3", timeout_s)).await.unwrap();
            assert!(matches!(begun.last_update, Some(LastUpdate::InProgress(_))));
            let function = settled(&handle, "f").await;
            assert!(matches!(function.last_update, Some(LastUpdate::Failed(_))));
            assert_eq!((function.state, function.config.timeout_s), (State::Active, timeout_s));
            assert_eq!(bench.target("f"), "runs python3.11 3 s");
        }
    }
    let (_service, handle) = bench.start().await;
    assert_eq!(bench.target("f"), "runs python3.11 3 s");
    handle.update_config(&name("f"), to_runtime("python3.11", 9)).await.unwrap();
    settled(&handle, "f").await;
    assert_eq!(bench.target("f"), "runs python3.11 9 s");
    drop((_service, handle));
    let _again = bench.start().await;
    assert_eq!(bench.target("f"), "runs python3.11 9 s");
}

#[tokio::test]
async fn what_an_earlier_run_left_unfinished_is_completed() {
    let bench = Bench::new();
    bench.probed(&["python3.11"]);
    {
        let (_service, handle) = bench.start().await;
        for text in ["created", "updated"] {
            handle.create_function(new(text, "python3.11")).await.unwrap();
            settled(&handle, text).await;
        }
        // As if the server had ended right after the first write of each.
        let (mut created, _) = handle.shared.read(&name("created")).await.unwrap();
        (created.state, created.last_update) = scheduler::function_state::created();
        handle.shared.write(&created, Expect::Any).await.unwrap();
        let (mut updated, _) = handle.shared.read(&name("updated")).await.unwrap();
        handle.shared.keep_earlier(&updated).await.unwrap();
        scheduler::function_state::update_started(&mut updated).unwrap();
        updated.config.timeout_s = 5;
        handle.shared.write(&updated, Expect::Any).await.unwrap();
    }
    let (service, handle) = bench.start().await;
    assert_eq!((bench.target("created"), bench.target("updated")), ("Pending".into(), "runs python3.11 3 s".into()));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(service.run(async { drop(stopped.await) }));
    assert_eq!(settled(&handle, "created").await.state, State::Active);
    assert_eq!(settled(&handle, "updated").await.last_update, Some(LastUpdate::Successful));
    assert_eq!(bench.target("updated"), "runs python3.11 5 s");
    stop.send(()).unwrap();
    tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
}

#[tokio::test]
async fn revisions_and_dry_runs() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    handle.create_function(new("f", "provided")).await.unwrap();
    let before = settled(&handle, "f").await;
    let change = |revision: &str, dry_run| CodeChange {
        code: CodeSource::Zip(bytes::Bytes::from_static(ZIP_A)),
        architecture: Some("arm64".into()),
        dry_run,
        publish: false,
        revision_id: Some(revision.to_owned()),
    };
    let refused = handle.update_code(&name("f"), change("other", false)).await;
    assert!(matches!(refused, Err(Error::RevisionMismatch { .. })));
    let dry = handle.update_code(&name("f"), change(&before.revision_id, true)).await.unwrap().function;
    assert_eq!(dry.config.architecture, "arm64");
    assert_eq!(handle.function(&name("f")).await.unwrap(), before);
    let begun = handle.update_code(&name("f"), change(&before.revision_id, false)).await.unwrap().function;
    assert!(begun.generation > before.generation && begun.revision_id != before.revision_id);
    assert_ne!(settled(&handle, "f").await.revision_id, begun.revision_id);
}

#[tokio::test]
async fn one_of_many_creations_wins_and_generations_differ() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    let attempts: Vec<_> = (0..16)
        .map(|n| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.create_function(new(["f", "g"][n % 2], "provided")).await })
        })
        .collect();
    let won = Lock::new(Vec::new());
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ok(created) => won.lock().unwrap().push(created.function.generation),
            Err(error) => assert!(matches!(error, Error::Exists { .. }), "{error:?}"),
        }
    }
    let won = won.into_inner().unwrap();
    assert_eq!(won.len(), 2);
    assert_ne!(won[0], won[1]);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_a_write() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    {
        let create = handle.create_function(new("f", "provided"));
        // Polled once, so that it has begun, and dropped.
        let _ = tokio::time::timeout(Duration::ZERO, create).await;
    }
    let present = async {
        while handle.function(&name("f")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, present).await.unwrap();
}

#[tokio::test]
async fn packages_go_when_nobody_needs_them() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    let function = handle.create_function(new("f", "provided")).await.unwrap().function;
    settled(&handle, "f").await;
    let packages = handle.shared.config.store.clone();
    let kept = || packages.packages().contains(&function.code.digest);
    // Removal is due at once, as at the start.
    let collect = || async {
        handle.shared.forget_grace();
        handle.shared.collect().await;
    };
    collect().await;
    assert!(kept(), "a function refers to it");
    handle.delete_function(&name("f")).await.unwrap();
    handle.shared.collect().await;
    assert!(kept(), "its time of grace has just begun");
    bench.in_use.store(true, Ordering::Relaxed);
    collect().await;
    assert!(kept(), "an instance uses it");
    bench.in_use.store(false, Ordering::Relaxed);
    let upload = handle.shared.uploads.read().await;
    let mut waiting = std::pin::pin!(collect());
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut waiting).await.is_err());
    assert!(kept(), "an upload is under way");
    // Uploads that come now cannot keep it waiting for ever.
    assert!(handle.shared.uploads.try_read().is_err());
    drop(upload);
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    assert!(!kept());
}

/// An instance, told by its stream, writes a line. The functions that have a log then.
fn logged(store: &Store, text: &str, stream: &str, time_ms: u64) -> Vec<FunctionName> {
    let line = LogLine {
        function: name(text),
        version: model::Version::Latest,
        stream: stream.into(),
        time_ms,
        text: "END".into(),
    };
    store.logs().append(&[line], &Limits::default()).unwrap();
    store.logs().functions().unwrap()
}

#[tokio::test]
async fn the_log_of_a_deleted_function_does_not_come_back() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    let store = handle.shared.config.store.clone();
    let log = async || handle.read_log(&name("f"), None, 10).await.unwrap().0.len();
    handle.create_function(new("f", "provided")).await.unwrap();
    settled(&handle, "f").await;
    assert_eq!(logged(&store, "f", "a", now_ms()), [name("f")]);
    handle.shared.sweep_logs().await;
    assert_eq!(log().await, 1, "its function is there");
    handle.delete_function(&name("f")).await.unwrap();
    assert_eq!(store.logs().functions().unwrap(), []);
    // One instance that has written before, and one that has not, write on behind the deletion.
    assert_eq!(logged(&store, "f", "a", now_ms()), []);
    assert_eq!(logged(&store, "f", "b", now_ms()), []);
    handle.create_function(new("f", "provided")).await.unwrap();
    settled(&handle, "f").await;
    // And one whose first line has been under way since before.
    logged(&store, "f", "late", 1);
    for stream in ["a", "b", "late"] {
        logged(&store, "f", stream, now_ms());
        assert_eq!(log().await, 0, "the new function is not the old one");
    }
    logged(&store, "f", "c", now_ms());
    assert!(matches!(handle.create_function(new("f", "provided")).await, Err(Error::Exists { .. })));
    assert_eq!(log().await, 1, "a refused creation takes nothing away");
    // What a server leaves that ends in the middle of a deletion.
    assert_eq!(logged(&store, "g", "d", now_ms()).len(), 2);
    handle.shared.sweep_logs().await;
    assert_eq!(store.logs().functions().unwrap(), [name("f")]);
}

#[tokio::test]
async fn transitions_that_nobody_carries_on_are_resumed() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    handle.create_function(new("waits", "python3.11")).await.unwrap();
    handle.create_function(new("lost", "provided")).await.unwrap();
    // As if the data folder had failed for longer than the task tried.
    let mut lost = settled(&handle, "lost").await;
    (lost.state, lost.last_update) = scheduler::function_state::created();
    handle.shared.write(&lost, Expect::Any).await.unwrap();
    let carried = || handle.shared.settling.lock().unwrap().len();
    assert_eq!(carried(), 1);
    handle.shared.resume().await;
    assert_eq!(settled(&handle, "lost").await.state, State::Active);
    bench.probed(&["python3.11"]);
    assert_eq!(settled(&handle, "waits").await.state, State::Active);
    let none = async {
        while carried() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, none).await.unwrap();
}

#[tokio::test]
async fn a_dry_run_checks_the_package_and_keeps_nothing() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    handle.create_function(new("f", "provided")).await.unwrap();
    let function = settled(&handle, "f").await;
    let packages = || handle.shared.config.store.packages().list().unwrap();
    let dry = |zip: Vec<u8>| {
        let code = CodeSource::Zip(zip.into());
        let change = CodeChange { code, architecture: None, dry_run: true, publish: false, revision_id: None };
        let handle = handle.clone();
        async move { handle.update_code(&name("f"), change).await }
    };
    // Another package: the same file with an archive comment.
    let mut other = ZIP_A.to_vec();
    *other.iter_mut().nth_back(1).unwrap() = 1;
    other.push(b'!');
    let answer = dry(other.clone()).await.unwrap().function;
    assert_eq!(answer.code.size_bytes, other.len() as u64);
    assert_ne!(answer.code.digest, function.code.digest);
    assert!(matches!(dry(b"no".to_vec()).await, Err(Error::AddPackage(_))));
    assert_eq!(packages(), [function.code.digest]);
    assert_eq!(handle.function(&name("f")).await.unwrap(), function);
}

#[tokio::test]
async fn fetches_take_turns() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    let _all = handle.shared.fetches.acquire_many(packages::FETCHES_MAX as u32).await.unwrap();
    let far = || CodeSource::Object { bucket: "b".into(), key: "k".into(), version: None };
    let fetch = handle.create_function(NewFunction { code: far(), ..new("g", "provided") });
    assert!(tokio::time::timeout(Duration::from_millis(50), fetch).await.is_err());
    handle.create_function(new("f", "provided")).await.unwrap();
    drop(_all);
    let fetch = handle.create_function(NewFunction { code: far(), ..new("g", "provided") });
    assert!(matches!(tokio::time::timeout(PATIENCE, fetch).await.unwrap(), Err(Error::NoObjectStore)));
    assert_eq!(handle.shared.fetches.available_permits(), packages::FETCHES_MAX);
}

#[tokio::test]
async fn idle_functions_become_inactive_and_wake() {
    let bench = Bench::new();
    let (service, handle) = bench.start().await;
    handle.create_function(new("f", "provided")).await.unwrap();
    let mut function = settled(&handle, "f").await;
    function.last_modified_ms = 0;
    handle.shared.write(&function, Expect::Any).await.unwrap();
    handle.shared.retire_idle().await;
    assert_eq!(bench.target("f"), "runs provided 3 s", "the server has not run for long");
    let old = started_long_ago(service, handle).await;
    bench.last_invoked_ms.store(now_ms(), Ordering::Relaxed);
    old.retire_idle().await;
    assert_eq!(bench.target("f"), "runs provided 3 s", "it was invoked just now");
    bench.last_invoked_ms.store(0, Ordering::Relaxed);
    old.retire_idle().await;
    assert_eq!(bench.target("f"), "Inactive");
    let handle = Handle { shared: old };
    handle.wake(&name("f"), PATIENCE).await.unwrap();
    assert_eq!(bench.target("f"), "runs provided 3 s");
}

/// The same server, with another start time. Waits until no transition shares it any more.
async fn started_long_ago(service: Service, handle: Handle) -> Arc<Shared> {
    drop(service);
    let mut shared = handle.shared;
    let alone = async {
        loop {
            match Arc::try_unwrap(shared) {
                Ok(inner) => return Shared { started_ms: 0, ..inner },
                Err(still_shared) => shared = still_shared,
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    Arc::new(tokio::time::timeout(PATIENCE, alone).await.unwrap())
}

#[tokio::test]
async fn limits_of_code_and_tags() {
    let mut bench = Bench::new();
    bench.limits.zip_bytes = 100;
    bench.limits.tags = 1;
    let (_service, handle) = bench.start().await;
    let refused = handle.create_function(new("f", "provided")).await;
    assert!(matches!(refused, Err(Error::ZipTooLarge { limit_bytes: 100 })));
    drop((_service, handle));
    bench.limits.zip_bytes = 1_000;
    bench.limits.code_storage_bytes = 100;
    let (_service, handle) = bench.start().await;
    let refused = handle.create_function(new("f", "provided")).await;
    assert!(matches!(refused, Err(Error::CodeStorageExceeded { limit_bytes: 100 })));
    drop((_service, handle));
    bench.limits.code_storage_bytes = 1_000;
    let (_service, handle) = bench.start().await;
    handle.create_function(new("f", "provided")).await.unwrap();
    let tags = ["a", "b"].map(|key| (key.to_owned(), String::new()));
    assert!(matches!(handle.tag(&name("f"), BTreeMap::from(tags)).await, Err(Error::TooManyTags { limit: 1 })));
    let bad = NewFunction { code: CodeSource::Zip(bytes::Bytes::from_static(b"no")), ..new("g", "provided") };
    assert!(matches!(handle.create_function(bad).await, Err(Error::AddPackage(PackageError::NotAZip { .. }))));
    let far = CodeSource::Object { bucket: "b".into(), key: "k".into(), version: None };
    let far = NewFunction { code: far, ..new("g", "provided") };
    assert!(matches!(handle.create_function(far).await, Err(Error::NoObjectStore)));
}
