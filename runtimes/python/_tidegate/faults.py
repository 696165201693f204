"""Failures as Lambda reports them: the error object that the caller gets, and its lines in the log.

Loaded when the first failure happens: formatting a traceback needs modules that cost more than the whole shim.
"""

import os
import time
import traceback

from . import console, jsontext

_SHIM_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep

# Lambda indents the lines of a logged traceback with U+00A0, so that log viewers keep the indentation.
_INDENT = "\u00a0"


def error_object(message, error_type, stack_trace, request_id):
    """The members that every error of Lambda's Python runtime has, in its order."""
    return {"errorMessage": message, "errorType": error_type, "requestId": request_id, "stackTrace": stack_trace}


def of_exception(error, request_id):
    """The error object for an exception that user code raised."""
    try:
        message = str(error)
    except Exception:  # a broken __str__ must not hide that there was an error
        message = ""
    return error_object(message, type(error).__name__, _user_frames(error.__traceback__), request_id)


def log(error):
    """Writes the error object to the function's log."""
    if console.JSON_LINES:
        timestamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = jsontext.encode(dict(timestamp=timestamp, level="ERROR", **error))
        console.write_line(line.decode("utf-8"))
        return
    title = "[ERROR] " + error["errorType"]
    if error["errorMessage"]:
        title += ": " + error["errorMessage"]
    lines = [title, "Traceback (most recent call last):"]
    for frame in error["stackTrace"]:
        lines.extend(map(_hard_indented, frame.splitlines()))
    console.write_line("\n".join(lines))


def _user_frames(trace):
    """The traceback as a list of formatted frames, from the first one outside the shim.

    Lists of plain tuples are formatted without the `^^^^` markers of newer Pythons, which Lambda does not show.
    """
    frames = [(frame.filename, frame.lineno, frame.name, frame.line) for frame in traceback.extract_tb(trace)]
    while frames and frames[0][0].startswith(_SHIM_FOLDER):
        del frames[0]
    return traceback.format_list(frames)


def _hard_indented(line):
    text = line.lstrip(" ")
    return _INDENT * (len(line) - len(text)) + text
