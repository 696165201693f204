"""Log records as Lambda writes them, in both of its log formats. Imported only after `logging` is loaded."""

import logging
import time

from . import console

# Lambda's records are in UTC whatever the function's TZ says, those of handlers that users add included.
logging.Formatter.converter = time.gmtime

_DATE_FORMAT = "%Y-%m-%dT%H:%M:%S"
_TEXT_FORMAT = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"

# What `logging` itself puts into a record; all else came from `extra=` and is shown in JSON lines.
_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "aws_request_id", "taskName"}


def configured_level(name):
    """The `logging` level for a level's name in Lambda's API, or None for no name and unknown ones."""
    level = logging.getLevelName("DEBUG" if name.upper() == "TRACE" else name.upper())
    return level if isinstance(level, int) else None


class LambdaHandler(logging.Handler):
    """Writes records to the function's log with the id of the running invocation."""

    def __init__(self):
        super().__init__()
        self.setFormatter(_JsonFormatter() if console.JSON_LINES else logging.Formatter(_TEXT_FORMAT, _DATE_FORMAT))

    def handle(self, record):
        # Before filters and formatters that users put on this handler, which may want the id as well.
        record.aws_request_id = console.running_id()
        return super().handle(record)

    def emit(self, record):
        try:
            console.write_line(self.format(record))
        except Exception:
            self.handleError(record)


class _JsonFormatter(logging.Formatter):
    """One JSON object per record, with the member names of Lambda's JSON log format."""

    def __init__(self):
        super().__init__(datefmt=_DATE_FORMAT + "Z")

    def format(self, record):
        import json
        import traceback

        entry = {
            "timestamp": self.formatTime(record, self.datefmt),
            "level": record.levelname,
            "message": record.msg if isinstance(record.msg, dict) and not record.args else record.getMessage(),
            "logger": record.name,
        }
        if record.exc_info and record.exc_info[0]:
            error_type, error, trace = record.exc_info
            entry["stackTrace"] = traceback.format_tb(trace)
            entry["errorType"] = error_type.__name__
            entry["errorMessage"] = str(error)
            entry["location"] = "%s:%s:%s" % (record.pathname, record.funcName, record.lineno)
        if record.aws_request_id:
            entry["requestId"] = record.aws_request_id
        for name, value in vars(record).items():
            if name not in _OWN_FIELDS and name not in entry:
                entry[name] = value
        return json.dumps(entry, ensure_ascii=False, default=str)
