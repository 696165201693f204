"""The frames between daemon and guest on the inherited socket; the protocol is in `runtimes/README.md`."""

import os
from _thread import allocate_lock
from struct import Struct

from . import jsontext

FD = 3

INVOKE = 1
READY = 2
RESPONSE = 3
ERROR = 4
INIT_ERROR = 5
ASSIGN = 6
LOG = 7
IMAGE = 8
RESTORE = 9

# A payload of 6 MiB, a client context and a header; anything longer is not from our daemon.
FRAME_BYTES_MAX = 8 * 1024 * 1024
READ_BYTES = 64 * 1024
# Open files beside a frame, at most.
FILES_MAX = 4

# Total length of what follows, kind, length of the header.
_PREFIX = Struct("<IBI")
_PREFIX_REST_BYTES = _PREFIX.size - 4


class MalformedFrame(Exception):
    """What came over the channel is not a frame: nothing after it can be trusted."""


class Channel:
    """The guest's end. Blocking; one thread receives, any may send."""

    # Whether the daemon sends a frame before the one before it is answered.
    several = False

    def __init__(self, fd=FD):
        # A program that the function starts must not get the channel, and a forked child must not hold it open.
        os.set_inheritable(fd, False)
        os.set_blocking(fd, True)
        os.register_at_fork(after_in_child=self._forked)
        self._fd = fd
        self._pid = os.getpid()
        self._ahead = b""
        self._sending = allocate_lock()

    def receive(self):
        """Waits for a frame: `(kind, header as dict, body as bytes)`, or None when the daemon closed the channel."""
        self._leave_if_forked()
        start, self._ahead = self._ahead or os.read(self._fd, READ_BYTES), b""
        while 0 < len(start) < _PREFIX.size:
            more = os.read(self._fd, READ_BYTES)
            if not more:
                raise MalformedFrame("the channel closed inside a frame's prefix")
            start += more
        if not start:
            return None
        total_bytes, kind, header_bytes = _PREFIX.unpack_from(start)
        if total_bytes > FRAME_BYTES_MAX or header_bytes + _PREFIX_REST_BYTES > total_bytes:
            raise MalformedFrame("bad lengths: frame %d, header %d" % (total_bytes, header_bytes))
        frame = start if len(start) == total_bytes + 4 else self._rest_of_frame(start, total_bytes + 4)
        body_at = _PREFIX.size + header_bytes
        return kind, _header(frame[_PREFIX.size : body_at]), frame[body_at:]

    def receive_first(self):
        """The first frame of all, with the files that come beside it: `(kind, header, body, files)`, or None."""
        import array
        import socket

        files = array.array("i")
        with socket.socket(fileno=os.dup(self._fd)) as stream:
            self._ahead, beside, _flags, _address = stream.recvmsg(READ_BYTES, socket.CMSG_SPACE(FILES_MAX * files.itemsize))
        for level, kind, octets in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                files.frombytes(octets[: len(octets) - len(octets) % files.itemsize])
        frame = self.receive() if self._ahead else None
        return frame and (*frame, files.tolist())

    def revive(self):
        """In a process that has become the image of another, and has this channel at the same number."""
        self._pid, self._ahead = os.getpid(), b""

    def send(self, kind, header, body):
        """Sends one frame; raises `OSError` when the daemon is gone."""
        self._leave_if_forked()
        prefix = before_body(kind, header, body)
        with self._sending:
            sent = os.writev(self._fd, (prefix, body))
            if sent < len(prefix) + len(body):
                rest = memoryview(prefix + body)[sent:]
                while rest:
                    rest = rest[os.write(self._fd, rest) :]

    def _rest_of_frame(self, start, frame_bytes):
        if len(start) > frame_bytes and self.several:
            self._ahead = start[frame_bytes:]
            return start[:frame_bytes]
        if len(start) > frame_bytes:
            # The daemon sends the next frame only after the answer to this one.
            raise MalformedFrame("%d bytes after the frame" % (len(start) - frame_bytes))
        frame = bytearray(frame_bytes)
        frame[: len(start)] = start
        view = memoryview(frame)[len(start) :]
        while view:
            got = os.readv(self._fd, (view,))
            if not got:
                raise MalformedFrame("the channel closed inside a frame")
            view = view[got:]
        return bytes(frame)

    def _forked(self):
        try:
            os.close(self._fd)
        except OSError:
            pass

    def _leave_if_forked(self):
        """Ends a child that the handler forked and let return: the answer is the parent's to give."""
        if os.getpid() != self._pid:
            os._exit(0)


def before_body(kind, header, body):
    """The octets of a frame that come before its body."""
    header = jsontext.encode(header)
    return _PREFIX.pack(_PREFIX_REST_BYTES + len(header) + len(body), kind, len(header)) + header


def _header(octets):
    try:
        header = jsontext.decode(octets)
    except ValueError as error:
        raise MalformedFrame("the header is not JSON") from error
    if not isinstance(header, dict):
        raise MalformedFrame("the header is not an object")
    return header
