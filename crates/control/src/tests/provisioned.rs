//! Provisioned concurrency against the real registry, with a worker that notes what it is told.

use super::*;
use crate::{AliasChange, Counted, Counts, NewAlias, Provision, Publication, Status, WarmUp};
use model::{Generation, Qualifier, Version};
use scheduler::pool::{Gone, Trouble};

/// What workers were told, and what they say.
#[derive(Default, Clone)]
pub struct Workers {
    orders: Arc<Lock<BTreeMap<String, u32>>>,
    warm: Arc<Lock<Vec<String>>>,
    pub counts: Arc<Lock<BTreeMap<Generation, Counts>>>,
}

impl Workers {
    pub fn provision(&self) -> Provision {
        let orders = self.orders.clone();
        Box::new(move |spec, count| {
            orders.lock().unwrap().insert(format!("{}:{}", spec.name(), spec.version), count);
            true
        })
    }

    pub fn provisioned(&self) -> Counted {
        let counts = self.counts.clone();
        Box::new(move |generation| counts.lock().unwrap().get(&generation).cloned())
    }

    pub fn warm_up(&self) -> WarmUp {
        let warm = self.warm.clone();
        Box::new(move |spec, count| {
            warm.lock().unwrap().push(format!("{}:{}={count}", spec.name(), spec.version));
            true
        })
    }

    /// The orders so far, the newest of each version.
    pub fn told(&self) -> String {
        let orders = self.orders.lock().unwrap();
        orders.iter().map(|(of, count)| format!("{of}={count}")).collect::<Vec<_>>().join(" ")
    }
}

fn version(number: u64) -> Qualifier {
    Qualifier::Version(Version::Number(number))
}

fn alias(text: &str) -> Qualifier {
    Qualifier::Alias(text.to_owned())
}

/// A function of versions 1, 2 and 3.
pub async fn three(handle: &Handle, text: &str) {
    handle.create_function(new(text, "provided")).await.unwrap();
    for timeout_s in 4..7 {
        settled(handle, text).await;
        handle.update_config(&name(text), to_runtime("provided", timeout_s)).await.unwrap();
        settled(handle, text).await;
        handle.publish_version(&name(text), Publication::default()).await.unwrap();
    }
}

async fn make(handle: &Handle, text: &str, main: u64, additional: &[(u64, f64)]) {
    let new = NewAlias {
        name: text.to_owned(),
        version: Version::Number(main),
        additional: additional.to_vec(),
        description: String::new(),
    };
    handle.create_alias(&name("f"), new).await.unwrap();
}

#[tokio::test]
async fn what_each_version_gets() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    let f = name("f");
    three(&handle, "f").await;
    make(&handle, "live", 1, &[(2, 0.25)]).await;
    handle.put_provisioned(&f, &alias("live"), 8).await.unwrap();
    handle.put_provisioned(&f, &version(3), 2).await.unwrap();
    assert_eq!(bench.workers.told(), "f:1=6 f:2=2 f:3=2");
    // The alias moves, and what it has moves along.
    let change = AliasChange { additional: Some(vec![(2, 0.5)]), ..AliasChange::default() };
    handle.update_alias(&f, "live", change).await.unwrap();
    assert_eq!(bench.workers.told(), "f:1=4 f:2=4 f:3=2");
    let onto_three = AliasChange { version: Some(Version::Number(3)), ..AliasChange::default() };
    assert!(matches!(handle.update_alias(&f, "live", onto_three).await, Err(Error::OnProvisionedVersion)));
    let change =
        AliasChange { version: Some(Version::Number(2)), additional: Some(Vec::new()), ..AliasChange::default() };
    handle.update_alias(&f, "live", change).await.unwrap();
    assert_eq!(bench.workers.told(), "f:1=0 f:2=8 f:3=2");
    handle.delete_provisioned(&f, &version(3)).await.unwrap();
    handle.delete_provisioned(&f, &version(3)).await.unwrap();
    assert_eq!(bench.workers.told(), "f:1=0 f:2=8 f:3=0");
    handle.delete_alias(&f, "live").await.unwrap();
    assert_eq!(bench.workers.told(), "f:1=0 f:2=0 f:3=0");
    assert!(matches!(handle.provisioned(&f, &alias("live")).await, Err(Error::AliasMissing { .. })));
}

#[tokio::test]
async fn the_rules() {
    let mut bench = Bench::new();
    bench.limits.concurrent_executions = 150;
    let (_service, handle) = bench.start().await;
    let f = name("f");
    three(&handle, "f").await;
    three(&handle, "g").await;
    make(&handle, "live", 1, &[(2, 0.5)]).await;
    let check = async |qualifier: Qualifier, wanted: u32, want: &str| {
        let got = match handle.put_provisioned(&f, &qualifier, wanted).await {
            Ok(now) => format!("{:?} {}", now.status, now.record.requested),
            Err(error) => format!("{error:?}"),
        };
        assert!(got.starts_with(want), "{got} does not start with {want}");
    };
    check(version(9), 1, "VersionMissing").await;
    check(alias("none"), 1, "AliasMissing").await;
    check(version(3), 51, "NotProvisioned(UnreservedBelowMinimum { minimum: 100 })").await;
    check(version(3), 151, "NotProvisioned(MoreThanUnreserved { unreserved: 150 })").await;
    check(version(3), 50, "InProgress 50").await;
    check(version(1), 1, "NotProvisioned(UnreservedBelowMinimum { minimum: 100 })").await;
    assert_eq!(handle.unreserved(), 100);
    // The same once more is no more than before.
    check(version(3), 20, "InProgress 20").await;
    handle.put_provisioned(&name("g"), &version(1), 20).await.unwrap();
    check(version(1), 11, "NotProvisioned(UnreservedBelowMinimum").await;
    check(version(1), 10, "InProgress 10").await;
    // Not on an alias and its version.
    check(alias("live"), 1, "NotProvisioned").await;
    check(version(3), 2, "InProgress 2").await;
    check(alias("live"), 1, "OnProvisionedVersion").await;
    handle.delete_provisioned(&f, &version(1)).await.unwrap();
    check(alias("live"), 2, "InProgress 2").await;
    check(version(1), 1, "UnderProvisionedAlias").await;
    check(version(2), 1, "UnderProvisionedAlias").await;
    // Not more than reserved, and not less reserved than that.
    assert!(matches!(handle.reserve(&f, Some(3)).await, Err(Error::BelowProvisioned { provisioned: 4, .. })));
    handle.reserve(&f, Some(5)).await.unwrap();
    check(version(3), 4, "NotProvisioned(MoreThanReserved)").await;
    check(version(3), 3, "InProgress 3").await;
    assert_eq!(handle.unreserved(), 150 - 5 - 20);
}

#[tokio::test]
async fn how_it_stands() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    let f = name("f");
    three(&handle, "f").await;
    handle.put_provisioned(&f, &version(1), 3).await.unwrap();
    let generation = handle.function_at(&f, Some(&version(1))).await.unwrap().function.generation;
    let check = async |ready, failure: Option<Trouble>, want: (u32, Status, Option<&str>)| {
        let failure = failure.map(|trouble| (trouble, "more".to_owned()));
        bench.workers.counts.lock().unwrap().insert(generation, Counts { ready, in_use: 0, failure });
        let now = handle.provisioned(&f, &version(1)).await.unwrap();
        assert_eq!((now.allocated, now.status, now.reason.as_deref()), want);
    };
    check(0, None, (0, Status::InProgress, None)).await;
    check(2, None, (2, Status::InProgress, None)).await;
    check(3, None, (3, Status::Ready, None)).await;
    check(4, None, (3, Status::Ready, None)).await;
    let init_failed = Some(Trouble::Failed(Gone::InitFailed));
    check(0, init_failed, (0, Status::Failed, Some("FUNCTION_ERROR_INIT_FAILURE"))).await;
    check(1, Some(Trouble::Failed(Gone::StartFailed)), (1, Status::InProgress, Some("more"))).await;
    check(3, init_failed, (3, Status::Ready, None)).await;
    let (listed, more) = handle.all_provisioned(&f, None, 1).await.unwrap();
    assert_eq!((listed.len(), more, listed[0].record.requested), (1, false, 3));
    let (listed, _) = handle.all_provisioned(&f, Some("1".into()), 1).await.unwrap();
    assert!(listed.is_empty());
}

#[tokio::test]
async fn it_outlives_the_server_and_goes_with_its_function() {
    let bench = Bench::new();
    let (service, handle) = bench.start().await;
    let f = name("f");
    three(&handle, "f").await;
    handle.put_provisioned(&f, &version(1), 3).await.unwrap();
    drop((service, handle));
    bench.workers.orders.lock().unwrap().clear();
    let (service, handle) = bench.start().await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(service.run(async {
        let _ = stopped.await;
    }));
    let told = async {
        while bench.workers.told() != "f:1=3" {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    drop(stop);
    running.await.unwrap();
    handle.delete_function(&f).await.unwrap();
    three(&handle, "f").await;
    assert!(matches!(handle.provisioned(&f, &version(1)).await, Err(Error::NothingProvisioned { .. })));
    assert_eq!(handle.unreserved(), 1_000);
}

#[tokio::test]
async fn warming_up() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    let f = name("f");
    three(&handle, "f").await;
    make(&handle, "live", 1, &[(2, 0.25)]).await;
    handle.warm_up(&f, None, 3).await.unwrap();
    handle.warm_up(&f, Some(&version(2)), 1).await.unwrap();
    handle.warm_up(&f, Some(&alias("live")), 4).await.unwrap();
    assert_eq!(bench.workers.warm.lock().unwrap().join(" "), "f:$LATEST=3 f:2=1 f:1=3 f:2=1");
    assert!(matches!(handle.warm_up(&f, Some(&version(9)), 1).await, Err(Error::VersionMissing { .. })));
    assert!(matches!(handle.warm_up(&name("g"), None, 1).await, Err(Error::NotFound { .. })));
    handle.create_function(new("j", "java21")).await.unwrap();
    settled(&handle, "j").await;
    assert!(matches!(handle.warm_up(&name("j"), None, 1).await, Err(Error::NotReady { state: "Failed", .. })));
}
