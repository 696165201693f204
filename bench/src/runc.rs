//! The comparator of cold starts: `runc run` of the same handler file with the host's interpreter.
//!
//! The bundle's root is an empty folder with the host's `/usr` and the interpreter's prefix bound into it. It has the
//! same memory limit and CPU quota as the function, but neither a user namespace, nor a seccomp filter, nor a network
//! besides its own loopback: it does less than the platform does.

use crate::Failure;
use crate::plan::{EVENT, MEMORY_MB, Subject};
use crate::process;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// One container must be gone within this time.
const RUN_LIMIT: Duration = Duration::from_secs(20);
const PIDS_MAX: u32 = 1_024;
/// Bundles and containers of one run of the bench have names that differ.
static NEXT: AtomicU32 = AtomicU32::new(0);
/// Links from the root into `/usr` on a merged system.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// A bundle for one subject.
pub struct Bundle {
    folder: PathBuf,
}

/// How long one container took.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Until the answer was there.
    pub answered: Duration,
    /// Until `runc run` had cleaned up and ended.
    pub ended: Duration,
}

impl Bundle {
    /// Whether `runc` is here and may run: it needs root.
    pub fn possible() -> bool {
        Command::new("runc")
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
            && fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
    }

    /// Writes the bundle below `parent`.
    pub fn make(parent: &Path, sources: &Path, subject: &Subject) -> Result<Bundle, Failure> {
        let folder = parent.join(format!("runc-{}-{}", subject.name, NEXT.fetch_add(1, Ordering::Relaxed)));
        let at = || Failure::during(format!("cannot write {}", folder.display()));
        let _ = fs::remove_dir_all(&folder);
        let root = folder.join("rootfs");
        fs::create_dir_all(&root).map_err(at())?;
        let mut binds = vec![("/usr".into(), "/usr".into()), (subject.function.folder.clone(), "/var/task".into())];
        binds.push((sources.join("plain"), "/plain".into()));
        binds.extend(subject.function.interpreter.as_deref().and_then(prefix).map(|prefix| (prefix.clone(), prefix)));
        for name in MERGED {
            match fs::read_link(Path::new("/").join(name)) {
                Ok(target) => symlink(target, root.join(name)).map_err(at())?,
                Err(_) if Path::new("/").join(name).is_dir() => {
                    binds.push((format!("/{name}").into(), format!("/{name}").into()))
                }
                Err(_) => {}
            }
        }
        for (_, inside) in &binds {
            fs::create_dir_all(root.join(inside.strip_prefix("/").unwrap_or(inside))).map_err(at())?;
        }
        for inside in ["proc", "dev", "tmp"] {
            fs::create_dir_all(root.join(inside)).map_err(at())?;
        }
        fs::write(folder.join("config.json"), config(subject, &binds).to_string()).map_err(at())?;
        Ok(Bundle { folder })
    }

    /// Runs one container to its end.
    pub fn run(&self) -> Result<Run, Failure> {
        let name = format!("tidegate-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let begun = Instant::now();
        let mut child = Command::new("runc")
            .args(["run", "--bundle"])
            .arg(&self.folder)
            .arg(name)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Failure::during("cannot start runc"))?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line).map_err(Failure::during("cannot read what runc wrote"))?;
        }
        let answered = begun.elapsed();
        let status = process::wait(&mut child, RUN_LIMIT)?;
        if !status.success() || !line.starts_with("{\"greeting\"") {
            return Err(Failure(format!("runc run ended with {status}, the handler answered {line:?} to {EVENT}")));
        }
        Ok(Run { answered, ended: begun.elapsed() })
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The folder above `bin/` of an interpreter that is not in `/usr`.
fn prefix(interpreter: &Path) -> Option<PathBuf> {
    let prefix = interpreter.parent()?.parent()?;
    (!prefix.starts_with("/usr") && prefix != Path::new("/")).then(|| prefix.to_owned())
}

/// The bundle's `config.json`, OCI runtime specification 1.0.
fn config(subject: &Subject, binds: &[(PathBuf, PathBuf)]) -> Value {
    let special = |at: &str, kind: &str, options: Value| json!({"destination": at, "type": kind, "source": kind, "options": options});
    let mut mounts = vec![
        special("/proc", "proc", json!(["nosuid", "noexec", "nodev"])),
        special("/dev", "tmpfs", json!(["nosuid", "strictatime", "mode=755", "size=65536k"])),
        special("/tmp", "tmpfs", json!(["nosuid", "nodev", "mode=1777"])),
    ];
    mounts.extend(binds.iter().map(|(outside, inside)| {
        json!({"destination": inside, "type": "bind", "source": outside, "options": ["rbind", "ro", "nosuid", "nodev"]})
    }));
    let namespaces: Vec<Value> =
        ["pid", "ipc", "uts", "mount", "network"].iter().map(|kind| json!({"type": kind})).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 65_534, "gid": 65_534},
            "args": subject.once,
            "env": ["PATH=/usr/bin:/bin", "LANG=C.UTF-8"],
            "cwd": "/var/task",
            "capabilities": {"bounding": [], "effective": [], "permitted": []},
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "sandbox",
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces,
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}],
                "memory": {"limit": u64::from(MEMORY_MB) << 20},
                "cpu": {"quota": 100_000, "period": 100_000},
                "pids": {"limit": PIDS_MAX}
            }
        }
    })
}
