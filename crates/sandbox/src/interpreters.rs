//! The interpreters of managed runtimes: those of the configuration and those that the host has.

use crate::config::{Config, RuntimeSource};
use crate::staging::Staging;
use crate::wire::{self, Wait};
use api::launcher::Interpreter;
use model::{Runtime, RuntimeFamily};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Programs that are asked for their version, at most.
const PROBES_MAX: usize = 64;
/// How long a program has for its answer.
const PROBE_MS_MAX: u64 = 5_000;
/// How often a running probe is looked at.
const PROBE_TICK_MS: u64 = 2;
/// Bytes of an answer that are read, at most.
const ANSWER_BYTES_MAX: u64 = 8_192;
/// Entries of a folder of installed versions that are looked at, at most.
const ENTRIES_MAX: usize = 256;
/// The root that shows the host's programs.
pub const HOST_ROOT: &str = "host";

/// An interpreter that answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    runtime: String,
    /// The executable file itself, no link.
    path: PathBuf,
    version: String,
    /// The folder that holds it and its library.
    prefix: PathBuf,
}

/// An interpreter that sandboxes can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// For the daemon.
    pub interpreter: Interpreter,
    /// Its path inside a sandbox.
    pub program: PathBuf,
    /// The name of the root below `root/`.
    pub root: String,
    /// The name below `lang/` of what becomes `/var/lang`.
    pub lang: Option<String>,
}

/// Those of the machine, by runtime.
#[derive(Debug, Default)]
pub struct Interpreters(BTreeMap<String, Installed>);

impl Interpreters {
    /// Takes those that the configuration gives as root folders; interpreters are probed like all others.
    pub fn from_config(config: &Config, staging: &Staging) -> io::Result<Interpreters> {
        let mut all = BTreeMap::new();
        for (runtime, source) in &config.runtimes {
            let RuntimeSource::Root(folder) = source else { continue };
            let Some(program) = program_in_root(runtime, folder) else { continue };
            staging.make_root(runtime, Some(folder), config)?;
            let interpreter = Interpreter {
                runtime: Runtime(runtime.clone()),
                path: folder.join(program.strip_prefix("/").unwrap_or(&program)),
                version: String::new(),
            };
            all.insert(runtime.clone(), Installed { interpreter, program, root: runtime.clone(), lang: None });
        }
        Ok(Interpreters(all))
    }

    /// Takes one that was found, unless the runtime has one.
    pub fn add(&mut self, found: Found, staging: &Staging) -> io::Result<()> {
        if self.0.contains_key(&found.runtime) {
            return Ok(());
        }
        let inside = found.path.strip_prefix(&found.prefix).map_err(io::Error::other)?;
        let (program, lang) = if found.prefix == Path::new("/usr") {
            (found.path.clone(), None)
        } else {
            staging.bind(&found.prefix, &format!("lang/{}", found.runtime), true)?;
            (Path::new("/var/lang").join(inside), Some(found.runtime.clone()))
        };
        let runtime = Runtime(found.runtime.clone());
        let interpreter = Interpreter { runtime, path: found.path, version: found.version };
        self.0.insert(found.runtime, Installed { interpreter, program, root: HOST_ROOT.into(), lang });
        Ok(())
    }

    /// The interpreter of a runtime.
    pub fn get(&self, runtime: &str) -> Option<&Installed> {
        self.0.get(runtime)
    }

    /// All, for the daemon.
    pub fn list(&self) -> Vec<Interpreter> {
        self.0.values().map(|installed| installed.interpreter.clone()).collect()
    }
}

/// Memory that Node.js needs besides the heap of the function's own objects, MB.
const NODE_OWN_MB: u32 = 48;

/// The arguments that make an interpreter run our shim in an instance of this memory. Without a limit of its own, V8
/// would let garbage pile up to several GB and be killed long before it collects any.
pub fn arguments(runtime: &Runtime, memory_mb: u32) -> Vec<String> {
    match runtime.family() {
        RuntimeFamily::Python { .. } => vec!["/var/runtime/python/bootstrap.py".into()],
        RuntimeFamily::Node { .. } => {
            let heap_mb = memory_mb.saturating_sub(NODE_OWN_MB).max(memory_mb / 2).max(1);
            vec![format!("--max-old-space-size={heap_mb}"), "/var/runtime/nodejs/bootstrap.mjs".into()]
        }
        RuntimeFamily::Provided | RuntimeFamily::Other => Vec::new(),
    }
}

/// The name of a runtime's executable file.
fn executable_name(runtime: &str) -> Option<String> {
    match Runtime(runtime.to_owned()).family() {
        RuntimeFamily::Python { minor } => Some(format!("python3.{minor}")),
        RuntimeFamily::Node { .. } => Some("node".into()),
        RuntimeFamily::Provided | RuntimeFamily::Other => None,
    }
}

fn program_in_root(runtime: &str, folder: &Path) -> Option<PathBuf> {
    let name = executable_name(runtime)?;
    let places = ["var/lang/bin", "usr/local/bin", "usr/bin"];
    let place = places.iter().find(|place| fs::symlink_metadata(folder.join(place).join(&name)).is_ok())?;
    Some(Path::new("/").join(place).join(name))
}

/// Asks every likely program which interpreter it is and calls `tell` for each runtime once. Takes a while: for a
/// process of its own.
pub fn probe(config: &Config, mut tell: impl FnMut(Found)) {
    let mut known: BTreeSet<String> = BTreeSet::new();
    let configured = config.runtimes.iter().filter_map(|(runtime, source)| match source {
        RuntimeSource::Interpreter(path) => Some((Some(runtime.clone()), path.clone())),
        RuntimeSource::Root(_) => None,
    });
    let found_on_host = candidates(config).into_iter().map(|path| (None, path));
    let mut asked = BTreeSet::new();
    for (wanted, path) in configured.chain(found_on_host).take(PROBES_MAX) {
        let Ok(path) = fs::canonicalize(&path) else { continue };
        if !is_elf(&path) || (wanted.is_none() && !asked.insert(path.clone())) {
            continue;
        }
        let Some(mut found) = ask(&path) else { continue };
        if let Some(wanted) = wanted {
            found.runtime = wanted;
        }
        if known.insert(found.runtime.clone()) {
            tell(found);
        }
    }
}

/// Runs [`probe`] and sends what it finds over a socket.
pub fn probe_for(config: &Config, socket: BorrowedFd<'_>) {
    probe(config, |found| {
        let _ = wire::send(socket, &found, &[], Wait::Block);
    });
}

/// Files whose name is that of an interpreter, the most ordinary places first.
fn candidates(config: &Config) -> Vec<PathBuf> {
    let mut dirs = config.search_path.clone();
    dirs.extend(["/usr/local/bin", "/usr/bin"].map(PathBuf::from));
    dirs.extend(entries(Path::new("/opt")).map(|dir| dir.join("bin")));
    if let Some(home) = &config.home {
        for versions in [".pyenv/versions", ".nvm/versions/node"] {
            dirs.extend(entries(&home.join(versions)).map(|dir| dir.join("bin")));
        }
    }
    let names: Vec<String> = (8..=14).map(|minor| format!("python3.{minor}")).chain(["node".into()]).collect();
    let all = dirs.iter().flat_map(|dir| names.iter().map(move |name| dir.join(name)));
    all.filter(|path| path.is_file()).collect()
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).take(ENTRIES_MAX).collect();
    // The newest version first, as far as names tell.
    all.sort_unstable_by(|a, b| b.cmp(a));
    all.into_iter()
}

/// Scripts that choose an interpreter are not interpreters.
fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"\x7fELF"
}

const PYTHON_QUESTION: &str = "import sys; print('%d.%d.%d' % sys.version_info[:3]); print(sys.base_prefix)";

fn ask(path: &Path) -> Option<Found> {
    let name = path.file_name()?.to_str()?;
    let found = if name.starts_with("python") {
        let answer = answer_of(Command::new(path).args(["-I", "-S", "-c", PYTHON_QUESTION]))?;
        let (version, prefix) = answer.split_once('\n')?;
        let minor = version.strip_prefix("3.")?.split('.').next()?;
        let prefix = fs::canonicalize(prefix.trim_end()).ok()?;
        Found { runtime: format!("python3.{minor}"), path: path.to_owned(), version: version.into(), prefix }
    } else {
        let answer = answer_of(Command::new(path).arg("--version"))?;
        let version = answer.trim().strip_prefix('v')?;
        let major: u32 = version.split('.').next()?.parse().ok()?;
        let prefix = path.parent()?.parent()?.to_owned();
        Found { runtime: format!("nodejs{major}.x"), path: path.to_owned(), version: version.into(), prefix }
    };
    // A prefix of "/" would show the whole host.
    let usable = found.path.starts_with(&found.prefix) && found.prefix.components().count() > 1;
    usable.then_some(found)
}

/// The standard output of a program that ends in time and well.
fn answer_of(command: &mut Command) -> Option<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).env_clear().current_dir("/");
    let mut child = command.spawn().ok()?;
    let end = Instant::now() + Duration::from_millis(PROBE_MS_MAX);
    let status = loop {
        match child.try_wait().ok()? {
            Some(status) => break status,
            None if Instant::now() > end => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            None => std::thread::sleep(Duration::from_millis(PROBE_TICK_MS)),
        }
    };
    let mut answer = String::new();
    child.stdout.take()?.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).ok()?;
    status.success().then_some(answer)
}
