"""What is measured: flows as source text, and events made from a seed. The same seed gives the same work."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import NamedTuple

from weft.lineage import events
from weft.lineage.events import Content, Level, RunRef
from weft.lineage.ids import Pathspec
from weft.lineage.schema import Event
from weft.lineage.serializers import dump

__all__ = [
    "SIZES",
    "Size",
    "chain_source",
    "history",
    "plan_source",
    "resume_source",
    "run_events",
    "wide_source",
]


class Size(NamedTuple):
    """How much is done: `canonical` by hand, `tiny` in the tests."""

    repeats: int
    chain_short: int
    chain_long: int
    wide: int
    resume_wide: int
    durable_appends: int
    decoded: int
    runs: int
    history: int
    compared: int
    plan_wide: int = 10_000


SIZES = {
    "canonical": Size(7, 10, 100, 1_000, 100, 1_000, 100_000, 200, 200_000, 1_000),
    "tiny": Size(1, 3, 5, 4, 3, 20, 400, 5, 6_000, 5, plan_wide=6),
}

_LINES_OF_A_TASK = 3
_DICT_BYTES = 2048


def chain_source(steps: int) -> str:
    """A flow of `steps` linear steps that do nothing."""
    names = ["start", *(f"step_{i}" for i in range(steps - 2)), "end"]
    body = []
    for name, following in zip(names, [*names[1:], ""], strict=True):
        action = f"self.next(self.{following})" if following else "pass"
        body.append(f"    @step\n    def {name}(self):\n        {action}\n")
    return f"from weft import FlowSpec, step\n\n\nclass ChainFlow(FlowSpec):\n{chr(10).join(body)}\n\nChainFlow()\n"


def wide_source(width: int, seed: int) -> str:
    """A foreach over `width` items whose tasks print three lines and save a dict of about 2 KB, and its join."""
    return f"""
from weft import FlowSpec, step


class WideFlow(FlowSpec):
    @step
    def start(self):
        self.items = list(range({width}))
        self.next(self.work, foreach="items")

    @step
    def work(self):
        for line in range({_LINES_OF_A_TASK}):
            print(f"task {{self.input}} says line {{line}}")
        number = ({seed} * 2654435761 + self.input) % 2**32
        self.found = {{f"field_{{i}}": (number * (i + 1)) % 2**32 for i in range({_DICT_BYTES // 14})}}
        self.number = number
        self.next(self.join)

    @step
    def join(self, inputs):
        self.total = sum(branch.number for branch in inputs)
        self.next(self.end)

    @step
    def end(self):
        pass


WideFlow()
"""


def plan_source(width: int) -> str:
    """A foreach whose tasks read an item, an artifact and nothing else, and its join."""
    return f"""
from weft import FlowSpec, Parameter, step


class PlanFlow(FlowSpec):
    rate = Parameter("rate", default=2)

    @step
    def start(self):
        self.items = list(range({width}))
        self.base = 3
        self.next(self.work, foreach="items")

    @step
    def work(self):
        self.product = self.input * self.base
        self.next(self.join)

    @step
    def join(self, inputs):
        self.total = sum(branch.product for branch in inputs)
        self.next(self.end)

    @step
    def end(self):
        self.answer = self.total * self.rate


if __name__ == "__main__":
    PlanFlow()
"""


def resume_source(width: int) -> str:
    """A foreach whose last step fails as long as FAIL is set."""
    return f"""
import os

from weft import FlowSpec, step


class ResumeFlow(FlowSpec):
    @step
    def start(self):
        self.items = list(range({width}))
        self.next(self.work, foreach="items")

    @step
    def work(self):
        self.square = self.input**2
        self.next(self.join)

    @step
    def join(self, inputs):
        self.total = sum(branch.square for branch in inputs)
        self.next(self.end)

    @step
    def end(self):
        if "FAIL" in os.environ:
            raise RuntimeError("FAIL is set")
        self.answer = self.total


ResumeFlow()
"""


def history(seed: int, count: int) -> Iterator[Event]:
    """The events of one long run of a thousand tasks after another, `count` in all."""
    made = 0
    for number in range(count):
        for event in run_events(seed, number, tasks=1_000):
            yield event
            made += 1
            if made == count:
                return


def run_events(seed: int, number: int, tasks: int) -> Iterator[Event]:
    """One whole run: a foreach of `tasks` tasks, each with two artifacts, a read and a chunk of output."""
    draw = random.Random(f"{seed}/{number}")
    run = RunRef(draw.randbytes(16), f"Flow{number % 7}", str(1_700_000_000_000_000 + number))
    yield events.run_started(run, draw.randbytes(32), {"user": "bench", "host": "box", "pid": 4000 + number})
    yield events.tag_added(run, "nightly", "user")
    yield events.parameter_set(run, "alpha", _content(draw.random()), "parameter")
    yield events.step_started(run, "fit")
    for index in range(tasks):
        yield from _task_events(draw, run, index, tasks)
    status = "failed" if number % 10 == 9 else "succeeded"
    yield events.run_ended(
        run, status, {"root_cause": f"{run.flow}/{run.run_id}/fit/1"} if status == "failed" else None
    )


def _task_events(draw: random.Random, run: RunRef, index: int, tasks: int) -> Iterator[Event]:
    task = run.task("fit", str(index + 1))
    level = Level("fit", "carriers", index, tasks, f"item {index}")
    yield events.task_created(task, (("start", "0"),), (level,), _content(index))
    yield events.attempt_started(task, 0, 5000 + index, "box")
    yield events.artifact_used(
        task, 0, "table", draw.randbytes(32), Pathspec(run.flow, run.run_id, "start", "0")
    )
    yield events.artifact_saved(task, 0, "score", _content(draw.random()))
    yield events.artifact_saved(
        task, 0, "model", Content(draw.randbytes(32), draw.randrange(10_000, 10_000_000), "Model", "pickle/5")
    )
    yield events.console_written(task, 0, "stdout", 3, 90, draw.randbytes(80), None)
    yield events.attempt_succeeded(task, 0, {"next": ["join"]}, {"cpu_s": 0.25, "max_rss_bytes": 50_000_000})


def _content(value: object) -> Content:
    dumped = dump(value)
    data = b"".join(dumped.parts)
    assert hashlib.sha256(data).digest() == dumped.digest
    return Content(
        dumped.digest,
        dumped.size_bytes,
        dumped.type,
        dumped.serializer,
        dumped.value,
        dumped.value_number,
        data,
    )
