//! The error payloads that users see, as Lambda words them (`lambda-semantics.md` section 4).

use api::launcher::ExitStatus;
use bytes::Bytes;
use model::InvocationId;
use serde_json::json;

/// What ended an invocation besides an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The guest's own error, JSON text as it sent it.
    Reported {
        /// The error's type as it said.
        error_type: String,
        /// The payload.
        payload: Bytes,
    },
    /// The deadline passed.
    TimedOut,
    /// The main process ended.
    Exited {
        /// How; `None` if it is not known.
        status: Option<ExitStatus>,
        /// The kernel killed it for lack of memory.
        out_of_memory: bool,
    },
    /// The answer is larger than the limit.
    ResponseTooLarge,
    /// The guest spoke garbage on its channel.
    ProtocolBroken,
    /// There is no program to start; the message names the places.
    InvalidEntrypoint {
        /// For people.
        message: String,
    },
}

impl Ending {
    /// The error's type, as the payload and the REPORT line give it.
    pub fn error_type(&self) -> &str {
        match self {
            Ending::Reported { error_type, .. } => error_type,
            Ending::TimedOut => "Sandbox.Timedout",
            Ending::Exited { out_of_memory: true, .. } => "Runtime.OutOfMemory",
            Ending::Exited { .. } => "Runtime.ExitError",
            Ending::ResponseTooLarge => "Function.ResponseSizeTooLarge",
            Ending::ProtocolBroken => "Runtime.ProtocolError",
            Ending::InvalidEntrypoint { .. } => "Runtime.InvalidEntrypoint",
        }
    }

    /// The payload of the function error.
    pub fn payload(&self, id: &InvocationId, timeout_ms: u64, response_bytes_max: u64) -> Bytes {
        let text = match self {
            Ending::Reported { payload, .. } => return payload.clone(),
            Ending::TimedOut => format!("Task timed out after {:.2} seconds", timeout_ms as f64 / 1000.0),
            Ending::Exited { status, .. } => exit_text(*status),
            Ending::ResponseTooLarge => {
                let message = format!(
                    "Response payload size exceeded maximum allowed payload size ({response_bytes_max} bytes)."
                );
                return error_json(self.error_type(), &message);
            }
            Ending::ProtocolBroken => "Runtime sent a malformed message".to_owned(),
            Ending::InvalidEntrypoint { message } => message.clone(),
        };
        // Out of memory shows as an exit by SIGKILL, as on Lambda; the REPORT line says more.
        let shown_type = match self {
            Ending::Exited { .. } => "Runtime.ExitError",
            Ending::Reported { .. }
            | Ending::TimedOut
            | Ending::ResponseTooLarge
            | Ending::ProtocolBroken
            | Ending::InvalidEntrypoint { .. } => self.error_type(),
        };
        error_json(shown_type, &format!("RequestId: {id} Error: {text}"))
    }
}

fn error_json(error_type: &str, message: &str) -> Bytes {
    Bytes::from(json!({ "errorType": error_type, "errorMessage": message }).to_string())
}

fn exit_text(status: Option<ExitStatus>) -> String {
    match status {
        Some(ExitStatus::Code(0)) | None => "Runtime exited without providing a reason".to_owned(),
        Some(ExitStatus::Code(code)) => format!("Runtime exited with error: exit status {code}"),
        Some(ExitStatus::Signal(signal)) => format!("Runtime exited with error: signal: {}", signal_name(signal)),
    }
}

/// Signal names as Lambda prints them.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        11 => "segmentation fault",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        31 => "bad system call",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ending: Ending, want: &str) {
        let id = InvocationId("1-2".into());
        assert_eq!(ending.payload(&id, 1_000, 6_291_556), want);
    }

    #[test]
    fn payloads() {
        let exited = |status, out_of_memory| Ending::Exited { status: Some(status), out_of_memory };
        check(
            Ending::TimedOut,
            r#"{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: 1-2 Error: Task timed out after 1.00 seconds"}"#,
        );
        check(
            exited(ExitStatus::Code(0), false),
            r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: 1-2 Error: Runtime exited without providing a reason"}"#,
        );
        check(
            exited(ExitStatus::Code(127), false),
            r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: 1-2 Error: Runtime exited with error: exit status 127"}"#,
        );
        check(
            exited(ExitStatus::Signal(9), true),
            r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: 1-2 Error: Runtime exited with error: signal: killed"}"#,
        );
        check(
            Ending::ResponseTooLarge,
            r#"{"errorType":"Function.ResponseSizeTooLarge","errorMessage":"Response payload size exceeded maximum allowed payload size (6291556 bytes)."}"#,
        );
        let own = Bytes::from_static(b"{\"errorMessage\":\"boom\"}");
        let reported = Ending::Reported { error_type: "ValueError".into(), payload: own };
        check(reported, "{\"errorMessage\":\"boom\"}");
    }

    #[test]
    fn out_of_memory_is_named_in_the_report() {
        let ending = Ending::Exited { status: Some(ExitStatus::Signal(9)), out_of_memory: true };
        assert_eq!(ending.error_type(), "Runtime.OutOfMemory");
    }
}
