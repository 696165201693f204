//! Scaling against the real registry, with a worker that notes what it is told and says what the tests say.

use super::provisioned::three;
use super::*;
use crate::{Because, Counts, WindowFault};
use model::provisioned::{Tracking, Window};
use model::{Qualifier, Scaling, Version};

/// A Friday at noon by UTC, milliseconds since the Unix epoch.
const FRIDAY_NOON_MS: u64 = 1_795_780_800_000;
const HOUR_MS: u64 = 3_600_000;

fn one() -> Qualifier {
    Qualifier::Version(Version::Number(1))
}

fn scaling(min: u32, max: u32) -> Scaling {
    Scaling { function: name("f"), qualifier: "1".to_owned(), min, max, tracking: None, windows: Vec::new() }
}

fn window(cron: &str, hours: u32, count: u32) -> Window {
    Window { cron: cron.to_owned(), time_zone: "UTC".to_owned(), duration_s: hours * 3_600, count }
}

#[tokio::test]
async fn windows_open_and_close() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    three(&handle, "f").await;
    let windows = vec![window("0 8 * * MON-FRI", 10, 5), window("0 12 * * *", 1, 8)];
    handle.put_scaling(Scaling { windows, ..scaling(1, 7) }).await.unwrap();
    let check = async |hours: i64, want: &str| {
        let now_ms = FRIDAY_NOON_MS.checked_add_signed(hours * HOUR_MS as i64).unwrap();
        handle.shared.scale_all(now_ms).await;
        assert_eq!(bench.workers.told(), want, "{hours} h after noon");
    };
    check(-5, "f:1=1").await;
    check(-4, "f:1=5").await;
    check(0, "f:1=7").await;
    check(1, "f:1=5").await;
    check(6, "f:1=1").await;
    // On Saturday only the daily one opens.
    check(20, "f:1=1").await;
    check(24, "f:1=7").await;
    let shown = handle.scaling(&name("f"), &one()).await.unwrap().unwrap();
    assert_eq!((shown.requested, shown.because, shown.refused), (7, Some(Because::Bounds), None));
    // What is provisioned stays when nobody changes it any more.
    handle.delete_scaling(&name("f"), &one()).await.unwrap();
    handle.delete_scaling(&name("f"), &one()).await.unwrap();
    check(26, "f:1=7").await;
    assert_eq!(handle.scaling(&name("f"), &one()).await.unwrap(), None);
}

#[tokio::test]
async fn from_nothing_to_nothing() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    three(&handle, "f").await;
    handle.put_scaling(Scaling { windows: vec![window("0 12 * * *", 1, 2)], ..scaling(0, 7) }).await.unwrap();
    handle.shared.scale_all(FRIDAY_NOON_MS - 1).await;
    assert!(matches!(handle.provisioned(&name("f"), &one()).await, Err(Error::NothingProvisioned { .. })));
    handle.shared.scale_all(FRIDAY_NOON_MS).await;
    assert_eq!(handle.provisioned(&name("f"), &one()).await.unwrap().record.requested, 2);
    handle.shared.scale_all(FRIDAY_NOON_MS + HOUR_MS).await;
    assert!(matches!(handle.provisioned(&name("f"), &one()).await, Err(Error::NothingProvisioned { .. })));
    assert_eq!(bench.workers.told(), "f:1=0");
}

#[tokio::test]
async fn the_use_is_followed() {
    let bench = Bench::new();
    let (_service, handle) = bench.start().await;
    three(&handle, "f").await;
    let tracking = Some(Tracking { utilisation: 0.5, cool_down_s: 60 });
    handle.put_scaling(Scaling { tracking, ..scaling(2, 20) }).await.unwrap();
    let generation = handle.function_at(&name("f"), Some(&one())).await.unwrap().function.generation;
    let check = async |second: u64, in_use: u32, want: &str| {
        bench.workers.counts.lock().unwrap().insert(generation, Counts { ready: 20, in_use, failure: None });
        handle.shared.scale_all(FRIDAY_NOON_MS + second * 1_000).await;
        assert_eq!(bench.workers.told(), want, "after {second} s");
    };
    check(0, 0, "f:1=2").await;
    check(1, 2, "f:1=4").await;
    check(2, 4, "f:1=8").await;
    check(3, 2, "f:1=8").await;
    check(62, 1, "f:1=8").await;
    check(63, 0, "f:1=4").await;
    let shown = handle.scaling(&name("f"), &one()).await.unwrap().unwrap();
    assert_eq!((shown.because, shown.requested, shown.in_use, shown.min_now), (Some(Because::Calm), 4, 0, 2));
}

#[tokio::test]
async fn what_is_refused_is_said() {
    let mut bench = Bench::new();
    bench.limits.concurrent_executions = 105;
    let (_service, handle) = bench.start().await;
    three(&handle, "f").await;
    for (cron, time_zone, want) in [("0 8 * *", "UTC", "cron"), ("0 8 * * *", "Mars", "zone")] {
        let window = Window { time_zone: time_zone.to_owned(), ..window(cron, 1, 1) };
        let refused = handle.put_scaling(Scaling { windows: vec![window], ..scaling(0, 1) }).await;
        let got = match refused {
            Err(Error::Window(WindowFault::Cron { .. })) => "cron",
            Err(Error::Window(WindowFault::TimeZone { .. })) => "zone",
            _ => "other",
        };
        assert_eq!(got, want);
    }
    let elsewhere = Scaling { qualifier: "9".to_owned(), ..scaling(1, 1) };
    assert!(matches!(handle.put_scaling(elsewhere).await, Err(Error::VersionMissing { .. })));
    handle.put_scaling(scaling(6, 6)).await.unwrap();
    handle.shared.scale_all(FRIDAY_NOON_MS).await;
    let shown = handle.scaling(&name("f"), &one()).await.unwrap().unwrap();
    assert!(shown.refused.unwrap().contains("provisioned concurrency is refused"));
    assert_eq!(shown.requested, 0);
    handle.put_scaling(scaling(5, 5)).await.unwrap();
    handle.shared.scale_all(FRIDAY_NOON_MS).await;
    let shown = handle.scaling(&name("f"), &one()).await.unwrap().unwrap();
    assert_eq!((shown.requested, shown.refused), (5, None));
}

#[tokio::test]
async fn scaling_outlives_the_server_and_goes_with_its_version() {
    let bench = Bench::new();
    let (service, handle) = bench.start().await;
    three(&handle, "f").await;
    handle.put_scaling(scaling(3, 3)).await.unwrap();
    drop((service, handle));
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
    handle.delete_version(&name("f"), 1).await.unwrap();
    assert!(handle.shared.scalings.lock().unwrap().is_empty());
    let mut left = 0;
    handle.shared.config.store.registry().each_scaling(|_| left += 1).unwrap();
    handle.shared.config.store.registry().each_provisioned(|_| left += 1).unwrap();
    assert_eq!(left, 0);
}
