"""JSON to Python values and back, as Lambda's Python runtime does it, without the cost of importing `json`.

The `json` package imports `re`, which together cost more than the interpreter's own start. The C accelerator below it
(`_json`) does all the work, so it is used directly, and `json` itself only when something is unusual: text that does
not parse, or an interpreter without the accelerator.
"""

import sys

try:
    from _json import encode_basestring, encode_basestring_ascii, make_encoder, make_scanner
except ImportError:
    make_encoder = make_scanner = None

# Lambda's runtimes escape non-ASCII text up to Python 3.11 and leave it alone from 3.12 on (awslambdaric 2.0.8).
ESCAPE_NON_ASCII = sys.version_info < (3, 12)


class _ScannerOptions:
    """What `json.JSONDecoder()` would offer to the scanner: plain Python types, strict strings."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}.__getitem__
    memo = {}


_scan = make_scanner(_ScannerOptions) if make_scanner else None


def decode(octets):
    """The value of JSON text in UTF-8 `octets`. Raises what `json.loads` raises (`ValueError` and its kin)."""
    if _scan:
        try:
            text = octets.decode("utf-8").strip(" \t\n\r")
            value, end = _scan(text, 0)
            if end == len(text):
                return value
        except Exception:  # up to 3.12 the scanner even has no proper error of its own unless `json` is loaded
            pass
    # Either the text is bad or it is JSON that only the full module reads (UTF-16, for example): it decides.
    import json

    return json.loads(octets)


def encode(value):
    """`value` as JSON in UTF-8 octets. Raises `TypeError` or `ValueError`, worded as by `json.dumps`.

    A `decimal.Decimal` becomes a JSON number with all its digits.
    """
    decimals = _Decimals()
    text = _dumps(value, ESCAPE_NON_ASCII, decimals)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        # Half of a surrogate pair has no UTF-8 form; only the escaped form can carry it.
        return _dumps(value, True, decimals).encode("ascii")


def _dumps(value, ensure_ascii, decimals):
    if make_encoder:
        basestring = encode_basestring_ascii if ensure_ascii else encode_basestring
        # In order: cycle markers, default, string encoder, indent, separators, sort_keys, skipkeys, allow_nan.
        encoder = make_encoder({}, decimals.default, basestring, None, ": ", ", ", False, False, True)
        return decimals.reveal("".join(encoder(value, 0)))
    import json

    return decimals.reveal(json.dumps(value, ensure_ascii=ensure_ascii, default=decimals.default))


class _Decimals:
    """Carries decimals through an encoder that knows only binary floats.

    Each one is encoded as a string made of a random mark and its digits; `reveal` takes mark and quotes away again.
    """

    def __init__(self):
        self._mark = None

    def default(self, value):
        # Nobody has a Decimal without having imported the module.
        decimal = sys.modules.get("decimal")
        if decimal is None or not isinstance(value, decimal.Decimal):
            raise TypeError("Object of type %s is not JSON serializable" % type(value).__name__)
        if value.is_nan():
            return float("nan")
        if self._mark is None:
            import os

            self._mark = "decimal-" + os.urandom(16).hex() + ":"
        return self._mark + str(value)

    def reveal(self, text):
        if self._mark is None:
            return text
        head, *rest = text.split('"' + self._mark)
        return head + "".join(tail.replace('"', "", 1) for tail in rest)
