//! Images for `/tmp` made ahead of need, and taken away when their sandbox is gone. Attaching a loop device and mounting a
//! file system take the kernel milliseconds, in which the launcher must not wait; so a process of its own does both. It
//! keeps every image until it is thrown away. One that comes back as it went, for its instance had no use for `/tmp`, is
//! kept for the next; half of those kept go with each [`Images::rest`].

use crate::scratch::{self, Image, Scratch};
use crate::sys::{self, Fork, Process};
use crate::wire::{self, Buffer, Wait};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Images of one size in hand, at most.
const READY: usize = 4;
/// Images asked for at one time, at most: what fits the socket easily.
const ASKED_MAX: usize = 32;

/// Images that came back untouched and are kept, at most: what a burst leaves behind for the next one.
const KEPT_MAX: usize = 512;

/// A request to the maker.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// Make an image of this many MB, with this name.
    Make { name: u64, size_mb: u32 },
    /// Its instance is gone: keep this image for another if it is untouched, or throw it away.
    Release { name: u64 },
    /// Throw this image away.
    Discard { name: u64 },
    /// Throw half of those away that are kept.
    Rest,
}

/// The maker's answer; beside it, on success, the mount, attached nowhere.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    name: u64,
    size_mb: u32,
    error: Option<String>,
}

/// An image that is mounted, but attached nowhere yet.
#[derive(Debug)]
pub struct Tmp {
    /// The maker's name for it.
    pub name: u64,
    /// The mount, until a sandbox has it.
    pub mount: Option<OwnedFd>,
}

/// The images in hand, and the process that makes them.
pub struct Images {
    maker: Process,
    /// Readable when the maker has answered.
    pub socket: OwnedFd,
    ready: BTreeMap<u32, VecDeque<Tmp>>,
    asked: BTreeMap<u32, usize>,
    /// What the socket did not take.
    unsent: VecDeque<Request>,
    next: u64,
}

impl Images {
    /// Starts the maker.
    pub fn start(scratch: Scratch) -> io::Result<Images> {
        let (ours, theirs) = wire::pair().map_err(io::Error::other)?;
        let maker = match sys::fork(0, None)? {
            Fork::Parent(maker) => maker,
            Fork::Child => {
                drop(ours);
                let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
                let _ = rustix::thread::set_name(c"tmp maker");
                serve(scratch, theirs.as_fd());
                sys::exit_now(0)
            }
        };
        let (ready, asked) = (BTreeMap::new(), BTreeMap::new());
        Ok(Images { maker, socket: ours, ready, asked, unsent: VecDeque::new(), next: 0 })
    }

    /// Takes one of this size from those in hand, and asks for what is missing. `waiting`: how many more are wanted now.
    pub fn take(&mut self, size_mb: u32, waiting: usize) -> Option<Tmp> {
        let taken = self.ready.get_mut(&size_mb).and_then(VecDeque::pop_front);
        self.ask(size_mb, waiting);
        taken
    }

    /// Gives one back that was not used.
    pub fn give_back(&mut self, size_mb: u32, tmp: Tmp) {
        self.ready.entry(size_mb).or_default().push_front(tmp);
    }

    fn ask(&mut self, size_mb: u32, waiting: usize) {
        let ready = self.ready.get(&size_mb).map_or(0, VecDeque::len);
        let asked = self.asked.entry(size_mb).or_insert(0);
        while ready + *asked < READY.min(2 + waiting) && *asked < ASKED_MAX {
            let request = Request::Make { name: self.next, size_mb };
            if wire::send(self.socket.as_fd(), &request, &[], Wait::Poll).is_err() {
                return;
            }
            self.next += 1;
            *asked += 1;
        }
    }

    /// Takes the maker's answers; what could not be made is said. `Err(None)`: the maker has ended.
    pub fn read(&mut self, buffer: &mut Buffer) -> Result<(), Option<String>> {
        self.send_unsent();
        for _ in 0..ASKED_MAX {
            match wire::receive::<Made>(self.socket.as_fd(), buffer, Wait::Poll) {
                Ok(got) => {
                    let Made { name, size_mb, error } = got.message;
                    let asked = self.asked.entry(size_mb).or_insert(0);
                    *asked = asked.saturating_sub(1);
                    match (error, got.files.into_iter().next()) {
                        (None, Some(mount)) => {
                            self.ready.entry(size_mb).or_default().push_back(Tmp { name, mount: Some(mount) });
                        }
                        (error, _) => return Err(Some(error.unwrap_or_else(|| "no image".into()))),
                    }
                }
                Err(error) if error.would_block() => return Ok(()),
                Err(_) => return Err(None),
            }
        }
        Ok(())
    }

    /// Gives an image back. Every process that used it is gone.
    pub fn release(&mut self, tmp: Tmp) {
        drop(tmp.mount);
        self.unsent.push_back(Request::Release { name: tmp.name });
        self.send_unsent();
    }

    /// Throws an image away that nobody has used.
    pub fn discard(&mut self, tmp: Tmp) {
        drop(tmp.mount);
        self.unsent.push_back(Request::Discard { name: tmp.name });
        self.send_unsent();
    }

    /// Throws half of those away that have come back; for now and then.
    pub fn rest(&mut self) {
        self.unsent.push_back(Request::Rest);
        self.send_unsent();
    }

    fn send_unsent(&mut self) {
        while let Some(request) = self.unsent.front() {
            if wire::send(self.socket.as_fd(), request, &[], Wait::Poll).is_err() {
                return;
            }
            self.unsent.pop_front();
        }
    }

    /// Throws away what nobody will ask for.
    pub fn keep_only(&mut self, sizes: impl Fn(u32) -> bool) {
        let surplus: Vec<u32> = self.ready.keys().copied().filter(|size| !sizes(*size)).collect();
        for tmp in surplus.iter().filter_map(|size| self.ready.remove(size)).flatten().collect::<Vec<_>>() {
            self.discard(tmp);
        }
    }

    /// Ends the maker; images in hand go with it.
    pub fn end(self) {
        drop(self.ready);
        drop(self.socket);
        // It ends by itself once it has shut its images down.
        if !self.maker.has_ended_within(2_000) {
            self.maker.signal(Signal::KILL);
        }
        let _ = self.maker.wait(true);
    }
}

/// What the maker has.
struct Maker {
    scratch: Scratch,
    /// Images that instances have, or that wait for them at the launcher's; the size in MB, and whether the image can be
    /// handed out again.
    lent: HashMap<u64, (Image, u32, bool)>,
    /// Those that came back untouched, by size in MB.
    kept: VecDeque<(u32, Image)>,
}

/// The maker: until the launcher closes its end.
fn serve(scratch: Scratch, socket: BorrowedFd<'_>) {
    let mut buffer = Buffer::short();
    let mut maker = Maker { scratch, lent: HashMap::new(), kept: VecDeque::new() };
    while let Ok(got) = wire::receive::<Request>(socket, &mut buffer, Wait::Block) {
        match got.message {
            Request::Release { name } => maker.take_back(name),
            Request::Discard { name } => maker.lent.remove(&name).into_iter().for_each(|(image, ..)| image.discard()),
            Request::Rest => maker.rest(),
            Request::Make { name, size_mb } => {
                let sent = match maker.make(name, size_mb) {
                    Ok(mount) => {
                        wire::send(socket, &Made { name, size_mb, error: None }, &[mount.as_fd()], Wait::Block)
                    }
                    Err(error) => {
                        let error = Some(crate::prepare::chain(&error));
                        wire::send(socket, &Made { name, size_mb, error }, &[], Wait::Block)
                    }
                };
                if sent.is_err() {
                    break;
                }
            }
        }
    }
    let lent = maker.lent.into_values().map(|(image, ..)| image);
    lent.chain(maker.kept.into_iter().map(|(_, image)| image)).for_each(Image::discard);
}

impl Maker {
    fn make(&mut self, name: u64, size_mb: u32) -> Result<OwnedFd, scratch::Error> {
        let kept = self.kept.iter().position(|(size, _)| *size == size_mb).and_then(|at| self.kept.remove(at));
        let image = match kept {
            Some((_, image)) => image,
            None => self.scratch.create(size_mb)?,
        };
        let (mount, is_last) = image.hand_out().map_err(scratch::Error::Attach)?;
        self.lent.insert(name, (image, size_mb, !is_last));
        Ok(mount)
    }

    fn take_back(&mut self, name: u64) {
        match self.lent.remove(&name) {
            Some((image, size_mb, true)) if self.kept.len() < KEPT_MAX && image.is_untouched() => {
                self.kept.push_back((size_mb, image));
            }
            Some((image, ..)) => image.discard(),
            None => {}
        }
    }

    fn rest(&mut self) {
        let going = self.kept.len().div_ceil(2);
        self.kept.drain(..going).for_each(|(_, image)| image.discard());
    }
}
