//! `/tmp` of the configured size that is neither memory nor shared: an ext4 image in the data folder, one per instance.
//!
//! An image is formatted once per size and copied, sparsely, for each instance. Images have no name: nothing is left of
//! them when their last user is gone, however it ended. The launcher mounts and hands over the mount, so that no guest
//! ever touches the device. An image in which nothing was ever made serves another instance; any other is thrown away.

use crate::sys;
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Files and folders that a `/tmp` can hold, per MB of its size; at least [`INODES_MIN`].
const INODES_PER_MB: u64 = 64;
/// Files and folders that a `/tmp` can hold, at least.
const INODES_MIN: u64 = 4_096;
/// Bytes of an inode on disk.
const INODE_BYTES: u64 = 256;
/// Sizes that are kept formatted; the least size gives way.
const TEMPLATES_MAX: usize = 64;
/// Attempts to get a free loop device while others take them too.
const LOOP_ATTEMPTS: u32 = 16;
/// Pieces of data in an image that are copied, at most.
const EXTENTS_MAX: u32 = 100_000;
/// Bytes of the disk that an image takes at most for which another instance may have it: a new one has what the formatter
/// wrote.
const UNTOUCHED_BYTES_MAX: u64 = 4 << 20;
/// Bytes copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// Why there is no `/tmp` on disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program `mke2fs` is not installed.
    #[error("the program mke2fs is not installed")]
    FormatterMissing,
    /// The folder for images cannot be used.
    #[error("use the folder for scratch images")]
    Folder(#[source] io::Error),
    /// The image could not be formatted.
    #[error("format a scratch image")]
    Format(#[source] io::Error),
    /// The image could not be copied.
    #[error("copy a scratch image")]
    Copy(#[source] io::Error),
    /// The image could not be attached to a loop device.
    #[error("attach a loop device")]
    Attach(#[source] io::Error),
    /// The image could not be mounted.
    #[error("mount a scratch image")]
    Mount(#[source] io::Error),
}

/// The images of one launcher.
pub struct Scratch {
    folder: OwnedFd,
    formatter: PathBuf,
    templates: BTreeMap<u32, OwnedFd>,
}

/// A mounted image.
pub struct Image {
    /// The mount of which instances get clones, attached nowhere.
    mount: OwnedFd,
    /// Its top folder, through which it is shut down.
    top: OwnedFd,
    /// The file that it is in.
    file: OwnedFd,
    /// What it was like before anybody had it.
    fresh: Look,
}

/// What shows whether somebody has used an image.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    /// When the top folder last changed: nothing appears or disappears in it without a trace here, and nobody can set this
    /// time but by changing something now.
    changed: (i64, i64),
    entries_changed: (i64, i64),
    /// Files without a name leave no trace in the folder.
    free_blocks: u64,
    free_inodes: u64,
}

impl Scratch {
    /// Tries everything once, with an image of the size that will be wanted most. `formatter`: the program `mke2fs`.
    pub fn open(folder: OwnedFd, formatter: Option<PathBuf>, likely_mb: u32) -> Result<Scratch, Error> {
        let formatter = formatter.ok_or(Error::FormatterMissing)?;
        let mut scratch = Scratch { folder, formatter, templates: BTreeMap::new() };
        scratch.create(likely_mb)?.discard();
        Ok(scratch)
    }

    /// A new, empty image of which `size_mb` MB can be used. The first of each size takes some 50 ms more.
    pub fn create(&mut self, size_mb: u32) -> Result<Image, Error> {
        if !self.templates.contains_key(&size_mb) {
            let template = self.format(size_mb)?;
            if self.templates.len() >= TEMPLATES_MAX {
                self.templates.pop_first();
            }
            self.templates.insert(size_mb, template);
        }
        let template = &self.templates[&size_mb];
        let image = self.new_file().map_err(Error::Folder)?;
        copy_sparsely(template, &image).map_err(Error::Copy)?;
        mount_image(image)
    }

    fn new_file(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.folder, ".", flags, Mode::from_raw_mode(0o600))?)
    }

    /// What the file system keeps for itself is known only after formatting: it is done twice.
    fn format(&self, size_mb: u32) -> Result<OwnedFd, Error> {
        let wanted = u64::from(size_mb) << 20;
        let inodes = (u64::from(size_mb) * INODES_PER_MB).max(INODES_MIN);
        let mut total = wanted + inodes * INODE_BYTES + wanted / 64 + (1 << 20);
        for _ in 0..2 {
            let file = self.format_file(total, inodes)?;
            let free = prepare_top(&file)?;
            total = total.saturating_add(wanted).saturating_sub(free);
        }
        let file = self.format_file(total, inodes)?;
        prepare_top(&file)?;
        Ok(file)
    }

    fn format_file(&self, bytes: u64, inodes: u64) -> Result<OwnedFd, Error> {
        let blocks = bytes.div_ceil(4096);
        let file = self.new_file().map_err(Error::Folder)?;
        rustix::fs::ftruncate(&file, blocks * 4096).map_err(|errno| Error::Format(errno.into()))?;
        // The program finds the file, which has no name, as its standard input.
        let input = rustix::io::dup(&file).map_err(|errno| Error::Format(errno.into()))?;
        let output = Command::new(&self.formatter)
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0"])
            .args(["-O", "^has_journal,^resize_inode,metadata_csum,sparse_super2"])
            .args(["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"])
            .args(["-N", &inodes.to_string(), "/proc/self/fd/0", &blocks.to_string()])
            .env_clear()
            .stdin(Stdio::from(input))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .map_err(Error::Format)?;
        if output.status.success() {
            return Ok(file);
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(Error::Format(io::Error::other(text.lines().last().unwrap_or("mke2fs failed").to_owned())))
    }
}

/// Opens the top folder to everyone and removes what the formatter left there. Returns the bytes that can be used.
fn prepare_top(file: &OwnedFd) -> Result<u64, Error> {
    let file = file.try_clone().map_err(Error::Attach)?;
    let image = mount_image(file)?;
    let prepare = || -> rustix::io::Result<u64> {
        rustix::fs::unlinkat(&image.top, "lost+found", rustix::fs::AtFlags::REMOVEDIR)?;
        rustix::fs::fchmod(&image.top, Mode::from_raw_mode(0o1777))?;
        let free = rustix::fs::fstatvfs(&image.top)?;
        Ok(free.f_bavail * free.f_frsize)
    };
    let free = prepare().map_err(|errno| Error::Mount(errno.into()))?;
    // Dropped, not shut down: all is to be written.
    drop(image);
    Ok(free)
}

/// Copies the parts of a file that hold data; the rest reads as zeros in both.
fn copy_sparsely(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let end = rustix::fs::fstat(from)?.st_size.unsigned_abs();
    rustix::fs::ftruncate(to, end)?;
    let mut at = 0;
    for _ in 0..EXTENTS_MAX {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let hole = rustix::fs::seek(from, SeekFrom::Hole(data))?;
        copy_range(from, to, data, hole)?;
        at = hole;
    }
    Err(io::Error::other("too many pieces"))
}

fn copy_range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let bytes = usize::try_from(end - read_at).unwrap_or(COPY_BYTES).min(COPY_BYTES);
        let copied = rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), bytes)?;
        if copied == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn mount_image(file: OwnedFd) -> Result<Image, Error> {
    let (device, path) = attach(file.as_fd()).map_err(Error::Attach)?;
    let mount = || -> rustix::io::Result<Image> {
        let context = mount::fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
        mount::fsconfig_set_string(context.as_fd(), "source", &path)?;
        // A scratch file system survives no crash: nothing needs to reach the disk in any order, or at all.
        for flag in ["noinit_itable", "nobarrier"] {
            mount::fsconfig_set_flag(context.as_fd(), flag)?;
        }
        mount::fsconfig_create(context.as_fd())?;
        use MountAttrFlags as Attr;
        let attributes = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOATIME;
        let mount = mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::openat(&mount, ".", flags, Mode::empty())?;
        let fresh = look(top.as_fd())?;
        Ok(Image { mount, top, file, fresh })
    };
    let image = mount().map_err(|errno| Error::Mount(errno.into()));
    // The device frees itself when its last user, from here on the mount, is gone.
    drop(device);
    image
}

fn look(top: BorrowedFd<'_>) -> rustix::io::Result<Look> {
    let found = rustix::fs::fstat(top)?;
    let free = rustix::fs::fstatvfs(top)?;
    Ok(Look {
        changed: (found.st_ctime, found.st_ctime_nsec as i64),
        entries_changed: (found.st_mtime, found.st_mtime_nsec as i64),
        free_blocks: free.f_bfree,
        free_inodes: free.f_ffree,
    })
}

fn attach(file: BorrowedFd<'_>) -> io::Result<(OwnedFd, String)> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let control = rustix::fs::open("/dev/loop-control", flags, Mode::empty())?;
    let mut last = io::Error::from(io::ErrorKind::ResourceBusy);
    for _ in 0..LOOP_ATTEMPTS {
        let number = sys::loop_free_number(control.as_fd())?;
        let path = format!("/dev/loop{number}");
        let device = rustix::fs::open(&path, flags, Mode::empty())?;
        match sys::loop_configure(device.as_fd(), file) {
            Ok(()) => return Ok((device, path)),
            Err(errno) => last = errno.into(),
        }
        if last.kind() != io::ErrorKind::ResourceBusy {
            break;
        }
    }
    Err(last)
}

impl Image {
    /// A mount of it for an instance, attached nowhere, to be moved to its place by whoever has the descriptor. `true`: it is
    /// the image's only one, and the image serves nobody else; kernels before 6.15 clone no mount that is attached nowhere.
    pub fn hand_out(&self) -> io::Result<(OwnedFd, bool)> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        match mount::open_tree(&self.mount, "", flags) {
            Ok(clone) => Ok((clone, false)),
            Err(_) => Ok((self.mount.try_clone()?, true)),
        }
    }

    /// Whether it is as it was before anybody had it, and takes no more of the disk than a new one may. Every process that
    /// used it is gone.
    pub fn is_untouched(&self) -> bool {
        let is_small =
            rustix::fs::fstat(&self.file).is_ok_and(|file| (file.st_blocks as u64) * 512 <= UNTOUCHED_BYTES_MAX);
        is_small && look(self.top.as_fd()).is_ok_and(|now| now == self.fresh)
    }

    /// Throws the contents away instead of writing them to the disk, and unmounts. Every process that used it is gone.
    pub fn discard(self) {
        // The kernel writes a line to its log for each; what nobody has touched has nothing that could be written.
        if !self.is_untouched() {
            let _ = sys::ext4_shut_down(self.top.as_fd());
        }
    }
}
