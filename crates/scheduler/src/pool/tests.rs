//! Scripts of events with the actions they cause, and random sequences that must keep the rules.

use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const ONE: Config =
    Config { slots_per_instance: 1, waiting_max: 100, idle_ms: 1_000, freeze_after_ms: 0, instances_max: 100 };

/// Runs a script of `TIME EVENT [ID [CAUSE]]` events, separated by `;`, and compares one line of actions per event.
fn check(config: Config, script: &str, want: Expect) {
    let mut pool = Pool::new(config);
    let mut newest = 0;
    let mut got = String::new();
    for line in script.split(';').map(str::trim) {
        let mut actions = Vec::new();
        let (time, event) = line.split_once(' ').unwrap();
        let mut next_instance = || {
            newest += 1;
            newest
        };
        match event.strip_prefix("evict ") {
            Some(id) => {
                pool.evict(us(time), id.parse().unwrap(), &mut actions);
            }
            None => pool.step(us(time), &mut next_instance, parse(event), &mut actions),
        }
        pool.check_rules();
        let actions: Vec<String> = actions.iter().map(print).collect();
        got += format!("{line} => {}\n", actions.join(", ")).replace("=> \n", "=>\n").as_str();
    }
    let c = pool.counts();
    got += &format!(
        "starting {} idle {} busy {} stopping {} waiting {}",
        c.starting, c.idle, c.busy, c.stopping, c.waiting
    );
    want.assert_eq(&got);
}

/// Scripts give times in milliseconds.
fn us(ms: &str) -> u64 {
    ms.parse::<u64>().unwrap() * 1_000
}

fn parse(event: &str) -> Event {
    let words: Vec<&str> = event.split(' ').collect();
    let id = |at: usize| words[at].parse().unwrap();
    match words[0] {
        "arrive" => Event::Arrive { waiter: id(1) },
        "ready" => Event::Ready { instance: id(1) },
        "done" => Event::Done { instance: id(1) },
        "gone" => Event::Gone {
            instance: id(1),
            cause: match words[2] {
                "StartFailed" => Gone::StartFailed,
                "InitFailed" => Gone::InitFailed,
                "Crashed" => Gone::Crashed,
                "Stopped" => Gone::Stopped,
                other => panic!("no such cause: {other}"),
            },
        },
        "unfit" => Event::Unfit { instance: id(1) },
        "cancel" => Event::Cancel { waiter: id(1) },
        "refused" => Event::StartRefused { instance: id(1), reason: Refusal::Memory },
        "provision" => Event::Provision { target: id(1) as u32 },
        "warm" => Event::WarmUp { count: id(1) as u32 },
        "drain" => Event::Drain,
        "tick" => Event::Tick,
        other => panic!("no such event: {other}"),
    }
}

fn print(action: &Action) -> String {
    match action {
        Action::Start { instance, reason } => format!("start {instance} {reason:?}"),
        Action::Dispatch { waiter, instance, why: Dispatched { cold, waited, lane, was_frozen } } => {
            let first = if *cold == Cold::Warm { "" } else { "first " };
            let lane = match lane {
                Lane::OnDemand => "",
                Lane::Provisioned => " (provisioned)",
                Lane::SpillOver => " (spill-over)",
            };
            let first = if *was_frozen { "thawed, " } else { first };
            let waited = match waited {
                Waited::Not => String::new(),
                Waited::ForSlot { us } => format!(" after {} ms for a slot", us / 1_000),
                Waited::ForStart { us } => format!(" after {} ms for a start", us / 1_000),
            };
            format!("{waiter} {first}on {instance}{lane}{waited}")
        }
        Action::Stop { instance, reason } => format!("stop {instance} {reason:?}"),
        Action::Freeze { instance } => format!("freeze {instance}"),
        Action::Thaw { instance } => format!("thaw {instance}"),
        Action::Refuse { waiter, reason } => format!("refuse {waiter} {reason:?}"),
        Action::Fail { waiter, instance } => format!("fail {waiter} by {instance}"),
        Action::WakeAt { at_us } => format!("wake at {}", at_us / 1_000),
    }
}

#[test]
fn cold_then_warm_then_idle() {
    check(
        ONE,
        "0 arrive 1; 50 ready 1; 60 done 1; 70 arrive 2; 80 done 1; 1060 tick; 1080 tick; 1081 gone 1 Stopped",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            50 ready 1 => 1 first on 1 after 50 ms for a start
            60 done 1 => wake at 1060
            70 arrive 2 => 2 on 1
            80 done 1 =>
            1060 tick => wake at 1080
            1080 tick => stop 1 Idle { idle_ms: 1000 }
            1081 gone 1 Stopped =>
            starting 0 idle 0 busy 0 stopping 0 waiting 0"#]],
    );
}

#[test]
fn most_recently_used_first_and_longest_idle_ends() {
    check(
        ONE,
        "0 arrive 1; 0 arrive 2; 0 ready 1; 0 ready 2; 5 done 1; 9 done 2; 10 arrive 3; 12 done 2; 1005 tick; 1012 tick",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            0 arrive 2 => start 2 AllBusy { live: 0, starting: 1 }
            0 ready 1 => 1 first on 1 after 0 ms for a start
            0 ready 2 => 2 first on 2 after 0 ms for a start
            5 done 1 => wake at 1005
            9 done 2 =>
            10 arrive 3 => 3 on 2
            12 done 2 =>
            1005 tick => stop 1 Idle { idle_ms: 1000 }, wake at 1012
            1012 tick => stop 2 Idle { idle_ms: 1000 }
            starting 0 idle 0 busy 0 stopping 2 waiting 0"#]],
    );
}

#[test]
fn a_freed_slot_comes_before_a_start_and_the_start_becomes_idle() {
    check(
        ONE,
        "0 arrive 1; 0 arrive 2; 9 ready 2; 10 done 2; 11 ready 1; 12 arrive 3",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            0 arrive 2 => start 2 AllBusy { live: 0, starting: 1 }
            9 ready 2 => 1 first on 2 after 9 ms for a start
            10 done 2 => 2 on 2 after 10 ms for a slot
            11 ready 1 => wake at 1011
            12 arrive 3 => 3 first on 1
            starting 0 idle 0 busy 2 stopping 0 waiting 0"#]],
    );
}

#[test]
fn starts_under_way_cover_waiters() {
    let config = Config { slots_per_instance: 3, ..ONE };
    check(
        config,
        "0 arrive 1; 0 arrive 2; 0 arrive 3; 0 arrive 4; 1 ready 1; 2 done 1; 3 ready 2; 4 done 1; 5 done 1; 6 arrive 5",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            0 arrive 2 =>
            0 arrive 3 =>
            0 arrive 4 => start 2 AllBusy { live: 0, starting: 1 }
            1 ready 1 => 1 first on 1 after 1 ms for a start, 2 on 1 after 1 ms for a start, 3 on 1 after 1 ms for a start
            2 done 1 => 4 on 1 after 2 ms for a slot
            3 ready 2 => wake at 1003
            4 done 1 =>
            5 done 1 =>
            6 arrive 5 => 5 on 1
            starting 0 idle 1 busy 1 stopping 0 waiting 0"#]],
    );
}

#[test]
fn fuller_instances_fill_first() {
    let config = Config { slots_per_instance: 2, ..ONE };
    check(
        config,
        "0 arrive 1; 0 arrive 2; 0 arrive 3; 0 arrive 4; 1 ready 1; 1 ready 2; 2 done 1; 2 done 2; 3 arrive 5;
         4 arrive 6; 5 done 1; 5 done 1; 6 done 2; 7 arrive 7; 8 gone 2 Crashed; 9 arrive 8; 9 arrive 9; 9 arrive 10",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            0 arrive 2 =>
            0 arrive 3 => start 2 AllBusy { live: 0, starting: 1 }
            0 arrive 4 =>
            1 ready 1 => 1 first on 1 after 1 ms for a start, 2 on 1 after 1 ms for a start
            1 ready 2 => 3 first on 2 after 1 ms for a start, 4 on 2 after 1 ms for a start
            2 done 1 =>
            2 done 2 =>
            3 arrive 5 => 5 on 2
            4 arrive 6 => 6 on 1
            5 done 1 =>
            5 done 1 => wake at 1005
            6 done 2 =>
            7 arrive 7 => 7 on 2
            8 gone 2 Crashed =>
            9 arrive 8 => 8 on 1
            9 arrive 9 => 9 on 1
            9 arrive 10 => start 3 AllBusy { live: 1, starting: 0 }
            starting 1 idle 0 busy 1 stopping 0 waiting 1"#]],
    );
}

#[test]
fn at_the_instance_limit_waiters_wait_for_slots() {
    let config = Config { instances_max: 1, waiting_max: 2, ..ONE };
    check(
        config,
        "0 arrive 1; 0 arrive 2; 0 arrive 3; 1 ready 1; 2 arrive 4; 3 done 1; 4 gone 1 Crashed; 5 ready 2",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            0 arrive 2 =>
            0 arrive 3 => refuse 3 QueueFull
            1 ready 1 => 1 first on 1 after 1 ms for a start
            2 arrive 4 =>
            3 done 1 => 2 on 1 after 3 ms for a slot
            4 gone 1 Crashed => start 2 Replacement
            5 ready 2 => 4 first on 2 after 3 ms for a start
            starting 0 idle 0 busy 1 stopping 0 waiting 0"#]],
    );
    check(
        Config { instances_max: 0, ..ONE },
        "0 arrive 1",
        expect![[r#"
        0 arrive 1 => refuse 1 NoCapacity
        starting 0 idle 0 busy 0 stopping 0 waiting 0"#]],
    );
    check(
        Config { waiting_max: 0, ..ONE },
        "0 arrive 1",
        expect![[r#"
        0 arrive 1 => refuse 1 QueueFull
        starting 0 idle 0 busy 0 stopping 0 waiting 0"#]],
    );
}

#[test]
fn each_failed_start_fails_one_waiter() {
    check(
        ONE,
        "0 arrive 1; 0 arrive 2; 5 gone 1 InitFailed; 6 gone 2 StartFailed; 7 arrive 3; 8 gone 3 Crashed",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            0 arrive 2 => start 2 AllBusy { live: 0, starting: 1 }
            5 gone 1 InitFailed => fail 1 by 1
            6 gone 2 StartFailed => fail 2 by 2
            7 arrive 3 => start 3 FromZero
            8 gone 3 Crashed => fail 3 by 3
            starting 0 idle 0 busy 0 stopping 0 waiting 0"#]],
    );
    let config = Config { slots_per_instance: 2, ..ONE };
    check(
        config,
        "0 arrive 1; 0 arrive 2; 5 gone 1 InitFailed; 6 gone 2 InitFailed",
        expect![[r#"
        0 arrive 1 => start 1 FromZero
        0 arrive 2 =>
        5 gone 1 InitFailed => fail 1 by 1, start 2 Replacement
        6 gone 2 InitFailed => fail 2 by 2
        starting 0 idle 0 busy 0 stopping 0 waiting 0"#]],
    );
}

#[test]
fn a_failed_start_that_nobody_needs_fails_nobody() {
    check(
        ONE,
        "0 arrive 1; 1 cancel 1; 2 gone 1 InitFailed; 3 arrive 2; 4 gone 2 Stopped",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            1 cancel 1 =>
            2 gone 1 InitFailed =>
            3 arrive 2 => start 2 FromZero
            4 gone 2 Stopped => start 3 Replacement
            starting 1 idle 0 busy 0 stopping 0 waiting 1"#]],
    );
}

#[test]
fn unfit_instances_get_nothing_more_and_are_replaced() {
    let config = Config { slots_per_instance: 2, ..ONE };
    check(
        config,
        "0 arrive 1; 1 ready 1; 2 unfit 1; 3 arrive 2; 4 done 1; 5 ready 2; 6 unfit 9; 7 gone 1 Stopped",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            1 ready 1 => 1 first on 1 after 1 ms for a start
            2 unfit 1 =>
            3 arrive 2 => start 2 FromZero
            4 done 1 =>
            5 ready 2 => 2 first on 2 after 2 ms for a start
            6 unfit 9 =>
            7 gone 1 Stopped =>
            starting 0 idle 0 busy 1 stopping 0 waiting 0"#]],
    );
    check(
        ONE,
        "0 arrive 1; 0 arrive 2; 0 unfit 2; 1 ready 1; 1 cancel 2; 2 gone 2 Stopped; 3 arrive 3; 3 refused 3; 4 unfit 1",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            0 arrive 2 => start 2 AllBusy { live: 0, starting: 1 }
            0 unfit 2 =>
            1 ready 1 => 1 first on 1 after 1 ms for a start
            1 cancel 2 =>
            2 gone 2 Stopped =>
            3 arrive 3 => start 3 AllBusy { live: 1, starting: 0 }
            3 refused 3 => wake at 23
            4 unfit 1 => start 4 Replacement
            starting 1 idle 0 busy 0 stopping 1 waiting 1"#]],
    );
}

#[test]
fn refused_starts_wait_while_somebody_can_serve() {
    check(
        ONE,
        "0 arrive 1; 1 ready 1; 2 arrive 2; 2 arrive 3; 3 refused 2; 3 refused 3; 4 arrive 4; 22 tick; 23 tick;
         24 refused 4; 44 tick; 64 tick; 70 done 1; 71 gone 1 Crashed",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            1 ready 1 => 1 first on 1 after 1 ms for a start
            2 arrive 2 => start 2 AllBusy { live: 1, starting: 0 }
            2 arrive 3 => start 3 AllBusy { live: 1, starting: 1 }
            3 refused 2 => wake at 23
            3 refused 3 =>
            4 arrive 4 =>
            22 tick =>
            23 tick => start 4 AfterRefusal, wake at 43
            24 refused 4 =>
            44 tick => start 5 AfterRefusal, wake at 64
            64 tick => wake at 84
            70 done 1 => 2 on 1 after 68 ms for a slot
            71 gone 1 Crashed =>
            starting 1 idle 0 busy 0 stopping 0 waiting 2"#]],
    );
}

#[test]
fn refused_starts_refuse_all_when_nobody_can() {
    check(
        ONE,
        "0 arrive 1; 0 arrive 2; 1 refused 1; 2 refused 2; 3 arrive 3",
        expect![[r#"
        0 arrive 1 => start 1 FromZero
        0 arrive 2 => start 2 AllBusy { live: 0, starting: 1 }
        1 refused 1 => wake at 21
        2 refused 2 => refuse 1 NoCapacity, refuse 2 NoCapacity
        3 arrive 3 => start 3 FromZero
        starting 1 idle 0 busy 0 stopping 0 waiting 1"#]],
    );
}

#[test]
fn a_refusal_that_crosses_a_stop_is_the_end() {
    check(
        ONE,
        "0 arrive 1; 1 cancel 1; 2 drain; 3 refused 1; 4 ready 1",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            1 cancel 1 =>
            2 drain => stop 1 Surplus
            3 refused 1 =>
            4 ready 1 =>
            starting 0 idle 0 busy 0 stopping 0 waiting 0"#]],
    );
}

#[test]
fn drain_serves_who_waits_and_refuses_who_arrives() {
    check(
        ONE,
        "0 arrive 1; 0 ready 1; 0 arrive 2; 0 arrive 3; 0 arrive 4; 1 ready 2; 1 done 2; 1 done 2; 2 arrive 5;
         3 drain; 3 arrive 6; 4 ready 3; 5 done 1; 5 done 2; 5 done 3; 6 gone 1 Stopped; 6 gone 2 Stopped;
         6 gone 3 Stopped; 6 gone 4 Stopped",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            0 ready 1 => 1 first on 1 after 0 ms for a start
            0 arrive 2 => start 2 AllBusy { live: 1, starting: 0 }
            0 arrive 3 => start 3 AllBusy { live: 1, starting: 1 }
            0 arrive 4 => start 4 AllBusy { live: 1, starting: 2 }
            1 ready 2 => 2 first on 2 after 1 ms for a start
            1 done 2 => 3 on 2 after 1 ms for a slot, wake at 11
            1 done 2 => 4 on 2 after 1 ms for a slot
            2 arrive 5 =>
            3 drain => stop 4 Surplus
            3 arrive 6 => refuse 6 Draining
            4 ready 3 => 5 first on 3 after 2 ms for a start
            5 done 1 => stop 1 Drained
            5 done 2 => stop 2 Drained
            5 done 3 => stop 3 Drained
            6 gone 1 Stopped =>
            6 gone 2 Stopped =>
            6 gone 3 Stopped =>
            6 gone 4 Stopped =>
            starting 0 idle 0 busy 0 stopping 0 waiting 0"#]],
    );
}

#[test]
fn drain_still_starts_for_who_waits() {
    check(
        ONE,
        "0 arrive 1; 0 arrive 2; 1 drain; 2 gone 1 Stopped; 3 cancel 1; 4 ready 2; 5 done 2",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            0 arrive 2 => start 2 AllBusy { live: 0, starting: 1 }
            1 drain =>
            2 gone 1 Stopped => start 3 Replacement
            3 cancel 1 => stop 3 Surplus
            4 ready 2 => 2 first on 2 after 4 ms for a start
            5 done 2 => stop 2 Drained
            starting 0 idle 0 busy 0 stopping 2 waiting 0"#]],
    );
}

#[test]
fn eviction_takes_idle_ones_only() {
    check(
        ONE,
        "0 arrive 1; 0 arrive 2; 0 ready 1; 0 ready 2; 1 done 1; 2 evict 2; 2 evict 9; 3 evict 1; 4 evict 1; 5 arrive 3",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            0 arrive 2 => start 2 AllBusy { live: 0, starting: 1 }
            0 ready 1 => 1 first on 1 after 0 ms for a start
            0 ready 2 => 2 first on 2 after 0 ms for a start
            1 done 1 => wake at 1001
            2 evict 2 =>
            2 evict 9 =>
            3 evict 1 => stop 1 Evicted
            4 evict 1 =>
            5 arrive 3 => start 3 AllBusy { live: 1, starting: 0 }
            starting 1 idle 0 busy 1 stopping 1 waiting 1"#]],
    );
}

#[test]
fn unknown_late_and_doubled_events_change_nothing() {
    check(
        ONE,
        "0 ready 7; 0 done 7; 0 gone 7 Crashed; 0 refused 7; 0 cancel 7; 0 tick; 1 arrive 1; 1 done 1; 2 ready 1;
         2 ready 1; 2 refused 1; 3 done 1; 3 done 1; 2000 tick; 2001 done 1; 2001 ready 1; 2002 gone 1 Stopped; 2002 gone 1 Stopped",
        expect![[r#"
            0 ready 7 =>
            0 done 7 =>
            0 gone 7 Crashed =>
            0 refused 7 =>
            0 cancel 7 =>
            0 tick =>
            1 arrive 1 => start 1 FromZero
            1 done 1 =>
            2 ready 1 => 1 first on 1 after 1 ms for a start
            2 ready 1 =>
            2 refused 1 =>
            3 done 1 => wake at 1003
            3 done 1 =>
            2000 tick => stop 1 Idle { idle_ms: 1997 }
            2001 done 1 =>
            2001 ready 1 =>
            2002 gone 1 Stopped =>
            2002 gone 1 Stopped =>
            starting 0 idle 0 busy 0 stopping 0 waiting 0"#]],
    );
}

#[test]
fn provisioned_instances_stay_and_are_replaced() {
    check(
        ONE,
        "0 provision 2; 5 ready 1; 6 ready 2; 7 arrive 1; 7 arrive 2; 7 arrive 3; 9 ready 3; 10 done 1; 11 arrive 4;
         12 done 3; 12 evict 2; 13 done 2; 14 evict 2; 1012 tick; 1013 gone 3 Stopped; 2000 tick; 3000 gone 1 Crashed;
         3001 ready 4; 3002 provision 1; 4002 tick",
        expect![[r#"
            0 provision 2 => start 1 Provisioned, start 2 Provisioned
            5 ready 1 =>
            6 ready 2 =>
            7 arrive 1 => 1 first on 2 (provisioned)
            7 arrive 2 => 2 first on 1 (provisioned)
            7 arrive 3 => start 3 AllBusy { live: 2, starting: 0 }
            9 ready 3 => 3 first on 3 (spill-over) after 2 ms for a start
            10 done 1 =>
            11 arrive 4 => 4 on 1 (provisioned)
            12 done 3 => wake at 1012
            12 evict 2 =>
            13 done 2 =>
            14 evict 2 =>
            1012 tick => stop 3 Idle { idle_ms: 1000 }
            1013 gone 3 Stopped =>
            2000 tick =>
            3000 gone 1 Crashed => start 4 Provisioned
            3001 ready 4 =>
            3002 provision 1 => wake at 4002
            4002 tick => stop 2 Idle { idle_ms: 1000 }
            starting 0 idle 1 busy 0 stopping 1 waiting 0"#]],
    );
}

#[test]
fn failing_provisioned_starts_pause_longer_and_longer() {
    check(
        ONE,
        "0 provision 1; 5 gone 1 InitFailed; 6 arrive 1; 7 ready 2; 500 tick; 1005 tick; 1010 refused 3; 3010 tick;
         3020 ready 4; 3030 gone 4 Crashed; 4030 tick; 4040 drain; 4041 gone 5 Stopped",
        expect![[r#"
            0 provision 1 => start 1 Provisioned
            5 gone 1 InitFailed => wake at 1005
            6 arrive 1 => start 2 FromZero
            7 ready 2 => 1 first on 2 (spill-over) after 1 ms for a start
            500 tick =>
            1005 tick => start 3 Provisioned
            1010 refused 3 => wake at 3010
            3010 tick => start 4 Provisioned
            3020 ready 4 =>
            3030 gone 4 Crashed => wake at 4030
            4030 tick => start 5 Provisioned
            4040 drain => stop 5 Surplus
            4041 gone 5 Stopped =>
            starting 0 idle 0 busy 1 stopping 0 waiting 0"#]],
    );
}

/// A hundred invocations of one millisecond, four instances that take 25 ms to start: the four clear the queue.
#[test]
fn a_short_function_clears_its_queue_without_starts() {
    let many = |from: u64, to: u64| (from..=to).map(|n| format!("100 arrive {n}; ")).collect::<String>();
    let warm = "0 warm 4; 25 ready 1; 25 ready 2; 25 ready 3; 25 ready 4; 26 arrive 1; 27 done 4; ";
    let counted = |script: String| {
        let mut pool = Pool::new(Config { waiting_max: 1_000, ..ONE });
        let (mut newest, mut starts) = (0, 0);
        for line in script.split("; ").filter(|line| !line.is_empty()) {
            let (time, event) = line.split_once(' ').unwrap();
            let mut actions = Vec::new();
            let mut next = || {
                newest += 1;
                newest
            };
            pool.step(us(time), &mut next, parse(event), &mut actions);
            pool.check_rules();
            starts += actions.iter().filter(|a| matches!(a, Action::Start { .. })).count();
        }
        (starts, pool.counts().waiting)
    };
    assert_eq!(counted(format!("{warm}{}", many(2, 101))), (4, 96));
    // Another twenty are beyond what four slots clear in 25 ms: 116 wait, 100 are covered, one start clears 25.
    assert_eq!(
        counted(format!("{warm}{}", many(2, 81) + &many(82, 121).replace("100 arrive", "101 arrive"))),
        (5, 116)
    );
}

#[test]
fn a_long_function_starts_one_per_waiter() {
    check(
        ONE,
        "0 arrive 1; 2 ready 1; 2002 done 1; 2003 arrive 2; 2003 arrive 3; 2003 arrive 4; 2004 done 1; 2005 ready 2",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            2 ready 1 => 1 first on 1 after 2 ms for a start
            2002 done 1 => wake at 3002
            2003 arrive 2 => 2 on 1
            2003 arrive 3 => start 2 AllBusy { live: 1, starting: 0 }
            2003 arrive 4 => start 3 AllBusy { live: 1, starting: 1 }
            2004 done 1 => 3 on 1 after 1 ms for a slot
            2005 ready 2 => 4 first on 2 after 2 ms for a start
            starting 1 idle 0 busy 2 stopping 0 waiting 0"#]],
    );
}

#[test]
fn starts_that_nobody_needs_are_called_off_while_young() {
    check(
        ONE,
        "0 arrive 1; 0 arrive 2; 0 arrive 3; 0 arrive 4; 40 ready 1; 41 done 1; 42 done 1; 43 done 1; 44 done 1;
         45 arrive 5; 45 arrive 6; 46 gone 4 Stopped; 47 ready 2",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            0 arrive 2 => start 2 AllBusy { live: 0, starting: 1 }
            0 arrive 3 => start 3 AllBusy { live: 0, starting: 2 }
            0 arrive 4 => start 4 AllBusy { live: 0, starting: 3 }
            40 ready 1 => 1 first on 1 after 40 ms for a start
            41 done 1 => 2 on 1 after 41 ms for a slot, wake at 51
            42 done 1 => 3 on 1 after 42 ms for a slot
            43 done 1 => 4 on 1 after 43 ms for a slot
            44 done 1 => wake at 1044
            45 arrive 5 => 5 on 1
            45 arrive 6 =>
            46 gone 4 Stopped =>
            47 ready 2 => 6 first on 2 after 2 ms for a start
            starting 1 idle 0 busy 2 stopping 0 waiting 0"#]],
    );
    check(
        ONE,
        "0 warm 1; 40 ready 1; 41 arrive 1; 141 done 1; 142 arrive 2; 143 arrive 3; 144 arrive 4; 145 done 1; 165 done 1;
         166 done 1",
        expect![[r#"
            0 warm 1 => start 1 WarmUp
            40 ready 1 => wake at 1040
            41 arrive 1 => 1 first on 1
            141 done 1 =>
            142 arrive 2 => 2 on 1
            143 arrive 3 => start 2 AllBusy { live: 1, starting: 0 }
            144 arrive 4 => start 3 AllBusy { live: 1, starting: 1 }
            145 done 1 => 3 on 1 after 2 ms for a slot
            165 done 1 => 4 on 1 after 21 ms for a slot
            166 done 1 =>
            starting 2 idle 1 busy 0 stopping 0 waiting 0"#]],
    );
}

#[test]
fn silence_and_regret_start_more() {
    check(
        ONE,
        "0 arrive 1; 40 ready 1; 41 done 1; 42 arrive 2; 43 arrive 3; 44 arrive 4; 53 tick; 60 done 1; 90 ready 2",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            40 ready 1 => 1 first on 1 after 40 ms for a start
            41 done 1 => wake at 1041
            42 arrive 2 => 2 on 1
            43 arrive 3 => wake at 53
            44 arrive 4 =>
            53 tick => start 2 Silence, start 3 Silence
            60 done 1 => 3 on 1 after 17 ms for a slot, wake at 72
            90 ready 2 => 4 first on 2 after 46 ms for a start
            starting 1 idle 0 busy 2 stopping 0 waiting 0"#]],
    );
    // Four always wait, which is what one instance clears in the time of a start; in the long run that is too many.
    check(
        ONE,
        "0 arrive 1; 40 ready 1; 50 done 1; 50 arrive 2; 50 arrive 3; 50 arrive 4; 50 arrive 5; 50 arrive 6;
         60 done 1; 60 arrive 7; 70 done 1; 70 arrive 8; 80 done 1; 80 arrive 9; 90 done 1; 90 arrive 10; 100 done 1; 100 arrive 11;
         110 done 1; 110 arrive 12; 120 done 1; 120 arrive 13; 130 done 1; 130 arrive 14; 140 done 1; 140 arrive 15; 150 done 1; 150 arrive 16",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            40 ready 1 => 1 first on 1 after 40 ms for a start
            50 done 1 => wake at 1050
            50 arrive 2 => 2 on 1
            50 arrive 3 => wake at 90
            50 arrive 4 =>
            50 arrive 5 =>
            50 arrive 6 =>
            60 done 1 => 3 on 1 after 10 ms for a slot
            60 arrive 7 =>
            70 done 1 => 4 on 1 after 20 ms for a slot
            70 arrive 8 =>
            80 done 1 => 5 on 1 after 30 ms for a slot
            80 arrive 9 =>
            90 done 1 => 6 on 1 after 40 ms for a slot
            90 arrive 10 =>
            100 done 1 => 7 on 1 after 40 ms for a slot
            100 arrive 11 =>
            110 done 1 => 8 on 1 after 40 ms for a slot
            110 arrive 12 =>
            120 done 1 => 9 on 1 after 40 ms for a slot
            120 arrive 13 =>
            130 done 1 => 10 on 1 after 40 ms for a slot
            130 arrive 14 =>
            140 done 1 => 11 on 1 after 40 ms for a slot
            140 arrive 15 =>
            150 done 1 => 12 on 1 after 40 ms for a slot
            150 arrive 16 =>
            starting 0 idle 0 busy 1 stopping 0 waiting 4"#]],
    );
}

#[test]
fn idle_instances_freeze_and_thaw() {
    check(
        Config { freeze_after_ms: 100, ..ONE },
        "0 warm 2; 10 ready 1; 20 ready 2; 109 tick; 110 tick; 115 arrive 1; 116 done 2; 120 tick; 216 tick; 300 arrive 2;
         301 arrive 3; 310 done 1; 311 done 2; 410 tick; 411 tick; 1310 tick; 1311 tick",
        expect![[r#"
            0 warm 2 => start 1 WarmUp, start 2 WarmUp
            10 ready 1 => wake at 1010, wake at 110
            20 ready 2 =>
            109 tick =>
            110 tick => freeze 1, wake at 120
            115 arrive 1 => 1 first on 2
            116 done 2 =>
            120 tick => wake at 216
            216 tick => freeze 2
            300 arrive 2 => thaw 2, 2 thawed, on 2
            301 arrive 3 => thaw 1, 3 thawed, on 1
            310 done 1 => wake at 410
            311 done 2 =>
            410 tick => freeze 1, wake at 411
            411 tick => freeze 2
            1310 tick => stop 1 Idle { idle_ms: 1000 }, wake at 1311
            1311 tick => stop 2 Idle { idle_ms: 1000 }
            starting 0 idle 0 busy 0 stopping 2 waiting 0"#]],
    );
    check(
        Config { freeze_after_ms: 100, ..ONE },
        "0 provision 1; 10 ready 1; 110 tick; 200 provision 0; 300 arrive 1; 310 done 1; 320 evict 1",
        expect![[r#"
            0 provision 1 => start 1 Provisioned
            10 ready 1 => wake at 110
            110 tick => freeze 1
            200 provision 0 => wake at 1200
            300 arrive 1 => thaw 1, 1 thawed, on 1
            310 done 1 => wake at 410
            320 evict 1 => stop 1 Evicted
            starting 0 idle 0 busy 0 stopping 1 waiting 0"#]],
    );
}

#[test]
fn after_a_refusal_starts_double() {
    check(
        ONE,
        "0 warm 1; 1 ready 1; 2 arrive 1; 3 arrive 2; 3 arrive 3; 3 arrive 4; 3 arrive 5; 3 arrive 6; 3 arrive 7; 3 arrive 8;
         4 refused 2; 4 refused 3; 4 refused 4; 4 refused 5; 4 refused 6; 4 refused 7; 4 refused 8; 24 tick; 25 ready 9;
         26 ready 10; 26 ready 11",
        expect![[r#"
            0 warm 1 => start 1 WarmUp
            1 ready 1 => wake at 1001
            2 arrive 1 => 1 first on 1
            3 arrive 2 => start 2 AllBusy { live: 1, starting: 0 }
            3 arrive 3 => start 3 AllBusy { live: 1, starting: 1 }
            3 arrive 4 => start 4 AllBusy { live: 1, starting: 2 }
            3 arrive 5 => start 5 AllBusy { live: 1, starting: 3 }
            3 arrive 6 => start 6 AllBusy { live: 1, starting: 4 }
            3 arrive 7 => start 7 AllBusy { live: 1, starting: 5 }
            3 arrive 8 => start 8 AllBusy { live: 1, starting: 6 }
            4 refused 2 => wake at 24
            4 refused 3 =>
            4 refused 4 =>
            4 refused 5 =>
            4 refused 6 =>
            4 refused 7 =>
            4 refused 8 =>
            24 tick => start 9 AfterRefusal, wake at 44
            25 ready 9 => 2 first on 9 after 22 ms for a start, start 10 AfterRefusal, start 11 AfterRefusal
            26 ready 10 => 3 first on 10 after 23 ms for a start, start 12 AfterRefusal, start 13 AfterRefusal, start 14 AfterRefusal
            26 ready 11 => 4 first on 11 after 23 ms for a start, start 15 AfterRefusal
            starting 4 idle 0 busy 4 stopping 0 waiting 4"#]],
    );
}

#[test]
fn warm_up_starts_what_is_missing() {
    check(
        Config { instances_max: 3, ..ONE },
        "0 arrive 1; 1 warm 2; 2 ready 1; 3 ready 2; 4 warm 2; 5 warm 9; 6 ready 3; 7 arrive 2; 1003 tick; 1006 tick",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            1 warm 2 => start 2 WarmUp
            2 ready 1 => 1 first on 1 after 2 ms for a start
            3 ready 2 => wake at 1003
            4 warm 2 =>
            5 warm 9 => start 3 WarmUp
            6 ready 3 =>
            7 arrive 2 => 2 first on 3
            1003 tick => stop 2 Idle { idle_ms: 1000 }
            1006 tick =>
            starting 0 idle 0 busy 2 stopping 1 waiting 0"#]],
    );
}

#[test]
fn a_clock_that_steps_back_stands_still() {
    check(
        ONE,
        "5000 arrive 1; 5000 ready 1; 100 done 1; 5999 tick; 6000 tick",
        expect![[r#"
            5000 arrive 1 => start 1 FromZero
            5000 ready 1 => 1 first on 1 after 0 ms for a start
            100 done 1 => wake at 6000
            5999 tick =>
            6000 tick => stop 1 Idle { idle_ms: 1000 }
            starting 0 idle 0 busy 0 stopping 1 waiting 0"#]],
    );
}

impl Pool {
    /// What must hold between any two steps.
    fn check_rules(&self) {
        let slots = self.config.slots_per_instance;
        let of = |phase| self.table.iter().map(|(_, i)| i).filter(move |i| i.phase == phase);
        assert_eq!(of(Phase::Starting).count(), self.starting.len());
        assert!(self.starting.iter(&self.table).all(|i| i.phase == Phase::Starting));
        assert_eq!(of(Phase::Live).count(), self.live);
        assert_eq!(of(Phase::Live).map(|i| u64::from(i.busy)).sum::<u64>(), self.busy_slots);
        assert!(self.present() <= self.config.instances_max);
        assert!(self.waiting.len() <= self.config.waiting_max);
        assert!(self.table.iter().all(|(_, i)| i.busy <= slots && (i.phase == Phase::Live || i.busy == 0)));
        assert!(self.table.iter().all(|(_, i)| !i.frozen || i.busy == 0));
        self.check_shelf(Role::Demand, &self.demand);
        self.check_shelf(Role::Provisioned, &self.provisioned);
        if !self.waiting.is_empty() {
            let shelves = [&self.demand, &self.provisioned];
            assert!(shelves.iter().all(|s| s.first().is_none()), "a slot is free while somebody waits");
            assert!(self.present() > 0, "somebody waits for nothing");
        }
        assert!(!self.draining || self.counts().idle == 0);
        self.check_wake(Wake::Idle, self.demand.idle.iter(&self.table).next(), self.config.idle_ms);
        self.check_provision();
        if self.starts_missing() > 0 && self.present() < self.config.instances_max {
            let wakes_us = [Wake::Retry, Wake::Silence].map(|wake| self.wakes_us[wake as usize]);
            assert!(wakes_us.iter().any(Option::is_some), "nothing will order the missing starts");
        }
        if self.silence_ends_us().is_some_and(|at| at > self.now_us) {
            assert!(self.wakes_us[Wake::Silence as usize].is_some(), "nothing will end the silence");
        }
    }

    /// A Tick will come soon enough to act on what is due `after_ms` after the instance became idle.
    fn check_wake(&self, wake: Wake, first: Option<&Instance>, after_ms: u64) {
        if let Some(first) = first {
            let in_us = (first.since_us + after_ms * 1_000).saturating_sub(self.now_us);
            let wake_us = self.wakes_us[wake as usize];
            assert!(wake_us.is_some_and(|at| at <= self.now_us + 2 * in_us + 1), "nothing will wake for {wake:?}");
        }
    }

    fn check_shelf(&self, role: Role, shelf: &Shelf) {
        let slots = self.config.slots_per_instance;
        let is_live = |i: &&Instance| i.phase == Phase::Live && i.role == role;
        let live: Vec<&Instance> = self.table.iter().map(|(_, i)| i).filter(is_live).collect();
        assert_eq!(live.iter().filter(|i| i.busy == 0).count(), shelf.idle.len());
        assert_eq!(live.iter().filter(|i| i.busy > 0 && i.busy < slots).count(), shelf.partly.len());
        let idle: Vec<&Instance> = shelf.idle.iter(&self.table).collect();
        let partly: Vec<&Instance> = shelf.partly.iter(&self.table).collect();
        assert_eq!((idle.len(), partly.len()), (shelf.idle.len(), shelf.partly.len()));
        assert!(idle.iter().chain(&partly).all(|i| i.phase == Phase::Live && i.role == role));
        assert!(idle.windows(2).all(|pair| pair[0].since_us <= pair[1].since_us));
        let thawed = idle.iter().find(|i| !i.frozen);
        assert_eq!(thawed.map(|i| i.id), shelf.thawed().map(|place| self.table.get(place).id));
        if self.config.freeze_after_ms > 0 {
            self.check_wake(Wake::Freeze, thawed.copied(), self.config.freeze_after_ms);
        }
    }

    fn check_provision(&self) {
        let of = |phase| {
            let kept = move |i: &&Instance| i.role == Role::Provisioned && i.phase == phase;
            self.table.iter().map(|(_, i)| i).filter(kept)
        };
        let counts = self.provision.counts;
        assert_eq!(of(Phase::Starting).count() as u32, counts.starting);
        assert_eq!(of(Phase::Live).count() as u32, counts.ready);
        assert_eq!(of(Phase::Live).filter(|i| i.busy > 0).count() as u32, counts.in_use);
        assert!(counts.ready + counts.starting <= counts.target);
        let missing = counts.target - counts.ready - counts.starting;
        let full = self.present() == self.config.instances_max;
        if missing > 0 && !full && counts.starting < provision::PROVISION_STARTING_MAX {
            assert!(self.wakes_us[Wake::Provision as usize].is_some(), "nothing will start the missing ones");
        }
    }
}

/// The world around a pool, as far as it must be known to send it sensible events and to check its actions.
#[derive(Default)]
struct World {
    newest: u64,
    starting: BTreeSet<InstanceId>,
    /// Slots taken of live instances.
    live: BTreeMap<InstanceId, u32>,
    stopping: BTreeSet<InstanceId>,
    frozen: BTreeSet<InstanceId>,
    waiting: BTreeSet<WaiterId>,
    ended: BTreeSet<WaiterId>,
    wakes_us: BTreeSet<u64>,
}

impl World {
    fn end(&mut self, waiter: WaiterId) {
        assert!(self.waiting.remove(&waiter), "{waiter} ended but did not wait");
        assert!(self.ended.insert(waiter), "{waiter} ended twice");
    }

    fn step(&mut self, pool: &mut Pool, now_us: u64, event: Event) {
        let mut actions = Vec::new();
        let mut newest = self.newest;
        let mut next = || {
            newest += 1;
            newest
        };
        pool.step(now_us, &mut next, event, &mut actions);
        self.newest = newest;
        let wakes = actions.iter().filter(|a| matches!(a, Action::WakeAt { .. })).count();
        assert!(wakes <= 5, "{actions:?}");
        actions.into_iter().for_each(|action| self.act(pool, action));
        pool.check_rules();
        assert_eq!(pool.counts().waiting, self.waiting.len());
    }

    fn act(&mut self, pool: &Pool, action: Action) {
        match action {
            Action::Start { instance, .. } => assert!(self.starting.insert(instance)),
            Action::Freeze { instance } => {
                assert_eq!(self.live.get(&instance), Some(&0), "freeze of an instance that is not idle");
                assert!(self.frozen.insert(instance), "frozen twice");
            }
            Action::Thaw { instance } => assert!(self.frozen.remove(&instance), "thawed twice"),
            Action::Dispatch { waiter, instance, .. } => {
                self.end(waiter);
                assert!(!self.frozen.contains(&instance), "dispatch to a frozen instance");
                let busy = self.live.get_mut(&instance).expect("dispatch to an instance that is not live");
                *busy += 1;
                assert!(*busy <= pool.config.slots_per_instance, "dispatch to a slot that is not free");
            }
            Action::Stop { instance, .. } => {
                let was_idle = self.live.remove(&instance).is_some_and(|busy| busy == 0);
                assert!(self.starting.remove(&instance) || was_idle, "stop of a busy or unknown instance");
                self.stopping.insert(instance);
            }
            Action::Refuse { waiter, .. } | Action::Fail { waiter, .. } => self.end(waiter),
            Action::WakeAt { at_us } => {
                self.wakes_us.insert(at_us);
            }
        }
    }

    /// Applies one random move; `pick` chooses whom it meets.
    fn apply(&mut self, pool: &mut Pool, now_us: u64, kind: u8, pick: usize) {
        let nth = |set: Vec<u64>| set.get(pick % set.len().max(1)).copied();
        let starting = nth(self.starting.iter().copied().collect());
        let live = nth(self.live.keys().copied().collect());
        let busy = nth(self.live.iter().filter(|(_, busy)| **busy > 0).map(|(id, _)| *id).collect());
        let stopping = nth(self.stopping.iter().copied().collect());
        let cause = [Gone::StartFailed, Gone::InitFailed, Gone::Crashed, Gone::Stopped][pick % 4];
        let event = match kind {
            0..=5 => {
                let waiter = 1_000 + (self.ended.len() + self.waiting.len()) as u64;
                self.waiting.insert(waiter);
                Some(Event::Arrive { waiter })
            }
            6..=8 => starting.map(|instance| {
                self.starting.remove(&instance);
                self.live.insert(instance, 0);
                Event::Ready { instance }
            }),
            9..=13 => busy.map(|instance| {
                *self.live.get_mut(&instance).unwrap() -= 1;
                Event::Done { instance }
            }),
            14 => starting.map(|instance| {
                self.starting.remove(&instance);
                Event::Gone { instance, cause }
            }),
            15 => starting.map(|instance| {
                self.starting.remove(&instance);
                Event::StartRefused { instance, reason: Refusal::Instances }
            }),
            16 => live.map(|instance| {
                self.live.remove(&instance);
                Event::Gone { instance, cause }
            }),
            17 => stopping.map(|instance| {
                self.stopping.remove(&instance);
                let crossed = pick.is_multiple_of(2);
                if crossed {
                    Event::StartRefused { instance, reason: Refusal::Memory }
                } else {
                    Event::Gone { instance, cause: Gone::Stopped }
                }
            }),
            18 => nth(self.waiting.iter().copied().collect()).map(|waiter| {
                self.end(waiter);
                Event::Cancel { waiter }
            }),
            // Late, doubled and unknown.
            19 => stopping.map(|instance| Event::Done { instance }),
            20 => stopping.map(|instance| Event::Ready { instance }),
            21 => live.map(|instance| Event::StartRefused { instance, reason: Refusal::Memory }),
            22 => Some(Event::Gone { instance: 900_000, cause }),
            24 => live.map(|instance| {
                self.live.remove(&instance);
                self.stopping.insert(instance);
                Event::Unfit { instance }
            }),
            23 => pick.is_multiple_of(30).then_some(Event::Drain),
            25 => Some(Event::Provision { target: pick as u32 % 5 }),
            26 => Some(Event::WarmUp { count: pick as u32 % 5 }),
            _ => Some(Event::Tick),
        };
        if let Some(event) = event {
            self.step(pool, now_us, event);
        }
    }
}

proptest! {
    /// Whatever happens, the rules hold; and when the world behaves again and the pool drains, everything ends.
    #[test]
    fn random_worlds(
        slots_per_instance in 1u32..4,
        waiting_max in 0usize..12,
        instances_max in 0usize..6,
        freeze_after_ms in 0u64..70,
        moves in proptest::collection::vec((0u8..29, any::<usize>(), 0u64..40), 0..200),
    ) {
        let config = Config { slots_per_instance, waiting_max, idle_ms: 50, freeze_after_ms, instances_max };
        let mut pool = Pool::new(config);
        let mut world = World::default();
        let mut now_us = 0;
        for (kind, pick, pause_ms) in moves {
            now_us += pause_ms * 1_000;
            while world.wakes_us.first().is_some_and(|at| *at <= now_us) {
                world.wakes_us.pop_first();
                world.step(&mut pool, now_us, Event::Tick);
            }
            prop_assert!(world.wakes_us.len() <= 20, "{:?}", world.wakes_us);
            world.apply(&mut pool, now_us, kind, pick);
        }
        world.step(&mut pool, now_us, Event::Drain);
        for _ in 0..2_000 {
            for kind in [9, 6, 17] {
                world.apply(&mut pool, now_us, kind, 0);
            }
        }
        prop_assert!(pool.is_empty(), "{:?}", pool.counts());
        prop_assert!(world.waiting.is_empty());
    }
}
