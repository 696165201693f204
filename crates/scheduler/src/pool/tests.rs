//! Scripts of events with the actions they cause.

mod idle;
mod random;

use super::*;
use expect_test::{Expect, expect};

const ONE: Config = Config {
    slots_per_instance: 1,
    waiting_max: 100,
    idle_ms: 1_000,
    keep_alive: Policy::Fixed,
    freeze_after_ms: 0,
    instances_max: 100,
};

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
        "yield" => Event::Yield,
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
        Action::Stop { instance, reason: StopReason::Idle { idle_ms, basis } } => {
            format!("stop {instance} idle for {idle_ms} ms ({basis:?})")
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
            1080 tick => stop 1 idle for 1000 ms (Fixed)
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
            1005 tick => stop 1 idle for 1000 ms (Fixed), wake at 1012
            1012 tick => stop 2 idle for 1000 ms (Fixed)
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
            2000 tick => stop 1 idle for 1997 ms (Fixed)
            2001 done 1 =>
            2001 ready 1 =>
            2002 gone 1 Stopped =>
            2002 gone 1 Stopped =>
            starting 0 idle 0 busy 0 stopping 0 waiting 0"#]],
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
         110 done 1; 110 arrive 12; 120 done 1; 120 arrive 13; 130 done 1; 130 arrive 14; 140 done 1; 140 arrive 15; 150 done 1; 150 arrive 16;
         160 done 1; 160 arrive 17; 170 done 1; 170 arrive 18; 180 done 1; 180 arrive 19",
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
            160 done 1 => 13 on 1 after 40 ms for a slot, start 2 Sustained { waiting: 3 }
            160 arrive 17 =>
            170 done 1 => 14 on 1 after 40 ms for a slot
            170 arrive 18 =>
            180 done 1 => 15 on 1 after 40 ms for a slot
            180 arrive 19 =>
            starting 1 idle 0 busy 1 stopping 0 waiting 4"#]],
    );
}

/// Used again after 100 ms each time, and starts in 1 ms: not worth keeping for the whole time. Once it is stopped and
/// missed again and again, it is kept for longer.
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
fn a_clock_that_steps_back_stands_still() {
    check(
        ONE,
        "5000 arrive 1; 5000 ready 1; 100 done 1; 5999 tick; 6000 tick",
        expect![[r#"
            5000 arrive 1 => start 1 FromZero
            5000 ready 1 => 1 first on 1 after 0 ms for a start
            100 done 1 => wake at 6000
            5999 tick =>
            6000 tick => stop 1 idle for 1000 ms (Fixed)
            starting 0 idle 0 busy 0 stopping 1 waiting 0"#]],
    );
}

#[test]
fn yielding_ends_an_instance_instead_of_running_the_next() {
    check(
        ONE,
        "0 warm 3; 1 ready 1; 1 ready 2; 1 ready 3; 2 arrive 1; 2 arrive 2; 2 arrive 3; 2 yield; 5 arrive 4; 5 arrive 5;
         6 yield; 7 yield; 8 yield; 2008 done 1; 2009 done 2; 2010 done 3; 2011 gone 1 Stopped; 2012 done 3; 2013 done 3",
        expect![[r#"
            0 warm 3 => start 1 WarmUp, start 2 WarmUp, start 3 WarmUp
            1 ready 1 => wake at 1001
            1 ready 2 =>
            1 ready 3 =>
            2 arrive 1 => 1 first on 3
            2 arrive 2 => 2 first on 2
            2 arrive 3 => 3 first on 1
            2 yield =>
            5 arrive 4 => start 4 AllBusy { live: 3, starting: 0 }
            5 arrive 5 => start 5 AllBusy { live: 3, starting: 1 }
            6 yield =>
            7 yield =>
            8 yield =>
            2008 done 1 => stop 1 Yielded
            2009 done 2 => stop 2 Yielded
            2010 done 3 => 4 on 3 after 2005 ms for a slot
            2011 gone 1 Stopped =>
            2012 done 3 => 5 on 3 after 2007 ms for a slot
            2013 done 3 =>
            starting 2 idle 1 busy 0 stopping 1 waiting 0"#]],
    );
    check(
        Config { slots_per_instance: 2, ..ONE },
        "0 warm 2; 1 ready 1; 1 ready 2; 2 arrive 1; 2 arrive 2; 2 arrive 3; 2 arrive 4; 3 arrive 5; 3 arrive 6; 4 yield;
         5 done 1; 6 done 2; 7 done 1; 8 gone 1 Stopped; 9 done 2; 10 done 2",
        expect![[r#"
            0 warm 2 => start 1 WarmUp, start 2 WarmUp
            1 ready 1 => wake at 1001
            1 ready 2 =>
            2 arrive 1 => 1 first on 2
            2 arrive 2 => 2 on 2
            2 arrive 3 => 3 first on 1
            2 arrive 4 => 4 on 1
            3 arrive 5 => start 3 AllBusy { live: 2, starting: 0 }
            3 arrive 6 =>
            4 yield =>
            5 done 1 =>
            6 done 2 => 5 on 2 after 3 ms for a slot
            7 done 1 => stop 1 Yielded
            8 gone 1 Stopped =>
            9 done 2 => 6 on 2 after 6 ms for a slot
            10 done 2 =>
            starting 1 idle 0 busy 1 stopping 0 waiting 0"#]],
    );
}
