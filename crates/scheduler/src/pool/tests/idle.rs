//! Scripts about instances without work, and about those that are ordered ahead of it.

use super::*;

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
            1012 tick => stop 3 idle for 1000 ms (Fixed)
            1013 gone 3 Stopped =>
            2000 tick =>
            3000 gone 1 Crashed => start 4 Provisioned
            3001 ready 4 =>
            3002 provision 1 => wake at 4002
            4002 tick => stop 2 idle for 1000 ms (Fixed)
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
fn keep_alive_adapts() {
    check(
        Config { keep_alive: Policy::Adaptive, idle_ms: 60_000, ..ONE },
        "0 arrive 1; 1 ready 1; 2 done 1; 102 arrive 2; 103 done 1; 203 arrive 3; 204 done 1; 304 arrive 4; 305 done 1;
         405 arrive 5; 406 done 1; 60002 tick; 60003 gone 1 Stopped; 61000 arrive 6; 61001 ready 2; 61002 done 2;
         62002 tick; 62003 gone 2 Stopped; 62500 arrive 7; 62501 ready 3; 62502 done 3; 63502 tick",
        expect![[r#"
            0 arrive 1 => start 1 FromZero
            1 ready 1 => 1 first on 1 after 1 ms for a start
            2 done 1 => wake at 40002
            102 arrive 2 => 2 on 1
            103 done 1 =>
            203 arrive 3 => 3 on 1
            204 done 1 =>
            304 arrive 4 => 4 on 1
            305 done 1 =>
            405 arrive 5 => 5 on 1
            406 done 1 =>
            60002 tick => stop 1 idle for 59596 ms (Price)
            60003 gone 1 Stopped =>
            61000 arrive 6 => start 2 FromZero, wake at 61010
            61001 ready 2 => 6 first on 2 after 1 ms for a start
            61002 done 2 => wake at 62002
            62002 tick => stop 2 idle for 1000 ms (Price)
            62003 gone 2 Stopped =>
            62500 arrive 7 => start 3 FromZero, wake at 62510
            62501 ready 3 => 7 first on 3 after 1 ms for a start
            62502 done 3 => wake at 64074
            63502 tick =>
            starting 0 idle 1 busy 0 stopping 0 waiting 0"#]],
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
            1310 tick => stop 1 idle for 1000 ms (Fixed), wake at 1311
            1311 tick => stop 2 idle for 1000 ms (Fixed)
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
            1003 tick => stop 2 idle for 1000 ms (Fixed)
            1006 tick =>
            starting 0 idle 0 busy 2 stopping 1 waiting 0"#]],
    );
}
