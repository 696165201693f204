//! For developers: the real scheduler under a simulated clock.
//!
//! A script describes a machine, some functions and what happens to them; the simulator plays the worker, the launcher
//! and the guests, and prints what the scheduler decided and why. Nothing here is shipped. The wall: no real clock, no
//! real chance, no I/O but `main.rs`, so a script gives the same transcript everywhere.
//!
//! # The script language
//!
//! One command per line; `#` begins a comment; all times are milliseconds. Commands run in order: the first group
//! describes, the second puts deeds into the calendar, the third lets time pass.
//!
//! ```text
//! seed 7                                  seeds the draws of `A..B` times
//! machine memory=1024 instances=8 account=100 waiting=50 idle=5000 keep=fixed freeze=0 init-limit=10000 stop=1
//!                                         memory in MB; each setting may be left out; before the first function
//! function f start=2 init=50 service=10 memory=128 slots=1 timeout=3000 reserved=5
//!                                         a time is `10`, `5,10,20` (in turn) or `5..20` (drawn); all but the name
//!                                         may be left out
//!
//! at 0 invoke f x100                      100 invocations in the same millisecond; `x1` may be left out
//! every 5 invoke f from 100 until 1000    at 100, 105, ... up to and including 1000; `from 0` may be left out
//! at 50 crash f                           an instance of f ends: a busy one, else an idle, else a starting one
//! at 50 break-start f x2                  the next 2 sandboxes of f cannot be made
//! at 50 break-init f x2                   the next 2 Inits of f fail
//! at 50 cancel f                          the client of the longest waiting invocation of f goes away
//! at 50 provision f 5                     5 instances of f's generation are kept initialised; 0 ends it
//! at 50 warm f 5                          instances of f are started until 5 are there
//! at 60 update f                          f gets a new generation; the earlier one drains
//! at 90 drain                             everything drains, as at shutdown
//!
//! run until 5000                          lets time pass; what is due at 5000 still happens
//! run                                     until nothing is left to happen
//! show                                    prints how many of each there are
//! ```
//!
//! The transcript has one line per decision or happening: time, function and generation, what, which, why. Plain
//! numbers are invocations, `#` numbers are instances. Lines of the same millisecond that differ only in these numbers
//! are joined. A summary follows. Rules that must always hold (`world::World`) are checked on the way; a breach is
//! printed and makes the run fail.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod script;

pub mod world;

pub mod random;

pub mod trace;

mod machine;

mod tally;

mod transcript;

/// Why there is no transcript.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The script cannot be read.
    #[error("the script cannot be read")]
    Script(#[from] script::Error),
    /// The run does not come to an end.
    #[error("more than {} happenings", world::HAPPENINGS_MAX)]
    Endless {
        /// The transcript so far.
        transcript: String,
    },
    /// The scheduler, or the simulator, broke a rule.
    #[error("a rule was broken, see the transcript")]
    RuleBroken {
        /// With the breaches at its end.
        transcript: String,
    },
}

/// Runs a script and gives its transcript, with a summary at the end.
pub fn run(text: &str) -> Result<String, Error> {
    let mut world = world::World::new();
    for command in script::parse(text)? {
        if world.command(command).is_err() {
            return Err(Error::Endless { transcript: world.finish() });
        }
    }
    let kept_rules = world.breaches().is_empty();
    let transcript = world.finish();
    if kept_rules { Ok(transcript) } else { Err(Error::RuleBroken { transcript }) }
}
