//! Scripts of events with the actions they cause, and random sequences that must keep the rules.

use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;
use std::collections::BTreeSet;

const ONE: Config = Config { slots_per_instance: 1, waiting_max: 100, idle_ms: 1_000, instances_max: 100 };

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
        Action::Dispatch { waiter, instance, why: Dispatched { cold, waited, lane } } => {
            let first = if *cold == Cold::Warm { "" } else { "first " };
            let lane = match lane {
                Lane::OnDemand => "",
                Lane::Provisioned => " (provisioned)",
                Lane::SpillOver => " (spill-over)",
            };
            let waited = match waited {
                Waited::Not => String::new(),
                Waited::ForSlot { us } => format!(" after {} ms for a slot", us / 1_000),
                Waited::ForStart { us } => format!(" after {} ms for a start", us / 1_000),
            };
            format!("{waiter} {first}on {instance}{lane}{waited}")
        }
        Action::Stop { instance, reason } => format!("stop {instance} {reason:?}"),
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
            64 tick => start 6 AfterRefusal, wake at 84
            70 done 1 => 2 on 1 after 68 ms for a slot
            71 gone 1 Crashed =>
            starting 2 idle 0 busy 0 stopping 0 waiting 2"#]],
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
            1 done 2 => 3 on 2 after 1 ms for a slot
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

#[test]
fn warm_dispatch_keeps_its_lists() {
    let mut pool = Pool::new(Config { slots_per_instance: 2, ..ONE });
    let mut newest = 0;
    let mut actions = Vec::new();
    let mut step = |pool: &mut Pool, event| {
        actions.clear();
        let mut next = || {
            newest += 1;
            newest
        };
        pool.step(0, &mut next, event, &mut actions);
    };
    (0..40).for_each(|waiter| step(&mut pool, Event::Arrive { waiter }));
    (1..=20).for_each(|instance| step(&mut pool, Event::Ready { instance }));
    let capacities = |pool: &Pool| (pool.demand.idle.capacity(), pool.demand.partly.capacity());
    let before = capacities(&pool);
    for round in 1..5 {
        (1..=20).for_each(|instance| step(&mut pool, Event::Done { instance }));
        (1..=20).for_each(|instance| step(&mut pool, Event::Done { instance }));
        assert_eq!(pool.counts().idle, 20);
        (0..40).for_each(|waiter| step(&mut pool, Event::Arrive { waiter: 1_000 * round + waiter }));
        assert_eq!(pool.counts().busy, 20);
    }
    assert_eq!(capacities(&pool), before);
}

impl Pool {
    /// What must hold between any two steps.
    fn check_rules(&self) {
        let slots = self.config.slots_per_instance;
        let of = |phase| self.instances.values().filter(move |i| i.phase == phase);
        assert_eq!(of(Phase::Starting).count(), self.starting);
        assert_eq!(of(Phase::Live).count(), self.live);
        assert!(self.starting + self.live <= self.config.instances_max);
        assert!(self.waiting.len() <= self.config.waiting_max);
        assert!(self.instances.values().all(|i| i.busy <= slots && (i.phase == Phase::Live || i.busy == 0)));
        self.check_shelf(Role::Demand, &self.demand);
        self.check_shelf(Role::Provisioned, &self.provisioned);
        if !self.waiting.is_empty() {
            let shelves = [&self.demand, &self.provisioned];
            assert!(shelves.iter().all(|s| s.first().is_none()), "a slot is free while somebody waits");
            assert!(self.starting + self.live > 0, "somebody waits for nothing");
        }
        assert!(!self.draining || self.counts().idle == 0);
        if let Some((_, since_us)) = self.demand.idle.front() {
            let deadline_us = since_us.saturating_add(self.idle_max_us());
            let wake_us = self.wakes_us[Wake::Idle as usize];
            assert!(wake_us.is_some_and(|at| at <= deadline_us), "nothing will end the idle ones");
        }
        self.check_provision();
        if self.wants_start() {
            let wake_us = self.wakes_us[Wake::Retry as usize];
            assert!(wake_us.is_some(), "nothing will order the missing starts");
            assert!(self.retry_at_us.is_some_and(|at| Some(at) >= wake_us));
        }
    }

    fn check_shelf(&self, role: Role, shelf: &Shelf) {
        let slots = self.config.slots_per_instance;
        let live = self.instances.values().filter(|i| i.phase == Phase::Live && i.role == role);
        assert_eq!(live.clone().filter(|i| i.busy == 0).count(), shelf.idle.len());
        assert_eq!(live.filter(|i| i.busy > 0 && i.busy < slots).count(), shelf.partly.len());
        for (at, id) in shelf.partly.iter().enumerate() {
            assert_eq!(self.instances[id].partly_at, at);
        }
        assert!(shelf.idle.iter().all(|(id, _)| self.instances[id].phase == Phase::Live));
        assert!(shelf.idle.iter().zip(shelf.idle.iter().skip(1)).all(|(older, newer)| older.1 <= newer.1));
    }

    fn check_provision(&self) {
        let of = |phase| self.instances.values().filter(move |i| i.role == Role::Provisioned && i.phase == phase);
        let counts = self.provision.counts;
        assert_eq!(of(Phase::Starting).count() as u32, counts.starting);
        assert_eq!(of(Phase::Live).count() as u32, counts.ready);
        assert_eq!(of(Phase::Live).filter(|i| i.busy > 0).count() as u32, counts.in_use);
        assert!(counts.ready + counts.starting <= counts.target);
        let missing = counts.target - counts.ready - counts.starting;
        let full = self.starting + self.live == self.config.instances_max;
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
        assert!(wakes <= 3, "{actions:?}");
        actions.into_iter().for_each(|action| self.act(pool, action));
        pool.check_rules();
        assert_eq!(pool.counts().waiting, self.waiting.len());
    }

    fn act(&mut self, pool: &Pool, action: Action) {
        match action {
            Action::Start { instance, .. } => assert!(self.starting.insert(instance)),
            Action::Dispatch { waiter, instance, .. } => {
                self.end(waiter);
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
        moves in proptest::collection::vec((0u8..29, any::<usize>(), 0u64..40), 0..200),
    ) {
        let mut pool = Pool::new(Config { slots_per_instance, waiting_max, idle_ms: 50, instances_max });
        let mut world = World::default();
        let mut now_us = 0;
        for (kind, pick, pause_ms) in moves {
            now_us += pause_ms * 1_000;
            while world.wakes_us.first().is_some_and(|at| *at <= now_us) {
                world.wakes_us.pop_first();
                world.step(&mut pool, now_us, Event::Tick);
            }
            prop_assert!(world.wakes_us.len() <= 3, "{:?}", world.wakes_us);
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
