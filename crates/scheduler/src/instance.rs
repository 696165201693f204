//! The life of one instance. Moves that the table does not name are refused, so a late or hostile message moves nothing.
//!
//! ```text
//!            Launched          InitDone          Dispatch
//!  Starting ─────────► Init ─────────────► Idle ─────────► Busy
//!     │                 │                   ▲  ◄──────────  │
//!     │                 │                   │   Responded   │
//!     └── StopOrdered, TimedOut, InitFailed, ProtocolBroken ┘──► Stopping
//!   any of these, and Stopping ── ProcessEnded ──► Gone
//! ```
//!
//! This counts one invocation at a time; an instance with several slots is Busy while any of them is taken.

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The sandbox is being made; the guest cannot be heard yet.
    Starting,
    /// The runtime and the function's own initialisation run.
    Init,
    /// Fit for an invocation.
    Idle,
    /// Runs an invocation.
    Busy,
    /// Ordered to end; nothing that it says counts any more.
    Stopping,
    /// All its processes have ended.
    Gone,
}

/// What may move an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// The launcher reports the sandbox made and its first process running.
    Launched,
    /// The guest says that Init has finished.
    InitDone,
    /// The guest says that Init has failed.
    InitFailed,
    /// An invocation is handed over.
    Dispatch,
    /// The guest has answered the invocation, with a result or an error.
    Responded,
    /// The start, Init or the invocation has used up its time.
    TimedOut,
    /// The pool or the shutdown wants it to end.
    StopOrdered,
    /// The first process has ended, and with it all others of the sandbox; or there never was one.
    ProcessEnded,
    /// The guest has sent what it must not send.
    ProtocolBroken,
}

impl State {
    /// All states, in the order of a life.
    pub const ALL: [State; 6] = [State::Starting, State::Init, State::Idle, State::Busy, State::Stopping, State::Gone];
}

impl Event {
    /// All events.
    pub const ALL: [Event; 9] = [
        Event::Launched,
        Event::InitDone,
        Event::InitFailed,
        Event::Dispatch,
        Event::Responded,
        Event::TimedOut,
        Event::StopOrdered,
        Event::ProcessEnded,
        Event::ProtocolBroken,
    ];
}

/// The move is not allowed; the state stays as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Where the instance stands.
    pub state: State,
    /// What would not move it.
    pub event: Event,
}

/// The state after the event, or a refusal that changes nothing.
pub fn next(state: State, event: Event) -> Result<State, Refused> {
    let refused = Err(Refused { state, event });
    match event {
        Event::Launched => match state {
            State::Starting => Ok(State::Init),
            State::Init | State::Idle | State::Busy | State::Stopping | State::Gone => refused,
        },
        Event::InitDone => match state {
            State::Init => Ok(State::Idle),
            State::Starting | State::Idle | State::Busy | State::Stopping | State::Gone => refused,
        },
        Event::InitFailed => match state {
            State::Init => Ok(State::Stopping),
            State::Starting | State::Idle | State::Busy | State::Stopping | State::Gone => refused,
        },
        Event::Dispatch => match state {
            State::Idle => Ok(State::Busy),
            State::Starting | State::Init | State::Busy | State::Stopping | State::Gone => refused,
        },
        Event::Responded => match state {
            State::Busy => Ok(State::Idle),
            State::Starting | State::Init | State::Idle | State::Stopping | State::Gone => refused,
        },
        Event::TimedOut => match state {
            State::Starting | State::Init | State::Busy => Ok(State::Stopping),
            State::Idle | State::Stopping | State::Gone => refused,
        },
        Event::StopOrdered => match state {
            State::Starting | State::Init | State::Idle | State::Busy => Ok(State::Stopping),
            State::Stopping | State::Gone => refused,
        },
        Event::ProcessEnded => match state {
            State::Starting | State::Init | State::Idle | State::Busy | State::Stopping => Ok(State::Gone),
            State::Gone => refused,
        },
        Event::ProtocolBroken => match state {
            State::Init | State::Idle | State::Busy => Ok(State::Stopping),
            State::Starting | State::Stopping | State::Gone => refused,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    /// Every cell; `-` is a refusal.
    #[test]
    fn table() {
        let mut table = String::from("               ");
        State::ALL.iter().for_each(|state| write!(table, " {:<9}", format!("{state:?}")).unwrap());
        for event in Event::ALL {
            write!(table, "\n{:<15}", format!("{event:?}")).unwrap();
            for state in State::ALL {
                let cell = match next(state, event) {
                    Ok(next) => format!("{next:?}"),
                    Err(refused) => {
                        assert_eq!(refused, Refused { state, event });
                        "-".to_owned()
                    }
                };
                write!(table, " {cell:<9}").unwrap();
            }
        }
        let table: Vec<&str> = table.lines().map(str::trim_end).collect();
        expect_test::expect![[r#"
                            Starting  Init      Idle      Busy      Stopping  Gone
            Launched        Init      -         -         -         -         -
            InitDone        -         Idle      -         -         -         -
            InitFailed      -         Stopping  -         -         -         -
            Dispatch        -         -         Busy      -         -         -
            Responded       -         -         -         Idle      -         -
            TimedOut        Stopping  Stopping  -         Stopping  -         -
            StopOrdered     Stopping  Stopping  Stopping  Stopping  -         -
            ProcessEnded    Gone      Gone      Gone      Gone      Gone      -
            ProtocolBroken  -         Stopping  Stopping  Stopping  -         -"#]]
        .assert_eq(&table.join("\n"));
    }

    #[test]
    fn every_state_leads_to_gone_and_gone_leads_nowhere() {
        for state in State::ALL {
            assert_eq!(next(state, Event::ProcessEnded).is_ok(), state != State::Gone);
        }
        assert!(Event::ALL.iter().all(|event| next(State::Gone, *event).is_err()));
    }
}
