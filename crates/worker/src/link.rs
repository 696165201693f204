//! The channel to an instance past its Init: several invocations may be under way on it at a time. Each waits for its
//! own answer; one task reads for all of them, and no lock is held from question to answer.

use crate::channel::{Broken, Channel, Frame, Incoming, Outgoing};
use crate::guest::{Answer, Exit, exited};
use crate::logs::InstanceLog;
use crate::outcomes::Ending;
use api::channel::{Invoke, Kind};
use model::invocation::Invocation;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Mutex as AsyncMutex, oneshot, watch};
use tokio::task::JoinHandle;

/// The daemon's end. Dropping it closes the channel.
pub struct Link {
    exchanges: Arc<Mutex<Exchanges>>,
    /// Held for one write.
    outgoing: AsyncMutex<Outgoing>,
    reader: JoinHandle<()>,
}

/// Who waits for what.
#[derive(Default)]
struct Exchanges {
    /// By request id. Whoever has given up stays until its answer comes, which is then known not to be garbage.
    waiting: HashMap<Arc<str>, oneshot::Sender<Answer>>,
    /// Nothing will come any more.
    over: bool,
}

impl Link {
    /// Starts to read. Must be called inside the async runtime.
    pub fn new(channel: Channel, log: Arc<InstanceLog>, exit: watch::Receiver<Option<Exit>>) -> Link {
        let (incoming, outgoing) = channel.split();
        let exchanges = Arc::new(Mutex::new(Exchanges::default()));
        let reader = tokio::spawn(read(incoming, exchanges.clone(), log, exit));
        Link { exchanges, outgoing: AsyncMutex::new(outgoing), reader }
    }

    /// Runs one invocation and waits for its answer; the caller bounds the time.
    pub async fn exchange(&self, invocation: &Invocation, deadline_ms: u64) -> Answer {
        let (sender, answer) = oneshot::channel();
        {
            let mut exchanges = lock(&self.exchanges);
            if exchanges.over || exchanges.waiting.contains_key(&invocation.id.0) {
                return Answer::NotTaken;
            }
            exchanges.waiting.insert(invocation.id.0.clone(), sender);
        }
        let invoke = Invoke {
            id: &invocation.id.0,
            deadline_ms,
            arn: &invocation.invoked_arn,
            trace_id: &invocation.trace_id,
            client_context: invocation.client_context.as_deref(),
            cognito: None,
        };
        if self.outgoing.lock().await.send(&invoke, &invocation.payload).await.is_err() {
            lock(&self.exchanges).waiting.remove(&invocation.id.0);
            return Answer::NotTaken;
        }
        // The reader answers everybody before it ends; it can only be cut off with this link.
        answer.await.unwrap_or(Answer::Ended(Ending::ProtocolBroken))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn lock(exchanges: &Mutex<Exchanges>) -> MutexGuard<'_, Exchanges> {
    exchanges.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands each answer to whom it belongs, until the guest is gone or talks nonsense; then everybody learns of that.
async fn read(
    mut incoming: Incoming,
    exchanges: Arc<Mutex<Exchanges>>,
    log: Arc<InstanceLog>,
    exit: watch::Receiver<Option<Exit>>,
) {
    let broken = loop {
        match incoming.receive().await {
            Ok(frame) => {
                if let Err(broken) = take(frame, &exchanges, &log) {
                    break broken;
                }
            }
            Err(broken) => break broken,
        }
    };
    let ending = match broken {
        Broken::Garbage => Ending::ProtocolBroken,
        Broken::Closed => exited(&exit).await,
    };
    let waiting = {
        let mut exchanges = lock(&exchanges);
        exchanges.over = true;
        std::mem::take(&mut exchanges.waiting)
    };
    for (_, waiter) in waiting {
        // Whoever has given up does not hear it.
        let _ = waiter.send(Answer::Ended(ending.clone()));
    }
}

fn take(frame: Frame, exchanges: &Mutex<Exchanges>, log: &InstanceLog) -> Result<(), Broken> {
    let answer = match frame.kind {
        Kind::Log => {
            log.of_invocation(&frame.answer.id, &frame.body);
            return Ok(());
        }
        Kind::Response => Answer::Success(frame.body),
        Kind::Error => {
            let ending = Ending::Reported { error_type: frame.answer.error_type, payload: frame.body };
            if frame.answer.exiting { Answer::Last(ending) } else { Answer::Ended(ending) }
        }
        Kind::Invoke | Kind::Ready | Kind::InitError | Kind::Assign => return Err(Broken::Garbage),
    };
    let waiter = lock(exchanges).waiting.remove(frame.answer.id.as_str()).ok_or(Broken::Garbage)?;
    // The waiter may have given up: its time was over.
    let _ = waiter.send(answer);
    Ok(())
}
