//! Tables of every rule, and what holds whatever is asked.

use super::*;
use proptest::prelude::*;

#[test]
fn wishes() {
    use NotProvisioned::{MoreThanReserved, MoreThanUnreserved, UnreservedBelowMinimum};
    let check = |wanted, others_of_function, reserved, others, want| {
        let wish = Wish { wanted, others_of_function, reserved, others, account: 1_000, unreserved_min: 100 };
        assert_eq!(may_provision(wish), want, "{wish:?}");
    };
    check(1, 0, None, 0, Ok(()));
    check(900, 0, None, 0, Ok(()));
    check(901, 0, None, 0, Err(UnreservedBelowMinimum { minimum: 100 }));
    check(1_000, 0, None, 0, Err(UnreservedBelowMinimum { minimum: 100 }));
    check(1_001, 0, None, 0, Err(MoreThanUnreserved { unreserved: 1_000 }));
    check(500, 400, None, 0, Ok(()));
    check(501, 400, None, 0, Err(UnreservedBelowMinimum { minimum: 100 }));
    check(100, 0, None, 800, Ok(()));
    check(101, 0, None, 800, Err(UnreservedBelowMinimum { minimum: 100 }));
    check(201, 0, None, 800, Err(MoreThanUnreserved { unreserved: 200 }));
    check(1, 0, None, 2_000, Err(MoreThanUnreserved { unreserved: 0 }));
    // What is reserved is the function's, however full the account is.
    check(2, 1, Some(3), 2_000, Ok(()));
    check(3, 1, Some(3), 0, Err(MoreThanReserved));
    check(1, 0, Some(0), 0, Err(MoreThanReserved));
    check(u32::MAX, u32::MAX, None, 0, Err(MoreThanUnreserved { unreserved: 1_000 }));
    let small = Wish { wanted: 1, others_of_function: 0, reserved: None, others: 0, account: 10, unreserved_min: 100 };
    assert_eq!(may_provision(small), Err(UnreservedBelowMinimum { minimum: 10 }));
}

#[test]
fn shares_of_an_alias() {
    let check = |count, weight: Option<f64>, main, additional: Option<u32>| {
        let split = Split { main: Version::Number(1), additional: weight.map(|weight| (2, weight)) };
        let got: Vec<u32> = divide(count, &split).into_iter().map(|(_, count)| count).collect();
        let want: Vec<u32> = std::iter::once(main).chain(additional).collect();
        assert_eq!(got, want, "{count} {weight:?}");
    };
    check(10, None, 10, None);
    check(10, Some(0.0), 10, Some(0));
    check(10, Some(0.25), 7, Some(3));
    check(10, Some(0.01), 9, Some(1));
    check(10, Some(0.99), 1, Some(9));
    check(10, Some(1.0), 0, Some(10));
    check(1, Some(0.4), 1, Some(0));
    check(1, Some(0.6), 0, Some(1));
}

#[test]
fn standings() {
    let part = |wanted, ready, slots_per_instance, failed| Part { wanted, ready, slots_per_instance, failed };
    for (parts, want) in [
        (vec![], (0, Status::Ready)),
        (vec![part(2, 0, 1, false)], (0, Status::InProgress)),
        (vec![part(2, 1, 1, false)], (1, Status::InProgress)),
        (vec![part(2, 2, 1, false)], (2, Status::Ready)),
        (vec![part(2, 5, 1, false)], (2, Status::Ready)),
        (vec![part(2, 1, 1, true)], (1, Status::Failed)),
        // A failure that has left nothing missing is over.
        (vec![part(2, 2, 1, true)], (2, Status::Ready)),
        (vec![part(2, 2, 1, false), part(1, 0, 1, false)], (2, Status::InProgress)),
        (vec![part(2, 2, 1, false), part(1, 0, 1, true)], (2, Status::Failed)),
        // Instances that run ten invocations at a time.
        (vec![part(15, 1, 10, false)], (10, Status::InProgress)),
        (vec![part(15, 2, 10, false)], (15, Status::Ready)),
    ] {
        assert_eq!(standing(&parts), want, "{parts:?}");
    }
    assert_eq!([instances(0, 10), instances(1, 10), instances(10, 10), instances(11, 10)], [0, 1, 1, 2]);
}

/// Plays a day: `(seconds, in use)` pairs, and what is provisioned after each.
fn play(bounds: Bounds, cool_down_s: u32, start: u32, day: &[(u64, u32)]) -> String {
    let tracking = Some(Tracking { utilisation: 0.5, cool_down_s });
    let (mut calm, mut current) = (Calm::default(), start);
    let mut told = Vec::new();
    for (at_s, in_use) in day {
        let seen = Seen { now_ms: at_s * 1_000, current, in_use: *in_use };
        let (count, because) = scale(bounds, tracking, seen, &mut calm);
        current = count;
        told.push(format!("{at_s}s:{count} {because:?}"));
    }
    told.join(", ")
}

#[test]
fn following_the_use() {
    let bounds = Bounds { min: 2, max: 20 };
    let day = [(0, 0), (1, 2), (2, 3), (3, 50), (4, 8), (10, 6), (13, 1), (14, 1), (15, 1), (23, 0), (24, 0), (34, 0)];
    let want = "0s:2 Steady, 1s:4 Busy, 2s:6 Busy, 3s:20 Busy, 4s:20 Steady, 10s:20 Steady, 13s:20 Steady, 14s:16 Calm, \
                15s:16 Steady, 23s:16 Steady, 24s:16 Steady, 34s:2 Calm";
    assert_eq!(play(bounds, 10, 2, &day), want);
    // Bounds first: a window that opens or closes is followed at once.
    assert_eq!(play(bounds, 10, 0, &[(0, 0)]), "0s:2 Bounds");
    assert_eq!(play(bounds, 10, 30, &[(0, 0), (1, 10)]), "0s:20 Bounds, 1s:20 Steady");
    // The most wins over the least.
    assert_eq!(play(Bounds { min: 9, max: 5 }, 10, 0, &[(0, 0)]), "0s:5 Bounds");
}

#[test]
fn without_tracking_the_bounds_decide() {
    let mut calm = Calm::default();
    let mut check = |min, max, current, want| {
        let seen = Seen { now_ms: 0, current, in_use: 100 };
        assert_eq!(scale(Bounds { min, max }, None, seen, &mut calm), want);
    };
    check(3, 10, 0, (3, Because::Bounds));
    check(3, 10, 3, (3, Because::Steady));
    check(3, 10, 8, (3, Because::Bounds));
    check(0, 10, 0, (0, Because::Steady));
}

proptest! {
    /// What is divided is neither lost nor made up, and who gets invocations is not forgotten.
    #[test]
    fn divided_whole(count in 0u32..5_000, weight in 0.0f64..=1.0) {
        let parts = divide(count, &Split { main: Version::Number(1), additional: Some((2, weight)) });
        prop_assert_eq!(parts.iter().map(|(_, part)| *part).sum::<u32>(), count);
        if count >= 2 && weight > 0.0 && weight < 1.0 {
            prop_assert!(parts.iter().all(|(_, part)| *part >= 1));
        }
        let exact = f64::from(count) * weight;
        prop_assert!((f64::from(parts[1].1) - exact).abs() <= 1.0);
    }

    /// Whoever is admitted leaves the minimum to others.
    #[test]
    fn the_minimum_is_left(wanted in 0u32..1_200, of_function in 0u32..600, others in 0u32..1_200) {
        let wish = Wish {
            wanted, others_of_function: of_function, reserved: None, others, account: 1_000, unreserved_min: 100,
        };
        if may_provision(wish).is_ok() {
            prop_assert!(wanted + of_function + others <= 900);
        }
    }

    /// Always within the bounds; never less than is needed, as far as the bounds allow; and less than before only after
    /// a whole cool-down in which less was needed all the time.
    #[test]
    fn bounds_and_cool_down_hold(
        min in 0u32..10, more in 0u32..30, cool_down_s in 0u32..20,
        day in proptest::collection::vec((0u64..8, 0u32..40), 1..60),
    ) {
        let bounds = Bounds { min, max: min + more };
        let tracking = Tracking { utilisation: 0.7, cool_down_s };
        let (mut calm, mut current, mut now_s) = (Calm::default(), min, 0u64);
        let mut last_need_s = 0u64;
        for (pause_s, in_use) in day {
            now_s += pause_s;
            let seen = Seen { now_ms: now_s * 1_000, current, in_use };
            let (count, because) = scale(bounds, Some(tracking), seen, &mut calm);
            prop_assert!((bounds.min..=bounds.max).contains(&count));
            let needed = ((f64::from(in_use) / 0.7).ceil() as u32).clamp(bounds.min, bounds.max);
            prop_assert!(count >= needed);
            if needed >= current {
                last_need_s = now_s;
            }
            if count < current {
                prop_assert_eq!(because, Because::Calm);
                prop_assert!(now_s - last_need_s >= u64::from(cool_down_s));
                last_need_s = now_s;
            }
            current = count;
        }
    }
}
