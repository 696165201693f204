//! The frames between the worker and our shims for managed runtimes, over an inherited stream socket.
//! `runtimes/README.md` describes them for authors of shims.
//!
//! A frame is `u32 LE length of what follows | u8 kind | u32 LE length of the header | header | body`; the header
//! is a JSON object, the body is payload bytes.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bytes before the header: length, kind, header length.
pub const PREFIX_BYTES: usize = 9;
/// The most bytes in a header; a client context of 3,583 bytes fits many times.
pub const HEADER_BYTES_MAX: usize = 65_536;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Worker to shim: run the handler. Header [`Invoke`], body the event.
    Invoke = 1,
    /// Shim to worker: Init is done. Header `{}`.
    Ready = 2,
    /// Shim to worker: the handler's answer. Header [`Answer`], body JSON text.
    Response = 3,
    /// Shim to worker: the handler failed. Header [`Answer`], body the error as JSON.
    Error = 4,
    /// Shim to worker: Init failed. Header [`Answer`] without an id, body the error as JSON.
    InitError = 5,
    /// Worker to shim: the function of a guest that ran before it had one. Header [`Assign`], no body.
    Assign = 6,
    /// Shim to worker: log lines of one of several invocations. Header [`Answer`] with the id, body text.
    Log = 7,
    /// Shim to worker: the next bytes of the image of an initialised process. Header `{}`, body the bytes.
    Image = 8,
    /// Worker to shim, before [`Kind::Assign`] and with a file beside it: become the image in that file. Header `{}`. Shim
    /// to worker: it cannot, and initialises the function. Header [`Answer`] with the reason.
    Restore = 9,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            1 => Some(Kind::Invoke),
            2 => Some(Kind::Ready),
            3 => Some(Kind::Response),
            4 => Some(Kind::Error),
            5 => Some(Kind::InitError),
            6 => Some(Kind::Assign),
            7 => Some(Kind::Log),
            8 => Some(Kind::Image),
            9 => Some(Kind::Restore),
            _ => None,
        }
    }
}

/// The header of an [`Kind::Invoke`] frame.
#[derive(Debug, Serialize)]
pub struct Invoke<'a> {
    /// The request id.
    pub id: &'a str,
    /// When the invocation times out, milliseconds since the Unix epoch.
    pub deadline_ms: u64,
    /// The invoked function's ARN as the caller qualified it.
    pub arn: &'a str,
    /// The trace header for `_X_AMZN_TRACE_ID`.
    pub trace_id: &'a str,
    /// The caller's client context as JSON text.
    pub client_context: Option<&'a str>,
    /// The caller's Cognito identity as JSON text.
    pub cognito: Option<&'a str>,
}

/// The header of an [`Kind::Assign`] frame.
#[derive(Debug, Serialize)]
pub struct Assign<'a> {
    /// The whole environment.
    pub environment: BTreeMap<&'a str, &'a str>,
    /// Open files per process, at most.
    pub open_files: u32,
    /// Processes and threads, at most.
    pub processes: u32,
    /// Do Init, send the image of the initialised process, and end.
    #[serde(skip_serializing_if = "is_false")]
    pub snapshot: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// The header of what a shim sends.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// The request id that is answered; empty for Init.
    #[serde(default)]
    pub id: String,
    /// The error's type, `Runtime.ImportModuleError` for example; empty for answers.
    #[serde(default, rename = "type")]
    pub error_type: String,
    /// The guest ends itself behind this frame and takes no further invocation.
    #[serde(default)]
    pub exiting: bool,
    /// The guest has become the image that it was given.
    #[serde(default)]
    pub restored: bool,
    /// Why no image was made, or why the guest does not become it: a word of a few; empty otherwise.
    #[serde(default)]
    pub reason: String,
}

/// The fixed part of a frame, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// What the frame says.
    pub kind: Kind,
    /// Bytes of the header that follows.
    pub header_bytes: usize,
    /// Bytes of the body behind the header.
    pub body_bytes: usize,
}

/// Why bytes from a guest are not a frame. Every guest byte is hostile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The kind byte is unknown.
    Kind,
    /// The lengths contradict each other or exceed the limits.
    Length,
    /// The header is not a JSON object of the right shape.
    Header,
}

/// Reads the fixed part of a frame. `body_bytes_max` bounds the body.
pub fn read_prefix(bytes: &[u8; PREFIX_BYTES], body_bytes_max: usize) -> Result<Prefix, FrameError> {
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
    let kind = Kind::from_byte(bytes[4]).ok_or(FrameError::Kind)?;
    let header_bytes = word(5);
    let rest = word(0).checked_sub(PREFIX_BYTES - 4).ok_or(FrameError::Length)?;
    let body_bytes = rest.checked_sub(header_bytes).ok_or(FrameError::Length)?;
    if header_bytes > HEADER_BYTES_MAX || body_bytes > body_bytes_max {
        return Err(FrameError::Length);
    }
    Ok(Prefix { kind, header_bytes, body_bytes })
}

/// Reads a shim's header.
pub fn read_answer(header: &[u8]) -> Result<Answer, FrameError> {
    serde_json::from_slice(header).map_err(|_| FrameError::Header)
}

/// The bytes of an invoke frame before its body.
pub fn write_invoke(invoke: &Invoke<'_>, body_bytes: usize) -> Vec<u8> {
    write_frame(Kind::Invoke, invoke, body_bytes)
}

/// The bytes of a restore frame.
pub fn write_restore() -> Vec<u8> {
    write_frame(Kind::Restore, &BTreeMap::<&str, &str>::new(), 0)
}

/// The bytes of an assign frame.
pub fn write_assign(assign: &Assign<'_>) -> Vec<u8> {
    write_frame(Kind::Assign, assign, 0)
}

/// The bytes of a frame before its body.
fn write_frame(kind: Kind, header: &impl Serialize, body_bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; PREFIX_BYTES];
    // The headers hold only strings and numbers: writing them to a Vec cannot fail.
    serde_json::to_writer(&mut frame, header).unwrap_or_default();
    let header_bytes = frame.len() - PREFIX_BYTES;
    let length = PREFIX_BYTES - 4 + header_bytes + body_bytes;
    frame[0..4].copy_from_slice(&(length as u32).to_le_bytes());
    frame[4] = kind as u8;
    frame[5..9].copy_from_slice(&(header_bytes as u32).to_le_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(length: u32, kind: u8, header: u32) -> Result<Prefix, FrameError> {
        let mut bytes = [0; PREFIX_BYTES];
        bytes[0..4].copy_from_slice(&length.to_le_bytes());
        bytes[4] = kind;
        bytes[5..9].copy_from_slice(&header.to_le_bytes());
        read_prefix(&bytes, 100)
    }

    #[test]
    fn prefixes() {
        assert_eq!(prefix(5, 2, 0), Ok(Prefix { kind: Kind::Ready, header_bytes: 0, body_bytes: 0 }));
        assert_eq!(prefix(17, 3, 10), Ok(Prefix { kind: Kind::Response, header_bytes: 10, body_bytes: 2 }));
        assert_eq!(prefix(5, 10, 0), Err(FrameError::Kind));
        assert_eq!(prefix(4, 2, 0), Err(FrameError::Length));
        assert_eq!(prefix(10, 2, 6), Err(FrameError::Length));
        assert_eq!(prefix(106, 2, 0), Err(FrameError::Length));
        assert_eq!(prefix(u32::MAX, 2, u32::MAX), Err(FrameError::Length));
    }

    #[test]
    fn an_invoke_reads_back() {
        let invoke = Invoke { id: "a", deadline_ms: 7, arn: "b", trace_id: "c", client_context: None, cognito: None };
        let frame = write_invoke(&invoke, 3);
        let fixed: &[u8; PREFIX_BYTES] = frame[..PREFIX_BYTES].try_into().unwrap();
        let prefix = read_prefix(fixed, 100).unwrap();
        assert_eq!(prefix.kind, Kind::Invoke);
        assert_eq!(prefix.body_bytes, 3);
        assert_eq!(prefix.header_bytes, frame.len() - PREFIX_BYTES);
        assert!(
            frame.ends_with(
                br#"{"id":"a","deadline_ms":7,"arn":"b","trace_id":"c","client_context":null,"cognito":null}"#
            )
        );
    }

    #[test]
    fn answers() {
        assert_eq!(read_answer(b"{}"), Ok(Answer::default()));
        assert_eq!(read_answer(br#"{"id":"x","type":"T","more":1}"#).unwrap().error_type, "T");
        for bad in [&b""[..], b"[]x", b"{\"id\":1}", b"\xff"] {
            assert_eq!(read_answer(bad), Err(FrameError::Header));
        }
    }
}
