//! The instances that the launcher knows: from the request to start one to the word that it is gone.

use crate::budget::Room;
use crate::guest::Exit;
use api::launcher::{InstanceKind, MemorySource, Request, Start};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot, watch};

/// All launches. Only starts and ends come here.
#[derive(Clone)]
pub struct Launches {
    outgoing: mpsc::UnboundedSender<Request>,
    links: Arc<Mutex<HashMap<u64, Link>>>,
}

/// The waiting ends of one launch.
struct Link {
    started: Option<oneshot::Sender<Result<Started, StartFailed>>>,
    exit: watch::Sender<Option<Exit>>,
    /// Given back when the launcher has said its last word on the instance.
    _room: Arc<Room>,
}

/// A sandbox whose guest runs.
pub struct Started {
    /// How its memory is read.
    pub memory: MemorySource,
    /// What came beside the message.
    pub files: Vec<OwnedFd>,
    /// Whether the guest waits for the frame that brings its function.
    pub waits: bool,
}

/// The launcher could not make a sandbox.
pub struct StartFailed {
    /// The step.
    pub stage: String,
    /// For people.
    pub message: String,
}

/// One launch; ends the instance when dropped, unless [`Launch::keep`] handed it on.
pub struct Launch {
    launches: Launches,
    id: u64,
    exit: watch::Receiver<Option<Exit>>,
    kept: bool,
}

impl Launches {
    /// Nothing is launched.
    pub fn new(outgoing: mpsc::UnboundedSender<Request>) -> Launches {
        Launches { outgoing, links: Arc::default() }
    }

    /// Asks for an instance; the answer comes through the receiver.
    pub fn launch(&self, start: Start, room: Arc<Room>) -> (Launch, oneshot::Receiver<Result<Started, StartFailed>>) {
        let id = start.instance;
        let (started, receiver) = oneshot::channel();
        let (exit, exit_seen) = watch::channel(None);
        self.lock().insert(id, Link { started: Some(started), exit, _room: room });
        self.send(Request::Start(start));
        (Launch { launches: self.clone(), id, exit: exit_seen, kept: false }, receiver)
    }

    /// Says which kinds of instances are likely to be wanted.
    pub fn expect(&self, kinds: Vec<InstanceKind>) {
        self.send(Request::Expect { kinds });
    }

    /// Says that an instance's Init is over.
    pub fn settle(&self, id: u64) {
        self.send(Request::Settle { instance: id });
    }

    /// Lets no process of an instance run, or lets them run again. Requests are obeyed in order, so an invocation that
    /// is sent after the thaw finds a guest that will read it.
    pub fn freeze(&self, id: u64, frozen: bool) {
        let instance = id;
        let request = if frozen { Request::Freeze { instance } } else { Request::Thaw { instance } };
        self.send(request);
    }

    /// Ends an instance at once; nothing if it has ended.
    pub fn kill(&self, id: u64) {
        if self.lock().contains_key(&id) {
            self.send(Request::Stop { instance: id, grace_ms: 0 });
        }
    }

    /// The launcher's word that an instance runs.
    pub fn started(&self, id: u64, started: Started) {
        let waiting = self.lock().get_mut(&id).and_then(|link| link.started.take());
        if let Some(waiting) = waiting {
            // Nobody waits any more: the dropped `Launch` has ordered the stop.
            let _ = waiting.send(Ok(started));
        }
    }

    /// The launcher's word that there is no instance.
    pub fn start_failed(&self, id: u64, stage: String, message: String) {
        if let Some(waiting) = self.lock().remove(&id).and_then(|link| link.started) {
            let _ = waiting.send(Err(StartFailed { stage, message }));
        }
    }

    /// The launcher's word that an instance has ended.
    pub fn exited(&self, id: u64, exit: Exit) {
        if let Some(link) = self.lock().remove(&id) {
            link.exit.send_replace(Some(exit));
        }
    }

    /// The launcher itself is gone: every wait ends.
    pub fn all_gone(&self) {
        self.lock().clear();
    }

    fn send(&self, request: Request) {
        // The receiver ends with the service; then nothing is to be sent any more.
        let _ = self.outgoing.send(request);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Launch {
    /// How the instance ends, once it has.
    pub fn exit(&self) -> watch::Receiver<Option<Exit>> {
        self.exit.clone()
    }

    /// The instance lives on; its id for the launcher.
    pub fn keep(mut self) -> u64 {
        self.kept = true;
        self.id
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        if !self.kept {
            self.launches.kill(self.id);
        }
    }
}
