//! `tidegate serve`: options, lock, listener; then the launcher in this process and the daemon in a child.

use crate::{access_key, config, daemon, shims};
use clap::Args;
use model::{AccountId, Region};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Options of `tidegate serve`. They win over the configuration file.
#[derive(Debug, Args)]
pub struct Serve {
    /// Address to listen on [default: 127.0.0.1:9000]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Folder for everything that is kept [default: ./tidegate-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A TOML file with settings; unknown keys are refused
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The account in ARNs, twelve digits [default: 000000000000]
    #[arg(long, value_name = "ID", value_parser = parse_account)]
    account_id: Option<AccountId>,
    /// The region in ARNs and signatures [default: us-east-1]
    #[arg(long, value_name = "REGION", value_parser = parse_region)]
    region: Option<Region>,
    /// Take requests without signatures; `--no-auth=public` is needed to do so beyond this machine
    #[arg(long, value_name = "SCOPE", num_args = 0..=1, require_equals = true, default_missing_value = "loopback",
          value_parser = ["loopback", "public"])]
    no_auth: Option<String>,
    /// Speak TLS with the certificate in this PEM file; taken anew when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// How much is said on stderr: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<tracing::Level>,
}

fn parse_account(text: &str) -> Result<AccountId, String> {
    AccountId::parse(text).map_err(|error| error.to_string())
}

fn parse_region(text: &str) -> Result<Region, String> {
    Region::parse(text).map_err(|error| error.to_string())
}

/// What a server runs with, after file and flags.
pub struct Settings {
    /// From the file.
    pub file: config::File,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The folder as the user named it.
    pub data_dir: PathBuf,
    /// The account in ARNs.
    pub account: AccountId,
    /// The region.
    pub region: Region,
    /// Whether requests need a signature.
    pub auth_required: bool,
    /// Whether, if they need none, they may come from beyond this machine.
    pub open_to_all: bool,
    /// Speaks TLS.
    pub tls: Option<gateway::tls::Tls>,
    /// How much is said.
    pub log_level: tracing::Level,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error("--no-auth would let everyone who reaches {0} run code here; say --no-auth=public if that is wanted")]
    OpenToAll(SocketAddr),
    #[error("listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("speak TLS")]
    Tls(#[from] gateway::tls::Error),
    #[error("prepare the sandboxes")]
    Prepare(#[from] sandbox::Error),
    #[error("start the daemon")]
    Daemon(#[source] sandbox::Error),
}

/// Runs a server until it is told to stop.
pub fn run(options: &Serve) -> ExitCode {
    match start(options) {
        Ok(code) => code,
        Err(error) => crate::report(&error),
    }
}

fn start(options: &Serve) -> Result<ExitCode, Error> {
    let settings = settle(options)?;
    // Bound here, where a low port is still allowed.
    let listener =
        TcpListener::bind(settings.listen).map_err(|source| Error::Listen { address: settings.listen, source })?;
    let prepared = prepare(&settings)?;
    let launcher = prepared
        .spawn_daemon(move |socket, data_dir| daemon::run(settings, listener, socket, &data_dir))
        .map_err(Error::Daemon)?;
    Ok(launcher.run())
}

fn settle(options: &Serve) -> Result<Settings, Error> {
    let mut file = match &options.config {
        Some(path) => config::read(path)?,
        None => config::File::default(),
    };
    let listen = options.listen.or(file.listen).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 9000)));
    if options.no_auth.as_deref() == Some("loopback") && !listen.ip().is_loopback() {
        return Err(Error::OpenToAll(listen));
    }
    let data_dir = options.data_dir.clone().or(file.data_dir.take()).unwrap_or_else(|| crate::DATA_DIR.into());
    let account = options.account_id.clone().or(file.account_id.take());
    let region = options.region.clone().or(file.region.take());
    // Read here, where a key that only root may read can be read.
    let tls = tls_files(options, &mut file).map(gateway::tls::Tls::load).transpose()?;
    Ok(Settings {
        tls,
        listen,
        data_dir,
        account: account.unwrap_or_else(access_key::default_account),
        region: region.unwrap_or_else(access_key::default_region),
        auth_required: options.no_auth.is_none(),
        open_to_all: options.no_auth.as_deref() == Some("public"),
        log_level: options.log_level.or(file.log_level).unwrap_or(tracing::Level::INFO),
        file,
    })
}

/// Absolute, since the daemon may have another working folder; links are followed anew each time.
fn tls_files(options: &Serve, file: &mut config::File) -> Option<gateway::tls::Files> {
    let flags = options.tls_cert.clone().zip(options.tls_key.clone());
    let (cert, key) = flags.or_else(|| file.tls.take().map(|files| (files.cert, files.key)))?;
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    Some(gateway::tls::Files { cert: absolute(cert), key: absolute(key) })
}

/// Places of the launcher beyond the instances that the worker may have.
const INSTANCES_SLACK: u32 = 64;

fn launcher_config(settings: &Settings) -> sandbox::Config {
    let mut config = sandbox::Config::new(&settings.data_dir);
    let file = &settings.file;
    // A stopped instance keeps its place until the kernel has taken it apart.
    config.instances_max = file.limits.instances.saturating_add(INSTANCES_SLACK);
    config.nameservers = file.nameservers.clone();
    config.runtimes = file.runtimes.clone();
    config.ca_bundle = file.ca_bundle.clone();
    config.shims = shims::FILES;
    take_environment(&mut config);
    if let Some(uid_base) = file.uid_base {
        config.uid_base = uid_base;
    }
    if let Some(subnet) = file.subnet {
        (config.subnet, config.subnet_is_any) = (subnet, false);
    }
    config
}

/// Where programs are looked for: what the environment says, then where every machine has them.
pub fn take_environment(config: &mut sandbox::Config) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A relative folder would be another one wherever the server is started.
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
    let system = std::mem::take(&mut config.search_path);
    dirs.extend(system.into_iter().filter(|dir| !dirs.contains(dir)).collect::<Vec<_>>());
    config.search_path = dirs;
    config.home = std::env::var_os("HOME").map(PathBuf::from);
}

/// How long the processes of a killed server may take to let go of its data folder.
const LOCK_WAIT: Duration = Duration::from_secs(3);

/// Prepares the sandboxes. The data folder is locked before anything in it, or left behind by an earlier run, is
/// touched.
fn prepare(settings: &Settings) -> Result<sandbox::Prepared, sandbox::Error> {
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match sandbox::prepare(launcher_config(settings)) {
            Err(sandbox::Error::InUse { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}
