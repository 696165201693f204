//! The worker's end of the channel to a managed runtime's shim.

use api::channel::{Answer, FrameError, Invoke, Kind, PREFIX_BYTES, read_answer, read_prefix, write_invoke};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// A channel to one guest. One exchange at a time.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    incoming: BytesMut,
    body_bytes_max: usize,
}

/// A frame from the guest.
#[derive(Debug)]
pub struct Frame {
    /// What it says.
    pub kind: Kind,
    /// Its header.
    pub answer: Answer,
    /// Its payload.
    pub body: Bytes,
}

/// Why no frame came.
#[derive(Debug, PartialEq, Eq)]
pub enum Broken {
    /// The guest closed its end: it has exited or is about to.
    Closed,
    /// What came is not a frame.
    Garbage,
}

impl From<FrameError> for Broken {
    fn from(_: FrameError) -> Broken {
        Broken::Garbage
    }
}

/// Payloads up to this size travel in the same write as their header.
const JOINED_BYTES_MAX: usize = 65_536;
/// Bytes read ahead; most answers fit.
const READ_BYTES: usize = 8_192;

impl Channel {
    /// Takes a connected socket; frames with longer bodies break the channel.
    pub fn new(stream: UnixStream, body_bytes_max: usize) -> Channel {
        Channel { stream, incoming: BytesMut::new(), body_bytes_max }
    }

    /// Sends an invocation.
    pub async fn send(&mut self, invoke: &Invoke<'_>, payload: &[u8]) -> Result<(), Broken> {
        let mut frame = write_invoke(invoke, payload.len());
        let joined = payload.len() <= JOINED_BYTES_MAX;
        if joined {
            frame.extend_from_slice(payload);
        }
        self.stream.write_all(&frame).await.map_err(|_| Broken::Closed)?;
        if !joined {
            self.stream.write_all(payload).await.map_err(|_| Broken::Closed)?;
        }
        Ok(())
    }

    /// Waits for the next frame.
    pub async fn receive(&mut self) -> Result<Frame, Broken> {
        self.fill(PREFIX_BYTES).await?;
        let mut prefix = [0; PREFIX_BYTES];
        prefix.copy_from_slice(&self.incoming[..PREFIX_BYTES]);
        let prefix = read_prefix(&prefix, self.body_bytes_max)?;
        self.fill(PREFIX_BYTES + prefix.header_bytes + prefix.body_bytes).await?;
        let header = self.incoming.split_to(PREFIX_BYTES + prefix.header_bytes);
        let answer = read_answer(&header[PREFIX_BYTES..])?;
        let body = self.incoming.split_to(prefix.body_bytes).freeze();
        Ok(Frame { kind: prefix.kind, answer, body })
    }

    /// Reads until at least `bytes` are there.
    async fn fill(&mut self, bytes: usize) -> Result<(), Broken> {
        if self.incoming.len() >= bytes {
            return Ok(());
        }
        self.incoming.reserve((bytes - self.incoming.len()).max(READ_BYTES));
        while self.incoming.len() < bytes {
            match self.stream.read_buf(&mut self.incoming).await {
                Ok(0) | Err(_) => return Err(Broken::Closed),
                Ok(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, header: &str, body: &str) -> Vec<u8> {
        let mut bytes = ((PREFIX_BYTES - 4 + header.len() + body.len()) as u32).to_le_bytes().to_vec();
        bytes.push(kind);
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend(header.bytes());
        bytes.extend(body.bytes());
        bytes
    }

    async fn receive(sent: &[u8]) -> Result<Frame, Broken> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(sent).await.unwrap();
        drop(theirs);
        Channel::new(ours, 1_000).receive().await
    }

    #[tokio::test]
    async fn frames_and_garbage() {
        let got = receive(&frame(3, r#"{"id":"a"}"#, "[1]")).await.unwrap();
        assert_eq!((got.kind, got.answer.id.as_str(), &got.body[..]), (Kind::Response, "a", &b"[1]"[..]));
        assert_eq!(receive(b"").await.unwrap_err(), Broken::Closed);
        assert_eq!(receive(&frame(3, "{}", "x")[..10]).await.unwrap_err(), Broken::Closed);
        assert_eq!(receive(&frame(77, "{}", "")).await.unwrap_err(), Broken::Garbage);
        assert_eq!(receive(&frame(3, "nonsense", "")).await.unwrap_err(), Broken::Garbage);
        assert_eq!(receive(&[0xff; 64]).await.unwrap_err(), Broken::Garbage);
        assert_eq!(receive(&frame(3, "{}", &"x".repeat(1_001))).await.unwrap_err(), Broken::Garbage);
    }

    #[tokio::test]
    async fn two_frames_in_one_read() {
        let mut both = frame(2, "{}", "");
        both.extend(frame(4, r#"{"id":"b","type":"T"}"#, "{}"));
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&both).await.unwrap();
        let mut channel = Channel::new(ours, 1_000);
        assert_eq!(channel.receive().await.unwrap().kind, Kind::Ready);
        assert_eq!(channel.receive().await.unwrap().answer.error_type, "T");
    }
}
