//! Control groups, version 1 or 2, whichever the machine has: one group per instance below `tidegate/<key>`.
//!
//! File names and units are those of the kernel's `admin-guide/cgroup-v1` and `cgroup-v2.rst`.

use crate::sys;
use api::launcher::{Mode, Start};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The accounting period of the CPU limit, microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// The least quota that the kernel accepts, microseconds per period.
const CPU_QUOTA_US_MIN: u64 = 1_000;
/// Groups that one clean-up looks at, at most.
const GROUPS_CLEANED_MAX: usize = 100_000;
/// How long a clean-up of all groups waits for killed processes to go.
const CLEAN_MS_MAX: u64 = 5_000;
/// How often it looks.
const CLEAN_TICK_MS: u64 = 5;
/// Processes of one group that are killed in one pass, at most.
const KILLS_MAX: usize = 10_000;

/// The folder of all launchers in each hierarchy.
const OURS: &str = "tidegate";

/// Where our groups are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroups {
    /// A hierarchy per controller.
    V1(V1),
    /// The unified hierarchy: our folder, and the controllers that children have.
    V2 {
        /// Our folder.
        dir: PathBuf,
        /// Any of memory, cpu, pids.
        controllers: Vec<String>,
    },
    /// None that we may use.
    None,
}

/// Our folder in each hierarchy of version 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct V1 {
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    pids: Option<PathBuf>,
    freezer: Option<PathBuf>,
}

impl V1 {
    fn dirs(&self) -> impl Iterator<Item = &PathBuf> {
        let all = [&self.memory, &self.cpu, &self.pids, &self.freezer];
        // Controllers that share a hierarchy share the folder.
        let is_first = move |at: usize| !all[..at].contains(&all[at]);
        all.into_iter().enumerate().filter(move |(at, _)| is_first(*at)).filter_map(|(_, dir)| dir.as_ref())
    }

    /// Makes our folders; a hierarchy that lets us make none is not used.
    fn make_dirs(&mut self) {
        for place in [&mut self.memory, &mut self.cpu, &mut self.pids, &mut self.freezer] {
            if place.as_ref().is_some_and(|dir| fs::create_dir_all(dir).is_err()) {
                *place = None;
            }
        }
        // Inherited by the groups below.
        if let Some(dir) = &self.memory {
            let _ = fs::write(dir.join("memory.swappiness"), "0");
        }
    }
}

/// What the machine's groups can limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Controllers {
    /// 0, 1 or 2.
    pub version: u8,
    /// Memory is limited and its peak known.
    pub memory: bool,
    /// CPU time is limited.
    pub cpu: bool,
    /// The number of processes is limited.
    pub pids: bool,
    /// Instances can be frozen.
    pub freezer: bool,
}

impl Cgroups {
    /// Finds the hierarchies and makes our folder in each. Leftovers of an earlier run are removed first.
    pub fn detect(mode: Mode, key: &str) -> Cgroups {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut v1 = V1::default();
        let mut unified = None;
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let &[_, point, kind, options, ..] = fields.as_slice() else { continue };
            if kind == "cgroup2" && unified.is_none() {
                unified = Some(PathBuf::from(point));
            }
            if kind != "cgroup" || mode != Mode::Root {
                continue;
            }
            let has = |controller| options.split(',').any(|o| o == controller);
            for (name, place) in
                [("memory", &mut v1.memory), ("cpu", &mut v1.cpu), ("pids", &mut v1.pids), ("freezer", &mut v1.freezer)]
            {
                if has(name) && place.is_none() {
                    *place = Some(Path::new(point).join(OURS).join(key));
                }
            }
        }
        remove_trees(&v1.dirs().cloned().collect::<Vec<_>>());
        v1.make_dirs();
        if v1.memory.is_some() || v1.cpu.is_some() || v1.pids.is_some() {
            return Cgroups::V1(v1);
        }
        unified.and_then(|point| own_dir_v2(&point, mode, key)).unwrap_or(Cgroups::None)
    }

    /// What can be limited.
    pub fn controllers(&self) -> Controllers {
        match self {
            Cgroups::V1(v1) => Controllers {
                version: 1,
                memory: v1.memory.is_some(),
                cpu: v1.cpu.is_some(),
                pids: v1.pids.is_some(),
                freezer: v1.freezer.is_some(),
            },
            Cgroups::V2 { controllers, .. } => {
                let has = |name: &str| controllers.iter().any(|c| c == name);
                Controllers { version: 2, memory: has("memory"), cpu: has("cpu"), pids: has("pids"), freezer: true }
            }
            Cgroups::None => Controllers::default(),
        }
    }

    fn dirs(&self) -> Vec<PathBuf> {
        match self {
            Cgroups::V1(v1) => v1.dirs().cloned().collect(),
            Cgroups::V2 { dir, .. } => vec![dir.clone()],
            Cgroups::None => Vec::new(),
        }
    }

    /// Ends every process in our groups and removes the groups, our folders included.
    pub fn remove(&self) {
        remove_trees(&self.dirs());
    }

    /// Makes the group of one sandbox, without limits.
    pub fn create(&self, name: &str) -> io::Result<Group> {
        let version = self.controllers().version;
        let mut group = Group { version, ..Group::default() };
        let made = self.fill(&mut group, name).and_then(|()| group.open_knobs());
        if made.is_err() {
            group.remove();
        }
        made.map(|()| group)
    }

    fn fill(&self, group: &mut Group, name: &str) -> io::Result<()> {
        for dir in self.dirs() {
            let dir = dir.join(name);
            fs::create_dir(&dir)?;
            group.dirs.push(dir);
        }
        let of = |place: &Option<PathBuf>| place.as_ref().map(|dir| dir.join(name));
        match self {
            Cgroups::V1(v1) => {
                (group.memory, group.cpu) = (of(&v1.memory), of(&v1.cpu));
                (group.pids, group.freezer) = (of(&v1.pids), of(&v1.freezer));
            }
            Cgroups::V2 { dir, controllers } => {
                let dir = dir.join(name);
                let has = |name: &str| controllers.iter().any(|c| c == name).then(|| dir.clone());
                (group.memory, group.cpu, group.pids) = (has("memory"), has("cpu"), has("pids"));
                group.freezer = Some(dir);
            }
            Cgroups::None => {}
        }
        Ok(())
    }
}

/// Our folder in the unified hierarchy: as root at its top, else below our own group if that has been delegated to us.
fn own_dir_v2(point: &Path, mode: Mode, key: &str) -> Option<Cgroups> {
    let base = match mode {
        Mode::Root => point.to_owned(),
        Mode::UserNamespace => {
            let own = fs::read_to_string("/proc/self/cgroup").ok()?;
            let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
            let base = point.join(own);
            leave_for_leaf(&base, key).ok()?;
            base
        }
    };
    let shared = base.join(OURS);
    let dir = shared.join(key);
    remove_trees(std::slice::from_ref(&dir));
    fs::create_dir_all(&dir).ok()?;
    for level in [&base, &shared, &dir] {
        for controller in ["memory", "cpu", "pids"] {
            let _ = fs::write(level.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    let enabled = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    let controllers: Vec<String> = enabled.split_whitespace().map(str::to_owned).collect();
    Some(Cgroups::V2 { dir, controllers })
}

/// A group with processes of its own cannot give controllers to children: we move to a leaf.
fn leave_for_leaf(base: &Path, key: &str) -> io::Result<()> {
    let leaf = base.join(format!("tidegate-launcher-{key}"));
    if !leaf.is_dir() {
        fs::create_dir(&leaf)?;
    }
    fs::write(leaf.join("cgroup.procs"), "0")
}

/// Kills everything in folders of groups, one level of children deep, which is all that we make, and removes them. What
/// does not end in time stays, for the next start.
fn remove_trees(dirs: &[PathBuf]) {
    let mut groups: Vec<PathBuf> = Vec::new();
    for dir in dirs.iter().filter(|dir| dir.is_dir()) {
        let children = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        groups.extend(children.filter(|path| path.is_dir()).take(GROUPS_CLEANED_MAX));
        groups.push(dir.clone());
    }
    let end = Instant::now() + Duration::from_millis(CLEAN_MS_MAX);
    groups.iter().for_each(|group| lift_cpu_limit(group));
    loop {
        // Those inside come before those around them.
        groups.retain(|group| {
            kill_all(group);
            fs::remove_dir(group).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
        });
        if groups.is_empty() || Instant::now() > end {
            return;
        }
        std::thread::sleep(Duration::from_millis(CLEAN_TICK_MS));
    }
}

/// Processes that are to end shall not wait for their next share of time.
fn lift_cpu_limit(group: &Path) {
    // Whichever is there.
    write_existing(&group.join("cpu.cfs_quota_us"), "-1");
    write_existing(&group.join("cpu.shares"), "1024");
    write_existing(&group.join("cpu.max"), "max");
    write_existing(&group.join("cpu.weight"), "100");
}

fn write_existing(file: &Path, text: &str) {
    use std::io::Write;
    let _ = fs::OpenOptions::new().write(true).open(file).and_then(|mut file| file.write_all(text.as_bytes()));
}

/// Sends SIGKILL to every process of a group. In a group of the version 1 freezer nothing can fork meanwhile: a process
/// that is told to freeze has a signal waiting, and fork fails with one (`copy_process` in kernel/fork.c).
fn kill_all(group: &Path) {
    let kill = group.join("cgroup.kill");
    if kill.exists() {
        write_existing(&kill, "1");
        return write_existing(&group.join("cgroup.freeze"), "0");
    }
    let freezer = group.join("freezer.state");
    write_existing(&freezer, "FROZEN");
    kill_each(group);
    write_existing(&freezer, "THAWED");
}

fn kill_each(group: &Path) {
    let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let pids = processes.lines().filter_map(|line| line.parse().ok()).filter_map(rustix::process::Pid::from_raw);
    for pid in pids.take(KILLS_MAX) {
        // The number may belong to somebody else by now: what is opened is looked at before it is killed.
        let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { continue };
        if is_member(pid, group) {
            let _ = rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL);
        }
    }
}

fn is_member(pid: rustix::process::Pid, group: &Path) -> bool {
    let places = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).unwrap_or_default();
    // From our own folder on: what is above it depends on who looks, and where the hierarchy is mounted.
    let own: Option<PathBuf> = group.ancestors().find(|dir| dir.ends_with(OURS)).and_then(|ours| {
        let above = ours.parent()?;
        group.strip_prefix(above).ok().map(Path::to_owned)
    });
    own.is_some_and(|own| places.lines().any(|place| Path::new(place.rsplit(':').next().unwrap_or("")).ends_with(&own)))
}

/// The files through which an instance's processes enter its groups, each by writing "0".
pub struct Doors {
    /// For the first process, and thus for all.
    pub first: Vec<OwnedFd>,
    /// The limit of processor time, which is for the guest only: the first process must be able to answer and to end
    /// when guests take all of it.
    pub guest: Option<OwnedFd>,
}

/// A limit of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knob {
    Memory,
    Swap,
    Quota,
    Weight,
    Processes,
}

/// The files of the limits in the groups of memory, cpu and pids, and whether we can do without them. The period of the
/// quota is the kernel's default, [`CPU_PERIOD_US`].
const KNOBS_V1: [&[(Knob, &str, bool)]; 3] = [
    &[(Knob::Memory, "memory.limit_in_bytes", true), (Knob::Swap, "memory.memsw.limit_in_bytes", false)],
    &[(Knob::Quota, "cpu.cfs_quota_us", true), (Knob::Weight, "cpu.shares", true)],
    &[(Knob::Processes, "pids.max", true)],
];
/// The same of version 2.
const KNOBS_V2: [&[(Knob, &str, bool)]; 3] = [
    &[(Knob::Memory, "memory.max", true), (Knob::Swap, "memory.swap.max", false)],
    &[(Knob::Quota, "cpu.max", true), (Knob::Weight, "cpu.weight", true)],
    &[(Knob::Processes, "pids.max", true)],
];

/// The groups of one instance; removed by [`Group::remove`].
#[derive(Debug, Default)]
pub struct Group {
    dirs: Vec<PathBuf>,
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    pids: Option<PathBuf>,
    freezer: Option<PathBuf>,
    version: u8,
    /// The files of the limits, until they are set.
    knobs: Vec<(Knob, fs::File)>,
    /// The CPU limit after Init, if it differs from the one during Init.
    settled_quota_us: Option<u64>,
}

impl Group {
    /// Opens the files of the limits: to find one takes the kernel longer than to write to it.
    fn open_knobs(&mut self) -> io::Result<()> {
        let of_version = if self.version == 1 { KNOBS_V1 } else { KNOBS_V2 };
        for (dir, names) in [&self.memory, &self.cpu, &self.pids].into_iter().zip(of_version) {
            let Some(dir) = dir else { continue };
            for (knob, name, needed) in names {
                match fs::OpenOptions::new().write(true).open(dir.join(name)) {
                    Ok(file) => self.knobs.push((*knob, file)),
                    // Absent when the kernel does not account for swap; then there is none or it is not limited.
                    Err(_) if !needed => {}
                    Err(error) => return Err(error),
                }
            }
        }
        match (self.version, &self.memory) {
            (2, Some(dir)) => fs::write(dir.join("memory.oom.group"), "1"),
            _ => Ok(()),
        }
    }

    /// Sets the limits of one instance, once.
    pub fn limit(&mut self, start: &Start) -> io::Result<()> {
        use std::io::Write;
        let weight = weight_millis(start.cpu_millis);
        for (knob, mut file) in std::mem::take(&mut self.knobs) {
            let value = match (knob, self.version) {
                (Knob::Memory, _) | (Knob::Swap, 1) => memory_bytes(start),
                (Knob::Swap, _) => "0".to_owned(),
                (Knob::Quota, 1) => self.init_quota_us(start).to_string(),
                (Knob::Quota, _) => format!("{} {CPU_PERIOD_US}", self.init_quota_us(start)),
                (Knob::Weight, 1) => (weight * 1024 / 1000).max(2).to_string(),
                (Knob::Weight, _) => (weight / 10).clamp(1, 10_000).to_string(),
                (Knob::Processes, _) => processes(start),
            };
            file.write_all(value.as_bytes())?;
        }
        Ok(())
    }

    /// The files through which a process that was not cloned into the groups puts itself there: it writes "0".
    pub fn all_doors(&self) -> io::Result<Vec<OwnedFd>> {
        let name = if self.version == 1 { "tasks" } else { "cgroup.procs" };
        let open = |dir: &PathBuf| fs::OpenOptions::new().write(true).open(dir.join(name)).map(OwnedFd::from);
        self.dirs.iter().map(open).collect()
    }

    /// On version 2, the folder into which the instance is cloned.
    pub fn clone_into(&self) -> io::Result<Option<OwnedFd>> {
        match (self.version, self.dirs.first()) {
            (2, Some(dir)) => Ok(Some(fs::File::open(dir)?.into())),
            _ => Ok(None),
        }
    }

    /// On version 1, the files through which a process puts itself in: it writes "0". A thread that moves itself spares
    /// the kernel a lock for which the launcher would wait for many milliseconds (`cgroup_procs_write_start` in
    /// kernel/cgroup/cgroup.c); what it may do is judged by who opened the file.
    pub fn doors(&self) -> io::Result<Doors> {
        if self.version != 1 {
            return Ok(Doors { first: Vec::new(), guest: None });
        }
        let open = |dir: &PathBuf| fs::OpenOptions::new().write(true).open(dir.join("tasks")).map(OwnedFd::from);
        let shared = |cpu: &PathBuf| [&self.memory, &self.freezer].into_iter().flatten().any(|dir| dir == cpu);
        let guest = self.cpu.as_ref().filter(|cpu| !shared(cpu));
        let first = self.dirs.iter().filter(|dir| Some(*dir) != guest);
        Ok(Doors { first: first.map(open).collect::<io::Result<_>>()?, guest: guest.map(open).transpose()? })
    }

    /// A file that holds the peak of memory in bytes, if there is one.
    pub fn peak(&self) -> Option<OwnedFd> {
        fs::File::open(self.peak_path()?).ok().map(OwnedFd::from)
    }

    /// The peak of memory until now, bytes.
    pub fn peak_bytes(&self) -> Option<u64> {
        fs::read_to_string(self.peak_path()?).ok()?.trim().parse().ok()
    }

    fn peak_path(&self) -> Option<PathBuf> {
        let name = if self.version == 1 { "memory.max_usage_in_bytes" } else { "memory.peak" };
        Some(self.memory.as_ref()?.join(name))
    }

    /// A descriptor that becomes ready when memory is exhausted: an event counter (readable) on version 1, a file
    /// (priority event) on version 2.
    pub fn watch_memory(&self) -> Option<OwnedFd> {
        let dir = self.memory.as_ref()?;
        if self.version == 2 {
            return fs::File::open(dir.join("memory.events")).ok().map(OwnedFd::from);
        }
        let counter = sys::eventfd().ok()?;
        let control = fs::File::open(dir.join("memory.oom_control")).ok()?;
        let order = format!("{} {}", counter.as_raw_fd(), control.as_raw_fd());
        fs::write(dir.join("cgroup.event_control"), order).ok()?;
        Some(counter)
    }

    /// Whether the kernel has killed a process for lack of memory.
    pub fn out_of_memory(&self) -> bool {
        let Some(dir) = &self.memory else { return false };
        let name = if self.version == 1 { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.is_some_and(|count| count.trim() != "0")
    }

    /// Notes the limit for later and gives the one for Init: starting up takes processor time in one piece, and a small
    /// function would wait many periods for its share (as on Lambda, Init has a CPU of its own).
    fn init_quota_us(&mut self, start: &Start) -> u64 {
        let settled = cpu_quota_us(start);
        let init = settled.max(CPU_PERIOD_US);
        self.settled_quota_us = (init != settled).then_some(settled);
        init
    }

    /// Init is over: the CPU limit that was asked for holds from now on.
    pub fn settle(&mut self) {
        let (Some(quota_us), Some(dir)) = (self.settled_quota_us.take(), &self.cpu) else { return };
        match self.version {
            1 => write_existing(&dir.join("cpu.cfs_quota_us"), &quota_us.to_string()),
            _ => write_existing(&dir.join("cpu.max"), &format!("{quota_us} {CPU_PERIOD_US}")),
        }
    }

    /// Freezes or thaws all processes, where there is a freezer.
    pub fn set_frozen(&self, frozen: bool) {
        let Some(dir) = &self.freezer else { return };
        let _ = match (self.version, frozen) {
            (1, true) => fs::write(dir.join("freezer.state"), "FROZEN"),
            (1, false) => fs::write(dir.join("freezer.state"), "THAWED"),
            (_, true) => fs::write(dir.join("cgroup.freeze"), "1"),
            (_, false) => fs::write(dir.join("cgroup.freeze"), "0"),
        };
    }

    /// Ends every process at once, whatever they do against it. Needs no processor time of theirs but for their end.
    pub fn kill_all(&self) {
        self.cpu.iter().for_each(|dir| lift_cpu_limit(dir));
        // The freezer's group, if there is one, holds them still meanwhile.
        if let Some(dir) = self.freezer.as_ref().or(self.dirs.first()) {
            kill_all(dir);
        }
    }

    /// Removes the empty groups. `false`: the kernel still counts a process of it; try again soon.
    pub fn remove(&mut self) -> bool {
        self.dirs.retain(|dir| match fs::remove_dir(dir) {
            Ok(()) => false,
            Err(error) => error.kind() == io::ErrorKind::ResourceBusy,
        });
        self.dirs.is_empty()
    }
}

fn memory_bytes(start: &Start) -> String {
    (u64::from(start.memory_mb) << 20).to_string()
}

fn cpu_quota_us(start: &Start) -> u64 {
    (u64::from(start.cpu_millis) * CPU_PERIOD_US / 1000).max(CPU_QUOTA_US_MIN)
}

/// How an instance weighs beside others, in thousandths of what one of a whole CPU does. The quota alone holds an instance to
/// its share. The weight decides who runs first when the processors are full, and a small instance that weighs a tenth
/// of a hog waits for a dozen of the hog's time slices; so the weights differ by far less than the sizes do.
fn weight_millis(cpu_millis: u32) -> u64 {
    u64::midpoint(1_000, u64::from(cpu_millis))
}

/// The instance's own first process is not the guest's.
fn processes(start: &Start) -> String {
    (u64::from(start.processes) + 1).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 128 MB, one CPU, 10,240 MB.
    #[test]
    fn weights_differ_less_than_sizes() {
        assert_eq!([72, 1_000, 5_788].map(weight_millis), [536, 1_000, 3_394]);
    }
}
