//! Messages with open files over a SOCK_SEQPACKET socket: one JSON object per packet. Used by both sides, blocking or
//! not as the caller wants.

use api::launcher::{MESSAGE_BYTES_MAX, MESSAGE_FILES_MAX};
use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket pair could not be made.
    #[error("make a socket pair")]
    Pair(#[source] std::io::Error),
    /// The other side has closed its end.
    #[error("the connection is closed")]
    Closed,
    /// The kernel refused to send; see [`Error::would_block`].
    #[error("send a message")]
    Send(#[source] std::io::Error),
    /// The kernel refused to receive; see [`Error::would_block`].
    #[error("receive a message")]
    Receive(#[source] std::io::Error),
    /// A message does not fit the limits of `api::launcher`.
    #[error("a message is longer or carries more files than allowed")]
    TooLong,
    /// The bytes are not a message of the expected type.
    #[error("malformed message")]
    Malformed(#[source] serde_json::Error),
}

impl Error {
    /// Whether the operation only has to wait until the socket is ready.
    pub fn would_block(&self) -> bool {
        match self {
            Error::Send(source) | Error::Receive(source) => source.kind() == std::io::ErrorKind::WouldBlock,
            Error::Pair(_) | Error::Closed | Error::TooLong | Error::Malformed(_) => false,
        }
    }
}

/// Whether an operation waits for the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// It waits.
    Block,
    /// It fails with an error whose [`Error::would_block`] is true.
    Poll,
}

/// A message as it came.
#[derive(Debug)]
pub struct Received<M> {
    /// The message.
    pub message: M,
    /// The files beside it, closed on exec.
    pub files: Vec<OwnedFd>,
    /// The sender's process id, on sockets that ask for it.
    pub sender: Option<i32>,
}

/// A buffer for incoming messages, kept between calls.
#[derive(Debug)]
pub struct Buffer(Vec<u8>);

impl Default for Buffer {
    fn default() -> Self {
        Buffer(vec![0; MESSAGE_BYTES_MAX])
    }
}

/// Bytes that a socket can hold, as asked of the kernel, which doubles it: enough for the longest message.
const SOCKET_BYTES: usize = 2 * MESSAGE_BYTES_MAX;

/// Room for a message without a guest's environment in it.
const SHORT_BYTES_MAX: usize = 16 * 1024;

impl Buffer {
    /// For short messages: every page of a buffer is a page of the process that has it.
    pub fn short() -> Self {
        Buffer(vec![0; SHORT_BYTES_MAX])
    }
}

/// A connected pair of sockets, closed on exec.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Error> {
    let make = || -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        for end in [&a, &b] {
            sockopt::set_socket_send_buffer_size(end, SOCKET_BYTES)?;
        }
        Ok((a, b))
    };
    make().map_err(|errno| Error::Pair(errno.into()))
}

/// Sends one message with its files.
pub fn send<M: Serialize>(
    socket: BorrowedFd<'_>,
    message: &M,
    files: &[BorrowedFd<'_>],
    wait: Wait,
) -> Result<(), Error> {
    let bytes = serde_json::to_vec(message).map_err(Error::Malformed)?;
    if bytes.len() > MESSAGE_BYTES_MAX || files.len() > MESSAGE_FILES_MAX {
        return Err(Error::TooLong);
    }
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MESSAGE_FILES_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(Error::TooLong);
    }
    let mut flags = SendFlags::NOSIGNAL;
    flags.set(SendFlags::DONTWAIT, wait == Wait::Poll);
    let sent = rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags));
    match sent {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Err(Error::Closed),
        Err(errno) => Err(Error::Send(errno.into())),
    }
}

/// Sends these bytes with these files, all at once or not at all: for sockets whose buffer is empty.
pub fn send_bytes(socket: BorrowedFd<'_>, bytes: &[u8], files: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags))?;
    if sent == bytes.len() { Ok(()) } else { Err(std::io::ErrorKind::WriteZero.into()) }
}

/// Receives one message with its files.
pub fn receive<M: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    buffer: &mut Buffer,
    wait: Wait,
) -> Result<Received<M>, Error> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MESSAGE_FILES_MAX), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::CMSG_CLOEXEC;
    flags.set(RecvFlags::DONTWAIT, wait == Wait::Poll);
    let got = rustix::io::retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut buffer.0)], &mut control, flags));
    let got = match got {
        Ok(got) => got,
        Err(rustix::io::Errno::CONNRESET) => return Err(Error::Closed),
        Err(errno) => return Err(Error::Receive(errno.into())),
    };
    let (mut files, mut sender) = (Vec::new(), None);
    for part in control.drain() {
        match part {
            RecvAncillaryMessage::ScmRights(rights) => files.extend(rights),
            RecvAncillaryMessage::ScmCredentials(who) => sender = Some(who.pid.as_raw_nonzero().get()),
            _ => {}
        }
    }
    if got.flags.contains(ReturnFlags::TRUNC) {
        return Err(Error::TooLong);
    }
    if got.flags.contains(ReturnFlags::CTRUNC) {
        // This process has no descriptor left for them. The message counts; who needs the files misses them.
        files.clear();
    }
    if got.bytes == 0 {
        return Err(Error::Closed);
    }
    let message = serde_json::from_slice(&buffer.0[..got.bytes]).map_err(Error::Malformed)?;
    Ok(Received { message, files, sender })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_longest_message_and_files_pass() {
        let (a, b) = pair().unwrap();
        let mut buffer = Buffer::default();
        let text = "x".repeat(MESSAGE_BYTES_MAX - 2);
        send(a.as_fd(), &text, &[b.as_fd(); MESSAGE_FILES_MAX], Wait::Poll).unwrap();
        let got = receive::<String>(b.as_fd(), &mut buffer, Wait::Poll).unwrap();
        assert_eq!((got.message, got.files.len()), (text, MESSAGE_FILES_MAX));
    }

    #[test]
    fn limits_and_ends_are_errors() {
        let (a, b) = pair().unwrap();
        let mut buffer = Buffer::default();
        let long = "x".repeat(MESSAGE_BYTES_MAX);
        assert!(matches!(send(a.as_fd(), &long, &[], Wait::Poll), Err(Error::TooLong)));
        assert!(receive::<String>(b.as_fd(), &mut buffer, Wait::Poll).unwrap_err().would_block());
        send(a.as_fd(), &1, &[], Wait::Poll).unwrap();
        assert!(matches!(receive::<String>(b.as_fd(), &mut buffer, Wait::Poll), Err(Error::Malformed(_))));
        drop(a);
        assert!(matches!(receive::<String>(b.as_fd(), &mut buffer, Wait::Poll), Err(Error::Closed)));
        assert!(matches!(send(b.as_fd(), &1, &[], Wait::Poll), Err(Error::Closed)));
    }
}
