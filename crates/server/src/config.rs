//! The configuration file: TOML, unknown keys refused, all problems reported at once.

use crate::settings::{Found, Section};
use gateway::auth::Key;
use model::{AccountId, Limits, Region};
use sandbox::RuntimeSource;
use sandbox::config::Subnet;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// What a file says; `None` where it says nothing. Flags win over it.
#[derive(Debug, Default)]
pub struct File {
    /// `listen = "127.0.0.1:9000"`
    pub listen: Option<SocketAddr>,
    /// `data_dir = "/var/lib/tidegate"`
    pub data_dir: Option<PathBuf>,
    /// `account_id = "000000000000"`
    pub account_id: Option<AccountId>,
    /// `region = "us-east-1"`
    pub region: Option<Region>,
    /// `uid_base = 2000000`: as root, the daemon's user id; instances have the ids behind it.
    pub uid_base: Option<u32>,
    /// `[tls] cert = "/etc/tidegate/cert.pem"` and `key = ...`
    pub tls: Option<gateway::tls::Files>,
    /// `log_level = "info"`
    pub log_level: Option<tracing::Level>,
    /// `threads = 4`: of the daemon, for everything but work that blocks.
    pub threads: Option<usize>,
    /// `keep_alive = "adaptive"`, `"histogram"` or `"fixed"`
    pub keep_alive: Option<worker::KeepAlive>,
    /// `[limits]`
    pub limits: Limits,
    /// `[runtimes."python3.12"] interpreter = "/usr/bin/python3.12"` or `root = "/srv/python"`
    pub runtimes: BTreeMap<String, RuntimeSource>,
    /// `[[credentials]]`: further access keys, beside the one that the server makes.
    pub credentials: Vec<Key>,
    /// `[s3]`
    pub s3: Option<store::remote::S3Config>,
    /// `[network] subnet = "100.96.0.0/16"`
    pub subnet: Option<Subnet>,
    /// `[network] nameservers = ["9.9.9.9"]`
    pub nameservers: Option<Vec<IpAddr>>,
    /// `[network] ca_bundle = "/etc/ssl/certs/ca-certificates.crt"`
    pub ca_bundle: Option<PathBuf>,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("read the configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It has problems; each names its key and the fix.
    #[error("{path} cannot be used:\n{}", problems.iter().map(|p| format!("  - {p}")).collect::<Vec<_>>().join("\n"))]
    Problems {
        /// The file.
        path: PathBuf,
        /// All of them.
        problems: Vec<String>,
    },
}

/// Reads a configuration file.
pub fn read(path: &Path) -> Result<File, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    parse(&text).map_err(|problems| Error::Problems { path: path.to_owned(), problems })
}

/// Reads the text of a configuration file.
pub fn parse(text: &str) -> Result<File, Vec<String>> {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return Err(vec![format!("not TOML: {}", error.to_string().trim_end())]),
    };
    let found = Found::default();
    let mut top = Section::new("", table, &found);
    let mut file = File {
        listen: top.text("listen", "an address such as \"127.0.0.1:9000\"", |t| t.parse().ok()),
        data_dir: top.text("data_dir", "a path", |t| Some(PathBuf::from(t))),
        account_id: top.text("account_id", "twelve digits", |t| AccountId::parse(t).ok()),
        region: top.text("region", "a region such as \"us-east-1\"", |t| Region::parse(t).ok()),
        uid_base: top.number("uid_base", 1, 4_000_000_000),
        log_level: top.text("log_level", "one of error, warn, info, debug, trace", |t| t.parse().ok()),
        threads: top.number("threads", 1, THREADS_MAX),
        keep_alive: top.text("keep_alive", "one of adaptive, histogram, fixed", worker::KeepAlive::parse),
        ..File::default()
    };
    if let Some(section) = top.section("limits") {
        limits(section, &mut file.limits);
    }
    if let Some(mut section) = top.section("runtimes") {
        file.runtimes = runtimes(&mut section);
        section.end();
    }
    if let Some(section) = top.section("s3") {
        file.s3 = s3(section);
    }
    file.tls = top.section("tls").and_then(tls);
    if let Some(section) = top.section("network") {
        network(section, &mut file);
    }
    let tables = top.sections("credentials");
    file.credentials = credentials(tables, &top);
    fits_subnet(&top, &file);
    top.end();
    found.into_result(file)
}

/// Every field of `Limits` can be set, within the bounds in which the platform still works.
fn limits(mut section: Section<'_>, limits: &mut Limits) {
    const MAX: u64 = u32::MAX as u64;
    /// A payload and its frame are measured by 32 bits.
    const PAYLOAD_MAX: u64 = 1 << 30;
    macro_rules! set {
        ($($field:ident: $min:literal..=$max:expr,)*) => { $(
            if let Some(value) = section.number(stringify!($field), $min, $max) {
                limits.$field = value;
            }
        )* };
    }
    set! {
        concurrent_executions: 1..=MAX,
        unreserved_concurrency_min: 0..=MAX,
        zip_bytes: 22..=MAX,
        unzipped_bytes: 1..=MAX,
        code_storage_bytes: 1..=i64::MAX as u64,
        zip_entries: 1..=MAX,
        deploy_request_bytes: 64..=MAX,
        request_payload_bytes: 64..=PAYLOAD_MAX,
        response_payload_bytes: 64..=PAYLOAD_MAX,
        environment_bytes: 0..=100_000,
        client_context_bytes: 0..=1_000_000,
        tags: 0..=10_000,
        timeout_s_max: 1..=MAX,
        memory_mb_min: 16..=MAX,
        memory_mb_max: 16..=MAX,
        ephemeral_mb_min: 1..=MAX,
        ephemeral_mb_max: 1..=MAX,
        memory_mb_per_cpu: 1..=MAX,
        processes: 16..=1_000_000,
        open_files: 64..=1_000_000,
        init_ms: 1..=MAX,
        log_line_bytes: 256..=1_048_576,
        log_tail_bytes: 0..=1_048_576,
        log_file_bytes: 4_096..=i64::MAX as u64,
        log_files: 0..=1_000,
        instances: 1..=1_000_000,
        instances_memory_mb: 0..=MAX,
        snapshot_bytes: 0..=MAX,
        waiting_per_version: 1..=MAX,
        queue_ms_max: 0..=MAX,
        queue_length_max: 0..=1_000_000,
        queued: 0..=1_000_000,
        explained: 0..=10_000_000,
        idle_ms: 1..=MAX,
        freeze_after_ms: 0..=MAX,
        drain_ms: 0..=MAX,
        scaling_windows: 0..=1_000,
        list_items: 1..=10_000,
        header_bytes: 8_192..=1_048_576,
        connections: 1..=1_000_000,
        header_read_ms: 1..=MAX,
        idle_connection_ms: 1..=MAX,
        body_read_ms: 1..=MAX,
        unchecked_bodies_bytes: 1_048_576..=1 << 40,
        instance_concurrency_max: 1..=1_000,
        inactive_after_days: 0..=36_500,
    }
    agree(&section, limits);
    section.end();
}

/// Names the limits that contradict one another.
fn agree(section: &Section<'_>, limits: &Limits) {
    let at_most = |(name, value): (&str, u64), (other, bound): (&str, u64)| {
        if value > bound {
            section.problem_at(name, &format!("must be at most {other}, which is {bound}"));
        }
    };
    at_most(("memory_mb_min", limits.memory_mb_min.into()), ("memory_mb_max", limits.memory_mb_max.into()));
    at_most(("ephemeral_mb_min", limits.ephemeral_mb_min.into()), ("ephemeral_mb_max", limits.ephemeral_mb_max.into()));
    at_most(
        ("request_payload_bytes", limits.request_payload_bytes),
        ("unchecked_bodies_bytes", limits.unchecked_bodies_bytes),
    );
    if limits.instances_memory_mb != 0 {
        at_most(("memory_mb_min", limits.memory_mb_min.into()), ("instances_memory_mb", limits.instances_memory_mb));
    }
}

/// Each instance takes four addresses of the subnet, and the host the first four.
fn fits_subnet(top: &Section<'_>, file: &File) {
    let prefix_bits = file.subnet.map_or(DEFAULT_SUBNET_BITS, |subnet| subnet.prefix_bits);
    let instances_max = (1_u64 << (32 - prefix_bits)) / 4 - 1;
    if u64::from(file.limits.instances) > instances_max {
        let text = format!(
            "must be at most {instances_max}: a subnet of {prefix_bits} bits has addresses for no more; give \
             network.subnet fewer bits"
        );
        top.problem_at("limits.instances", &text);
    }
}

/// Threads of the daemon, ours.
const THREADS_MAX: u64 = 1_024;
/// Of `100.96.0.0/16`.
const DEFAULT_SUBNET_BITS: u8 = 16;
/// Access keys in the file, ours: each request's is compared with all of them.
const CREDENTIALS_MAX: usize = 100;

fn credentials(tables: Vec<Section<'_>>, top: &Section<'_>) -> Vec<Key> {
    if tables.len() > CREDENTIALS_MAX {
        top.problem_at("credentials", &format!("must be at most {CREDENTIALS_MAX}"));
    }
    let mut keys: Vec<Key> = Vec::new();
    for mut one in tables {
        let id = one.required("access_key_id", "16 to 128 letters, digits and _", access_key_id);
        let secret = one.required("secret_access_key", "a text of 1 to 1024 characters", opaque);
        let session_token = one.text("session_token", "1 to 4096 printable characters without spaces", token);
        let expires_at_s = one.number("expires_at_s", 0, i64::MAX as u64);
        if id.as_ref().is_some_and(|id| keys.iter().any(|key| key.access_key_id == *id)) {
            one.problem_at("access_key_id", "is there twice");
        }
        if let (Some(access_key_id), Some(secret_access_key)) = (id, secret) {
            keys.push(Key { access_key_id, secret_access_key, session_token, expires_at_s });
        }
        one.end();
    }
    keys
}

/// The service model of STS: `accessKeyIdType`.
fn access_key_id(text: &str) -> Option<String> {
    let fits = (16..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    fits.then(|| text.to_owned())
}

fn opaque(text: &str) -> Option<String> {
    (1..=1_024).contains(&text.len()).then(|| text.to_owned())
}

/// It comes in a header: visible characters only.
fn token(text: &str) -> Option<String> {
    let fits = (1..=4_096).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| text.to_owned())
}

fn runtimes(section: &mut Section<'_>) -> BTreeMap<String, RuntimeSource> {
    let mut runtimes = BTreeMap::new();
    for name in section.keys() {
        let Some(mut one) = section.section(&name) else { continue };
        let interpreter = one.text("interpreter", "an absolute path", absolute);
        let root = one.text("root", "an absolute path", absolute);
        match (interpreter, root) {
            (Some(path), None) => {
                runtimes.insert(name, RuntimeSource::Interpreter(path));
            }
            (None, Some(path)) => {
                runtimes.insert(name, RuntimeSource::Root(path));
            }
            _ => one.problem("set either interpreter or root"),
        }
        one.end();
    }
    runtimes
}

fn absolute(text: &str) -> Option<PathBuf> {
    let path = PathBuf::from(text);
    path.is_absolute().then_some(path)
}

fn s3(mut section: Section<'_>) -> Option<store::remote::S3Config> {
    let any = |t: &str| Some(t.to_owned());
    let endpoint = section.required("endpoint", "a URL such as \"http://127.0.0.1:5000\"", any);
    let access_key_id = section.required("access_key_id", "a text", any);
    let secret_access_key = section.required("secret_access_key", "a text", any);
    let region = section.text("region", "a text", any).unwrap_or_else(|| "us-east-1".to_owned());
    let path_style = section.flag("path_style").unwrap_or(true);
    section.end();
    let (endpoint, access_key_id, secret_access_key) = (endpoint?, access_key_id?, secret_access_key?);
    Some(store::remote::S3Config { endpoint, region, access_key_id, secret_access_key, path_style })
}

fn tls(mut section: Section<'_>) -> Option<gateway::tls::Files> {
    let cert = section.required("cert", "a path to a PEM file", |t| Some(PathBuf::from(t)));
    let key = section.required("key", "a path to a PEM file", |t| Some(PathBuf::from(t)));
    section.end();
    Some(gateway::tls::Files { cert: cert?, key: key? })
}

fn network(mut section: Section<'_>, file: &mut File) {
    file.subnet = section.text("subnet", "a subnet such as \"100.96.0.0/16\"", |t| Subnet::parse(t).ok());
    file.nameservers = section.texts("nameservers", "a list of IP addresses", |t| t.parse().ok());
    file.ca_bundle = section.text("ca_bundle", "an absolute path", absolute);
    section.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn problems(text: &str, want: Expect) {
        want.assert_eq(&parse(text).unwrap_err().join("\n"));
    }

    #[test]
    fn a_full_file() {
        let file = parse(
            r#"
            listen = "127.0.0.1:9001"
            data_dir = "/data"
            account_id = "123456789012"
            region = "eu-west-1"
            uid_base = 300000
            log_level = "debug"
            keep_alive = "fixed"
            [limits]
            idle_ms = 300
            code_storage_bytes = 80000000000
            [runtimes."python3.12"]
            interpreter = "/usr/bin/python3.12"
            [runtimes."nodejs20.x"]
            root = "/srv/node"
            [s3]
            endpoint = "http://127.0.0.1:5000"
            access_key_id = "a"
            secret_access_key = "b"
            [network]
            subnet = "10.20.0.0/16"
            nameservers = ["9.9.9.9"]
            [[credentials]]
            access_key_id = "AKIDEXAMPLE000001"
            secret_access_key = "s"
            [[credentials]]
            access_key_id = "ASIAEXAMPLE000002"
            secret_access_key = "t"
            session_token = "token"
            expires_at_s = 4102444800
            "#,
        )
        .unwrap();
        let tokens: Vec<_> =
            file.credentials.iter().map(|key| (key.session_token.as_deref(), key.expires_at_s)).collect();
        assert_eq!(tokens, [(None, None), (Some("token"), Some(4_102_444_800))]);
        assert_eq!(file.limits.idle_ms, 300);
        assert_eq!(file.keep_alive, Some(worker::KeepAlive::Fixed));
        assert_eq!(file.limits.code_storage_bytes, 80_000_000_000);
        assert_eq!(file.runtimes.len(), 2);
        assert!(file.s3.unwrap().path_style);
        assert_eq!(file.region.unwrap().as_str(), "eu-west-1");
    }

    #[test]
    fn all_problems_at_once() {
        problems(
            r#"
            listen = 9000
            acount_id = "1"
            account_id = "1"
            keep_alive = "long"
            [limits]
            idle_ms = -1
            idel_ms = 5
            timeout_s_max = "long"
            [runtimes."python3.12"]
            interpreter = "python3"
            [s3]
            endpoint = "x"
            [network]
            nameservers = ["9.9.9.9", "nine"]
            "#,
            expect![[r#"
                listen: must be an address such as "127.0.0.1:9000"
                account_id: must be twelve digits
                keep_alive: must be one of adaptive, histogram, fixed
                limits.timeout_s_max: must be a whole number from 1 to 4294967295
                limits.idle_ms: must be a whole number from 1 to 4294967295
                limits.idel_ms: unknown key; did you mean idle_ms?
                runtimes.python3.12.interpreter: must be an absolute path
                runtimes.python3.12: set either interpreter or root
                s3.access_key_id: is missing; must be a text
                s3.secret_access_key: is missing; must be a text
                network.nameservers: must be a list of IP addresses
                acount_id: unknown key; did you mean account_id?"#]],
        );
    }

    #[test]
    fn limits_that_make_no_sense() {
        problems(
            r#"
            [limits]
            log_line_bytes = 0
            connections = 0
            instances = 20000
            open_files = 0
            environment_bytes = 100001
            memory_mb_min = 4096
            memory_mb_max = 1024
            ephemeral_mb_min = 20000
            instances_memory_mb = 512
            request_payload_bytes = 2000000
            unchecked_bodies_bytes = 1048576
            "#,
            expect![[r#"
                limits.environment_bytes: must be a whole number from 0 to 100000
                limits.open_files: must be a whole number from 64 to 1000000
                limits.log_line_bytes: must be a whole number from 256 to 1048576
                limits.connections: must be a whole number from 1 to 1000000
                limits.memory_mb_min: must be at most memory_mb_max, which is 1024
                limits.ephemeral_mb_min: must be at most ephemeral_mb_max, which is 10240
                limits.request_payload_bytes: must be at most unchecked_bodies_bytes, which is 1048576
                limits.memory_mb_min: must be at most instances_memory_mb, which is 512
                limits.instances: must be at most 16383: a subnet of 16 bits has addresses for no more; give network.subnet fewer bits"#]],
        );
        // Each limit has a bound below which nothing works, unless none of it is a sensible wish.
        let none = "log_tail_bytes log_files drain_ms environment_bytes client_context_bytes tags instances_memory_mb snapshot_bytes \
                    inactive_after_days unreserved_concurrency_min \
                    queue_ms_max queue_length_max queued explained freeze_after_ms scaling_windows";
        let shown = format!("{:?}", Limits::default());
        let fields = shown.trim_start_matches("Limits { ").trim_end_matches(" }").split(", ");
        for field in fields.map(|field| field.split(':').next().unwrap()) {
            let refused = parse(&format!("[limits]\n{field} = 0")).is_err();
            assert_eq!(refused, !none.split_whitespace().any(|name| name == field), "{field} = 0");
        }
        let text = "[limits]\ninstances = 3\n[network]\nsubnet = \"10.0.0.0/28\"";
        assert!(parse(text).is_ok() && parse(&text.replace("= 3", "= 4")).is_err());
    }

    #[test]
    fn the_default_limits_are_within_their_bounds() {
        let shown = format!("{:?}", Limits::default());
        let fields =
            shown.trim_start_matches("Limits { ").trim_end_matches(" }").replace(", ", "\n").replace(": ", " = ");
        assert_eq!(parse(&format!("[limits]\n{fields}")).unwrap().limits, Limits::default());
    }

    #[test]
    fn credentials_that_cannot_be_used() {
        problems(
            r#"
            [[credentials]]
            access_key_id = "short"
            secret_access_key = ""
            session_token = "a b"
            [[credentials]]
            access_key_id = "AKIDEXAMPLE000001"
            secret_key = "s"
            [[credentials]]
            access_key_id = "AKIDEXAMPLE000002"
            secret_access_key = "s"
            [[credentials]]
            access_key_id = "AKIDEXAMPLE000002"
            secret_access_key = "s"
            "#,
            expect![[r#"
                credentials[0].access_key_id: must be 16 to 128 letters, digits and _
                credentials[0].secret_access_key: must be a text of 1 to 1024 characters
                credentials[0].session_token: must be 1 to 4096 printable characters without spaces
                credentials[1].secret_access_key: is missing; must be a text of 1 to 1024 characters
                credentials[1].secret_key: unknown key; known here are: access_key_id, expires_at_s, secret_access_key, session_token
                credentials[3].access_key_id: is there twice"#]],
        );
        problems("credentials = 1", expect!["credentials: must be sections: [[credentials]]"]);
    }

    /// `control` tells users of this form.
    #[test]
    fn the_way_to_name_an_interpreter() {
        let file = parse("[runtimes.\"python3.14\"]\ninterpreter = \"/path/to/python3.14\"").unwrap();
        assert_eq!(file.runtimes.get("python3.14"), Some(&RuntimeSource::Interpreter("/path/to/python3.14".into())));
    }

    #[test]
    fn not_toml() {
        assert!(parse("listen = ").unwrap_err()[0].starts_with("not TOML"));
    }
}
