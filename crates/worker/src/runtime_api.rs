//! The Runtime API for custom runtimes: HTTP on a socket that lives inside the instance's own network namespace.
//!
//! The guest drives: it calls `next` and is parked until an invocation comes. A `Session` holds where it stands. A guest
//! that runs several invocations at a time has several calls of `next` waiting.

mod connection;
mod http;
#[cfg(test)]
mod tests;

use crate::guest::Answer;
use crate::outcomes::Ending;
use api::runtime_api::{ACCEPTED, CLIENT_CONTEXT, DEADLINE_MS, ErrorBody, INVOKED_ARN, REQUEST_ID, TRACE_ID};
use bytes::Bytes;
use http::{Reply, put};
use model::invocation::Invocation;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::task::JoinSet;

/// Connections that one guest may hold open beside one for each slot; further ones wait. Runtimes use one or two.
const CONNECTIONS_MAX: usize = 16;
/// Larger bodies that are read at the same time, over all instances; further ones wait.
const LARGE_BODIES_MAX: usize = 64;
/// How long a guest may take to send a body, from when it is its turn.
const BODY_READ: Duration = Duration::from_secs(10);
const JSON: Option<&str> = Some("application/json");

/// How Init has ended, if it has.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// The guest has not called `next` yet.
    Init,
    /// It reported that Init failed.
    InitFailed(Ending),
    /// It has called `next`.
    Ready,
}

/// The Runtime API of one instance.
#[derive(Debug)]
pub struct Session {
    inner: Mutex<Inner>,
    phase: watch::Sender<Phase>,
    /// Told each time the guest calls `next`.
    arrivals: Notify,
    /// Invocations at a time; each call of `next` that waits or has an invocation is one.
    slots: usize,
    response_bytes_max: u64,
    body_read: Duration,
    large_bodies: Arc<Semaphore>,
    /// One large body at a time of this guest, so that a few guests cannot hold all turns of the others.
    large_body: Semaphore,
}

/// The right to read large bodies, shared by all instances.
pub fn large_bodies() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(LARGE_BODIES_MAX))
}

/// A session with the task that has its connections. Each socket keeps the sandbox's network namespace alive, so all must
/// go with it.
pub struct Served {
    /// The session.
    pub session: Arc<Session>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        // The connections go with the task.
        self.task.abort();
        self.session.close();
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// Calls of `next` that wait, oldest first. With `running` no more than there are slots.
    parked: VecDeque<oneshot::Sender<Handover>>,
    /// Events that a guest hung up on before it had read them; its next calls of `next` get them. All are in `running`.
    returned: VecDeque<Handover>,
    /// What the guest has and has not answered, by request id.
    running: HashMap<Arc<str>, oneshot::Sender<Answer>>,
    /// The newest answer, until the guest asks for more work.
    answered: Option<Arc<str>>,
    /// The instance is over: nothing is handed over any more.
    closed: bool,
}

/// What `next` answers.
#[derive(Debug)]
pub struct Handover {
    id: Arc<str>,
    /// The head behind its first line, the empty line at its end included.
    head: Vec<u8>,
    payload: Bytes,
}

/// What becomes of a call of `next`.
pub enum Next {
    /// It waits.
    Parked(Parked),
    /// There is an event that the guest hung up on.
    Returned(Handover),
    /// It may not be made now.
    Refused(Reply),
}

/// A call of `next` that waits. Dropping it hangs up.
pub struct Parked {
    session: Arc<Session>,
    receiver: oneshot::Receiver<Handover>,
}

impl Parked {
    /// Waits for the event; nothing if another call has taken this one's place, or the instance is over.
    pub async fn event(&mut self) -> Option<Handover> {
        (&mut self.receiver).await.ok()
    }

    /// The event, if it is there.
    pub fn taken(&mut self) -> Option<Handover> {
        self.receiver.try_recv().ok()
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        // No event may come between the last look and this.
        self.receiver.close();
        if let Ok(handover) = self.receiver.try_recv() {
            self.session.take_back(handover);
        }
    }
}

impl Session {
    /// A guest in its Init.
    pub fn new(response_bytes_max: u64, slots: u32, large_bodies: Arc<Semaphore>) -> Arc<Session> {
        Arc::new(Session {
            inner: Mutex::default(),
            phase: watch::Sender::new(Phase::Init),
            arrivals: Notify::new(),
            slots: slots.max(1) as usize,
            response_bytes_max,
            body_read: BODY_READ,
            large_bodies,
            large_body: Semaphore::new(1),
        })
    }

    /// Serves the guest, until the result is dropped.
    pub fn serve(self: Arc<Session>, listener: TcpListener) -> Served {
        let task = tokio::spawn(self.clone().accept(listener));
        Served { session: self, task }
    }

    async fn accept(self: Arc<Session>, listener: TcpListener) {
        // Whoever drops this ends them all, also such as do not look at their sockets just then.
        let mut connections = JoinSet::new();
        loop {
            let room = connections.len() < CONNECTIONS_MAX + self.slots - 1;
            tokio::select! {
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(), if room => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(connection::carry(self.clone(), stream));
                    }
                    // Out of files, or the guest has reset: the guest sees a slow accept, nobody else is touched.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                },
            }
        }
    }

    /// The instance is over: hangs up on who waits, and keeps nothing for who might ask.
    fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.parked.clear();
        inner.returned.clear();
    }

    /// Whether the instance is over.
    fn is_over(&self) -> bool {
        self.lock().closed
    }

    /// Waits for the end of Init.
    pub async fn initialised(&self) -> Result<(), Ending> {
        let mut phase = self.phase.subscribe();
        let phase = phase.wait_for(|p| *p != Phase::Init).await;
        match phase.as_deref() {
            Ok(Phase::InitFailed(ending)) => Err(ending.clone()),
            Ok(_) => Ok(()),
            // The sender lives in `self`: this cannot be.
            Err(_) => Err(Ending::ProtocolBroken),
        }
    }

    /// Waits until the guest asks for work and hands it the invocation; the answer will come through the receiver.
    pub async fn hand_over(&self, mut handover: Handover) -> oneshot::Receiver<Answer> {
        loop {
            match self.try_hand_over(handover) {
                Ok(answered) => return answered,
                Err(back) => handover = back,
            }
            self.arrivals.notified().await;
        }
    }

    /// Hands the invocation to a guest that asks for work, if it does.
    pub fn try_hand_over(&self, handover: Handover) -> Result<oneshot::Receiver<Answer>, Handover> {
        let mut inner = self.lock();
        if inner.parked.is_empty() {
            return Err(handover);
        }
        let (answer, answered) = oneshot::channel();
        // Noted first: the answer may come at once.
        let id = handover.id.clone();
        inner.running.insert(id.clone(), answer);
        match inner.give(handover) {
            Ok(()) => {
                if !inner.parked.is_empty() {
                    self.arrivals.notify_one();
                }
                Ok(answered)
            }
            Err(back) => {
                inner.running.remove(&id);
                Err(back)
            }
        }
    }

    /// Takes back an event that its guest has not read: another call of `next` gets it.
    pub fn take_back(&self, handover: Handover) {
        let mut inner = self.lock();
        // Nobody waits for it any more if its deadline has passed, or if it was answered after all.
        if !inner.closed
            && inner.running.get(&handover.id).is_some_and(|waiting| !waiting.is_closed())
            && let Err(handover) = inner.give(handover)
        {
            inner.returned.push_back(handover);
        }
    }

    /// Whether the guest can take the next invocation. One that runs several at a time comes back on its own time.
    pub fn has_settled(&self) -> bool {
        self.slots > 1 || !self.lock().parked.is_empty()
    }

    /// Waits until the guest is parked in `next`.
    pub async fn parked(&self) {
        while self.lock().parked.is_empty() {
            self.arrivals.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a guest that reports a failed Init may do so now.
    fn init_refusal(&self) -> Option<Reply> {
        (*self.phase.borrow() != Phase::Init).then(|| refuse_move("Ready", "InitError"))
    }

    /// The guest's Init has failed.
    fn init_failed(&self, ending: Ending) -> Reply {
        let moved = self.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Init;
            if first {
                *phase = Phase::InitFailed(ending);
            }
            first
        });
        if moved { accepted() } else { refuse_move("Ready", "InitError") }
    }

    /// The guest asks for work.
    fn next(self: &Arc<Session>) -> Next {
        let phase = self.phase.borrow().clone();
        if let Phase::InitFailed(_) = phase {
            return Next::Refused(refuse_move("InitError", "Ready"));
        }
        let receiver = {
            let mut inner = self.lock();
            if inner.closed {
                return Next::Refused(over());
            }
            inner.parked.retain(|parked| !parked.is_closed());
            if let Some(handover) = inner.returned() {
                return Next::Returned(handover);
            }
            if inner.parked.len() + inner.running.len() >= self.slots {
                // A further `next` replaces the oldest: the guest has reconnected.
                match inner.parked.pop_front() {
                    Some(replaced) => drop(replaced),
                    None => return Next::Refused(refuse_move("Running", "Ready")),
                }
            }
            let (parked, receiver) = oneshot::channel();
            inner.parked.push_back(parked);
            inner.answered = None;
            receiver
        };
        if phase == Phase::Init {
            self.phase.send_if_modified(|phase| {
                let first = *phase == Phase::Init;
                if first {
                    *phase = Phase::Ready;
                }
                first
            });
        }
        self.arrivals.notify_one();
        Next::Parked(Parked { session: self.clone(), receiver })
    }

    /// Why an answer to `id` cannot be taken now.
    fn refusal(&self, id: &str, to: &str) -> Option<Reply> {
        self.lock().refusal(id, to)
    }

    /// The guest answers `id`.
    fn answer(&self, id: &str, answer: Answer, to: &str) -> Reply {
        let mut inner = self.lock();
        // The body took time: look again.
        if let Some(refusal) = inner.refusal(id, to) {
            return refusal;
        }
        if let Some((id, waiting)) = inner.running.remove_entry(id) {
            inner.answered = Some(id);
            // Nobody waits any more if the deadline has passed.
            let _ = waiting.send(answer);
        }
        accepted()
    }
}

impl Inner {
    /// Gives an event to the oldest call of `next` that still waits.
    fn give(&mut self, mut handover: Handover) -> Result<(), Handover> {
        while let Some(parked) = self.parked.pop_front() {
            match parked.send(handover) {
                Ok(()) => return Ok(()),
                // Its connection is gone: it never saw the event and will ask again.
                Err(back) => handover = back,
            }
        }
        Err(handover)
    }

    /// An event that was taken back and that somebody still waits for.
    fn returned(&mut self) -> Option<Handover> {
        while let Some(handover) = self.returned.pop_front() {
            if self.running.get(&handover.id).is_some_and(|waiting| !waiting.is_closed()) {
                return Some(handover);
            }
        }
        None
    }

    fn refusal(&self, id: &str, to: &str) -> Option<Reply> {
        if self.running.contains_key(id) {
            return None;
        }
        match &self.answered {
            Some(answered) if **answered == *id => Some(refuse_move("InvocationResponse", to)),
            Some(_) | None => Some(refuse("400 Bad Request", "InvalidRequestID", "Invalid request ID")),
        }
    }
}

impl Handover {
    /// An invocation as a guest sees it.
    pub fn new(invocation: &Invocation, deadline_ms: u64) -> Handover {
        let (length, deadline) = (invocation.payload.len().to_string(), deadline_ms.to_string());
        let fields = [
            ("Content-Type", Some("application/json")),
            ("Content-Length", Some(length.as_str())),
            (REQUEST_ID, Some(&*invocation.id.0)),
            (DEADLINE_MS, Some(deadline.as_str())),
            (INVOKED_ARN, Some(invocation.invoked_arn.as_str())),
            (TRACE_ID, Some(invocation.trace_id.as_str())),
            (CLIENT_CONTEXT, invocation.client_context.as_deref()),
        ];
        let mut head = Vec::with_capacity(HEAD_BYTES);
        for (name, value) in fields {
            // A value that no header can hold is left out; the gateway has bounded and checked them.
            if let Some(value) = value.filter(|value| value.bytes().all(is_of_header)) {
                put(&mut head, &[name, ": ", value, "\r\n"]);
            }
        }
        put(&mut head, &["\r\n"]);
        Handover { id: invocation.id.0.clone(), head, payload: invocation.payload.clone() }
    }
}

/// What the head of an event mostly takes.
const HEAD_BYTES: usize = 448;

fn is_of_header(byte: u8) -> bool {
    (byte >= b' ' && byte != 0x7f) || byte == b'\t'
}

fn pong() -> Reply {
    Reply { status: "200 OK", content_type: None, body: b"pong".into() }
}

fn accepted() -> Reply {
    Reply { status: "202 Accepted", content_type: JSON, body: ACCEPTED.as_bytes().into() }
}

fn unknown_path() -> Reply {
    refuse("404 Not Found", "NotFound", "No such path in the Runtime API")
}

fn wrong_method() -> Reply {
    refuse("405 Method Not Allowed", "MethodNotAllowed", "Method not allowed")
}

fn too_long(message: &str) -> Reply {
    refuse("413 Payload Too Large", "RequestEntityTooLarge", message)
}

fn broken_off() -> Reply {
    refuse("400 Bad Request", "TruncatedHTTPRequest", "The request body is incomplete")
}

fn replaced() -> Reply {
    refuse("410 Gone", "Replaced", "Another call to next has taken this one's place")
}

fn over() -> Reply {
    refuse("410 Gone", "InstanceOver", "The instance is over")
}

fn refuse_move(from: &str, to: &str) -> Reply {
    let message =
        format!("State transition from {from} to {to} failed for runtime. Error: State transition is not allowed");
    refuse("403 Forbidden", "InvalidStateTransition", &message)
}

fn refuse(status: &'static str, error_type: &str, error_message: &str) -> Reply {
    // Two strings: writing them cannot fail.
    let body = serde_json::to_vec(&ErrorBody { error_type, error_message }).unwrap_or_default();
    Reply { status, content_type: JSON, body: body.into() }
}
