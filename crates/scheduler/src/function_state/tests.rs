//! Every move from every standing of a record.

use super::*;
use expect_test::expect;
use model::function::{Code, Config, Network};
use model::{Digest, FunctionName, Generation};
use std::collections::BTreeMap;
use std::fmt::Write;

fn function(state: State, last_update: Option<LastUpdate>) -> Function {
    let config = Config {
        runtime: None,
        role: String::new(),
        handler: None,
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
    Function {
        name: FunctionName::parse("f").unwrap(),
        config,
        code: Code { digest: Digest([0; 32]), size_bytes: 1 },
        tags: BTreeMap::new(),
        state,
        last_update,
        revision_id: "r".into(),
        generation: Generation(1),
        last_modified_ms: 0,
        last_version: 0,
    }
}

fn standings() -> Vec<Function> {
    let why = |code| reason(code, "");
    vec![
        function(created().0, created().1),
        function(State::Active, Some(LastUpdate::Successful)),
        function(State::Active, Some(LastUpdate::InProgress(why("Creating")))),
        function(State::Active, Some(LastUpdate::Failed(why("Old")))),
        function(State::Inactive(why("Idle")), Some(LastUpdate::Successful)),
        function(State::Inactive(why("Idle")), Some(LastUpdate::InProgress(why("Creating")))),
        function(State::Pending(why("Restoring")), Some(LastUpdate::Successful)),
        function(State::Failed(why("Old")), Some(LastUpdate::Failed(why("Old")))),
        function(State::Failed(why("Old")), Some(LastUpdate::InProgress(why("Creating")))),
    ]
}

fn print(function: &Function) -> String {
    let state = match &function.state {
        State::Active => "Active".to_owned(),
        State::Pending(r) => format!("Pending({})", r.code),
        State::Inactive(r) => format!("Inactive({})", r.code),
        State::Failed(r) => format!("Failed({})", r.code),
    };
    let last_update = match &function.last_update {
        None => "none".to_owned(),
        Some(LastUpdate::Successful) => "Successful".to_owned(),
        Some(LastUpdate::InProgress(r)) => format!("InProgress({})", r.code),
        Some(LastUpdate::Failed(r)) => format!("Failed({})", r.code),
    };
    format!("{state} {last_update}")
}

type Move = (&'static str, fn(&mut Function) -> bool);

const MOVES: [Move; 7] = [
    ("completed ok", |f| completed(f, Ok(())).is_ok()),
    ("completed err", |f| completed(f, Err(reason("New", ""))).is_ok()),
    ("update_started", |f| update_started(f).is_ok()),
    ("update_completed ok", |f| update_completed(f, Ok(())).is_ok()),
    ("update_completed err", |f| update_completed(f, Err(reason("New", ""))).is_ok()),
    ("went_idle", |f| went_idle(f).is_ok()),
    ("woken", |f| woken(f).is_ok()),
];

#[test]
fn table() {
    let mut table = String::new();
    for before in standings() {
        writeln!(table, "{}{}", print(&before), if is_busy(&before) { " busy" } else { "" }).unwrap();
        for (name, apply) in MOVES {
            let mut after = before.clone();
            if apply(&mut after) {
                writeln!(table, "  {name}: {}", print(&after)).unwrap();
            } else {
                assert_eq!(after, before, "a refused move changes nothing");
            }
        }
    }
    expect![[r#"
        Pending(Creating) none busy
          completed ok: Active Successful
          completed err: Failed(New) Failed(New)
        Active Successful
          update_started: Active InProgress(Creating)
          went_idle: Inactive(Idle) Successful
        Active InProgress(Creating) busy
          update_completed ok: Active Successful
          update_completed err: Active Failed(New)
        Active Failed(Old)
          update_started: Active InProgress(Creating)
          went_idle: Inactive(Idle) Failed(Old)
        Inactive(Idle) Successful
          update_started: Inactive(Idle) InProgress(Creating)
          woken: Pending(Restoring) Successful
        Inactive(Idle) InProgress(Creating) busy
          update_completed ok: Active Successful
          update_completed err: Inactive(Idle) Failed(New)
        Pending(Restoring) Successful busy
          completed ok: Active Successful
          completed err: Failed(New) Successful
        Failed(Old) Failed(Old)
          update_started: Failed(Old) InProgress(Creating)
        Failed(Old) InProgress(Creating) busy
          update_completed ok: Active Successful
          update_completed err: Failed(Old) Failed(New)
    "#]]
    .assert_eq(&table);
}

/// Texts of `lambda-semantics.md` section 2.
#[test]
fn creating_has_the_api_s_words() {
    let want = Reason { code: "Creating".into(), text: "The function is being created.".into() };
    assert_eq!(created(), (State::Pending(want.clone()), None));
    let mut function = function(State::Active, Some(LastUpdate::Successful));
    update_started(&mut function).unwrap();
    assert_eq!((function.state, function.last_update), (State::Active, Some(LastUpdate::InProgress(want))));
}
