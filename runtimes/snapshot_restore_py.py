"""Hooks around SnapStart's snapshot, as Lambda's Python runtime has them.

`register_before_snapshot(function, *arguments, **named)` has `function` called before the snapshot is taken, the one that was
registered last first; `register_after_restore` has it called in every instance that is made from the snapshot, in the order of
registration. Both give the function back, so that they serve as decorators too.
"""

_before_snapshot = []
_after_restore = []


def register_before_snapshot(function, *arguments, **named):
    """Has `function` called before the snapshot is taken."""
    _before_snapshot.append((function, arguments, named))
    return function


def register_after_restore(function, *arguments, **named):
    """Has `function` called after each restore."""
    _after_restore.append((function, arguments, named))
    return function


def get_before_snapshot():
    """What was registered: a list of function, arguments, named arguments."""
    return _before_snapshot


def get_after_restore():
    """What was registered: a list of function, arguments, named arguments."""
    return _after_restore
