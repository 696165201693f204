//! How long a client may be silent: little while it sends the head of a request, longer between two requests.
//!
//! hyper has one clock for both, so a connection is watched from outside: by the bytes that pass and by the requests
//! that reach the service. Only HTTP/1 is watched behind the first request; of HTTP/2, hyper asks by itself whether the
//! other side lives.

use model::Limits;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// One connection's clock. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    head: Duration,
    idle: Duration,
    /// Requests that the service has and has not answered yet.
    in_service: usize,
    /// The last time something ended: an answer, or a piece of one on its way out.
    quiet_since: Instant,
    /// When the first byte of a request's head came that the service does not have yet.
    head_since: Option<Instant>,
    /// There has been a request.
    spoken: bool,
    /// HTTP/2 has been spoken.
    multiplexed: bool,
}

impl State {
    /// When the client's time is over.
    fn deadline(&self) -> Option<Instant> {
        if self.in_service > 0 || self.multiplexed {
            return None;
        }
        Some(self.head_since.map_or(self.quiet_since + self.idle, |since| since + self.head))
    }
}

impl Clock {
    /// The clock of a connection that has just been made. Its client owes the first head.
    pub fn new(limits: &Limits) -> Clock {
        let now = Instant::now();
        Clock(Arc::new(Mutex::new(State {
            head: Duration::from_millis(limits.header_read_ms),
            idle: Duration::from_millis(limits.idle_connection_ms),
            in_service: 0,
            quiet_since: now,
            head_since: Some(now),
            spoken: false,
            multiplexed: false,
        })))
    }

    /// A request has reached the service, which has it until the guard is dropped.
    pub fn request(&self, multiplexed: bool) -> InService {
        let mut state = self.lock();
        state.in_service += 1;
        state.head_since = None;
        state.spoken = true;
        state.multiplexed |= multiplexed;
        InService(self.clone())
    }

    /// Ready when the client has been silent for too long. To be polled behind the connection, in the same task:
    /// whatever moves the clock happens there.
    pub async fn ran_out(&self) {
        let mut sleep = pin!(sleep_until(Instant::now()));
        poll_fn(|cx| {
            loop {
                let Some(deadline) = self.lock().deadline() else { return Poll::Pending };
                if sleep.deadline() != deadline {
                    sleep.as_mut().reset(deadline);
                }
                ready!(sleep.as_mut().poll(cx));
                if Instant::now() >= deadline {
                    return Poll::Ready(());
                }
            }
        })
        .await;
    }

    fn came(&self) {
        let mut state = self.lock();
        if state.in_service == 0 && state.head_since.is_none() {
            state.head_since = Some(Instant::now());
        }
    }

    fn went(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        state.quiet_since = now;
        // What has come of the next head is not read before this answer is out. Before the first head nothing that is
        // written counts: it only greets.
        if state.spoken {
            state.head_since = state.head_since.map(|_| now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that the service has.
#[derive(Debug)]
pub struct InService(Clock);

impl Drop for InService {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = self.0.lock();
        state.in_service -= 1;
        state.quiet_since = now;
    }
}

/// A connection whose bytes move its clock.
#[derive(Debug)]
pub struct Watched {
    stream: TcpStream,
    clock: Clock,
}

impl Watched {
    /// Watches a connection.
    pub fn new(stream: TcpStream, clock: Clock) -> Watched {
        Watched { stream, clock }
    }

    fn wrote(&self, result: io::Result<usize>) -> Poll<io::Result<usize>> {
        if matches!(result, Ok(bytes) if bytes > 0) {
            self.clock.went();
        }
        Poll::Ready(result)
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if buffer.filled().len() > before {
            self.clock.came();
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices));
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
