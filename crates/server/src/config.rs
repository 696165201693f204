//! The configuration file: TOML, unknown keys refused, all problems reported at once.

use crate::settings::{Found, Section};
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
    /// `log_level = "info"`
    pub log_level: Option<tracing::Level>,
    /// `[limits]`
    pub limits: Limits,
    /// `[runtimes."python3.12"] interpreter = "/usr/bin/python3.12"` or `root = "/srv/python"`
    pub runtimes: BTreeMap<String, RuntimeSource>,
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
    if let Some(section) = top.section("network") {
        network(section, &mut file);
    }
    top.end();
    found.into_result(file)
}

/// One line per limit: every field of `Limits` can be set.
fn limits(mut section: Section<'_>, limits: &mut Limits) {
    macro_rules! set {
        ($($field:ident)*) => { $(
            if let Some(value) = section.number(stringify!($field), 0, u32::MAX.into()) {
                limits.$field = value;
            }
        )* };
    }
    set! {
        concurrent_executions zip_entries environment_bytes client_context_bytes tags timeout_s_max memory_mb_min
        memory_mb_max ephemeral_mb_min ephemeral_mb_max memory_mb_per_cpu processes open_files init_ms log_line_bytes
        log_tail_bytes log_files instances instances_memory_mb waiting_per_version idle_ms drain_ms list_items
        header_bytes connections header_read_ms body_read_ms inactive_after_days zip_bytes unzipped_bytes
        deploy_request_bytes request_payload_bytes response_payload_bytes
    }
    for (name, field) in
        [("code_storage_bytes", &mut limits.code_storage_bytes), ("log_file_bytes", &mut limits.log_file_bytes)]
    {
        if let Some(value) = section.number(name, 0, i64::MAX as u64) {
            *field = value;
        }
    }
    section.end();
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
            "#,
        )
        .unwrap();
        assert_eq!(file.limits.idle_ms, 300);
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
                limits.timeout_s_max: must be a whole number from 0 to 4294967295
                limits.idle_ms: must be a whole number from 0 to 4294967295
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
    fn not_toml() {
        assert!(parse("listen = ").unwrap_err()[0].starts_with("not TOML"));
    }
}
