//! What has to be known to make a sandbox before its function is known. Sandboxes of one shape are interchangeable until
//! they are assigned.

use crate::interpreters::{self, HOST_ROOT, Interpreters};
use api::launcher::{InstanceKind, Network, Program, Start, is_read_at_start};
use model::{Runtime, RuntimeFamily};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One kind of sandbox.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shape {
    /// What waits in it.
    pub guest: Guest,
    /// Whether it has a way to the outside world.
    pub connected: bool,
    /// Size of `/tmp`, MB.
    pub tmp_mb: u32,
    /// Whether the Runtime API's listener is made.
    pub runtime_api: bool,
}

/// What waits in a sandbox for its function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Guest {
    /// A process that has given up everything it does not need and is about to execute a program: a bootstrap, or the
    /// interpreter of a managed runtime.
    Exec {
        /// `None`: a bootstrap.
        runtime: Option<String>,
    },
    /// A fork of the runtime's zygote.
    Forked {
        /// The runtime.
        runtime: String,
    },
    /// An interpreter with our shim, started for this sandbox. Its memory is part of its command line.
    Running {
        /// The runtime.
        runtime: String,
        /// Memory limit, MB.
        memory_mb: u32,
    },
}

/// Where the programs of a sandbox come from.
pub struct Programs<'a> {
    /// The name of the root below `root/`.
    pub root: &'a str,
    /// The name below `lang/` of what becomes `/var/lang`.
    pub lang: Option<&'a str>,
}

impl Shape {
    /// The shape that serves a start best. `ahead`: whether guests of managed runtimes may be up before their function
    /// is known; it needs a control group that limits their memory.
    pub fn of(start: &Start, ahead: bool) -> Shape {
        let kind = InstanceKind {
            program: start.program.clone(),
            memory_mb: start.memory_mb,
            tmp_mb: start.tmp_mb,
            network: start.network,
        };
        let particular = start.environment.iter().any(|(name, value)| is_read_at_start(name, value));
        let shape = Shape::expected(&kind, ahead && !particular);
        Shape { runtime_api: start.runtime_api, ..shape }
    }

    /// The shape of a kind of instances, whose functions have nothing particular in their environment.
    pub fn expected(kind: &InstanceKind, ahead: bool) -> Shape {
        let guest = match &kind.program {
            Program::Bootstrap => Guest::Exec { runtime: None },
            Program::Managed { runtime: Runtime(name) } => match Runtime(name.clone()).family() {
                RuntimeFamily::Python { .. } if ahead => Guest::Forked { runtime: name.clone() },
                RuntimeFamily::Node { .. } if ahead => {
                    Guest::Running { runtime: name.clone(), memory_mb: kind.memory_mb }
                }
                RuntimeFamily::Python { .. }
                | RuntimeFamily::Node { .. }
                | RuntimeFamily::Provided
                | RuntimeFamily::Other => Guest::Exec { runtime: Some(name.clone()) },
            },
        };
        let runtime_api = guest == Guest::Exec { runtime: None };
        Shape { guest, connected: kind.network == Network::Nat, tmp_mb: kind.tmp_mb, runtime_api }
    }

    /// The same, but with an interpreter that starts only when the function is known.
    pub fn late(&self) -> Shape {
        Shape { guest: Guest::Exec { runtime: self.runtime().map(str::to_owned) }, ..self.clone() }
    }

    /// The managed runtime, if it is one.
    pub fn runtime(&self) -> Option<&str> {
        match &self.guest {
            Guest::Exec { runtime } => runtime.as_deref(),
            Guest::Forked { runtime } | Guest::Running { runtime, .. } => Some(runtime),
        }
    }

    /// Where its programs come from; `None` if the machine has no such interpreter.
    pub fn programs<'a>(&self, interpreters: &'a Interpreters) -> Option<Programs<'a>> {
        let Some(runtime) = self.runtime() else { return Some(Programs { root: HOST_ROOT, lang: None }) };
        let installed = interpreters.get(runtime)?;
        Some(Programs { root: &installed.root, lang: installed.lang.as_deref() })
    }

    /// Whether its guest is up before the function is known.
    pub fn is_ahead(&self) -> bool {
        matches!(self.guest, Guest::Forked { .. } | Guest::Running { .. })
    }
}

/// The interpreter of a runtime and its arguments; `None` if the machine has no such interpreter.
pub fn command(interpreters: &Interpreters, runtime: &str, memory_mb: u32) -> Option<(PathBuf, Vec<String>)> {
    let installed = interpreters.get(runtime)?;
    Some((installed.program.clone(), interpreters::arguments(&Runtime(runtime.to_owned()), memory_mb)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Digest;

    fn start(program: Program, environment: &[(&str, &str)]) -> Start {
        Start {
            instance: 1,
            program,
            package: Digest([0; 32]),
            environment: environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            memory_mb: 256,
            cpu_millis: 100,
            tmp_mb: 512,
            processes: 1,
            open_files: 8,
            network: Network::Nat,
            runtime_api: false,
        }
    }

    fn managed(runtime: &str) -> Program {
        Program::Managed { runtime: Runtime(runtime.into()) }
    }

    #[test]
    fn guests() {
        let python = || Some("python3.12".to_owned());
        for (program, environment, ahead, want) in [
            (Program::Bootstrap, &[][..], true, Guest::Exec { runtime: None }),
            (managed("python3.12"), &[], true, Guest::Forked { runtime: "python3.12".into() }),
            (managed("python3.12"), &[], false, Guest::Exec { runtime: python() }),
            (managed("python3.12"), &[("PYTHONHASHSEED", "0")], true, Guest::Exec { runtime: python() }),
            (managed("python3.12"), &[("PYTHONPATH", "/x")], true, Guest::Exec { runtime: python() }),
            (
                managed("python3.12"),
                &[("PYTHONPATH", "/var/runtime"), ("LANG", "en_US.UTF-8"), ("TZ", ":UTC"), ("MINE", "1")],
                true,
                Guest::Forked { runtime: "python3.12".into() },
            ),
            (managed("nodejs20.x"), &[("NODE_PATH", "/x")], true, {
                Guest::Running { runtime: "nodejs20.x".into(), memory_mb: 256 }
            }),
            (managed("nodejs20.x"), &[("NODE_OPTIONS", "-x")], true, {
                Guest::Exec { runtime: Some("nodejs20.x".into()) }
            }),
        ] {
            assert_eq!(Shape::of(&start(program, environment), ahead).guest, want, "{environment:?}");
        }
    }

    #[test]
    fn a_late_shape_differs_only_in_its_guest() {
        let shape = Shape::of(&start(managed("python3.12"), &[]), true);
        assert_eq!(Shape { guest: shape.guest.clone(), ..shape.late() }, shape);
        assert!(shape.is_ahead() && !shape.late().is_ahead());
    }
}
