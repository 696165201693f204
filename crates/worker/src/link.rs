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
    let waiting = {
        let mut exchanges = lock(&exchanges);
        exchanges.over = true;
        std::mem::take(&mut exchanges.waiting)
    };
    let ending = match broken {
        Broken::Garbage => Ending::ProtocolBroken,
        Broken::Closed => exited(&exit).await,
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
        Kind::Invoke | Kind::Ready | Kind::InitError | Kind::Assign | Kind::Image | Kind::Restore => {
            return Err(Broken::Garbage);
        }
    };
    let waiter = lock(exchanges).waiting.remove(frame.answer.id.as_str()).ok_or(Broken::Garbage)?;
    // The waiter may have given up: its time was over.
    let _ = waiter.send(answer);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::channel::PREFIX_BYTES;
    use bytes::Bytes;
    use model::function::Network;
    use model::{
        AccountId, Digest, FunctionArn, FunctionName, Generation, InvocationId, Limits, Region, Runtime, Spec,
    };
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    fn spec() -> Arc<Spec> {
        Arc::new(Spec {
            arn: FunctionArn {
                region: Region::parse("us-east-1").unwrap(),
                account: AccountId::parse("000000000000").unwrap(),
                name: FunctionName::parse("f").unwrap(),
                qualifier: None,
            },
            version: model::Version::Latest,
            generation: Generation(1),
            runtime: Runtime("python3.12".into()),
            handler: "a.b".into(),
            timeout_ms: 3_000,
            memory_mb: 128,
            ephemeral_mb: 512,
            environment: Default::default(),
            package: Digest([0; 32]),
            network: Network::None,
            instance_concurrency: 8,
            log_group: String::new(),
            snap_start: false,
        })
    }

    fn invocation(id: &str) -> Invocation {
        Invocation {
            id: InvocationId(id.into()),
            spec: spec(),
            invoked_arn: String::new(),
            payload: Bytes::from_static(b"{}"),
            client_context: None,
            trace_id: String::new(),
            queued_us: 0,
        }
    }

    /// A link, the guest's end of it, and how its exit is told.
    fn link() -> (Arc<Link>, UnixStream, watch::Sender<Option<Exit>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, _) = std::io::pipe().unwrap();
        let log = InstanceLog::new(reader, "s".into(), &spec(), &Limits::default(), Arc::new(|_| ())).unwrap();
        let (exit, exit_seen) = watch::channel(None);
        (Arc::new(Link::new(Channel::new(ours, 1_000), log, exit_seen)), theirs, exit)
    }

    fn frame(kind: u8, id: &str, body: &str) -> Vec<u8> {
        let header = format!(r#"{{"id":"{id}"}}"#);
        let mut bytes = ((PREFIX_BYTES - 4 + header.len() + body.len()) as u32).to_le_bytes().to_vec();
        bytes.push(kind);
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend(header.bytes());
        bytes.extend(body.bytes());
        bytes
    }

    /// Sends `a`, `b` and `c`, has the guest say `frames`, and gives what the three get, in order.
    async fn answers(frames: &[Vec<u8>]) -> [String; 3] {
        let (link, mut guest, exit) = link();
        let asked = ["a", "b", "c"].map(|id| {
            let link = link.clone();
            tokio::spawn(async move { link.exchange(&invocation(id), 0).await })
        });
        while lock(&link.exchanges).waiting.len() < 3 {
            tokio::task::yield_now().await;
        }
        guest.write_all(&frames.concat()).await.unwrap();
        drop(guest);
        exit.send_replace(Some(Exit { status: None, out_of_memory: false, memory_peak_bytes: None }));
        let mut got = Vec::new();
        for one in asked {
            got.push(match one.await.unwrap() {
                Answer::Success(payload) => String::from_utf8_lossy(&payload).into_owned(),
                Answer::Ended(ending) | Answer::Last(ending) => ending.error_type().to_owned(),
                Answer::NotTaken => "not taken".to_owned(),
            });
        }
        assert!(matches!(link.exchange(&invocation("late"), 0).await, Answer::NotTaken));
        got.try_into().unwrap()
    }

    #[tokio::test]
    async fn answers_in_any_order() {
        let frames = [frame(3, "c", "3"), frame(7, "b", "a line"), frame(3, "a", "1"), frame(3, "b", "2")];
        assert_eq!(answers(&frames).await, ["1", "2", "3"]);
    }

    #[tokio::test]
    async fn the_guest_ends_in_the_middle() {
        assert_eq!(answers(&[frame(3, "b", "2")]).await, ["Runtime.ExitError", "2", "Runtime.ExitError"]);
    }

    #[tokio::test]
    async fn nonsense_ends_all_that_wait() {
        let broken = "Runtime.ProtocolError";
        for nonsense in
            [frame(3, "never", "0"), frame(3, "b", "9"), frame(2, "", ""), frame(99, "a", "1"), vec![255; 64]]
        {
            assert_eq!(answers(&[frame(3, "b", "2"), nonsense]).await, [broken, "2", broken]);
        }
    }

    #[tokio::test]
    async fn lines_of_strangers_break_nothing() {
        let frames =
            [frame(7, "never", "x"), frame(3, "a", "1"), frame(7, "a", "y"), frame(3, "b", "2"), frame(3, "c", "3")];
        assert_eq!(answers(&frames).await, ["1", "2", "3"]);
    }

    #[tokio::test]
    async fn a_late_answer_to_one_who_has_given_up_is_no_nonsense() {
        let (link, mut guest, _exit) = link();
        let patience = std::time::Duration::from_millis(1);
        assert!(tokio::time::timeout(patience, link.exchange(&invocation("a"), 0)).await.is_err());
        guest.write_all(&frame(3, "a", "1")).await.unwrap();
        guest.write_all(&frame(3, "b", "2")).await.unwrap();
        // `b` was never sent: only that is nonsense.
        while !lock(&link.exchanges).over {
            tokio::task::yield_now().await;
        }
        assert!(lock(&link.exchanges).waiting.is_empty());
    }
}
