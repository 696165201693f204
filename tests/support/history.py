"""Random operations on functions by several clients at once, and what may be true afterwards.

Each client owns its functions, so their acknowledged state is known exactly. An operation whose answer was lost is in
doubt: afterwards both the state before it and the state after it are acceptable.
"""

import random
import threading
from dataclasses import dataclass, field

from botocore.exceptions import BotoCoreError, ClientError

from . import ROLE
from .clients import Api, free_name
from .packages import code_sha256, fixture, zip_of

VARIANTS = 6
MEMORY_SIZES = (128, 160, 192)


def package(variant: int) -> bytes:
    """The code of one variant; its answer names it."""
    return zip_of({"probe.py": fixture("probe.py"), "variant": str(variant)})


PACKAGES = [package(variant) for variant in range(VARIANTS)]
DIGESTS = {code_sha256(content): variant for variant, content in enumerate(PACKAGES)}


@dataclass
class Fact:
    """What is known of one function: the acceptable states, each None (absent) or (variant, memory)."""

    states: set = field(default_factory=lambda: {None})


class Progress:
    """Counts operations of all clients; whoever waits for a number is woken."""

    def __init__(self):
        self.count = 0
        self._changed = threading.Condition()

    def step(self):
        """One operation is over."""
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait_for(self, count: int, seconds: float):
        """Waits until so many operations are over."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.count >= count, seconds), (
                f"only {self.count} of {count} operations in {seconds} s"
            )


class Client(threading.Thread):
    """One client: seeded operations on functions of its own, going on through outages."""

    def __init__(
        self, server, credentials, seed: int, operations: int, progress: Progress, runtime: str, up: threading.Event
    ):
        super().__init__(name=f"client {seed}", daemon=True)
        self.api = Api(server.endpoint, credentials)
        self.draw = random.Random(seed)
        self.operations, self.progress, self.runtime, self.up = operations, progress, runtime, up
        self.facts = {free_name(f"kill{seed}"): Fact() for _ in range(3)}
        self.lost = 0
        self.platform_errors = []
        self.problems = []

    def run(self):
        for _ in range(self.operations):
            name = self.draw.choice(list(self.facts))
            try:
                self._operate(name, self.facts[name])
            except (BotoCoreError, OSError):
                self.lost += 1
                self.up.wait(60)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
                    self.platform_errors.append(f"{name}: {error}")
            self.progress.step()

    def _operate(self, name: str, fact: Fact):
        kind = self.draw.choices(("create", "code", "memory", "invoke", "delete"), (3, 3, 2, 4, 1))[0]
        variant, memory = self.draw.randrange(VARIANTS), self.draw.choice(MEMORY_SIZES)
        if kind == "invoke":
            self._invoke(name, fact)
        elif kind == "create":
            self._change(
                fact,
                lambda s: s or (variant, memory),
                lambda: self.api.client.create_function(
                    FunctionName=name,
                    Code={"ZipFile": PACKAGES[variant]},
                    Runtime=self.runtime,
                    Handler="probe.variant",
                    Role=ROLE,
                    Timeout=20,
                    MemorySize=memory,
                ),
            )
        elif kind == "code":
            self._change(
                fact,
                lambda s: s and (variant, s[1]),
                lambda: self.api.client.update_function_code(FunctionName=name, ZipFile=PACKAGES[variant]),
            )
        elif kind == "memory":
            self._change(
                fact,
                lambda s: s and (s[0], memory),
                lambda: self.api.client.update_function_configuration(FunctionName=name, MemorySize=memory),
            )
        else:
            self._change(fact, lambda s: None, lambda: self.api.client.delete_function(FunctionName=name))

    def _change(self, fact: Fact, change, operation):
        before, after = set(fact.states), {change(state) for state in fact.states}
        fact.states = before | after
        try:
            operation()
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                fact.states = before
            raise
        fact.states = after

    def _invoke(self, name: str, fact: Fact):
        answer = self.api.invoke(name, {})
        if answer.error and b"signal: killed" in answer.body:
            self.lost += 1  # The guest was killed a moment before the daemon.
        elif answer.error:
            self.problems.append(f"{name}: invocation failed: {answer.body[:300]!r}")
        elif not any(state and int(answer.value["variant"]) in range(VARIANTS) for state in fact.states):
            self.problems.append(f"{name} answered though it is absent")


def read_state(api: Api, name: str):
    """The state of a function as the server now tells it."""
    try:
        found = api.client.get_function_configuration(FunctionName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return None
        raise
    return DIGESTS[found["CodeSha256"]], found["MemorySize"]
