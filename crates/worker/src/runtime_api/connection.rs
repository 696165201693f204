//! One connection of a guest to the Runtime API: requests one after the other, also such as were sent ahead.
//!
//! What can go out together goes out in one write: a guest that sends its answer and its next call of `next` at once gets
//! the acknowledgement together with the event, if there is one by then; nothing is ever held back to wait for it.

use super::http::{Call, Coming, Head, Malformed, Manner, Reply, begin, read_head};
use super::{Handover, Next, Parked, Session, broken_off, replaced};
use crate::guest::Answer;
use crate::outcomes::Ending;
use api::runtime_api::error_type;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bytes of an Init error; more is refused.
const INIT_ERROR_BYTES_MAX: u64 = 262_144;
/// Bodies up to this size, by their own word, are read without asking.
const SMALL_BODY_BYTES: u64 = 65_536;
/// How long a body may wait for its turn. The end of its invocation's time mostly ends the instance, and this, before.
const BODY_TURN: Duration = Duration::from_secs(900);
/// What is read of a body that is not wanted, so that a guest which is still sending sees why, and for how long.
const DISCARD_BYTES_MAX: u64 = 16_777_216;
/// See [`DISCARD_BYTES_MAX`].
const DISCARD: Duration = Duration::from_secs(1);
/// How long the kernel may take to tell that a guest which has hung up did not take what it was sent.
const RESET: Duration = Duration::from_millis(100);
/// Bytes read at once: heads, and small bodies with them.
const READ_BYTES: usize = 4_096;
/// The same for bodies in chunks and those that are thrown away.
const READ_MANY_BYTES: usize = 65_536;
/// Payloads up to this size are copied behind their head; longer ones go out from where they are.
const COPIED_BYTES: usize = 16_384;

/// Serves one connection to its end.
pub async fn carry(session: Arc<Session>, stream: TcpStream) {
    // Answers are small and should not wait for more to send.
    let _ = stream.set_nodelay(true);
    let mut connection = Connection {
        session,
        stream,
        read: BytesMut::new(),
        seen: 0,
        write: Vec::new(),
        coming: Coming::NOTHING,
        lost: false,
        sent: Vec::new(),
    };
    let ended = connection.serve().await;
    connection.await_reset(ended.as_ref().err()).await;
    connection.take_back(ended.as_ref().err());
    if let Err(error) = ended {
        tracing::debug!(%error, "a guest's connection ended badly");
    }
}

struct Connection {
    session: Arc<Session>,
    stream: TcpStream,
    /// What has come and has not been looked at.
    read: BytesMut,
    /// How much of it a head was looked for in.
    seen: usize,
    /// What is to be sent.
    write: Vec<u8>,
    /// What is still to come of the body of the request in hand.
    coming: Coming,
    /// There is no telling where the next request would begin.
    lost: bool,
    /// Events that were sent, until something comes from the guest behind them. Mostly one.
    sent: Vec<Handover>,
}

/// A body, or why there is none.
enum Read {
    Whole(Bytes),
    TooLong,
    Cut,
}

impl Connection {
    async fn serve(&mut self) -> Result<()> {
        while let Some(head) = self.head().await? {
            self.coming = head.body;
            let mut manner = self.manner(&head);
            match &head.call {
                Call::Next => self.next(manner).await?,
                call => {
                    let reply = self.answer(call, &head).await?;
                    manner = self.manner(&head);
                    reply.write(&mut self.write, manner);
                }
            }
            if manner.keep_alive && self.coming != Coming::NOTHING {
                self.flush().await?;
                manner.keep_alive = self.discard().await;
            }
            if !manner.keep_alive {
                return self.end().await;
            }
        }
        Ok(())
    }

    /// How to answer: the connection stays only if what is left of the request will be read.
    fn manner(&self, head: &Head) -> Manner {
        let found = match self.coming {
            Coming::NOTHING => true,
            Coming::Exact(left) => !head.expects && left <= DISCARD_BYTES_MAX,
            Coming::Chunks(_) => !head.expects,
        };
        Manner { keep_alive: head.manner.keep_alive && found && !self.lost, ..head.manner }
    }

    /// Sends what is left to send, and no more. What the guest is still sending is read for a while: a socket that is
    /// closed with something unread takes back what the guest has not read.
    async fn end(&mut self) -> Result<()> {
        self.flush().await?;
        self.stream.shutdown().await?;
        if self.coming == Coming::NOTHING && !self.lost {
            return Ok(());
        }
        timeout(DISCARD, self.drain()).await.unwrap_or(Ok(()))
    }

    async fn drain(&mut self) -> Result<()> {
        let mut drained = 0;
        while drained <= DISCARD_BYTES_MAX {
            self.read.clear();
            self.read.reserve(READ_MANY_BYTES);
            match self.stream.read_buf(&mut self.read).await? {
                0 => break,
                got => drained += got as u64,
            }
        }
        Ok(())
    }

    /// The next request, or nothing if the guest has hung up or talks nonsense.
    async fn head(&mut self) -> Result<Option<Head>> {
        loop {
            match read_head(&self.read, self.seen) {
                Ok(Some((head, length))) => {
                    self.read.advance(length);
                    self.seen = 0;
                    return Ok(Some(head));
                }
                Ok(None) => self.seen = self.read.len(),
                Err(why) => {
                    self.lost = true;
                    nonsense(why).write(&mut self.write, Manner::LAST);
                    self.end().await?;
                    return Ok(None);
                }
            }
            if !self.write.is_empty() {
                // Whoever waits for the answer that was just taken comes first: the guest has time.
                tokio::task::yield_now().await;
                self.flush().await?;
            }
            if self.fill(READ_BYTES).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Waits for an event and sends it.
    async fn next(&mut self, manner: Manner) -> Result<()> {
        let mut parked = match self.session.next() {
            Next::Parked(parked) => parked,
            Next::Returned(handover) => return self.send(handover, manner).await,
            Next::Refused(reply) => {
                reply.write(&mut self.write, manner);
                return Ok(());
            }
        };
        if !self.write.is_empty() {
            // The call was sent ahead, behind an answer. Whoever waits for that comes first, and whoever waits for this
            // guest may then have given it an event.
            tokio::task::yield_now().await;
            if let Some(handover) = parked.taken() {
                return self.send(handover, manner).await;
            }
            self.flush().await?;
        }
        match self.wait(&mut parked).await? {
            Some(handover) => self.send(handover, manner).await,
            // The guest is being ended; it need not hear why.
            None if self.session.is_over() => Err(ErrorKind::ConnectionAborted.into()),
            None => {
                replaced().write(&mut self.write, manner);
                Ok(())
            }
        }
    }

    /// Waits for an event, or until the guest hangs up; nothing if another call of `next` has taken this one's place.
    async fn wait(&mut self, parked: &mut Parked) -> Result<Option<Handover>> {
        loop {
            self.read.reserve(READ_BYTES);
            // A guest that has sent a good deal ahead is not watched any more.
            let watched = self.read.len() < READ_BYTES;
            tokio::select! {
                biased;
                handover = parked.event() => return Ok(handover),
                read = self.stream.read_buf(&mut self.read), if watched => {
                    if read? == 0 {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
    }

    /// Sends an event, behind what else is to be sent.
    async fn send(&mut self, handover: Handover, manner: Manner) -> Result<()> {
        begin(&mut self.write, "200 OK", manner);
        self.write.extend_from_slice(&handover.head);
        // Noted first: should the write fail, another call of `next` gets the event.
        let payload = handover.payload.clone();
        self.sent.push(handover);
        if payload.len() <= COPIED_BYTES {
            self.write.extend_from_slice(&payload);
            return self.flush().await;
        }
        let sent = self.stream.write_all_buf(&mut Buf::chain(self.write.as_slice(), &payload[..])).await;
        self.write.clear();
        sent
    }

    /// A guest that had hung up before an event came has its end seen first; that the kernel then refuses the event is known
    /// a moment later, on a busy machine.
    async fn await_reset(&self, error: Option<&Error>) {
        let hung_up = error.is_none_or(|error| error.kind() == ErrorKind::UnexpectedEof);
        if hung_up && !self.sent.is_empty() {
            // Without a reset within the time, the guest has read what it was sent.
            let _ = timeout(RESET, self.stream.ready(Interest::ERROR)).await;
        }
    }

    /// An event that the guest cannot have read goes to its next call of `next`. Whether it has: a guest that closes its
    /// end with something unread, or before something came, makes the kernel reset the connection.
    fn take_back(&mut self, error: Option<&Error>) {
        let broken = error.is_some_and(|error| error.kind() != ErrorKind::UnexpectedEof);
        if !self.sent.is_empty() && (broken || !matches!(self.stream.take_error(), Ok(None))) {
            self.sent.drain(..).for_each(|handover| self.session.take_back(handover));
        }
    }

    async fn answer(&mut self, call: &Call, head: &Head) -> Result<Reply> {
        Ok(match call {
            Call::Ping => super::pong(),
            Call::Response(id) => self.response(id, head).await?,
            Call::Error(id) => self.error(id, head).await?,
            Call::InitError => self.init_error(head).await?,
            Call::WrongMethod => super::wrong_method(),
            Call::Unknown | Call::Next => super::unknown_path(),
        })
    }

    async fn response(&mut self, id: &str, head: &Head) -> Result<Reply> {
        if let Some(refusal) = self.session.refusal(id, "InvocationResponse") {
            return Ok(refusal);
        }
        let bytes_max = self.session.response_bytes_max;
        Ok(match self.body(head, bytes_max).await? {
            Read::Whole(payload) => self.session.answer(id, Answer::Success(payload), "InvocationResponse"),
            Read::TooLong => {
                let refusal = format!("Exceeded maximum allowed payload size ({bytes_max} bytes).");
                self.session.answer(id, Answer::Ended(Ending::ResponseTooLarge), "InvocationResponse");
                super::too_long(&refusal)
            }
            Read::Cut => broken_off(),
        })
    }

    async fn error(&mut self, id: &str, head: &Head) -> Result<Reply> {
        if let Some(refusal) = self.session.refusal(id, "InvocationErrorResponse") {
            return Ok(refusal);
        }
        let bytes_max = self.session.response_bytes_max;
        Ok(match self.body(head, bytes_max).await? {
            Read::Whole(payload) => {
                let ending = Ending::Reported { error_type: reported_type(head), payload };
                self.session.answer(id, Answer::Ended(ending), "InvocationErrorResponse")
            }
            Read::TooLong => {
                self.session.answer(id, Answer::Ended(Ending::ResponseTooLarge), "InvocationErrorResponse");
                super::too_long("The error is too large")
            }
            Read::Cut => broken_off(),
        })
    }

    async fn init_error(&mut self, head: &Head) -> Result<Reply> {
        if let Some(refusal) = self.session.init_refusal() {
            return Ok(refusal);
        }
        Ok(match self.body(head, INIT_ERROR_BYTES_MAX).await? {
            Read::Whole(payload) => {
                self.session.init_failed(Ending::Reported { error_type: reported_type(head), payload })
            }
            Read::TooLong => super::too_long("The error is too large"),
            Read::Cut => broken_off(),
        })
    }

    /// Reads the body of the request in hand.
    async fn body(&mut self, head: &Head, bytes_max: u64) -> Result<Read> {
        if let Coming::Exact(bytes) = self.coming
            && bytes <= bytes_max
            && bytes <= self.read.len() as u64
        {
            self.coming = Coming::NOTHING;
            let body = Bytes::copy_from_slice(&self.read[..bytes as usize]);
            self.read.advance(bytes as usize);
            return Ok(Read::Whole(body));
        }
        if matches!(self.coming, Coming::Exact(bytes) if bytes > bytes_max) {
            return Ok(Read::TooLong);
        }
        self.flush().await?;
        let session = self.session.clone();
        let large = !matches!(self.coming, Coming::Exact(bytes) if bytes <= SMALL_BODY_BYTES);
        let turns = async {
            // Neither semaphore is ever closed.
            let turn = if large { session.large_body.acquire().await.ok() } else { None };
            (turn, if large { session.large_bodies.acquire().await.ok() } else { None })
        };
        // That others are slow is not for this guest to answer for: its own time begins with its turn.
        let turns = timeout(BODY_TURN, turns).await;
        let read = match turns {
            Ok(_) => timeout(session.body_read, self.read_body(head, bytes_max)).await.unwrap_or(Ok(Read::Cut)),
            Err(_) => Ok(Read::Cut),
        };
        // Whether it broke or took too long: the guest may still hear of it.
        let read = read.unwrap_or(Read::Cut);
        self.lost = matches!(read, Read::Cut);
        Ok(read)
    }

    async fn read_body(&mut self, head: &Head, bytes_max: u64) -> Result<Read> {
        if head.expects {
            self.write.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.flush().await?;
        }
        match self.coming {
            Coming::Exact(bytes) => self.whole(bytes).await,
            Coming::Chunks(_) => self.chunks(bytes_max).await,
        }
    }

    /// A body of known length, read to where it stays.
    async fn whole(&mut self, bytes: u64) -> Result<Read> {
        let mut body = BytesMut::with_capacity(bytes as usize);
        let mut left = bytes;
        loop {
            let now = left.min(self.read.len() as u64) as usize;
            body.extend_from_slice(&self.read[..now]);
            self.read.advance(now);
            left -= now as u64;
            self.coming = Coming::Exact(left);
            if left == 0 {
                return Ok(Read::Whole(body.freeze()));
            }
            let got = self.stream.read_buf(&mut (&mut body).limit(left as usize)).await?;
            if got == 0 {
                return Ok(Read::Cut);
            }
            self.sent.clear();
            left -= got as u64;
            self.coming = Coming::Exact(left);
        }
    }

    async fn chunks(&mut self, bytes_max: u64) -> Result<Read> {
        let mut body = BytesMut::new();
        loop {
            let Coming::Chunks(mut chunks) = self.coming else { return Ok(Read::Cut) };
            let taken = chunks.take(&mut self.read, |bytes| body.extend_from_slice(bytes));
            self.coming = Coming::Chunks(chunks);
            match taken {
                Ok(true) => self.coming = Coming::NOTHING,
                Ok(false) => {}
                Err(_) => return Ok(Read::Cut),
            }
            if body.len() as u64 > bytes_max {
                return Ok(Read::TooLong);
            }
            if self.coming == Coming::NOTHING {
                self.slim();
                return Ok(Read::Whole(body.freeze()));
            }
            if self.fill(READ_MANY_BYTES).await? == 0 {
                return Ok(Read::Cut);
            }
        }
    }

    /// Reads and throws away what is left of a body, within bounds. `true` if the next request comes behind it.
    async fn discard(&mut self) -> bool {
        let discarded = timeout(DISCARD, self.discard_all()).await;
        self.slim();
        matches!(discarded, Ok(Ok(())))
    }

    async fn discard_all(&mut self) -> Result<()> {
        let mut discarded = 0;
        loop {
            match &mut self.coming {
                Coming::Exact(left) => {
                    let now = (*left).min(self.read.len() as u64);
                    self.read.advance(now as usize);
                    *left -= now;
                }
                Coming::Chunks(chunks) => {
                    if chunks.take(&mut self.read, |_| {}).map_err(|_| ErrorKind::InvalidData)? {
                        self.coming = Coming::NOTHING;
                    }
                }
            }
            if self.coming == Coming::NOTHING {
                return Ok(());
            }
            if discarded > DISCARD_BYTES_MAX {
                return Err(ErrorKind::InvalidData.into());
            }
            match self.fill(READ_MANY_BYTES).await? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                got => discarded += got as u64,
            }
        }
    }

    /// Reads what has come, up to so many bytes; 0 when the guest sends no more.
    async fn fill(&mut self, bytes: usize) -> Result<usize> {
        self.read.reserve(bytes);
        let got = self.stream.read_buf(&mut self.read).await?;
        if got > 0 {
            self.sent.clear();
        }
        Ok(got)
    }

    async fn flush(&mut self) -> Result<()> {
        if !self.write.is_empty() {
            self.stream.write_all(&self.write).await?;
            self.write.clear();
        }
        Ok(())
    }

    /// Gives back memory that only a large body needed.
    fn slim(&mut self) {
        if self.read.capacity() > 2 * READ_BYTES && self.read.len() <= READ_BYTES {
            self.read = BytesMut::from(&self.read[..]);
        }
    }
}

fn reported_type(head: &Head) -> String {
    error_type(head.error_type.as_deref().unwrap_or_default()).to_owned()
}

fn nonsense(why: Malformed) -> Reply {
    let status = match why {
        Malformed::TooLong => "431 Request Header Fields Too Large",
        Malformed::Nonsense => "400 Bad Request",
    };
    Reply { status, content_type: None, body: Default::default() }
}
