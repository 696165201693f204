"""The function's log: one pipe that stdout and stderr share, read by the daemon."""

import io
import os
import sys

STDOUT_FD = 1

# The log format that the function's configuration asks for: lines of text, or one JSON object per line.
JSON_LINES = False


def configure():
    """Reads the function's configuration from the environment."""
    global JSON_LINES
    JSON_LINES = os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"


configure()

# The id that log records carry: that of the running invocation, empty during Init.
request_id = ""

# Where several invocations run at a time: tells the id of the one that asks, and takes what it writes.
current_id = None
write_of_invocation = None


def running_id():
    """The id of the invocation that asks, empty if there is none."""
    return request_id if current_id is None else current_id()


def write_line(text):
    """Writes `text` past `sys.stdout`, which a function may have replaced; a closed log is ignored."""
    flush()
    if not text.endswith("\n"):
        text += "\n"
    rest = text.encode("utf-8", "backslashreplace")
    if current_id is not None and current_id():
        write_of_invocation(current_id(), rest)
        return
    try:
        while rest:
            rest = rest[os.write(STDOUT_FD, rest) :]
    except OSError:
        pass


def flush():
    """Empties what Python holds back, so that the daemon sees it before the frame that follows."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # closed, replaced by something without flush, or the pipe is gone
            pass


def open_unbuffered():
    """Does what `python -u` does, where it was not given: what a function prints is seen even if it never returns."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None or stream.write_through:
            continue
        raw = io.FileIO(fd, "w", closefd=False)
        stream = io.TextIOWrapper(raw, encoding=stream.encoding, errors=stream.errors, write_through=True)
        setattr(sys, name, stream)
        setattr(sys, "__%s__" % name, stream)
