"""What is compared of two runs: tasks, artifacts and reads matched by step, place in a foreach, and name. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "ArtifactPair",
    "ExternalPair",
    "Pairs",
    "ReadPair",
    "RunFacts",
    "Saved",
    "StepTimes",
    "TaskPair",
    "TaskPlace",
    "ValuePair",
]


class TaskPlace(NamedTuple):
    """What names a task in any run: its step, its `foreach_path` (or ""), and which visit of both it is, from 1."""

    step: str
    path: str
    visit: int

    @property
    def label(self) -> str:
        """`fit[3,0]`, and with `#2` for the second time round a loop.

        >>> TaskPlace("tune", "fit:3,tune:0", 2).label
        'tune[3,0]#2'
        """
        if not self.path and self.visit == 1:
            return self.step
        positions = ",".join(level.rpartition(":")[2] for level in self.path.split(",")) if self.path else ""
        return (
            self.step + (f"[{positions}]" if positions else "") + (f"#{self.visit}" if self.visit > 1 else "")
        )


class RunFacts(NamedTuple):
    """One of the two runs. `environment` is Python, platform, host and, by `package <name>`, versions.

    `step_code` is the digest of the code that each step reaches, where that was recorded.
    """

    pathspec: str
    flow: str
    run_id: str
    status: str
    started_at: datetime | None
    duration_s: float | None
    code_digest: str | None
    origin_run_id: str | None
    graph: dict[str, Any] | None
    environment: dict[str, str]
    command: tuple[str, ...] = ()
    step_code: dict[str, str] = {}  # noqa: RUF012  # never changed


class Saved(NamedTuple):
    """What is recorded of a value; `value` is its preview as JSON, if it has one."""

    digest: str
    size_bytes: int
    type: str
    serializer: str
    value: str | None


class ValuePair(NamedTuple):
    """A parameter, a constant or a config; `role` says which."""

    name: str
    role: str
    a: Saved | None
    b: Saved | None


class TaskPair(NamedTuple):
    """A task whose status differs, or that is in one run only; `a` and `b` are the statuses, a reused task's `succeeded`."""

    place: TaskPlace
    a: str | None
    b: str | None


class ArtifactPair(NamedTuple):
    place: TaskPlace
    name: str
    a: Saved | None
    b: Saved | None


class ReadPair(NamedTuple):
    """A read that found other content, or was done in one run only; `a` and `b` are digests, or "absent"."""

    place: TaskPlace
    name: str
    item_index: int | None
    producer: TaskPlace
    a: str | None
    b: str | None


class ExternalPair(NamedTuple):
    """Something outside the store that a task read or wrote; `a` and `b` are digests, or what else tells contents apart."""

    place: TaskPlace
    uri: str
    direction: str
    a: str | None
    b: str | None


class StepTimes(NamedTuple):
    """How many tasks a step had, and the seconds they took together."""

    step: str
    tasks_a: int
    tasks_b: int
    seconds_a: float | None
    seconds_b: float | None


class Pairs(NamedTuple):
    """All that is compared. Of tasks, artifacts and reads only what differs; `equal` counts the other artifacts
    by step and name.
    """

    a: RunFacts
    b: RunFacts
    values: list[ValuePair]
    tasks: list[TaskPair]
    artifacts: list[ArtifactPair]
    reads: list[ReadPair]
    external: list[ExternalPair]
    times: list[StepTimes]
    equal: dict[tuple[str, str], int]
