//! What goes into a pool and what comes out, with every reason as data. Each reason has a short text that stays the
//! same from release to release.

use super::{InstanceId, WaiterId};
use crate::keep_alive::Basis;
use crate::lifetimes::Initialization;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An invocation wants a slot.
    Arrive {
        /// The invocation.
        waiter: WaiterId,
    },
    /// Init has finished; all slots of the instance are free.
    Ready {
        /// The instance.
        instance: InstanceId,
    },
    /// One slot is free again and the instance is fit for reuse.
    Done {
        /// The instance.
        instance: InstanceId,
    },
    /// The caller has ordered the end of a live instance by itself: a timeout, a broken protocol. Nothing is dispatched
    /// to it any more and a replacement may start; `Gone` follows when it has ended. Without this event an instance of
    /// several slots would get more work until `Gone`.
    Unfit {
        /// The instance.
        instance: InstanceId,
    },
    /// The instance has ended, in whatever state it was.
    Gone {
        /// The instance.
        instance: InstanceId,
        /// How it ended.
        cause: Gone,
    },
    /// The waiter's client is gone, or it has waited too long. Nothing if it no longer waits.
    Cancel {
        /// The waiter.
        waiter: WaiterId,
    },
    /// The worker could not even begin an ordered start.
    StartRefused {
        /// The instance that will not be.
        instance: InstanceId,
        /// What was short.
        reason: Refusal,
    },
    /// From now on so many instances are kept initialised, whether they are used or not; 0 ends it.
    Provision {
        /// How many.
        target: u32,
    },
    /// So many instances shall be there: what is missing is started and lives on as if an invocation had used it.
    WarmUp {
        /// How many, those that are there already included.
        count: u32,
    },
    /// Another version has less than its share of a full machine: one instance more is to end when its invocation has,
    /// instead of running the next one. Forgotten when nobody waits here any more, since what is idle can be evicted.
    Yield,
    /// Superseded or shutting down: who waits is still served, who arrives is refused, who is idle stops.
    Drain,
    /// Time has passed.
    Tick,
}

/// How an instance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The sandbox could not be made.
    StartFailed,
    /// The function's Init failed or took too long.
    InitFailed,
    /// It ended by itself after Init.
    Crashed,
    /// It was stopped, by this pool's order or by somebody else.
    Stopped,
}

impl Gone {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Gone::StartFailed => "the sandbox could not be made",
            Gone::InitFailed => "Init failed",
            Gone::Crashed => "crashed",
            Gone::Stopped => "stopped",
        }
    }
}

/// What was short when a start was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The machine's memory for instances is promised away.
    Memory,
    /// The machine's number of instances is used up.
    Instances,
}

impl Refusal {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Refusal::Memory => "memory for instances is short",
            Refusal::Instances => "the number of instances is used up",
        }
    }
}

/// What the caller is to do, in the given order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start an instance.
    Start {
        /// Its id, from `next_instance`.
        instance: InstanceId,
        /// Why now.
        reason: StartReason,
    },
    /// Run the waiter's invocation on the instance; it holds one slot until `Done` or `Gone`.
    Dispatch {
        /// The waiter; the pool forgets it.
        waiter: WaiterId,
        /// The instance.
        instance: InstanceId,
        /// What it met there and what it waited for.
        why: Dispatched,
    },
    /// Stop the instance; nothing runs on it.
    Stop {
        /// The instance.
        instance: InstanceId,
        /// Why.
        reason: StopReason,
    },
    /// Let no process of the idle instance run.
    Freeze {
        /// The instance.
        instance: InstanceId,
    },
    /// Undo `Freeze`; a dispatch to the instance follows.
    Thaw {
        /// The instance.
        instance: InstanceId,
    },
    /// Throttle the waiter.
    Refuse {
        /// The waiter; the pool forgets it.
        waiter: WaiterId,
        /// Why.
        reason: RefuseReason,
    },
    /// Give the waiter the error with which the instance's start or Init failed.
    Fail {
        /// The waiter; the pool forgets it.
        waiter: WaiterId,
        /// The instance that failed.
        instance: InstanceId,
    },
    /// Send `Tick` at this time or soon after. Each stands, whatever follows; a handful are outstanding at most.
    WakeAt {
        /// Microseconds, on the clock of `now_us`.
        at_us: u64,
    },
}

/// Why an instance is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartReason {
    /// The version has no instance.
    FromZero,
    /// No slot is free, and the starts under way do not cover all waiters.
    AllBusy {
        /// Instances past Init.
        live: u32,
        /// Instances before the end of Init.
        starting: u32,
    },
    /// An instance ended or failed, and its waiters need another.
    Replacement,
    /// An earlier start was refused for lack of room; this asks again.
    AfterRefusal,
    /// One of those that are kept initialised by order.
    Provisioned,
    /// Ordered ahead of invocations.
    WarmUp,
    /// Waits were short but many: one more instance spares more of them than its start costs.
    Sustained {
        /// How many wait.
        waiting: u32,
    },
    /// For much longer than a service should take, none has ended; the waiters no longer count on freed slots.
    Silence,
}

impl StartReason {
    /// Why the instance is initialised.
    pub fn initialization(self) -> Initialization {
        match self {
            StartReason::Provisioned => Initialization::Provisioned,
            StartReason::FromZero
            | StartReason::AllBusy { .. }
            | StartReason::Replacement
            | StartReason::AfterRefusal
            | StartReason::WarmUp
            | StartReason::Sustained { .. }
            | StartReason::Silence => Initialization::OnDemand,
        }
    }
}

impl StartReason {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            StartReason::FromZero => "the version had no instance",
            StartReason::AllBusy { .. } => "all instances were busy",
            StartReason::Replacement => "an instance had ended",
            StartReason::AfterRefusal => "an earlier start had found no room",
            StartReason::Provisioned => "provisioned concurrency",
            StartReason::WarmUp => "a warm-up was ordered",
            StartReason::Sustained { .. } => "invocations kept waiting for slots",
            StartReason::Silence => "running invocations took longer than usual",
        }
    }
}

/// What an invocation met and what it waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dispatched {
    /// Whether the instance was used before.
    pub cold: Cold,
    /// What it waited for, and how long.
    pub waited: Waited,
    /// Whether the instance is one of those that are kept initialised.
    pub lane: Lane,
    /// Whether the instance had to be thawed.
    pub was_frozen: bool,
}

/// Whether an invocation meets a used instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cold {
    /// The instance has run an invocation before.
    Warm,
    /// The first invocation of the instance; its Init is reported with it.
    FirstUse {
        /// Why the instance was started.
        reason: StartReason,
    },
}

impl Cold {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Cold::Warm => "the instance had run before",
            Cold::FirstUse { reason } => reason.text(),
        }
    }
}

/// What an invocation waited for in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// Nothing: a slot was free.
    Not,
    /// A slot that another invocation gave back came first.
    ForSlot {
        /// How long.
        us: u64,
    },
    /// A start came first.
    ForStart {
        /// How long.
        us: u64,
    },
}

impl Waited {
    /// Microseconds in the queue.
    pub fn us(self) -> u64 {
        match self {
            Waited::Not => 0,
            Waited::ForSlot { us } | Waited::ForStart { us } => us,
        }
    }

    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Waited::Not => "a slot was free",
            Waited::ForSlot { .. } => "waited for a freed slot",
            Waited::ForStart { .. } => "waited for a start",
        }
    }
}

/// Which kind of instance an invocation got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The version has no provisioned instances.
    OnDemand,
    /// A provisioned one.
    Provisioned,
    /// Another one, because no provisioned one was free.
    SpillOver,
}

impl Lane {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Lane::OnDemand => "on demand",
            Lane::Provisioned => "provisioned",
            Lane::SpillOver => "spill-over: no provisioned instance was free",
        }
    }
}

/// Why an instance is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Nobody used it.
    Idle {
        /// For so long.
        idle_ms: u64,
        /// What made it that long.
        basis: Basis,
    },
    /// The pool drains and the instance has nothing to do.
    Drained,
    /// Nobody waits for this start any more.
    Surplus,
    /// Its room is needed elsewhere.
    Evicted,
    /// Its version has more than its share of a full machine, another one less.
    Yielded,
}

impl StopReason {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            StopReason::Idle { basis, .. } => basis.text(),
            StopReason::Drained => "its version is replaced or the server stops",
            StopReason::Surplus => "nobody waits for its start any more",
            StopReason::Evicted => "its room was needed elsewhere",
            StopReason::Yielded => "its version had more than its share of a full machine, another one less",
        }
    }
}

/// Why a waiter is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefuseReason {
    /// As many as [`super::Config::waiting_max`] wait already.
    QueueFull,
    /// No instance could be started and none is there.
    NoCapacity,
    /// The pool drains.
    Draining,
}

impl RefuseReason {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            RefuseReason::QueueFull => "too many invocations wait for this version",
            RefuseReason::NoCapacity => "the machine has no room for an instance",
            RefuseReason::Draining => "the version is replaced or the server stops",
        }
    }
}
