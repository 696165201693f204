"""Makes imports come out as on Lambda, whose runtime has loaded a good part of the standard library beforehand.

That has two effects that functions rely on. `logging` has a handler on the root logger, and a file `string.py` in a
package hides nothing from the library. Loading all of it here would more than double the time that an instance needs to
start, so a finder does the same for the modules that are really imported.
"""

import os
import sys
from _frozen_importlib_external import PathFinder

# What `http.client`, `json`, `logging` and `traceback` bring with them, in any Python from 3.8 on, without the modules
# that every interpreter has loaded when it starts.
_PRELOADED_ON_LAMBDA = frozenset(
    "array base64 binascii bisect calendar collections contextlib copyreg datetime decimal email enum functools heapq "
    "http importlib ipaddress json keyword linecache locale logging math numbers operator quopri random re reprlib "
    "select selectors socket sre_compile sre_constants sre_parse ssl string struct textwrap threading token tokenize "
    "traceback types urllib warnings weakref".split()
)


def prefer_standard_library(search_path):
    """Sets the finder up; `search_path` is where the interpreter looks without user code's folders."""
    sys.meta_path.insert(0, _StandardLibraryFinder(search_path))
    if "logging" in sys.modules:
        _install_log_handler()


class _StandardLibraryFinder:
    """Finds the modules that Lambda preloads, and no others."""

    def __init__(self, search_path):
        self._search_path = list(search_path)

    def find_spec(self, name, path=None, target=None):
        if name not in _PRELOADED_ON_LAMBDA:
            return None
        spec = PathFinder.find_spec(name, self._search_path, target)
        if name == "logging" and spec is not None:
            spec.loader = _LoggingLoader(spec.loader)
        return spec


class _LoggingLoader:
    """Loads with the loader that it wraps, then installs the log handler; leaves no trace in the module."""

    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _install_log_handler()


def _install_log_handler():
    """Adds Lambda's handler to the root logger and sets the level that the function's configuration asks for."""
    import logging

    from .logformat import LambdaHandler, configured_level

    root = logging.getLogger()
    if any(isinstance(handler, LambdaHandler) for handler in root.handlers):
        return  # `logging` was reloaded
    root.addHandler(LambdaHandler())
    level = configured_level(os.environ.get("AWS_LAMBDA_LOG_LEVEL", ""))
    if level is not None:
        root.setLevel(level)
