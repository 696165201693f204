"""The life of a Python instance: Init loads the handler, then one invocation follows the other."""

import os
import sys

from . import channel, console, context, imports, jsontext

# Lambda's limit for an answer, 6 MiB and a little for its envelope.
RESPONSE_BYTES_MAX = 6_291_556

# In the header of a frame, which is short; the error object has the whole type.
ERROR_TYPE_CHARS_MAX = 256


class Fault(Exception):
    """A failure that the runtime itself notices; `error_type` is one of Lambda's `Runtime.*` names."""

    def __init__(self, error_type, message, stack_trace=()):
        super().__init__(message)
        self.error_type = error_type
        self.stack_trace = list(stack_trace)


def main(search_path):
    """Runs the instance. Leaves by `os._exit`, or by the SystemExit or KeyboardInterrupt of user code.

    `search_path` is `sys.path`, whose first entry is still the shim's own folder.
    """
    _run(channel.Channel(), search_path)


def prepare():
    """Loads what the shim itself may need later, for a zygote: each guest would load it again."""
    from . import faults, image, logformat, snapstart  # noqa: F401


def rehearse(search_path):
    """Does all that an instance does until its first answer, for nobody, and leaves no trace.

    In the zygote it lets the interpreter specialise its code. In a guest that waits for its function it touches the
    memory that the first invocation will touch: the kernel copies a page when a forked process first writes to it.
    """
    import logging

    environment = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    root = logging.getLogger()
    handlers, finders = root.handlers[:], sys.meta_path[:]
    imports.prefer_standard_library(search_path[1:])
    handler = load_handler("_tidegate.rehearsal.handler")
    header = {"id": "rehearsal", "deadline_ms": 1, "arn": "arn", "trace_id": "Root=1", "client_context": None}
    _set_trace_id(header["trace_id"])
    send_answer(_Nowhere(), header["id"], answer_of(handler, header, b'{"name": "x", "list": [1, 2.5, null, true]}'))
    _set_trace_id(None)
    console.flush()
    root.handlers[:], sys.meta_path[:] = handlers, finders
    del sys.modules["_tidegate.rehearsal"]


class _Nowhere:
    """A channel that nobody reads."""

    def send(self, kind, header, body):
        """Does all of the work but the last step."""
        return channel.before_body(kind, header, body)


def serve_when_assigned(search_path):
    """Runs a guest that a zygote has forked: its function comes as the first frame."""
    from . import snapstart

    link = channel.Channel()
    frame = link.receive_first()
    if frame is None:
        os._exit(0)
    kind, header, _, files = frame
    if kind == channel.RESTORE:
        # Returns only where the image cannot be used; then this is a guest like any other.
        link.send(channel.RESTORE, {"reason": snapstart.restore(files)}, b"")
        header = assignment(link)
    elif kind != channel.ASSIGN:
        raise channel.MalformedFrame("unexpected kind %d" % kind)
    take_over(header)
    if header.get("snapshot"):
        snapstart.take(link, search_path)
    _run(link, search_path)


def assignment(link):
    """The header of the frame that brings the function."""
    frame = link.receive()
    if frame is None:
        os._exit(0)
    kind, header, _ = frame
    if kind != channel.ASSIGN:
        raise channel.MalformedFrame("unexpected kind %d" % kind)
    return header


def take_over(assignment):
    """Makes the process what it would be if it had been started for this function."""
    import resource
    import time

    os.environ.clear()
    os.environ.update(assignment["environment"])
    time.tzset()
    for kind, most in (
        (resource.RLIMIT_NOFILE, assignment["open_files"]),
        # With the sandbox's own first process.
        (resource.RLIMIT_NPROC, assignment["processes"] + 1),
    ):
        resource.setrlimit(kind, (most, most))
    os.chdir(os.environ["LAMBDA_TASK_ROOT"])
    sys.argv = ["/var/runtime/python/bootstrap.py"]
    console.configure()


def begin(search_path):
    """Makes the process what user code expects."""
    console.open_unbuffered()
    imports.prefer_standard_library(search_path[1:])
    search_path[:1] = _user_folders(os.environ["LAMBDA_TASK_ROOT"])


def _run(link, search_path):
    begin(search_path)
    try:
        # Chosen first: user code may hold on to the streams that it finds.
        serve = way_to_serve(link)
        serve(link, _init(link))
    except (OSError, channel.MalformedFrame) as error:
        # Without the daemon nobody hears an answer; its log may still be read.
        console.write_line("tidegate: the channel to the platform failed: %s" % error)
    os._exit(1)


def way_to_serve(link):
    """One invocation after the other, or several at a time if the function is configured so."""
    slots = os.environ.get("AWS_LAMBDA_MAX_CONCURRENCY", "1")
    if not slots.isdigit() or int(slots) < 2:
        return _serve
    from . import several

    return several.prepare(link, int(slots))


def _user_folders(task_root):
    """Where Lambda looks for modules first: the package, then what layers bring."""
    versioned = "/opt/python/lib/python%d.%d/site-packages" % sys.version_info[:2]
    return [task_root, versioned, "/opt/python"]


def _init(link):
    """Loads the handler and says READY, or reports why not and exits."""
    try:
        handler = load_handler(os.environ["_HANDLER"])
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        failure = failure_of(error, "")
        console.flush()
        link.send(channel.INIT_ERROR, {"type": failure["errorType"][:ERROR_TYPE_CHARS_MAX]}, jsontext.encode(failure))
        os._exit(1)
    console.flush()
    link.send(channel.READY, {}, b"")
    return handler


def load_handler(name):
    """The callable that `name` ("folder/module.function" or "package.module.function") stands for."""
    module_name, dot, function_name = name.rpartition(".")
    if not dot:
        raise Fault(
            "Runtime.MalformedHandlerName",
            "Bad handler '%s': not enough values to unpack (expected 2, got 1)" % name,
        )
    module = _import_module(module_name)
    try:
        return getattr(module, function_name)
    except AttributeError:
        message = "Handler '%s' missing on module '%s'" % (function_name, module_name)
        raise Fault("Runtime.HandlerNotFound", message) from None


def _import_module(module_name):
    if module_name.split(".")[0] in sys.builtin_module_names:
        message = "Cannot use built-in module %s as a handler module" % module_name
        raise Fault("Runtime.BuiltInModuleConflict", message)
    dotted_name = module_name.replace("/", ".")
    try:
        # Not importlib: it would have to be imported itself, and its frames would be in user's tracebacks.
        __import__(dotted_name)
        return sys.modules[dotted_name]
    except ImportError as error:
        message = "Unable to import module '%s': %s" % (module_name, error)
        raise Fault("Runtime.ImportModuleError", message) from error
    except SyntaxError as error:
        place = '  File "%s" Line %s\n    %s' % (error.filename, error.lineno, error.text)
        message = "Syntax error in module '%s': %s" % (module_name, error)
        raise Fault("Runtime.UserCodeSyntaxError", message, [place]) from error


def _serve(link, handler):
    """Answers invocations until the daemon closes the channel."""
    handler = _callable(handler)
    while True:
        header, event = receive(link)
        request_id = header["id"]
        console.request_id = request_id
        _set_trace_id(header.get("trace_id"))
        try:
            answer = answer_of(handler, header, event)
        except (SystemExit, KeyboardInterrupt):
            # As on Lambda these end the process, and the platform reports Runtime.ExitError.
            raise
        except BaseException as error:
            answer = error_answer(error, request_id)
        console.flush()
        send_answer(link, request_id, answer)


def _callable(handler):
    """A handler that is an `async def` runs to its end on an event loop of its own."""
    if not is_async(handler):
        return handler
    import asyncio

    events = asyncio.new_event_loop()
    return lambda event, invocation: events.run_until_complete(handler(event, invocation))


def is_async(handler):
    """Whether a handler is an `async def`."""
    code = getattr(handler, "__code__", None)
    return code is not None and bool(code.co_flags & _CO_COROUTINE)


# `inspect.CO_COROUTINE`, without the cost of importing that module.
_CO_COROUTINE = 0x80


def receive(link):
    """The next invocation: the header of its frame, and the event. Ends the process when there is none."""
    frame = link.receive()
    if frame is None:
        # At once: neither exit handlers nor forgotten threads of user code may delay the end.
        console.flush()
        os._exit(0)
    kind, header, event = frame
    if kind != channel.INVOKE:
        raise channel.MalformedFrame("unexpected kind %d" % kind)
    if not isinstance(header.get("id"), str) or not isinstance(header.get("deadline_ms"), int):
        raise channel.MalformedFrame("INVOKE without id or deadline")
    return header, event


def answer_of(handler, header, event):
    """Runs the handler: kind, error type and body of its answer. What it raises, it raises."""
    return ok_answer(handler(unmarshal(event), new_context(header)))


def new_context(header):
    """What the handler gets beside the event."""
    return context.LambdaContext(
        header,
        _json_header(header.get("client_context"), "Client Context"),
        _json_header(header.get("cognito"), "Cognito Identity"),
    )


def ok_answer(result):
    """Kind, error type and body for what a handler returned."""
    return _bounded(channel.RESPONSE, None, _marshal(result))


def error_answer(error, request_id):
    """Logs a failure; kind, error type and body of the answer that tells of it."""
    failure = failure_of(error, request_id)
    return _bounded(channel.ERROR, failure["errorType"], jsontext.encode(failure))


def _bounded(kind, error_type, body):
    if len(body) > RESPONSE_BYTES_MAX:
        error_type, body = _too_large()
        kind = channel.ERROR
    return kind, error_type, body


def send_answer(link, request_id, answer):
    """Sends what `ok_answer` or `error_answer` gave."""
    kind, error_type, body = answer
    reply = {"id": request_id}
    if kind == channel.ERROR:
        reply["type"] = error_type[:ERROR_TYPE_CHARS_MAX]
    link.send(kind, reply, body)


def _set_trace_id(trace_id):
    if trace_id:
        os.environ["_X_AMZN_TRACE_ID"] = trace_id
    else:
        os.environ.pop("_X_AMZN_TRACE_ID", None)


def _json_header(text, name):
    if text is None:
        return None
    try:
        return jsontext.decode(text.encode("utf-8"))
    except ValueError as error:
        message = "Unable to parse %s JSON: %s" % (name, error)
        raise Fault("Runtime.LambdaContextUnmarshalError", message) from error


def unmarshal(event):
    """The event as Python values."""
    try:
        return jsontext.decode(event)
    except (ValueError, RecursionError) as error:
        raise Fault("Runtime.UnmarshalError", "Unable to unmarshal input: %s" % error) from error


def _marshal(result):
    # Like Lambda's own runtime, bytes are taken for an answer that is encoded already.
    if isinstance(result, bytes):
        return result
    try:
        return jsontext.encode(result)
    except Exception as error:
        raise Fault("Runtime.MarshalError", "Unable to marshal response: %s" % error) from error


def failure_of(error, request_id):
    """Logs the failure as Lambda does and gives its error object."""
    from . import faults

    if isinstance(error, Fault):
        failure = faults.error_object(str(error), error.error_type, error.stack_trace, request_id)
    else:
        failure = faults.of_exception(error, request_id)
    faults.log(failure)
    return failure


def _too_large():
    """Type and JSON of the error that replaces an answer over the limit, worded as on Lambda."""
    error_type = "Function.ResponseSizeTooLarge"
    message = "Response payload size exceeded maximum allowed payload size (%d bytes)." % RESPONSE_BYTES_MAX
    return error_type, jsontext.encode({"errorType": error_type, "errorMessage": message})
