"""Several invocations at a time in one instance: a thread for each, or one event loop for handlers that are `async def`.

Loaded only where the function is configured so. What an invocation writes goes to the daemon in LOG frames that carry its
id, since the pipe behind stdout is shared by all.
"""

import contextvars
import io
import os
import queue
import sys
import threading

from . import channel, console, loop

# The invocation that a thread or a task works for. Threads that user code starts have none of their own.
_current = contextvars.ContextVar("tidegate_request_id", default="")


def prepare(link, slots):
    """Makes the streams tell invocations apart; gives the function that serves on `link`."""
    link.several = True
    console.current_id = _current.get
    console.write_of_invocation = lambda request_id, octets: _send_log(link, request_id, octets)
    for name in ("stdout", "stderr"):
        stream = _Stream(link, getattr(sys, name))
        setattr(sys, name, stream)
        setattr(sys, "__%s__" % name, stream)
    return lambda link, handler: _serve(link, handler, slots)


def _send_log(link, request_id, octets):
    try:
        link.send(channel.LOG, {"id": request_id}, octets)
    except OSError:
        pass  # the daemon is gone; the thread that receives ends the process


class _Stream(io.TextIOBase):
    """Takes text line by line for the invocation that writes it; outside of invocations it is the stream it wraps."""

    def __init__(self, link, wrapped):
        super().__init__()
        self._link = link
        self._wrapped = wrapped
        self._open_lines = {}

    encoding = property(lambda self: self._wrapped.encoding)
    errors = property(lambda self: self._wrapped.errors)
    # Octets cannot be told apart: they go to the log, but into no invocation's tail.
    buffer = property(lambda self: self._wrapped.buffer)

    def fileno(self):
        return self._wrapped.fileno()

    def isatty(self):
        return False

    def writable(self):
        return True

    def write(self, text):
        request_id = _current.get()
        if not request_id:
            return self._wrapped.write(text)
        text = self._open_lines.pop(request_id, "") + str(text)
        whole, line_end, rest = text.rpartition("\n")
        if rest:
            self._open_lines[request_id] = rest
        if line_end:
            self._send(request_id, whole + line_end)
        return len(text)

    def flush(self):
        request_id = _current.get()
        if not request_id:
            self._wrapped.flush()
        elif request_id in self._open_lines:
            self._send(request_id, self._open_lines.pop(request_id))

    def _send(self, request_id, text):
        _send_log(self._link, request_id, text.encode("utf-8", "backslashreplace"))


def _serve(link, handler, slots):
    """Takes invocations until the daemon closes the channel."""
    workers = _Tasks(link, handler) if loop.is_async(handler) else _Threads(link, handler)
    running = _Count(slots)
    while True:
        header, event = loop.receive(link)
        if not running.enter():
            raise channel.MalformedFrame("more than %d invocations at a time" % slots)
        workers.begin(header, event, running.leave)


class _Count:
    """Invocations under way."""

    def __init__(self, most):
        self._most = most
        self._now = 0
        self._lock = threading.Lock()

    def enter(self):
        with self._lock:
            self._now += 1
            return self._now <= self._most

    def leave(self):
        with self._lock:
            self._now -= 1


class _Threads:
    """As many threads as there have been invocations at a time; an idle one takes the next."""

    def __init__(self, link, handler):
        self._link = link
        self._handler = handler
        self._work = queue.SimpleQueue()
        self._idle = 0
        self._lock = threading.Lock()

    def begin(self, header, event, done):
        with self._lock:
            spare = self._idle > 0
            self._idle -= spare
        self._work.put((header, event, done))
        if not spare:
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            header, event, done = self._work.get()
            # A context of its own: what one invocation sets, the next does not find.
            contextvars.Context().run(self._carry, header, event, done)

    def _rest(self):
        with self._lock:
            self._idle += 1

    def _carry(self, header, event, done):
        request_id = header["id"]
        _current.set(request_id)
        try:
            answer = loop.answer_of(self._handler, header, event)
        except (SystemExit, KeyboardInterrupt) as error:
            _exit_as_asked(error)
        except BaseException as error:
            answer = loop.error_answer(error, request_id)
        self._rest()
        _finish(self._link, request_id, answer, done)


class _Tasks:
    """One event loop in a thread of its own, a task for each invocation."""

    def __init__(self, link, handler):
        import asyncio

        self._link = link
        self._handler = handler
        self._events = asyncio.new_event_loop()
        # The loop holds its tasks only weakly.
        self._tasks = set()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        import asyncio

        asyncio.set_event_loop(self._events)
        try:
            self._events.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            _exit_as_asked(error)

    def begin(self, header, event, done):
        self._events.call_soon_threadsafe(self._start, header, event, done)

    def _start(self, header, event, done):
        task = contextvars.Context().run(self._events.create_task, self._carry(header, event, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, header, event, done):
        request_id = header["id"]
        _current.set(request_id)
        try:
            result = await self._handler(loop.unmarshal(event), loop.new_context(header))
            answer = loop.ok_answer(result)
        except (SystemExit, KeyboardInterrupt) as error:
            _exit_as_asked(error)
        except BaseException as error:
            answer = loop.error_answer(error, request_id)
        _finish(self._link, request_id, answer, done)


def _finish(link, request_id, answer, done):
    console.flush()
    # Before the answer: the next invocation may follow it at once.
    done()
    try:
        loop.send_answer(link, request_id, answer)
    except OSError:
        os._exit(1)


def _exit_as_asked(error):
    """What the interpreter does with an exception that ends the main thread, in any thread."""
    console.flush()
    if isinstance(error, KeyboardInterrupt):
        os._exit(130)
    if error.code is None:
        os._exit(0)
    if isinstance(error.code, int):
        os._exit(error.code & 0xFF)
    console.write_line(str(error.code))
    os._exit(1)
