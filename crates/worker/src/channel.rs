//! The worker's end of the channel to a managed runtime's shim.

use api::channel::write_restore;
use api::channel::{
    Answer, Assign, FrameError, Invoke, Kind, PREFIX_BYTES, read_answer, read_prefix, write_assign, write_invoke,
};
use bytes::{Buf, Bytes, BytesMut};
use std::os::fd::{AsFd, BorrowedFd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// A channel to one guest.
#[derive(Debug)]
pub struct Channel {
    incoming: Incoming,
    outgoing: Outgoing,
}

/// What comes from the guest.
#[derive(Debug)]
pub struct Incoming {
    stream: OwnedReadHalf,
    bytes: BytesMut,
    body_bytes_max: usize,
}

/// What goes to the guest.
#[derive(Debug)]
pub struct Outgoing {
    stream: OwnedWriteHalf,
    /// A frame was begun and not ended: the guest could make no sense of a further one.
    torn: bool,
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

/// Bytes read ahead; most answers fit.
const READ_BYTES: usize = 8_192;

impl Channel {
    /// Takes a connected socket; frames with longer bodies break the channel.
    pub fn new(stream: UnixStream, body_bytes_max: usize) -> Channel {
        let (incoming, outgoing) = stream.into_split();
        Channel {
            incoming: Incoming { stream: incoming, bytes: BytesMut::new(), body_bytes_max },
            outgoing: Outgoing { stream: outgoing, torn: false },
        }
    }

    /// Tells a guest that waits what its function is.
    pub async fn assign(&mut self, assign: &Assign<'_>) -> Result<(), Broken> {
        self.outgoing.stream.write_all(&write_assign(assign)).await.map_err(|_| Broken::Closed)
    }

    /// Tells a guest that waits to become the image in a file. The first frame of all: its buffer is empty.
    pub async fn restore(&mut self, image: BorrowedFd<'_>) -> Result<(), Broken> {
        let stream: &UnixStream = self.outgoing.stream.as_ref();
        stream.writable().await.map_err(|_| Broken::Closed)?;
        let send = || sandbox::wire::send_bytes(stream.as_fd(), &write_restore(), &[image]);
        stream.try_io(tokio::io::Interest::WRITABLE, send).map_err(|_| Broken::Closed)
    }

    /// Waits for the next frame.
    pub async fn receive(&mut self) -> Result<Frame, Broken> {
        self.incoming.receive().await
    }

    /// From now on both ways are used on their own.
    pub fn split(self) -> (Incoming, Outgoing) {
        (self.incoming, self.outgoing)
    }
}

impl Outgoing {
    /// Sends an invocation. Whoever gives up in the middle leaves the channel useless for others.
    pub async fn send(&mut self, invoke: &Invoke<'_>, payload: &[u8]) -> Result<(), Broken> {
        if self.torn {
            return Err(Broken::Closed);
        }
        self.torn = true;
        let head = write_invoke(invoke, payload.len());
        // One write, and no copy of the payload.
        let sent = self.stream.write_all_buf(&mut Buf::chain(head.as_slice(), payload)).await;
        self.torn = sent.is_err();
        sent.map_err(|_| Broken::Closed)
    }
}

impl Incoming {
    /// Waits for the next frame.
    pub async fn receive(&mut self) -> Result<Frame, Broken> {
        self.fill(PREFIX_BYTES).await?;
        let mut prefix = [0; PREFIX_BYTES];
        prefix.copy_from_slice(&self.bytes[..PREFIX_BYTES]);
        let prefix = read_prefix(&prefix, self.body_bytes_max)?;
        self.fill(PREFIX_BYTES + prefix.header_bytes + prefix.body_bytes).await?;
        let header = self.bytes.split_to(PREFIX_BYTES + prefix.header_bytes);
        let answer = read_answer(&header[PREFIX_BYTES..])?;
        let body = self.bytes.split_to(prefix.body_bytes).freeze();
        Ok(Frame { kind: prefix.kind, answer, body })
    }

    /// Reads until at least `bytes` are there.
    async fn fill(&mut self, bytes: usize) -> Result<(), Broken> {
        if self.bytes.len() >= bytes {
            return Ok(());
        }
        self.bytes.reserve((bytes - self.bytes.len()).max(READ_BYTES));
        while self.bytes.len() < bytes {
            match self.stream.read_buf(&mut self.bytes).await {
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
