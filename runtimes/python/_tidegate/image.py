"""The memory of an initialised process as a file, and the way back: one process is written down, others become it.

Both ends are forks of one zygote, so that what neither of them has touched is in the same place in both: the C library,
the interpreter, the thread's own storage. Nothing here needs a privilege: the writer reads the memory of its own child, and
who becomes the image changes nothing but its own memory. `docs/decisions/0030-snapstart.md` says why it is done like this.

An image is pages of memory, then an index, then a trailer that says where the index is. The index says which system calls
turn a blank guest into the image: 7 words each, a number and six arguments.
"""

import ctypes
import json
import os
import re
import struct
import time

PAGE = 4096
# Holes of so many pages between touched ones are written too: each run costs a mapping.
HOLE_PAGES = 8
# Writable parts of files are written whole up to this size.
WHOLE_BYTES_MAX = 4 << 20
# Where the calls are put while they are made.
SPACE_BYTES = 4 << 20
# Small enough for a frame under any configuration.
READ_BYTES = 1 << 16
# How long a process may take to hold still once it has said that it will.
HOLD_S_MAX = 5.0
TCB_BYTES = 0x400
# A process that has become an image has these descriptors: nothing, the log twice, the channel.
KEPT_DESCRIPTORS = 4

_TRAILER = struct.Struct("<QQ8s")
_MAGIC = b"tgimage1"
_CALL = struct.Struct("<7q")
_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) (\S+) (\d+) *(.*)")

_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS, _MAP_NORESERVE = 1, 2, 0x10, 0x20, 0x4000
_MADV_WIPEONFORK = 18
_PR_SET_DUMPABLE = 4
_SIGNALS = 64
_SIGNAL_BYTES = 8
_ACTION_BYTES = 32
_USER_END = 0x7FFFFFFFF000
_LOWEST = 0x10000

# x86-64: mmap, munmap, brk, rt_sigaction, rt_sigprocmask, pread64, read, madvise; and close_range
_MMAP, _MUNMAP, _BRK, _SIGACTION, _SIGPROCMASK, _PREAD, _READ, _MADVISE = 9, 11, 12, 13, 14, 17, 0, 28
_CLOSE_RANGE = 436

# Two functions in machine code; `hold` at 0, `perform` at 0x40.
#
# hold(frame, fd): saves the registers that a call preserves on the stack and the stack pointer in frame[0], then waits
# until `fd` is readable or closed and returns 0. Once frame[0] is there, the process changes no memory any more.
#
# perform(calls): makes one system call after the other without touching the stack; ends the process with status 211 when
# one fails. A number of -1 is the end: the word behind it becomes the stack pointer, and `hold` returns 1.
_CODE = {
    "x86_64": bytes.fromhex(
        "535541544155415641574883ec080fae1c24d97c24044889274889fb4189f444"
        "89e7488d7308ba0100000031c00f054883f8fc74ea31c0eb4f0f1f8000000000"
        "4889fb488b034883f8ff7433488b7b08488b7310488b53184c8b53204c8b4328"
        "4c8b4b304883c3380f05483d00f0ffff72d1bfd3000000b8e70000000f05f448"
        "8b6308b8010000000fae1424d96c24044883c408415f415e415d415c5d5bc3"
    )
}
_PERFORM_AT = 0x40

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_ssize_t
)(("mmap", _libc))


class Refused(Exception):
    """No image can be made of this process, or this process cannot become the image; the text says why, for people.

    The code is one of a few that the daemon knows.
    """

    def __init__(self, text, code="platform"):
        super().__init__(text)
        self.code = code


class _Place:
    """What the zygote has set aside in the address space of all its children."""

    def __init__(self):
        code = _CODE.get(os.uname().machine)
        if code is None:
            raise Refused("this processor is not supported")
        self.code = _map(PAGE, _PROT_READ | _PROT_WRITE)
        ctypes.memmove(self.code, code, len(code))
        if _libc.mprotect(ctypes.c_size_t(self.code), ctypes.c_size_t(PAGE), _PROT_READ | _PROT_EXEC):
            raise Refused("code of our own cannot be run")
        self.space = _map(SPACE_BYTES, _PROT_READ | _PROT_WRITE)
        self.hold = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_size_t, ctypes.c_int)(self.code)
        self.perform = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_size_t)(self.code + _PERFORM_AT)

        # What every guest of this zygote has, and of no other.
        self.name = os.urandom(16).hex()
        self.lines = _own_lines()

    def memory(self):
        """The space, to write to."""
        return (ctypes.c_char * SPACE_BYTES).from_address(self.space)


def _own_lines():
    """The mappings of this process as lines of text."""
    try:
        with open("/proc/self/maps") as maps:
            return frozenset(maps.read().splitlines())
    except OSError:
        raise Refused("a zygote cannot see itself") from None


def _map(size, prot):
    address = _mmap(0, size, prot, _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE, -1, 0)
    if address == -1:
        raise Refused("no address space")
    return address


_place = None


def reserve():
    """In the zygote, once all is loaded: sets aside what images need. Without it there are none of its guests."""
    global _place
    try:
        _place = _Place()
    except Refused:
        _place = None


def place():
    """What the zygote has set aside."""
    if _place is None:
        raise Refused("this guest was not forked from a zygote that could prepare for it")
    return _place


def hide(hidden):
    """Whether others of the same user may look into this process."""
    _libc.prctl(ctypes.c_int(_PR_SET_DUMPABLE), ctypes.c_ulong(not hidden), 0, 0, 0)


# The process that is written down.


class Self:
    """What a process has to tell of itself before it holds still; made before its fork."""

    def __init__(self):
        self._thread = _pthread_self()
        self._before = ctypes.string_at(self._thread, TCB_BYTES)
        self._parent = os.getpid()
        self._frame = (ctypes.c_long * 4)()

    def describe(self):
        """For the writer. Call it from the only thread, as late as possible."""
        actions = b"".join(_action_of(number) for number in range(1, _SIGNALS + 1))
        blocked = ctypes.create_string_buffer(_SIGNAL_BYTES)
        _libc.syscall(_SIGPROCMASK, 0, None, blocked, _SIGNAL_BYTES)
        return {
            "pid": os.getpid(),
            "frame": ctypes.addressof(self._frame),
            "break": _libc_break(),
            "thread_id_at": self._thread_id_at(),
            "actions": actions.hex(),
            "blocked": blocked.raw.hex(),
        }

    def _thread_id_at(self):
        """Where the C library keeps this thread's number: what has changed from the parent's to ours with the fork."""
        now = ctypes.string_at(self._thread, TCB_BYTES)
        word = struct.Struct("<i").unpack_from
        mine = os.getpid()
        found = [at for at in range(0, TCB_BYTES, 4) if word(self._before, at)[0] == self._parent and word(now, at)[0] == mine]
        if len(found) != 1:
            raise Refused("the C library is not one that is known")
        return self._thread + found[0]

    def hold(self, fd):
        """Waits. True in a process that has become the image, False if `fd` was closed."""
        return bool(place().hold(ctypes.addressof(self._frame), fd))


def _pthread_self():
    call = _libc.pthread_self
    call.restype = ctypes.c_size_t
    return call()


def _libc_break():
    call = _libc.sbrk
    call.restype, call.argtypes = ctypes.c_size_t, (ctypes.c_ssize_t,)
    return call(0)


def _action_of(number):
    action = ctypes.create_string_buffer(_ACTION_BYTES)
    _libc.syscall(_SIGACTION, number, None, action, _SIGNAL_BYTES)
    return action.raw


# The writer, its parent.


class Area:
    """One line of `/proc/PID/smaps`."""

    def __init__(self, line, fields):
        self.line = line
        self.start, self.end, self.offset = int(fields[0], 16), int(fields[1], 16), int(fields[3], 16)
        self.is_shared = fields[2][3] == "s"
        self.prot = sum(bit for bit, mark in zip((1, 2, 4), fields[2]) if mark != "-")
        self.inode, self.path = int(fields[5]), fields[6]
        self.flags = ()

    @property
    def is_special(self):
        """Made by the kernel: `[vdso]` and the like."""
        return self.path.startswith("[") and self.path != "[heap]" and not self.path.startswith(("[anon:", "[stack"))

    @property
    def is_anonymous(self):
        """Without a file."""
        return not self.inode and not self.is_special


def areas_of(pid):
    """The mappings of a process, in order."""
    areas = []
    with open("/proc/%s/smaps" % pid) as smaps:
        for text in smaps:
            fields = _LINE.match(text)
            if fields:
                areas.append(Area(text.rstrip("\n"), fields.groups()))
            elif text.startswith("VmFlags:"):
                areas[-1].flags = text.split()[1:]
    return areas


class _Writer:
    def __init__(self, pid, told, bytes_max, send):
        self._memory = os.open("/proc/%d/mem" % pid, os.O_RDONLY)
        self._pages = os.open("/proc/%d/pagemap" % pid, os.O_RDONLY)
        self._pid, self._told = pid, told
        self._bytes_max, self._send = bytes_max, send
        self._at = 0
        self._calls, self._files, self._fixes = [], [], []

    def write(self):
        pointer = self._wait()
        areas = areas_of(self._pid)
        self._call(_BRK, self._told["break"])
        self._clear_between(areas)
        for area in areas:
            self._area(area, pointer)
        index = self._index(pointer)
        self._put(index)
        self._put(_TRAILER.pack(self._at - len(index), len(index), _MAGIC))
        os.close(self._memory)
        os.close(self._pages)

    def _wait(self):
        """Until the process holds still: its stack pointer."""
        until = time.monotonic() + HOLD_S_MAX
        while time.monotonic() < until:
            pointer = struct.unpack("<q", os.pread(self._memory, 8, self._told["frame"]))[0]
            if pointer:
                return pointer
            time.sleep(0.0005)
        raise Refused("the process did not hold still")

    def _call(self, number, *arguments):
        self._calls.append(_CALL.pack(number, *arguments, *(0,) * (6 - len(arguments))))

    def _call_with_file(self, file, position, number, *arguments):
        """A call one of whose arguments is a file of this image: the descriptor is known only later."""
        self._fixes.append((len(self._calls), position, file))
        self._call(number, *arguments)

    def _clear_between(self, areas):
        """What the blank guest has and the image has not."""
        at = _LOWEST
        for area in areas:
            if at < area.start <= _USER_END and area.path != "[stack]":
                self._call(_MUNMAP, at, area.start - at)
            at = max(at, area.end)

    def _area(self, area, pointer):
        ours = place()
        if area.start in (ours.code, ours.space):
            return
        if area.is_special:
            # The kernel's, and where it was when the zygote was started.
            if area.start < _USER_END and area.line not in ours.lines:
                raise Refused("the kernel's own pages have moved")
        elif area.path == "[stack]":
            self._stack(area, pointer)
        elif area.is_anonymous and not area.is_shared:
            runs = self._runs(area)
            if runs != [(area.start, area.end)]:
                self._fresh(area, -1, 0)
            self._overlay(area, runs)
        elif area.path.endswith(" (deleted)"):
            raise Refused("memory is mapped from a file that is gone: " + area.path, "memory")
        elif area.is_shared and area.prot & _PROT_WRITE:
            raise Refused("memory is shared: " + (area.path or "without a name"), "memory")
        else:
            self._file(area)

    def _stack(self, area, pointer):
        # The red zone below the pointer is nobody's: the process is in a system call.
        start = pointer & -PAGE
        data = self._read(start, area.end - start)
        at = self._put(data)
        self._call_with_file(0, 0, _PREAD, -1, start, len(data), at)

    def _fresh(self, area, file, offset):
        kind = _MAP_SHARED if area.is_shared else _MAP_PRIVATE
        size = area.end - area.start
        if file < 0:
            self._call(_MMAP, area.start, size, area.prot, kind | _MAP_FIXED | _MAP_ANONYMOUS | _MAP_NORESERVE, -1, 0)
            if "wf" in area.flags:
                # Libraries notice by this that the process is not the one that it was.
                self._call(_MADVISE, area.start, size, _MADV_WIPEONFORK)
        else:
            self._call_with_file(file, 4, _MMAP, area.start, size, area.prot, kind | _MAP_FIXED, -1, offset)

    def _file(self, area):
        if area.prot & _PROT_WRITE and area.end - area.start <= WHOLE_BYTES_MAX:
            return self._overlay(area, [(area.start, area.end)])
        # What is not writable and was there in the zygote is there in the guest.
        if area.line not in place().lines or area.prot & _PROT_WRITE:
            self._fresh(area, self._number(area.path), area.offset)
        self._overlay(area, self._runs(area))

    def _number(self, path):
        if path not in self._files:
            self._files.append(path)
        return self._files.index(path) + 1

    def _runs(self, area):
        """The parts of this area that the process has written to, as pairs of addresses."""
        if area.is_shared or "wf" in area.flags or not area.prot & _PROT_READ:
            return []
        runs = []
        count = (area.end - area.start) // PAGE
        words = os.pread(self._pages, count * 8, area.start // PAGE * 8)
        for number, (word,) in enumerate(struct.iter_unpack("<Q", words)):
            # Present or swapped out, and no page of the file.
            if not word >> 62 or (word >> 61) & 1:
                continue
            if runs and number - runs[-1][1] <= HOLE_PAGES:
                runs[-1][1] = number + 1
            else:
                runs.append([number, number + 1])
        return [(area.start + first * PAGE, area.start + end * PAGE) for first, end in runs]

    def _overlay(self, area, runs):
        for start, end in runs:
            at = self._at
            for here in range(start, end, READ_BYTES):
                self._put(self._read(here, min(READ_BYTES, end - here)))
            self._call_with_file(0, 4, _MMAP, start, end - start, area.prot, _MAP_PRIVATE | _MAP_FIXED, -1, at)

    def _read(self, start, size):
        data = os.pread(self._memory, size, start)
        if len(data) != size:
            raise Refused("memory cannot be read")
        return data

    def _put(self, data):
        at = self._at
        if at + len(data) > self._bytes_max:
            raise Refused("the image would be larger than the function's memory", "size")
        self._at += len(data)
        for start in range(0, len(data), READ_BYTES):
            self._send(data[start : start + READ_BYTES])
        return at

    def _index(self, pointer):
        """Behind the pages: a header as JSON, the calls, the signal actions, the mask, room for the thread's number."""
        ours = place()
        actions = bytes.fromhex(self._told["actions"])
        blocked = bytes.fromhex(self._told["blocked"])
        # One call for each signal that can be handled, for the mask, the thread's number, the descriptors, and the end.
        handled = [number for number in range(1, _SIGNALS + 1) if number not in (9, 19)]
        data_at = (len(self._calls) + len(handled) + 4) * _CALL.size
        for number in handled:
            address = ours.space + data_at + (number - 1) * _ACTION_BYTES
            self._call(_SIGACTION, number, address, 0, _SIGNAL_BYTES)
        self._call(_SIGPROCMASK, 2, ours.space + data_at + len(actions), 0, _SIGNAL_BYTES)
        self._call_with_file(-1, 0, _READ, -1, self._told["thread_id_at"], 4)
        self._call(_CLOSE_RANGE, KEPT_DESCRIPTORS, 0xFFFFFFFF, 0)
        self._call(-1, pointer)
        calls = b"".join(self._calls) + actions + blocked
        if len(calls) > SPACE_BYTES:
            raise Refused("the memory is in too many pieces", "size")
        header = json.dumps({"zygote": ours.name, "files": self._files, "fixes": self._fixes}).encode()
        header += b" " * (-(self._at + 8 + len(header)) % PAGE)
        return struct.pack("<Q", len(header)) + header + calls


def write(pid, told, bytes_max, send):
    """Writes the image of a descendant that holds still, piece by piece; `told` is what its `Self` has described."""
    _Writer(pid, told, bytes_max, send).write()


# The process that becomes the image.


def become(fd):
    """Turns this process into the image in the file `fd`; returns only by raising, and has changed nothing then.

    `Refused` where it was looked into; anything else where a call failed or the file holds no image.
    """
    ours = place()
    size = os.fstat(fd).st_size
    at, length, magic = _TRAILER.unpack(os.pread(fd, _TRAILER.size, size - _TRAILER.size))
    if magic != _MAGIC or at + length + _TRAILER.size != size:
        raise Refused("the image is damaged", "broken")
    (header_bytes,) = struct.unpack("<Q", os.pread(fd, 8, at))
    header = json.loads(os.pread(fd, header_bytes, at + 8))
    if header["zygote"] != ours.name:
        raise Refused("the image is of another zygote", "zygote")
    calls_bytes = length - 8 - header_bytes
    if calls_bytes > SPACE_BYTES:
        raise Refused("the image is damaged", "broken")
    files = [fd, *_opened(header["files"])]
    source, number = os.pipe()
    os.write(number, struct.pack("<i", os.getpid()))
    space = ours.memory()
    os.preadv(fd, [memoryview(space).cast("B")[:calls_bytes]], at + 8 + header_bytes)
    for call, position, file in header["fixes"]:
        descriptor = source if file < 0 else files[file]
        struct.pack_into("<q", space, call * _CALL.size + 8 * (position + 1), descriptor)
    ours.perform(ours.space)


def _opened(paths):
    opened = []
    try:
        for path in paths:
            opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        for fd in opened:
            os.close(fd)
        raise Refused("a library is not there any more: %s" % error, "zygote") from None
    return opened
