"""SnapStart: Init once, in a process that is then written down, and guests that become it instead of initialising.

Taking: the guest that was assigned stays as it is and forks; the child does Init and the hooks, and forks once more; what that
leaves holds still, and the guest sends its image to the daemon. Restoring: a guest becomes the image before it is assigned,
and finds itself where that process held still. `image.py` does the memory; this module does all else that a process has.

A guest is process 2 of its sandbox, and what is written down never is: libraries that notice a fork by the number of the
process notice the restore too.
"""

import ctypes
import io
import json
import os
import signal
import socket
import struct
import sys

from . import channel, console, image, jsontext, loop
from .image import Refused

# Bytes of the files in /tmp that are part of a snapshot.
TMP_BYTES_MAX = 32 << 20
# The longest that the child may tell, JSON.
TOLD_BYTES_MAX = 1 << 20

SNAP_START = "snap-start"
_TYPE = "AWS_LAMBDA_INITIALIZATION_TYPE"
# What open(2) is not to do again.
_ONCE = os.O_CREAT | os.O_EXCL | os.O_TRUNC


def take(link, search_path):
    """Does Init in a child, sends its image, and ends. Called in a guest that has run nothing of its function."""
    os.environ[_TYPE] = SNAP_START
    ours, theirs = socket.socketpair()
    try:
        image.place()
        me = image.Self()
    except Refused as refusal:
        _answer(link, _code(refusal), str(refusal))
    # User code may end this process, which fails its Init, but may not use it.
    image.hide(True)
    child = os.fork()
    if not child:
        image.hide(False)
        ours.close()
        _become_image(me, theirs.detach(), search_path)
    theirs.close()
    code = text = None
    try:
        told = _hear(ours)
        if told is None:
            _end_like(child)
        if "failure" in told:
            link.send(channel.INIT_ERROR, {"type": told["type"]}, jsontext.encode(told["failure"]))
            os._exit(1)
        if "code" in told:
            raise Refused(told["text"], told["code"])
        _check_processes(child, told["pid"])
        bytes_max = int(os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]) << 20
        image.write(told["pid"], told, bytes_max, lambda data: link.send(channel.IMAGE, {}, data))
    except Exception as refusal:  # user code may have told anything in the child's name
        code, text = _code(refusal), str(refusal) or type(refusal).__name__
    os.kill(child, signal.SIGKILL)
    _answer(link, code, text)


def _code(refusal):
    return refusal.code if isinstance(refusal, Refused) else "platform"


def _answer(link, code, text):
    """The end of taking: READY, with the reason if there is no image."""
    if code is None:
        link.send(channel.READY, {}, b"")
    else:
        console.write_line("tidegate: SnapStart: no snapshot was taken: " + text)
        link.send(channel.READY, {"reason": code}, b"")
    os._exit(0)


def _hear(ours):
    """What the child tells, or None if it has ended."""
    text = b""
    while not text.endswith(b"\n"):
        more = ours.recv(65536)
        if not more or len(text) > TOLD_BYTES_MAX:
            return None
        text += more
    return json.loads(text.split(b"\n")[0])


def _end_like(child):
    """Ends as the child did, so that the daemon sees how Init ended."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)


def _check_processes(child, fork):
    ours = {"1", str(os.getpid()), str(child), str(fork)}
    if any(name.isdigit() and name not in ours for name in os.listdir("/proc")):
        raise Refused("Init has left processes running", "processes")
    for pid in (child, fork):
        if len(os.listdir("/proc/%d/task" % pid)) != 1:
            raise Refused("Init has left threads running", "threads")


# The child.


def _become_image(me, fd, search_path):
    """Does Init, holds still, and serves in every process that becomes the image."""
    # The channel of the guest that will be: the objects that user code may hold are made for it now.
    null = os.open("/dev/null", os.O_RDWR)
    if null != channel.FD:
        os.dup2(null, channel.FD)
        os.close(null)
    loop.begin(search_path)
    link = channel.Channel()
    serve = loop.way_to_serve(link)
    handler = _initialise(fd)
    try:
        _check_children()
        state = _State(fd)
        # Libraries that are ready for forks end their threads before one; the image is of what a fork leaves.
        console.flush()
        fork = os.fork()
        if fork:
            _check_threads()
            os.waitpid(fork, 0)
            os._exit(1)
        told = me.describe()
    except (Refused, OSError) as refusal:
        _tell(fd, {"code": _code(refusal), "text": str(refusal)})
        os._exit(0)
    _tell(fd, told)
    if not me.hold(fd):
        os._exit(0)
    state.restore()
    link.revive()
    loop.take_over(loop.assignment(link))
    os.environ[_TYPE] = SNAP_START
    os.chdir(state.folder)
    _run_after_restore(link)
    link.send(channel.READY, {"restored": True}, b"")
    try:
        serve(link, handler)
    except (OSError, channel.MalformedFrame) as error:
        console.write_line("tidegate: the channel to the platform failed: %s" % error)
    os._exit(1)


def _tell(fd, told):
    console.flush()
    octets = json.dumps(told).encode() + b"\n"
    while octets:
        octets = octets[os.write(fd, octets) :]


def _initialise(fd):
    """The handler, after the hooks have run; a failure is told and ends the process."""
    error_type = None
    try:
        handler = loop.load_handler(os.environ["_HANDLER"])
        error_type = "Runtime.BeforeSnapshotError"
        hooks = sys.modules.get("snapshot_restore_py")
        while hooks and hooks.get_before_snapshot():
            function, arguments, named = hooks.get_before_snapshot().pop()
            function(*arguments, **named)
        return handler
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        failure = loop.failure_of(error, "")
        error_type = (error_type or failure["errorType"])[: loop.ERROR_TYPE_CHARS_MAX]
        _tell(fd, {"failure": failure, "type": error_type})
        os._exit(1)


def _check_threads():
    if len(os.listdir("/proc/self/task")) != 1:
        raise Refused("Init has left threads running", "threads")


def _check_children():
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        pass
    else:
        raise Refused("Init has left processes running", "processes")
    if os.path.isdir("/dev/shm") and os.listdir("/dev/shm"):
        raise Refused("there is shared memory", "memory")


class _State:
    """What a process has besides its memory: kept in that, and restored from it."""

    def __init__(self, own_fd):
        self.files = [_File(fd) for fd in _open_descriptors() if fd > channel.FD and fd != own_fd]
        self.folder = os.getcwd()
        self.mask = os.umask(0)
        os.umask(self.mask)
        self.tmp = _packed_tmp()

    def restore(self):
        """In a process that has just become the image."""
        os.umask(self.mask)
        _unpack_tmp(self.tmp)
        self.tmp = None
        for file in self.files:
            file.open()
        _notice_fork()


def _open_descriptors():
    return sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.islink("/proc/self/fd/" + name))


class _File:
    """A descriptor of user code: a file is opened again, a connection is lost."""

    def __init__(self, fd):
        self.fd = fd
        self.path = os.readlink("/proc/self/fd/%d" % fd)
        self.is_socket = self.path.startswith("socket:")
        if not self.is_socket and (not self.path.startswith("/") or self.path.endswith(" (deleted)")):
            raise Refused("an open %s cannot be restored" % self.path, "files")
        with open("/proc/self/fdinfo/%d" % fd) as lines:
            facts = dict(line.split(":", 1) for line in lines.read().splitlines())
        self.flags, self.position = int(facts["flags"], 8), int(facts["pos"])

    def open(self):
        """Puts it where it was."""
        fd = _lost_connection() if self.is_socket else os.open(self.path, self.flags & ~_ONCE)
        if self.position and not self.is_socket:
            os.lseek(fd, self.position, os.SEEK_SET)
        if fd != self.fd:
            os.dup2(fd, self.fd, inheritable=False)
            os.close(fd)
        os.set_inheritable(self.fd, not self.flags & os.O_CLOEXEC)


def _lost_connection():
    """A socket whose other end is gone."""
    ours, theirs = socket.socketpair()
    theirs.close()
    return ours.detach()


def _packed_tmp():
    if not os.listdir("/tmp"):
        return None
    import tarfile

    packed, total = io.BytesIO(), 0
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for folder, folders, files in os.walk("/tmp"):
            for name in folders + files:
                path = os.path.join(folder, name)
                total += os.lstat(path).st_size
                if total > TMP_BYTES_MAX:
                    raise Refused("/tmp holds more than %d MB" % (TMP_BYTES_MAX >> 20), "tmp")
                tar.add(path, arcname=path[1:], recursive=False)
    return packed.getvalue()


def _unpack_tmp(packed):
    if packed is None:
        return
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        # Written by this very process; not a stranger's.
        tar.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        tar.extractall("/")


def _notice_fork():
    """What a fork would have the interpreter and libraries do: new locks, new random numbers."""
    # The handlers close the channel, which is not theirs any more.
    kept = os.dup(channel.FD)
    ctypes.pythonapi.PyOS_BeforeFork()
    ctypes.pythonapi.PyOS_AfterFork_Child()
    os.dup2(kept, channel.FD, inheritable=False)
    os.close(kept)
    threading = sys.modules.get("threading")
    if threading is not None and hasattr(threading.main_thread(), "_set_native_id"):
        threading.main_thread()._set_native_id()
    openssl = sys.modules.get("_ssl")
    # Later ones notice by the number of the process.
    if openssl is not None and openssl.OPENSSL_VERSION_INFO < (3, 0, 0):
        openssl.RAND_add(os.urandom(64), 64.0)


def _run_after_restore(link):
    hooks = sys.modules.get("snapshot_restore_py")
    try:
        for function, arguments, named in hooks.get_after_restore() if hooks else ():
            function(*arguments, **named)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        failure = loop.failure_of(error, "")
        console.flush()
        link.send(channel.INIT_ERROR, {"type": "Runtime.AfterRestoreError"}, jsontext.encode(failure))
        os._exit(1)
    console.flush()


# The guest that is to become an image.


def restore(files):
    """Becomes the image in the first of these files; gives the reason and its code if that cannot be."""
    try:
        if not files:
            raise Refused("no image came", "broken")
        image.become(files[0])
    except Refused as refusal:
        code, text = refusal.code, str(refusal)
    except (OSError, ValueError, struct.error, LookupError, TypeError) as error:
        # A passing want of this guest, or bytes that are no image: the next image may be better, and the daemon counts.
        code, text = "broken", str(error) or type(error).__name__
    for fd in files:
        os.close(fd)
    console.write_line("tidegate: SnapStart: initialised without the snapshot: " + text)
    return code
