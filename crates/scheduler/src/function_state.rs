//! The moves of a function's record: creation, updates, long idleness.
//!
//! ```text
//!  created ► Pending ─ completed ─► Active ◄─ update_started / update_completed (last_update moves, state stays)
//!               ▲         │           │
//!             woken       ▼       went_idle
//!               │       Failed        ▼
//!               └───────────────── Inactive
//! ```
//!
//! Each move changes a record in memory and is refused, with the record as it was, where the table does not name it.
//! The caller writes the record, and gives it a new revision id at each move, asynchronous ones included
//! (`lambda-semantics.md` section 2).

use model::Function;
use model::function::{LastUpdate, Reason, State};

/// The function is being created or updated: the API answers 409 `ResourceConflictException`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

/// The move does not fit the record, which is left as it was. A late or doubled completion meets this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// State and newest update of a function that was just created.
pub fn created() -> (State, Option<LastUpdate>) {
    (State::Pending(creating()), None)
}

/// The function was made ready, after creation or after waking, or it could not be: Pending to Active or Failed.
///
/// A failed creation is also a failed update, so that clients that wait for `function_updated` end too.
pub fn completed(function: &mut Function, result: Result<(), Reason>) -> Result<(), Refused> {
    match function.state {
        State::Pending(_) => {}
        State::Active | State::Inactive(_) | State::Failed(_) => return Err(Refused),
    }
    let (state, last_update) = match result {
        Ok(()) => (State::Active, LastUpdate::Successful),
        Err(reason) => (State::Failed(reason.clone()), LastUpdate::Failed(reason)),
    };
    function.state = state;
    function.last_update.get_or_insert(last_update);
    Ok(())
}

/// Is the function being created, woken or updated? Then updates are refused with [`Busy`].
pub fn is_busy(function: &Function) -> bool {
    matches!(function.state, State::Pending(_)) || matches!(function.last_update, Some(LastUpdate::InProgress(_)))
}

/// An update begins. The state stays: invocations keep running what ran before.
///
/// A Failed or Inactive function may be updated; that is how a failed one is mended without deleting it.
pub fn update_started(function: &mut Function) -> Result<(), Busy> {
    if is_busy(function) {
        return Err(Busy);
    }
    function.last_update = Some(LastUpdate::InProgress(creating()));
    Ok(())
}

/// The update has ended. Success makes a Failed or Inactive function Active; failure leaves the state alone.
pub fn update_completed(function: &mut Function, result: Result<(), Reason>) -> Result<(), Refused> {
    match function.last_update {
        Some(LastUpdate::InProgress(_)) => {}
        None | Some(LastUpdate::Successful | LastUpdate::Failed(_)) => return Err(Refused),
    }
    function.last_update = Some(match result {
        Ok(()) => {
            function.state = State::Active;
            LastUpdate::Successful
        }
        Err(reason) => LastUpdate::Failed(reason),
    });
    Ok(())
}

/// Nobody has invoked the function for long: Active to Inactive. A function that is being updated stays.
pub fn went_idle(function: &mut Function) -> Result<(), Refused> {
    match function.state {
        State::Active if !is_busy(function) => {}
        State::Active | State::Pending(_) | State::Inactive(_) | State::Failed(_) => return Err(Refused),
    }
    function.state = State::Inactive(reason("Idle", "The function is inactive because it was not invoked for long."));
    Ok(())
}

/// An Inactive function was invoked: it is Pending until [`completed`]. One that is being updated stays; the update
/// makes it Active.
pub fn woken(function: &mut Function) -> Result<(), Refused> {
    match function.state {
        State::Inactive(_) if !is_busy(function) => {}
        State::Inactive(_) | State::Pending(_) | State::Active | State::Failed(_) => return Err(Refused),
    }
    function.state = State::Pending(reason("Restoring", "The function is being restored."));
    Ok(())
}

/// Lambda gives the same reason for a creation and for an update (`lambda-semantics.md` section 2).
fn creating() -> Reason {
    reason("Creating", "The function is being created.")
}

/// Codes are those of the service model; the texts for `Idle` and `Restoring` are ours, no source gives AWS's.
fn reason(code: &str, text: &str) -> Reason {
    Reason { code: code.to_owned(), text: text.to_owned() }
}

#[cfg(test)]
mod tests;
