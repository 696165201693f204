//! What isolation and limits this machine gives, in words for people.

use crate::cgroup::Controllers;
use crate::sys;
use api::launcher::{Ability, Grade, Interpreter, Mode};
use std::net::Ipv4Addr;

/// The oldest Landlock that also keeps signals and abstract sockets inside (Linux 6.12).
const LANDLOCK_FULL: u32 = 6;
/// The managed runtimes that Tidegate has shims for.
const RUNTIMES: [&str; 11] = [
    "python3.8",
    "python3.9",
    "python3.10",
    "python3.11",
    "python3.12",
    "python3.13",
    "python3.14",
    "nodejs18.x",
    "nodejs20.x",
    "nodejs22.x",
    "nodejs24.x",
];

/// What the launcher found out at its start.
pub struct Facts<'a> {
    /// How sandboxes are made.
    pub mode: Mode,
    /// What control groups limit.
    pub controllers: Controllers,
    /// The name server for guests, or why there is no network.
    pub network: Result<Option<Ipv4Addr>, &'a str>,
    /// Whether `/tmp` is on disk, or why not.
    pub scratch: Result<(), &'a str>,
}

fn ability(name: &str, grade: Grade, detail: impl Into<String>, remedy: &str) -> Ability {
    let remedy = if grade == Grade::Full { String::new() } else { remedy.to_owned() };
    Ability { name: name.to_owned(), grade, detail: detail.into(), remedy }
}

/// Everything but the runtimes.
pub fn of_machine(facts: &Facts<'_>) -> Vec<Ability> {
    let mut all = vec![privilege(facts.mode)];
    all.extend(limits(facts));
    all.extend([seccomp(), landlock(), tmp(facts), network(facts), name_service(facts)]);
    all
}

fn privilege(mode: Mode) -> Ability {
    match mode {
        Mode::Root => ability("user ids", Grade::Full, "run by root; each instance has a user id of its own", ""),
        Mode::UserNamespace => ability(
            "user ids",
            Grade::Weak,
            "run by an ordinary user; daemon and instances share that user's id, kept apart by namespaces",
            "run tidegate as root: it gives its privilege up except for the small launcher",
        ),
    }
}

fn limits(facts: &Facts<'_>) -> [Ability; 4] {
    let Controllers { version, memory, cpu, pids, freezer } = facts.controllers;
    let full = format!("control groups, version {version}");
    let remedy = match facts.mode {
        Mode::Root => "mount the cgroup v2 hierarchy with its memory, cpu and pids controllers, or those of v1",
        Mode::UserNamespace => {
            "run tidegate as root, or in a delegated group: systemd-run --user --scope -p Delegate=yes tidegate serve"
        }
    };
    let choose = |name, has: bool, grade, otherwise: &str| {
        if has { ability(name, Grade::Full, full.clone(), "") } else { ability(name, grade, otherwise, remedy) }
    };
    let by_process = "each process by itself (RLIMIT_DATA), not the instance as a whole";
    let by_kernel = "a limit of the instance's user namespace (RLIMIT_NPROC)";
    [
        choose("memory limit", memory, Grade::Weak, by_process),
        choose("cpu limit", cpu, Grade::Missing, "instances share all CPUs without a limit"),
        choose("process limit", pids, Grade::Weak, by_kernel),
        choose("freezer", freezer, Grade::Missing, "idle instances may use CPU time"),
    ]
}

fn seccomp() -> Ability {
    let known = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if known.split_whitespace().any(|action| action == "errno") {
        return ability("seccomp", Grade::Full, "an allow-list of system calls", "");
    }
    ability("seccomp", Grade::Missing, "the kernel has no seccomp filters", "use a kernel with CONFIG_SECCOMP_FILTER")
}

fn landlock() -> Ability {
    let name = "landlock";
    let remedy = "use Linux 6.12 or newer with landlock in its list of security modules (lsm=landlock,...)";
    match sys::landlock_version() {
        Some(version) if version >= LANDLOCK_FULL => ability(name, Grade::Full, format!("version {version}"), ""),
        Some(version) => {
            let detail = format!("version {version}: files, but not signals and abstract sockets");
            ability(name, Grade::Weak, detail, remedy)
        }
        None => ability(name, Grade::Missing, "the kernel has no Landlock; namespaces alone protect files", remedy),
    }
}

fn tmp(facts: &Facts<'_>) -> Ability {
    match facts.scratch {
        Ok(()) => ability("/tmp", Grade::Full, "a disk image of the configured size per instance", ""),
        Err(why) => ability(
            "/tmp",
            Grade::Weak,
            format!("in memory, of the configured size ({why})"),
            "run tidegate as root, with e2fsprogs installed, on a machine with loop devices",
        ),
    }
}

fn network(facts: &Facts<'_>) -> Ability {
    match (facts.network, facts.mode) {
        (Ok(_), _) => ability("network", Grade::Full, "the outside world through address translation", ""),
        (Err(why), Mode::UserNamespace) => ability(
            "network",
            Grade::Missing,
            format!("functions cannot reach the network ({why})"),
            "run tidegate as root",
        ),
        (Err(why), Mode::Root) => ability(
            "network",
            Grade::Missing,
            format!("functions cannot reach the network ({why})"),
            "install nftables (apt-get install nftables) and use a kernel with nf_tables and veth",
        ),
    }
}

fn name_service(facts: &Facts<'_>) -> Ability {
    match facts.network {
        Ok(Some(server)) => ability("name service", Grade::Full, format!("questions go to {server}"), ""),
        Ok(None) => ability(
            "name service",
            Grade::Weak,
            "the host's name server is its own loopback, or IPv6, which guests cannot reach",
            "set nameservers in the configuration",
        ),
        Err(_) => ability("name service", Grade::Missing, "there is no network", "see network"),
    }
}

/// One line per managed runtime.
pub fn of_runtimes(found: &[Interpreter]) -> Vec<Ability> {
    let one = |name: &str| match found.iter().find(|interpreter| interpreter.runtime.0 == name) {
        Some(interpreter) => {
            let detail = format!("{} {}", interpreter.path.display(), interpreter.version);
            ability(name, Grade::Full, detail.trim_end(), "")
        }
        None => ability(
            name,
            Grade::Missing,
            "not found on this machine",
            &format!("install it, or name an interpreter or a root folder for {name} in the configuration"),
        ),
    };
    RUNTIMES.iter().copied().map(one).collect()
}

/// Whether a sandbox could be made, by the launcher's own answer.
pub fn of_trial(trial: Result<(), String>) -> Ability {
    match trial {
        Ok(()) => ability("sandbox", Grade::Full, "a trial instance ran in namespaces of its own", ""),
        Err(why) => ability(
            "sandbox",
            Grade::Missing,
            format!("a trial instance could not be started: {why}"),
            "run tidegate as root, outside of containers that mask /proc or forbid namespaces",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ability_that_is_not_full_has_a_remedy() {
        for mode in [Mode::Root, Mode::UserNamespace] {
            let facts = Facts { mode, controllers: Controllers::default(), network: Err("why"), scratch: Err("why") };
            let mut all = of_machine(&facts);
            all.extend(of_runtimes(&[]));
            all.push(of_trial(Err("why".into())));
            for ability in all {
                assert_eq!(ability.grade == Grade::Full, ability.remedy.is_empty(), "{ability:?}");
            }
        }
    }
}
