"""Waiting for a condition, always with an end."""

import time


def wait_until(condition, what: str, seconds: float = 10.0, pause_s: float = 0.02):
    """Returns the first true value of `condition()`; fails after `seconds` with `what` in the message."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(pause_s)
