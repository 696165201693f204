//! Bodies: reading a request's within bounds of bytes and time, and sending a file as an answer.

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Bytes of a file read at once.
const CHUNK_BYTES: usize = 65_536;
/// What is read of a refused body beyond its limit. A client that is still sending would otherwise see its connection
/// reset instead of the refusal.
const DISCARD_BYTES_MAX: u64 = 100_000_000;
/// The most that is set aside at once for a body because of what its header claims: an invocation's whole payload, so that
/// it is not moved while it grows. Whoever reads a body has been given room for all of it before.
const RESERVE_BYTES_MAX: usize = 8_388_608;

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// More bytes than allowed; the rest was read and thrown away, as far as that is reasonable.
    #[error("the body is too large")]
    TooLarge,
    /// The client took too long.
    #[error("the body did not arrive in time")]
    Slow,
    /// The connection broke.
    #[error("the body ended early")]
    Broken,
}

/// Reads a body of at most `bytes_max` bytes that arrives within `time`.
pub async fn read(body: Incoming, bytes_max: u64, time: Duration) -> Result<Bytes, ReadError> {
    tokio::time::timeout(time, collect(body, bytes_max)).await.unwrap_or(Err(ReadError::Slow))
}

async fn collect(mut body: Incoming, bytes_max: u64) -> Result<Bytes, ReadError> {
    let claimed = body.size_hint().lower();
    if claimed > bytes_max {
        discard(&mut body).await;
        return Err(ReadError::TooLarge);
    }
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| ReadError::Broken)?.into_data() else { continue };
        let so_far = first.as_ref().map_or(all.len(), Bytes::len);
        if (so_far + data.len()) as u64 > bytes_max {
            discard(&mut body).await;
            return Err(ReadError::TooLarge);
        }
        match (first.take(), all.is_empty()) {
            // Most bodies come in one piece and are not copied.
            (None, true) => first = Some(data),
            (Some(earlier), _) => {
                all.reserve((claimed as usize).min(RESERVE_BYTES_MAX).max(earlier.len() + data.len()));
                all.extend_from_slice(&earlier);
                all.extend_from_slice(&data);
            }
            (None, false) => all.extend_from_slice(&data),
        }
    }
    Ok(first.unwrap_or_else(|| all.freeze()))
}

/// Reads and throws away a refused request's body, within bounds.
pub async fn discard_within(mut body: Incoming, time: Duration) {
    // Whatever could not be read, the answer goes out now.
    let _ = tokio::time::timeout(time, discard(&mut body)).await;
}

async fn discard(body: &mut Incoming) {
    let mut bytes = 0;
    while bytes < DISCARD_BYTES_MAX {
        match body.frame().await {
            Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) | None => return,
        }
    }
}

/// An answer's body.
pub enum Answer {
    /// In memory.
    Full(Full<Bytes>),
    /// From the disk.
    File(FileBody),
}

impl From<Bytes> for Answer {
    fn from(bytes: Bytes) -> Answer {
        Answer::Full(Full::new(bytes))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Answer::Full(full) => Pin::new(full).poll_frame(cx).map_err(|never| match never {}),
            Answer::File(file) => Pin::new(file).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Full(full) => full.is_end_stream(),
            Answer::File(file) => file.remaining_bytes == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Full(full) => full.size_hint(),
            Answer::File(file) => SizeHint::with_exact(file.remaining_bytes),
        }
    }
}

/// A file on its way to a client, one chunk at a time. A client that stops reading holds no thread.
pub struct FileBody {
    state: FileState,
    remaining_bytes: u64,
}

enum FileState {
    Idle(Option<File>),
    Reading(JoinHandle<(File, io::Result<Bytes>)>),
}

impl FileBody {
    /// The next `size_bytes` bytes of a file.
    pub fn new(file: File, size_bytes: u64) -> FileBody {
        FileBody { state: FileState::Idle(Some(file)), remaining_bytes: size_bytes }
    }

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.remaining_bytes == 0 {
            return Poll::Ready(None);
        }
        let want = self.remaining_bytes.min(CHUNK_BYTES as u64) as usize;
        if let FileState::Idle(file) = &mut self.state {
            let Some(file) = file.take() else { return Poll::Ready(None) };
            self.state = FileState::Reading(tokio::task::spawn_blocking(move || read_chunk(file, want)));
        }
        let FileState::Reading(reading) = &mut self.state else { return Poll::Ready(None) };
        let read = ready!(Pin::new(reading).poll(cx));
        self.state = FileState::Idle(None);
        match read {
            Ok((file, Ok(chunk))) => {
                self.remaining_bytes -= chunk.len() as u64;
                self.state = FileState::Idle(Some(file));
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            Ok((_, Err(error))) => Poll::Ready(Some(Err(error))),
            Err(cut_off) => Poll::Ready(Some(Err(io::Error::other(cut_off)))),
        }
    }
}

/// `want` bytes; a file that is shorter than promised is an error.
fn read_chunk(mut file: File, want: usize) -> (File, io::Result<Bytes>) {
    let mut chunk = vec![0; want];
    let result = file.read_exact(&mut chunk).map(|()| Bytes::from(chunk));
    (file, result)
}
