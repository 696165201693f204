//! Network namespaces made ahead of need. To make one, with its link to the host, takes longer than everything else of
//! a sandbox together and waits for locks of the whole kernel; so a process of its own does it, one after the other,
//! and the launcher keeps a few in hand. One through which nothing has ever gone serves another instance; any other is
//! thrown away: an instance finds no trace of another's connections.

use crate::links::{GUEST_LINK, Links};
use crate::network::Network;
use crate::sys::{self, Fork, Process};
use crate::wire::{self, Buffer, Wait};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Namespaces kept in hand.
const READY: usize = 4;
/// Namespaces asked for at one time, at most: what fits the socket easily.
const ASKED_MAX: usize = 64;
/// A name may still belong to a link that the kernel is about to remove: attempts, 5 ms apart.
const NAME_ATTEMPTS: u32 = 200;

/// Namespaces that came back untouched and are kept, at most: what a burst leaves behind for the next one.
const KEPT_MAX: usize = 512;
/// What the kernel counts of a network namespace: packets of its links, and what its protocols have done. Not its sockets: a
/// list of them is a walk through those of the whole machine, and how many there are is known only after a while.
const COUNTERS: [&str; 2] = ["dev", "snmp"];

/// A request to the maker.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// Make the namespace with this index.
    Make { index: u32 },
    /// Look whether the namespace beside this, which nobody is in any more, is as it was when it was made.
    Look { index: u32 },
}

/// The maker's answer.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// Beside it the new namespace.
    Made { index: u32 },
    /// Beside it the namespace, which is as good as new.
    Untouched { index: u32 },
    /// It has been used, and is gone.
    Used { index: u32 },
    /// It could not be made.
    Failed { index: u32, error: String },
}

/// A namespace that is connected to the host; it goes when this and the last process in it are gone.
#[derive(Debug)]
pub struct Namespace {
    /// Names its link and its addresses.
    pub index: u32,
    /// The namespace.
    pub file: OwnedFd,
}

/// The namespaces in hand, and the process that makes them.
pub struct Pool {
    maker: Process,
    /// Readable when the maker has answered.
    pub socket: OwnedFd,
    ready: VecDeque<Namespace>,
    asked: usize,
    /// How many the maker looks at.
    looked_at: usize,
    /// Indices that are in hand, in use or asked for.
    taken: BTreeSet<u32>,
    next: u32,
    indices: u32,
}

impl Pool {
    /// Starts the maker and asks for the first namespaces. `indices`: how many there can be.
    pub fn start(network: &Network, indices: u32) -> io::Result<Pool> {
        let (ours, theirs) = wire::pair().map_err(io::Error::other)?;
        let maker = match sys::fork(0, None)? {
            Fork::Parent(maker) => maker,
            Fork::Child => {
                drop(ours);
                let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
                if let Err(error) = serve(network, theirs.as_fd()) {
                    eprintln!("tidegate launcher: the maker of network namespaces ends: {error}");
                }
                sys::exit_now(0)
            }
        };
        let (ready, taken) = (VecDeque::new(), BTreeSet::new());
        let mut pool = Pool { maker, socket: ours, ready, asked: 0, looked_at: 0, taken, next: 0, indices };
        pool.ask(0);
        Ok(pool)
    }

    /// Takes one from those in hand. `waiting`: how many starts wait for one besides.
    pub fn take(&mut self, waiting: usize) -> Option<Namespace> {
        let taken = self.ready.pop_front();
        self.ask(waiting);
        taken
    }

    /// Gives a namespace back in which no process is left.
    pub fn release(&mut self, namespace: Namespace) {
        let Namespace { index, file } = namespace;
        let is_room = self.ready.len() + self.looked_at < KEPT_MAX && self.looked_at < ASKED_MAX;
        if is_room && wire::send(self.socket.as_fd(), &Request::Look { index }, &[file.as_fd()], Wait::Poll).is_ok() {
            self.looked_at += 1;
        } else {
            self.taken.remove(&index);
        }
    }

    /// Throws half of the surplus away.
    pub fn rest(&mut self) {
        let surplus = self.ready.len().saturating_sub(READY).div_ceil(2);
        for namespace in self.ready.drain(..surplus) {
            self.taken.remove(&namespace.index);
        }
    }

    /// Gives an index back whose namespace has been dropped.
    pub fn free(&mut self, index: u32) {
        self.taken.remove(&index);
    }

    /// Asks for as many as are missing.
    pub fn ask(&mut self, waiting: usize) {
        while self.ready.len() + self.asked < READY + waiting && self.asked < ASKED_MAX {
            let Some(index) = self.free_index() else { return };
            if wire::send(self.socket.as_fd(), &Request::Make { index }, &[], Wait::Poll).is_err() {
                return;
            }
            self.taken.insert(index);
            self.asked += 1;
        }
    }

    fn free_index(&mut self) -> Option<u32> {
        for _ in 0..=self.taken.len() {
            let index = self.next;
            self.next = (self.next + 1) % self.indices.max(1);
            if !self.taken.contains(&index) {
                return (self.taken.len() < self.indices as usize).then_some(index);
            }
        }
        None
    }

    /// Takes the maker's answers. An error: one could not be made, or the maker has ended.
    pub fn read(&mut self, buffer: &mut Buffer) -> Result<(), ReadError> {
        for _ in 0..ASKED_MAX {
            match wire::receive::<Answer>(self.socket.as_fd(), buffer, Wait::Poll) {
                Ok(got) => self.hear(got.message, got.files.into_iter().next())?,
                Err(error) if error.would_block() => return Ok(()),
                Err(_) => return Err(ReadError::Ended),
            }
        }
        Ok(())
    }

    fn hear(&mut self, answer: Answer, file: Option<OwnedFd>) -> Result<(), ReadError> {
        let (index, error) = match (answer, file) {
            (Answer::Made { index }, Some(file)) => {
                self.asked = self.asked.saturating_sub(1);
                self.ready.push_back(Namespace { index, file });
                return Ok(());
            }
            (Answer::Untouched { index }, Some(file)) => {
                self.looked_at = self.looked_at.saturating_sub(1);
                self.ready.push_back(Namespace { index, file });
                return Ok(());
            }
            (Answer::Untouched { index }, None) | (Answer::Used { index }, _) => {
                self.looked_at = self.looked_at.saturating_sub(1);
                self.taken.remove(&index);
                return Ok(());
            }
            (Answer::Made { index }, None) => (index, "no namespace".to_owned()),
            (Answer::Failed { index, error }, _) => (index, error),
        };
        self.asked = self.asked.saturating_sub(1);
        self.taken.remove(&index);
        Err(ReadError::Make(error))
    }

    /// Ends the maker and drops what is in hand.
    pub fn end(self) {
        self.maker.signal(Signal::KILL);
        let _ = self.maker.wait(true);
    }
}

/// Why there is no answer from the maker.
#[derive(Debug)]
pub enum ReadError {
    /// It could not make one.
    Make(String),
    /// It has ended.
    Ended,
}

/// The maker: until the launcher closes its end.
fn serve(network: &Network, socket: BorrowedFd<'_>) -> io::Result<()> {
    let home = fs::File::open("/proc/self/ns/net")?;
    let settings = Settings::open();
    let mut buffer = Buffer::short();
    let mut fresh = None;
    loop {
        let (request, file) = match wire::receive::<Request>(socket, &mut buffer, Wait::Block) {
            Ok(got) => (got.message, got.files.into_iter().next()),
            Err(wire::Error::Closed) => return Ok(()),
            Err(error) => return Err(io::Error::other(error)),
        };
        let answered = match request {
            Request::Make { index } => {
                let made = make(network, index, home.as_fd(), &settings);
                if let (None, Ok(_)) = (&fresh, &made) {
                    fresh = traces().ok();
                }
                sys::enter_network(home.as_fd())?;
                answer(socket, made.map(|file| (Answer::Made { index }, Some(file))), index)
            }
            Request::Look { index } => {
                let untouched = file.filter(|file| fresh.is_some() && look(file.as_fd()).ok() == fresh);
                sys::enter_network(home.as_fd())?;
                answer(
                    socket,
                    Ok(match untouched {
                        Some(file) => (Answer::Untouched { index }, Some(file)),
                        None => (Answer::Used { index }, None),
                    }),
                    index,
                )
            }
        };
        answered.map_err(io::Error::other)?;
    }
}

fn answer(socket: BorrowedFd<'_>, made: io::Result<(Answer, Option<OwnedFd>)>, index: u32) -> Result<(), wire::Error> {
    let (answer, file) = made.unwrap_or_else(|error| (Answer::Failed { index, error: error.to_string() }, None));
    let files: Vec<BorrowedFd<'_>> = file.iter().map(AsFd::as_fd).collect();
    wire::send(socket, &answer, &files, Wait::Block)
}

/// The traces in a namespace. The caller stays in it.
fn look(namespace: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    sys::enter_network(namespace)?;
    traces()
}

/// The traces in the namespace that the caller is in.
fn traces() -> io::Result<Vec<String>> {
    COUNTERS.iter().map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}"))).collect()
}

/// Makes a namespace with everything in it; leaves this process in it or at home. What asks for a link by name asks the
/// namespace that the process is in.
fn make(network: &Network, index: u32, home: BorrowedFd<'_>, at_home: &Settings) -> io::Result<OwnedFd> {
    sys::unshare(libc::CLONE_NEWNET)?;
    let file: OwnedFd = fs::File::open("/proc/self/ns/net")?.into();
    let settings = Settings::open();
    ["all", "default"].into_iter().for_each(|scope| settings.disable_ipv6(scope));
    drop(settings);
    Links::open()?.up("lo")?;
    sys::enter_network(home)?;
    let name = connect(network, index, file.as_fd(), at_home)?;
    let configure = || {
        sys::enter_network(file.as_fd())?;
        let links = Links::open()?;
        let (guest, host) = network.ends(index);
        links.add_address(GUEST_LINK, guest)?;
        links.up(GUEST_LINK)?;
        links.add_default_route(host)
    };
    configure().inspect_err(|_| network.disconnect(&name))?;
    Ok(file)
}

fn connect(network: &Network, index: u32, namespace: BorrowedFd<'_>, at_home: &Settings) -> io::Result<String> {
    let mut attempts = NAME_ATTEMPTS;
    loop {
        match network.connect(index, namespace, at_home) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempts > 0 => {
                attempts -= 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

/// What every namespace has, connected or not: a loopback, and no IPv6. Of the namespace that the caller is in.
pub fn prepare_own() -> io::Result<()> {
    // Absent when the kernel has no IPv6.
    for scope in ["all", "default"] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1");
    }
    Links::open()?.up("lo")
}

/// The settings of the network namespace that it was opened in: a `/proc` that is mounted nowhere and used for no other
/// namespace. In one that is used for many, the kernel looks through the entries of all of them for each path.
pub struct Settings(Option<OwnedFd>);

impl Settings {
    /// Those of the namespace that the caller is in.
    pub fn open() -> Settings {
        use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
        let open = || -> rustix::io::Result<OwnedFd> {
            let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(context.as_fd())?;
            fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        };
        Settings(open().ok())
    }

    /// Switches IPv6 off for a link, or for `all` or `default`.
    pub fn disable_ipv6(&self, link: &str) {
        use rustix::fs::{Mode, OFlags, openat};
        let path = format!("sys/net/ipv6/conf/{link}/disable_ipv6");
        match &self.0 {
            // Absent when the kernel has no IPv6.
            Some(proc) => {
                let file = openat(proc, &path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
                let _ = file.and_then(|file| rustix::io::write(&file, b"1"));
            }
            None => drop(fs::write(format!("/proc/{path}"), "1")),
        }
    }
}
