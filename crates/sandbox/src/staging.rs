//! The staging folder: a small file system of our own that holds, as mounts, everything that sandboxes are put together
//! from. A sandbox clones what it needs from here and never sees the host's other paths.
//!
//! ```text
//! data/            the data folder, at a path that the daemon can reach (root only)
//! packages/        its unpacked packages, read-only
//! lang/<runtime>/  an interpreter's own folder, read-only, when that is not /usr
//! root/host/       the root of a sandbox, read-only: the host's programs and libraries, our /etc and /dev
//! root/<runtime>/  the same with the programs of a configured root folder
//! new/             where a sandbox puts its root together
//! ```
//!
//! Each root is made once and shared: guests cannot write to it, nor undo that, for the mounts were made in a namespace
//! above theirs.

use crate::config::Config;
use crate::sys;
use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{self, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The user and group id of a guest, as it sees itself.
pub const GUEST_ID: u32 = 993;
/// The virtual name server that guests of a subnet ask.
pub fn name_server(config: &Config) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from(u32::from(config.subnet.address) + 1)
}

/// What of the host's `/usr` guests see.
const HOST_USR: [&str; 8] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec", "share"];
/// The folders of a root that are programs and libraries; on today's systems links into `/usr`.
const ROOT_DIRS: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// The device files of a sandbox, all harmless.
pub const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// Where distributions keep the bundle of trusted certificates.
const CA_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Links in `/etc/alternatives` that are copied, at most.
const ALTERNATIVES_MAX: usize = 4_096;

/// The staging folder of one launcher.
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
}

impl Staging {
    /// Mounts the folder. The caller has a mount namespace of its own, in which nothing is shared.
    pub fn create(dir: &Path) -> io::Result<Staging> {
        make_dir(dir)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount::mount("tidegate", dir, "tmpfs", flags, c"mode=0755,size=1m")?;
        let staging = Staging { dir: dir.to_owned() };
        for name in ["packages", "lang", "root", "new"] {
            make_dir(&staging.dir.join(name))?;
        }
        Ok(staging)
    }

    /// A path in the folder.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.join(relative)
    }

    /// Shows a folder at `relative`: for reading only, or as it is.
    pub fn bind(&self, source: &Path, relative: &str, read_only: bool) -> io::Result<()> {
        let target = self.path(relative);
        make_dir(&target)?;
        Ok(bind(CWD, source, &target, read_only)?)
    }

    /// The same for a folder that is open.
    pub fn bind_open(&self, source: BorrowedFd<'_>, relative: &str, read_only: bool) -> io::Result<()> {
        let target = self.path(relative);
        make_dir(&target)?;
        Ok(bind(source, Path::new(""), &target, read_only)?)
    }

    /// Makes the root `name` with the programs of `source`, a root folder, or of the host.
    pub fn make_root(&self, name: &str, source: Option<&Path>, config: &Config) -> io::Result<()> {
        let root = self.path("root").join(name);
        make_dir(&root)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount::mount("tidegate", &root, "tmpfs", flags, c"mode=0755,size=16m")?;
        match source {
            Some(source) => bind_foreign_programs(source, &root)?,
            None => bind_host_programs(&root)?,
        }
        for dir in ["var/task", "var/runtime", "var/lang", "opt", "tmp", "proc", "dev/shm", "etc", "home", "root"] {
            if !root.join(dir).exists() {
                make_dir(&root.join(dir))?;
            }
        }
        make_devices(&root)?;
        write_etc(&root, config)?;
        for (path, contents) in config.shims {
            write(&root.join("var/runtime").join(path), contents)?;
        }
        let tree = mount::open_tree(CWD, &root, OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        Ok(sys::mount_set(tree.as_fd(), libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID, true)?)
    }

    /// Takes everything away again.
    pub fn remove(&self) {
        let _ = mount::unmount(&self.dir, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Makes a folder and those above it, all for everyone to read.
pub fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    fs::write(path, contents)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

/// Shows `source`, relative to an open folder, at `target`, with what is mounted below it.
fn bind(from: BorrowedFd<'_>, source: &Path, target: &Path, read_only: bool) -> Result<(), Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = mount::open_tree(from, source, flags)?;
    let mut attributes = libc::MOUNT_ATTR_NOSUID;
    if read_only {
        attributes |= libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV;
    }
    sys::mount_set(tree.as_fd(), attributes, true)?;
    mount::move_mount(tree.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn bind_host_programs(root: &Path) -> io::Result<()> {
    for name in HOST_USR {
        bind_or_link(&Path::new("/usr").join(name), &root.join("usr").join(name))?;
    }
    ROOT_DIRS.iter().try_for_each(|name| bind_or_link(&Path::new("/").join(name), &root.join(name)))
}

fn bind_foreign_programs(source: &Path, root: &Path) -> io::Result<()> {
    bind_or_link(&source.join("usr"), &root.join("usr"))?;
    bind_or_link(&source.join("var/lang"), &root.join("var/lang"))?;
    ROOT_DIRS.iter().try_for_each(|name| bind_or_link(&source.join(name), &root.join(name)))
}

/// A folder is shown, a link copied, and what is not there is left out.
fn bind_or_link(source: &Path, target: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(source) else { return Ok(()) };
    if let Some(parent) = target.parent() {
        make_dir(parent)?;
    }
    if found.is_symlink() {
        return symlink(fs::read_link(source)?, target);
    }
    if found.is_dir() {
        make_dir(target)?;
        bind(CWD, source, target, true)?;
    }
    Ok(())
}

fn make_devices(root: &Path) -> io::Result<()> {
    let dev = root.join("dev");
    for name in DEVICES {
        write(&dev.join(name), b"")?;
        mount::mount_bind(Path::new("/dev").join(name), dev.join(name))?;
    }
    for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        symlink(target, dev.join(name))?;
    }
    Ok(())
}

fn write_etc(root: &Path, config: &Config) -> io::Result<()> {
    let etc = root.join("etc");
    let id = GUEST_ID;
    let passwd = format!(
        "root:x:0:0:root:/root:/sbin/nologin\nsbx_user1051:x:{id}:{id}::/home/sbx_user1051:/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/:/sbin/nologin\n"
    );
    let group = format!("root:x:0:\nsbx_user1051:x:{id}:\nnogroup:x:65534:\n");
    let resolve = format!("nameserver {}\noptions timeout:2 attempts:2\n", name_server(config));
    write(&etc.join("passwd"), passwd.as_bytes())?;
    write(&etc.join("group"), group.as_bytes())?;
    write(&etc.join("hosts"), b"127.0.0.1 localhost sandbox\n")?;
    write(&etc.join("hostname"), b"sandbox\n")?;
    write(&etc.join("nsswitch.conf"), b"passwd: files\ngroup: files\nhosts: files dns\n")?;
    write(&etc.join("resolv.conf"), resolve.as_bytes())?;
    symlink("/usr/share/zoneinfo/UTC", etc.join("localtime"))?;
    write_certificates(&etc, config)?;
    copy_alternatives(&etc)
}

fn write_certificates(etc: &Path, config: &Config) -> io::Result<()> {
    let configured = config.ca_bundle.iter().map(PathBuf::as_path);
    let bundle = configured.chain(CA_BUNDLES.iter().map(Path::new)).find_map(|path| fs::read(path).ok());
    let Some(bundle) = bundle else { return Ok(()) };
    write(&etc.join("ssl/certs/ca-certificates.crt"), &bundle)?;
    symlink("certs/ca-certificates.crt", etc.join("ssl/cert.pem"))?;
    make_dir(&etc.join("pki/tls/certs"))?;
    symlink("/etc/ssl/certs/ca-certificates.crt", etc.join("pki/tls/certs/ca-bundle.crt"))
}

/// Debian's `/usr/bin/awk` and the like are links to `/etc/alternatives`, which in turn are links into `/usr`.
fn copy_alternatives(etc: &Path) -> io::Result<()> {
    let target = etc.join("alternatives");
    make_dir(&target)?;
    for entry in fs::read_dir("/etc/alternatives").into_iter().flatten().flatten().take(ALTERNATIVES_MAX) {
        if let Ok(link) = fs::read_link(entry.path())
            && link.starts_with("/usr")
        {
            symlink(link, target.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Opens the folder of a package that the daemon has unpacked. The daemon may be hostile: no link is followed.
pub fn open_package(packages: BorrowedFd<'_>, digest: &str) -> Result<OwnedFd, Errno> {
    use rustix::fs::{OFlags, ResolveFlags};
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(packages, digest, flags, Mode::empty(), resolve)
}
