"""The zygote: imports what most functions use, then forks a guest into each sandbox that the launcher has ready.

The zygote itself runs no code of users. A child enters its sandbox and gives up everything before it looks at the channel,
over which its function comes. Orders and words are JSON in packets of the socket that is descriptor 3, with open files
beside the orders; `crates/sandbox/src/zygote.rs` has the other end.
"""

import array
import ctypes
import errno
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import traceback

from . import channel, image, loop

SOCKET_FD = 3
ORDER_BYTES_MAX = 4096
FILES_MAX = 24

# The exit status of a child that could not give up its privilege.
NOT_LOCKED = 210

# What most functions import, or what their libraries do. None of these starts a thread or opens anything.
COMMON = (
    "base64 calendar collections collections.abc contextlib copy csv dataclasses datetime decimal email email.parser "
    "email.message enum functools gzip hashlib heapq hmac html http http.client inspect io ipaddress itertools json "
    "logging math mimetypes operator pathlib platform pwd queue random re resource secrets select selectors shutil "
    "socket ssl string struct subprocess tempfile textwrap threading time traceback types typing unicodedata "
    "urllib.error urllib.parse urllib.request uuid warnings weakref zipfile zlib"
).split()

# linux/sched.h, linux/prctl.h, linux/capability.h, linux/seccomp.h, linux/filter.h
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x20080522
CAPABILITIES = 64
SYS_LANDLOCK_RESTRICT_SELF = 446
SYS_PIDFD_OPEN = 434
SYS_SETNS = {"x86_64": 308, "aarch64": 268}

# Python specialises code that has run a few times.
REHEARSALS = 20
# The user and group id of guests, as they see themselves.
GUEST_ID = 993
# Dup of the descriptors' numbers while they are put in their places.
OWN_FIRST = 10

_libc = ctypes.CDLL(None, use_errno=True)


def main(search_path):
    """Imports, says that it is up, and forks until the launcher is gone."""
    gc.disable()
    order_socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=SOCKET_FD)
    # The zygote's children must not hold the launcher's socket, nor get it at a number that they use otherwise.
    moved = socket.socket(fileno=_move(order_socket.detach()))
    for name in COMMON:
        try:
            __import__(name)
        except ImportError:
            pass  # this interpreter was built without it
    loop.prepare()
    _Zygote(moved, search_path).run()


def _move(fd):
    import fcntl

    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, OWN_FIRST)
    os.close(fd)
    return moved


class _Zygote:
    def __init__(self, orders, search_path):
        self._orders = orders
        self._search_path = search_path
        self._serials = {}

    def run(self):
        woken, wake = os.pipe()
        for fd in (woken, wake):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._own_fds = (woken, wake)
        for _ in range(REHEARSALS):
            loop.rehearse(self._search_path)
        image.reserve()
        # What is here now is shared by all guests for as long as nobody touches it. Nothing has been collected: what guests
        # make would go into the gaps, which are all over the memory, and each would copy the pages around them.
        gc.freeze()
        self._say("Up")
        poll = select.poll()
        poll.register(self._orders, select.POLLIN)
        poll.register(woken, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if woken in ready:
                try:
                    os.read(woken, 4096)
                except BlockingIOError:
                    pass
                self._reap()
            if self._orders.fileno() in ready:
                self._obey()

    def _obey(self):
        octets, files = self._receive()
        if not octets:
            os._exit(0)
        order = json.loads(octets)
        serial = order["serial"]
        try:
            pid = self._fork(order, files)
        except OSError as error:
            self._say({"Failed": [serial, str(error)]})
        else:
            self._serials[pid] = serial
            pidfd = _libc.syscall(ctypes.c_long(SYS_PIDFD_OPEN), ctypes.c_int(pid), ctypes.c_uint(0))
            self._say({"Forked": [serial, pid]}, [pidfd] if pidfd >= 0 else [])
            if pidfd >= 0:
                os.close(pidfd)
        finally:
            for fd in files:
                os.close(fd)

    def _receive(self):
        space = socket.CMSG_LEN(FILES_MAX * array.array("i").itemsize)
        octets, ancillary, _flags, _address = self._orders.recvmsg(ORDER_BYTES_MAX, space)
        files = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                files.frombytes(data[: len(data) - len(data) % files.itemsize])
        return octets, list(files)

    def _fork(self, order, files):
        entry = _Entry(order, files)
        _enter(entry.pid, CLONE_NEWPID)
        pid = os.fork()
        if pid:
            return pid
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for fd in (*self._own_fds, self._orders.detach()):
                os.close(fd)
            entry.become_guest()
            if order["rehearse"]:
                loop.rehearse(self._search_path)
        except BaseException:
            # Nothing of the function has run, and nothing will.
            try:
                os.write(2, ("tidegate zygote: " + traceback.format_exc()).encode())
            finally:
                os._exit(NOT_LOCKED)
        try:
            gc.enable()
            loop.serve_when_assigned(self._search_path)
        except SystemExit as end:
            _exit_as_python_does(end)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(1)

    def _reap(self):
        while self._serials:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            serial = self._serials.pop(pid, None)
            if serial is not None:
                self._say({"Ended": [serial, status]})

    def _say(self, word, files=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        while True:
            try:
                self._orders.sendmsg([json.dumps(word).encode()], rights)
                return
            except InterruptedError:
                continue
            except OSError:
                os._exit(0)  # the launcher is gone


def _exit_as_python_does(end):
    """Ends as an interpreter does that SystemExit has reached: exit handlers, buffers, status."""
    import atexit

    code = end.code
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    try:
        threading = sys.modules.get("threading")
        if threading is not None:
            threading._shutdown()
        atexit._run_exitfuncs()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass
        os._exit((code or 0) & 0xFF)


class _Entry:
    """The files of one order, by what they are for."""

    def __init__(self, order, files):
        self.log, self.channel, self.net, self.user, self.mnt, self.ipc, self.uts, self.cgroup, self.pid = files[:9]
        rest = files[9:]
        self.landlock = rest.pop(0) if order["landlock"] else None
        self.doors = rest
        self.files = files

    def become_guest(self):
        """Enters the sandbox and gives up everything, in the order that the kernel asks for."""
        for door in self.doors:
            os.write(door, b"0")
        # Made by the launcher's own user namespace: entered before leaving that.
        _enter(self.net, CLONE_NEWNET)
        _enter(self.user, CLONE_NEWUSER)
        for fd, kind in (
            (self.ipc, CLONE_NEWIPC),
            (self.uts, CLONE_NEWUTS),
            (self.cgroup, CLONE_NEWCGROUP),
            (self.mnt, CLONE_NEWNS),
        ):
            _enter(fd, kind)
        os.setresgid(GUEST_ID, GUEST_ID, GUEST_ID)
        os.setresuid(GUEST_ID, GUEST_ID, GUEST_ID)
        os.setsid()
        os.umask(0o022)
        _prctl(PR_SET_DUMPABLE, 1)
        _prctl(PR_SET_NAME, ctypes.addressof(_NAME))
        # Not `open`: its buffers would be memory of every guest.
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, b"500")
        os.close(score)
        _drop_capabilities()
        _limit_core_files()
        if self.landlock is not None:
            _call(SYS_LANDLOCK_RESTRICT_SELF, self.landlock, 0)
        _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(_NO_SETNS))
        self._place()

    def _place(self):
        """0: nothing; 1 and 2: the log; 3: the channel; no other is open."""
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        log, link = os.dup(self.log), os.dup(self.channel)
        for fd in self.files:
            os.close(fd)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if link != channel.FD:
            os.dup2(link, channel.FD)
            os.close(link)
        if log != channel.FD:
            os.close(log)


def _enter(fd, kind):
    if _libc.setns(fd, kind):
        _fail("setns")


def _prctl(option, value, third=0):
    if _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), ctypes.c_ulong(third), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        _fail("prctl %d" % option)


def _call(number, *arguments):
    if _libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) < 0:
        _fail("system call %d" % number)


def _fail(what):
    number = ctypes.get_errno()
    raise OSError(number, "%s: %s" % (what, os.strerror(number)))


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


# Made here, once: a new type of array is a lot of memory of every guest.
_CAPABILITY_HEADER = _CapabilityHeader(CAPABILITY_VERSION_3, 0)
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()


def _drop_capabilities():
    for capability in range(CAPABILITIES):
        if _libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0):
            if ctypes.get_errno() == errno.EINVAL and capability:
                break  # the last one that this kernel knows was before
            _fail("drop capability %d" % capability)
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    if _libc.capset(ctypes.byref(_CAPABILITY_HEADER), ctypes.byref(_NO_CAPABILITIES)):
        _fail("capset")
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def _limit_core_files():
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _filter_without_setns():
    """A filter of one rule; the zygote's own, which has all the others, holds for its children too."""
    number = SYS_SETNS[os.uname().machine]
    instructions = (
        (0x20, 0, 0, 0),  # load the number of the call
        (0x15, 0, 1, number),  # setns?
        (0x06, 0, 0, 0x00050000 | errno.EPERM),
        (0x06, 0, 0, 0x7FFF0000),  # whatever else: as the zygote's filter says
    )
    octets = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    program = ctypes.create_string_buffer(octets, len(octets))
    return _Program(len(instructions), ctypes.addressof(program)), program


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


_NO_SETNS, _KEPT = _filter_without_setns()
_NAME = ctypes.create_string_buffer(b"python")
