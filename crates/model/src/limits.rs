//! Every limit by name. Values are AWS's unless the doc line says otherwise; all can be set in the config.

/// The limits of the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Concurrent executions in the account; beyond it invocations are throttled (429).
    pub concurrent_executions: u32,
    /// What reservations must leave of it to functions without one, but never more than all of it; beyond it 400.
    pub unreserved_concurrency_min: u32,
    /// Bytes of a zip file sent in a request; beyond it 413.
    pub zip_bytes: u64,
    /// Bytes of an unpacked package; beyond it 400.
    pub unzipped_bytes: u64,
    /// Bytes of all packages; `GetAccountSettings` shows it, beyond it `CodeStorageExceededException`.
    pub code_storage_bytes: u64,
    /// Entries in a package, ours: stops a zip of millions of empty files; beyond it 400.
    pub zip_entries: u64,
    /// Bytes of a CreateFunction or UpdateFunctionCode request; beyond it 413.
    pub deploy_request_bytes: u64,
    /// Bytes of an invocation's payload; beyond it 413.
    pub request_payload_bytes: u64,
    /// Bytes of a function's answer; beyond it the outcome is `Function.ResponseSizeTooLarge`.
    pub response_payload_bytes: u64,
    /// Bytes of environment variables as JSON; beyond it 400.
    pub environment_bytes: usize,
    /// Bytes of `X-Amz-Client-Context`, base64; beyond it 400.
    pub client_context_bytes: usize,
    /// Tags on one function; beyond it 400.
    pub tags: usize,
    /// The longest timeout, seconds.
    pub timeout_s_max: u32,
    /// The smallest memory size, MB.
    pub memory_mb_min: u32,
    /// The largest memory size, MB.
    pub memory_mb_max: u32,
    /// The smallest `/tmp`, MB.
    pub ephemeral_mb_min: u32,
    /// The largest `/tmp`, MB.
    pub ephemeral_mb_max: u32,
    /// Memory that buys one CPU, MB.
    pub memory_mb_per_cpu: u32,
    /// Processes and threads in an instance; beyond it fork fails with EAGAIN.
    pub processes: u32,
    /// Open files of a process in an instance; beyond it EMFILE.
    pub open_files: u64,
    /// Time for Init before it is cut off and tried once more inside the first invocation.
    pub init_ms: u64,
    /// Bytes of a log line; longer ones are split, ours as on Lambda (256 KB).
    pub log_line_bytes: usize,
    /// Bytes of the log tail in an answer.
    pub log_tail_bytes: usize,
    /// Bytes of one log file before it is rotated, ours.
    pub log_file_bytes: u64,
    /// Rotated log files kept per function, ours.
    pub log_files: u32,
    /// Instances of all functions on this machine, ours; beyond it the idlest is stopped, or the invocation throttled.
    pub instances: u32,
    /// Memory promised to instances on this machine, MB, ours; 0 means four fifths of the machine's.
    pub instances_memory_mb: u64,
    /// Bytes of all snapshots of initialised versions (SnapStart) in memory, ours; beyond it the one that was used longest
    /// ago is dropped, and taken again when its version is next started. Never more than a tenth of the machine's memory. As much again for those
    /// that are being taken.
    pub snapshot_bytes: u64,
    /// Invocations waiting for one version's instance, ours; beyond it they are throttled.
    pub waiting_per_version: usize,
    /// The longest time for which a function may let invocations wait for concurrency, ours; beyond it 400.
    pub queue_ms_max: u32,
    /// The most invocations that a function may let wait for concurrency, ours; beyond it 400.
    pub queue_length_max: u32,
    /// Invocations of all functions that wait for concurrency, ours; beyond it they are throttled.
    pub queued: usize,
    /// The newest invocations of which `tidegate explain` can tell, ours: so many of those with something to tell, and
    /// about so many of the others; 0 keeps none.
    pub explained: usize,
    /// Idle time before an instance is stopped, ours.
    pub idle_ms: u64,
    /// Idle time before an instance is frozen and uses no CPU time, ours; 0 means never.
    pub freeze_after_ms: u64,
    /// How long running invocations may take to finish after SIGTERM, ours.
    pub drain_ms: u64,
    /// Windows of the scaling of one version or alias, ours; beyond it 400.
    pub scaling_windows: usize,
    /// Functions in a page of ListFunctions, at most.
    pub list_items: usize,
    /// Bytes of request headers, ours; beyond it 431.
    pub header_bytes: usize,
    /// Open client connections, ours; beyond it new ones wait in the backlog.
    pub connections: usize,
    /// Time a client has to send its headers, ours; then the connection is closed.
    pub header_read_ms: u64,
    /// Time a connection may be silent between two requests, ours; then it is closed. Longer than the minute for which
    /// the AWS SDKs keep theirs, so that it is they who close.
    pub idle_connection_ms: u64,
    /// Time a client has to send its body, ours; then 408.
    pub body_read_ms: u64,
    /// Bytes of all bodies together that are being read and whose signatures are not yet checked, ours; beyond it
    /// further ones wait, and after `body_read_ms` are 503. Packages over 1 MiB are not counted: they take turns.
    pub unchecked_bodies_bytes: u64,
    /// The most invocations that one instance may be configured to run at a time, ours; beyond it 400.
    pub instance_concurrency_max: u32,
    /// Days without an invocation before a function becomes Inactive; 0 means never, ours (AWS does not say).
    pub inactive_after_days: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            concurrent_executions: 1_000,
            unreserved_concurrency_min: 100,
            zip_bytes: 52_428_800,
            unzipped_bytes: 262_144_000,
            code_storage_bytes: 80_530_636_800,
            zip_entries: 65_536,
            deploy_request_bytes: 70_167_211,
            request_payload_bytes: 6_291_456,
            response_payload_bytes: 6_291_556,
            environment_bytes: 4_096,
            client_context_bytes: 3_583,
            tags: 50,
            timeout_s_max: 900,
            memory_mb_min: 128,
            memory_mb_max: 10_240,
            ephemeral_mb_min: 512,
            ephemeral_mb_max: 10_240,
            memory_mb_per_cpu: 1_769,
            processes: 1_024,
            open_files: 1_024,
            init_ms: 10_000,
            log_line_bytes: 262_144,
            log_tail_bytes: 4_096,
            log_file_bytes: 10_485_760,
            log_files: 4,
            instances: 1_000,
            instances_memory_mb: 0,
            snapshot_bytes: 1_073_741_824,
            waiting_per_version: 1_000,
            queue_ms_max: 60_000,
            queue_length_max: 1_000,
            queued: 10_000,
            explained: 16_384,
            idle_ms: 300_000,
            freeze_after_ms: 1_000,
            drain_ms: 30_000,
            scaling_windows: 24,
            list_items: 50,
            header_bytes: 32_768,
            connections: 4_096,
            header_read_ms: 10_000,
            idle_connection_ms: 75_000,
            body_read_ms: 60_000,
            unchecked_bodies_bytes: 536_870_912,
            instance_concurrency_max: 1_000,
            inactive_after_days: 14,
        }
    }
}
