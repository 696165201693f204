//! How the launcher makes a sandbox, and how it gives one to a function.

use crate::cgroup::{Cgroups, Group};
use crate::cloner::{Basis, Cloner, Files, Order};
use crate::config::Config;
use crate::imagepool::Tmp;
use crate::inside::{Assignment, Failure, Go, at};
use crate::instance::{DESTROY_MS_MAX, Instance, Parts, Phase, SETUP_MS_MAX};
use crate::interpreters::Interpreters;
use crate::netpool::Namespace;
use crate::shape::{self, Guest, Shape};
use crate::staging::{GUEST_ID, Staging, open_package};
use crate::sys::Process;
use crate::wire::{self, Wait};
use api::launcher::{Mode, Program, STAGE_LOST, Start};
use rustix::fs::{OFlags, Uid};
use rustix::mount::{self, OpenTreeFlags};
use seccompiler::BpfProgram;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The mark of a memory allowance without a control group: what the interpreter itself maps privately.
const PRIVATE_SLACK_BYTES: u64 = 64 << 20;

/// What all sandboxes of a launcher are made from.
pub struct Machine {
    /// The settings.
    pub config: Config,
    /// How sandboxes are made.
    pub mode: Mode,
    /// Where the parts are.
    pub staging: Staging,
    /// Limits.
    pub cgroups: Cgroups,
    /// Managed runtimes.
    pub interpreters: Interpreters,
    /// The filter for guests.
    pub filter: BpfProgram,
    /// The launcher's own network namespace.
    pub home_network: OwnedFd,
    /// Who clones for the launcher.
    pub cloner: Cloner,
}

/// The two ends of what a guest is connected by.
struct Ends {
    log: OwnedFd,
    channel: Option<OwnedFd>,
}

impl Machine {
    /// Starts the process that clones.
    pub fn start_cloner(&mut self) -> Result<(), Failure> {
        self.cloner = Cloner::start(self.basis())?;
        Ok(())
    }

    fn basis(&self) -> Basis<'_> {
        Basis { staging: &self.staging, filter: &self.filter, home_network: self.home_network.as_fd() }
    }

    /// Makes a sandbox that waits for a function; it answers later through its setup socket. Nothing is left behind on
    /// failure. With a namespace the guest has a network, otherwise its own loopback.
    pub fn make(
        &mut self,
        (serial, slot): (u64, u32),
        shape: &Shape,
        namespace: Option<Namespace>,
        tmp: Option<Tmp>,
    ) -> Result<Instance, Failure> {
        let order = self.order(shape)?;
        let mut group = self.cgroups.create(&serial.to_string()).map_err(at("cgroup", "make the control groups"))?;
        let made = self.clone_child(slot, order, &group, namespace.as_ref());
        let (process, parts) = match made {
            Ok(made) => made,
            Err(failure) => {
                group.remove();
                return Err(failure);
            }
        };
        let mut instance = Instance::new(serial, shape.clone(), process, parts, group, namespace, tmp);
        if let Err(failure) = self.release(slot, &mut instance) {
            instance.destroy(Instant::now() + Duration::from_millis(DESTROY_MS_MAX));
            return Err(failure);
        }
        Ok(instance)
    }

    /// Gives a waiting sandbox to a function; its first process answers later.
    pub fn assign(&self, instance: &mut Instance, start: &Start) -> Result<(), Failure> {
        let interpreter = match (&start.program, &instance.shape.guest) {
            (Program::Managed { runtime }, Guest::Exec { .. }) => {
                let command = shape::command(&self.interpreters, &runtime.0, start.memory_mb);
                Some(command.ok_or_else(|| no_interpreter(&runtime.0))?)
            }
            (Program::Managed { .. } | Program::Bootstrap, _) => None,
        };
        let package = self.clone_package(start)?;
        instance.group.limit(start).map_err(at("cgroup", "limit the control groups"))?;
        let private_bytes_max =
            (!self.cgroups.controllers().memory).then(|| (u64::from(start.memory_mb) << 20) + PRIVATE_SLACK_BYTES);
        let environment = if instance.shape.is_ahead() { Vec::new() } else { start.environment.clone() };
        let assignment = Assignment {
            interpreter,
            environment,
            processes: start.processes,
            open_files: start.open_files,
            private_bytes_max,
        };
        wire::send(instance.setup.as_fd(), &assignment, &[package.as_fd()], Wait::Poll)
            .map_err(at(STAGE_LOST, "send the assignment"))?;
        instance.assigned(start);
        Ok(())
    }

    /// The package as a mount of its own, attached nowhere yet.
    fn clone_package(&self, start: &Start) -> Result<OwnedFd, Failure> {
        let stage = "package";
        let packages = self.staging.path("packages");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let packages =
            rustix::fs::open(&packages, flags, rustix::fs::Mode::empty()).map_err(at("root", "open the packages"))?;
        let package = open_package(packages.as_fd(), &start.package.to_string())
            .map_err(at(stage, "open the unpacked package"))?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        mount::open_tree(&package, "", flags).map_err(at(stage, "clone the mount of the package"))
    }

    fn order(&self, shape: &Shape) -> Result<Order, Failure> {
        let missing = || no_interpreter(shape.runtime().unwrap_or_default());
        let programs = shape.programs(&self.interpreters).ok_or_else(missing)?;
        let interpreter = match &shape.guest {
            Guest::Running { runtime, memory_mb } => {
                Some(shape::command(&self.interpreters, runtime, *memory_mb).ok_or_else(missing)?)
            }
            Guest::Exec { .. } | Guest::Forked { .. } => None,
        };
        let (root, lang) = (programs.root.to_owned(), programs.lang.map(str::to_owned));
        Ok(Order { shape: shape.clone(), root, lang, interpreter })
    }

    fn clone_child(
        &mut self,
        slot: u32,
        order: Order,
        group: &Group,
        namespace: Option<&Namespace>,
    ) -> Result<(Process, Parts), Failure> {
        let (ours, theirs) = self.connect(slot, &order.shape)?;
        let (setup, setup_child) = wire::pair().map_err(at("clone", "make a socket pair"))?;
        rustix::net::sockopt::set_socket_passcred(&setup, true).map_err(at("clone", "ask for credentials"))?;
        let doors = group.doors().map_err(at("cgroup", "open the control groups"))?;
        let into = group.clone_into().map_err(at("cgroup", "open the control group"))?;
        let by_zygote = matches!(order.shape.guest, Guest::Forked { .. });
        let files = Files {
            setup: setup_child.as_fd(),
            log: (!by_zygote).then(|| theirs.log.as_fd()),
            channel: theirs.channel.as_ref().filter(|_| !by_zygote).map(AsFd::as_fd),
            guest_door: doors.guest.as_ref().map(AsFd::as_fd),
            cgroup: into.as_ref().map(AsFd::as_fd),
            network: namespace.map(|namespace| namespace.file.as_fd()),
            doors: doors.first.iter().map(AsFd::as_fd).collect(),
        };
        let basis = Basis { staging: &self.staging, filter: &self.filter, home_network: self.home_network.as_fd() };
        let process = self.cloner.clone(basis, order, &files)?;
        let for_zygote = theirs.channel.filter(|_| by_zygote).map(|channel| (theirs.log, channel));
        Ok((process, Parts { setup, log: ours.log, channel: ours.channel, for_zygote }))
    }

    /// The log and, for managed runtimes, the channel: our ends and the guest's.
    fn connect(&self, slot: u32, shape: &Shape) -> Result<(Ends, Ends), Failure> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (log, log_guest) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(at("log", "make a pipe"))?;
        // A guest that opens /dev/stdout again is checked against the pipe's owner.
        let owner = self.guest_uid(slot);
        rustix::fs::fchown(&log_guest, Some(Uid::from_raw(owner)), Some(rustix::fs::Gid::from_raw(owner)))
            .map_err(at("log", "give the log to the guest"))?;
        let pair = || socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let channel = shape.runtime().map(|_| pair()).transpose().map_err(at("channel", "make a socket pair"))?;
        let (channel, channel_guest) = channel.unzip();
        Ok((Ends { log, channel }, Ends { log: log_guest, channel: channel_guest }))
    }

    /// The guest's user and group id as the launcher's user namespace has it.
    fn guest_uid(&self, slot: u32) -> u32 {
        match self.mode {
            Mode::Root => self.config.uid_base + 1 + slot,
            Mode::UserNamespace => 0,
        }
    }

    /// Sets what can only be set from outside, then lets the child begin.
    fn release(&self, slot: u32, instance: &mut Instance) -> Result<(), Failure> {
        let pid = instance.process.pid;
        let proc = format!("/proc/{}", pid.as_raw_nonzero());
        let map = format!("{GUEST_ID} {} 1", self.guest_uid(slot));
        fs::write(format!("{proc}/setgroups"), "deny").map_err(at("identity", "refuse setgroups"))?;
        fs::write(format!("{proc}/gid_map"), &map).map_err(at("identity", "map the group id"))?;
        fs::write(format!("{proc}/uid_map"), &map).map_err(at("identity", "map the user id"))?;
        let mount = instance.tmp.as_mut().and_then(|tmp| tmp.mount.take());
        let tmp: Vec<BorrowedFd<'_>> = mount.iter().map(AsFd::as_fd).collect();
        wire::send(instance.setup.as_fd(), &Go, &tmp, Wait::Poll).map_err(at("go", "let the sandbox begin"))
    }
}

fn no_interpreter(runtime: &str) -> Failure {
    Failure { stage: "interpreter", message: format!("this machine has no interpreter for {runtime}") }
}

impl Instance {
    /// A sandbox that has just been cloned.
    fn new(
        serial: u64,
        shape: Shape,
        process: Process,
        parts: Parts,
        group: Group,
        namespace: Option<Namespace>,
        tmp: Option<Tmp>,
    ) -> Instance {
        let Parts { setup, log, channel, for_zygote } = parts;
        let memory_watch = group.watch_memory();
        Instance {
            serial,
            shape,
            phase: Phase::Making,
            process,
            setup,
            log: Some(log),
            channel,
            for_zygote,
            guest: None,
            status: None,
            failure: None,
            group,
            namespace,
            tmp,
            is_silent: false,
            listener: None,
            guest_pid: None,
            memory_watch,
            out_of_memory: false,
            memory_limit_bytes: 0,
            memory_peak_bytes: None,
            kill_at: Some(Instant::now() + Duration::from_millis(SETUP_MS_MAX)),
            kill_again: None,
            oom_look: None,
            remove_again: None,
        }
    }
}
