"""Tasks and artifacts as objects. What a task sees: its own artifacts, those it inherited or merged, parameters."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage.answers import Answers
from weft.lineage.contents import read_content, read_recorded
from weft.lineage.errors import NotFound
from weft.lineage.near_names import near
from weft.lineage.reads import ClientRead, tell
from weft.lineage.recorded import Recorded, reopened
from weft.lineage.records import Records

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["DataArtifact", "Task", "TaskData", "TaskError"]


class TaskError(NamedTuple):
    """Why a task failed, as text: exceptions do not cross processes."""

    type: str
    message: str
    traceback: str | None

    def __str__(self) -> str:
        return self.traceback or f"{self.type}: {self.message}"


class Task(Recorded):
    """A task: `Task("MyFlow/17/fit/4")`. With `attempt` its artifacts are those of that attempt."""

    _LEVEL = 4
    _NOUN = "task"

    def __init__(self, pathspec: str, attempt: int | None = None, *, store: Answers | None = None) -> None:
        self._attempt = attempt
        #: Which task saved each artifact that was seen when its names were last listed.
        self._owners: dict[str, str] = {}
        super().__init__(pathspec, store=store)

    def _on_listed(self) -> None:
        self._attempt = None
        self._owners = {}

    @property
    def status(self) -> str:
        """One of pending, running, retrying, succeeded, failed, caught, cancelled, lost and reused."""
        return str(self._row("tasks", "status")[0])

    @property
    def finished(self) -> bool:
        """Whether the flow could go on after it; False for a failed task, as in Metaflow: see `status`."""
        return self._own_status() in ("succeeded", "caught")

    @property
    def successful(self) -> bool:
        """Whether it was done without a failure that had to be caught."""
        return self._own_status() == "succeeded"

    @property
    def exception(self) -> TaskError | None:
        """Why its attempt failed; None where it did not, or the failure was caught."""
        columns = "status, error_type, error_message, traceback"
        rows = self._attempts(columns)
        if not rows or rows[0][0] != "failed":
            return None
        return TaskError(rows[0][1] or "", rows[0][2] or "", rows[0][3])

    @property
    def current_attempt(self) -> int:
        """The number of the attempt shown."""
        rows = self._attempts("attempt")
        return int(rows[0][0]) if rows else 0

    @property
    def created_at(self) -> datetime:
        at: datetime = self._row("tasks", "created_at")[0]
        return at

    @property
    def finished_at(self) -> datetime | None:
        at: datetime | None = self._row("tasks", "finished_at")[0]
        return at

    @property
    def index(self) -> int | None:
        """Its place in the innermost foreach; None outside any."""
        path = self._row("tasks", "foreach_path")[0]
        return None if path is None else int(path.rpartition(":")[2])

    @property
    def origin_pathspec(self) -> str | None:
        """The task it stands for, where it was reused."""
        origin: str | None = self._row("tasks", "origin_pathspec")[0]
        return origin

    @property
    def data(self) -> TaskData:
        """Its artifacts as attributes, each loaded when it is first touched: `task.data.model`."""
        return TaskData(self)

    @property
    def artifacts(self) -> Any:
        """Its artifacts as a named tuple of `DataArtifact`."""
        from collections import namedtuple

        names = self._child_names()
        return namedtuple("Artifacts", names, rename=True)(*map(self._child, names))

    @property
    def stdout(self) -> str:
        return self._console("stdout")

    @property
    def stderr(self) -> str:
        return self._console("stderr")

    @property
    def metadata_dict(self) -> dict[str, str]:
        """The facts that Metaflow's users look for, under Metaflow's names, as text."""
        run = self.parent.parent
        origin = run.origin_pathspec
        facts = {
            "attempt": str(self.current_attempt),
            "attempt_ok": str(self.finished),
            "origin-run-id": "None" if origin is None else origin.rpartition("/")[2],
            "user": str(run._row("runs", "user_name")[0]),
        }
        if self.origin_pathspec is not None:
            facts["origin-task-id"] = self.origin_pathspec.rpartition("/")[2]
        path = self._row("tasks", "foreach_path")[0]
        return facts if path is None else {**facts, "foreach-execution-path": path}

    @property
    def parent_task_pathspecs(self) -> list[str]:
        """In the order of `inputs`."""
        return self._records().parents(self.pathspec)

    @property
    def child_task_pathspecs(self) -> list[str]:
        records = self._records()
        siblings = records.tasks_of(self._parts[0], self._parts[1])
        return [path for path in siblings if self.pathspec in records.parents(path)]

    @property
    def parent_tasks(self) -> list[Task]:
        return [Task(path, store=self._store) for path in self.parent_task_pathspecs]

    @property
    def child_tasks(self) -> list[Task]:
        return [Task(path, store=self._store) for path in self.child_task_pathspecs]

    def loglines(self, stream: str) -> Iterator[tuple[datetime, str]]:
        """(time, line) of "stdout" or "stderr"."""
        from datetime import datetime, timedelta

        shown = self.current_attempt
        for line in self._store.lines(self.pathspec, stream):
            if line.attempt == shown:
                yield datetime(1970, 1, 1) + timedelta(microseconds=line.time_us), line.text

    def _check(self) -> None:
        self._row("tasks", "task_id")
        if self._attempt is not None and not self._attempts("attempt"):
            raise NotFound(
                f"{self.pathspec} has no attempt {self._attempt}. `weft show {self.pathspec}` lists them."
            )

    def _own_status(self) -> str:
        """Of the task that really ran."""
        status = self.status
        if self._attempt is None and status != "reused":
            return status
        rows = self._attempts("status")
        return str(rows[0][0]) if rows else status

    def _attempts(self, columns: str) -> list[tuple[Any, ...]]:
        """Columns of the attempt that is shown."""
        return self._store.rows(
            f"select {columns} from attempts where flow = ? and run_id = ? and step = ? and task_id = ? "
            "and (attempt = ? or ?::BIGINT is null) order by attempt desc limit 1",
            [*self._parts, self._attempt, self._attempt],
        )

    def _console(self, stream: str) -> str:
        return "".join(f"{text}\n" for _, text in self.loglines(stream))

    def _records(self) -> Records:
        records = Records(self._store)
        records.load([self.pathspec])
        return records

    def _visible(self) -> dict[str, str]:
        """The task that saved each artifact this one sees, by name."""
        self._owners = self._find_visible()
        return self._owners

    def _find_visible(self) -> dict[str, str]:
        self._store.foresee([(self._parts[0], self._parts[1])], ("artifact",))
        records = self._records()
        seen = records.visible(self.pathspec)
        if self._attempt is None:
            return seen
        own = records.origin(self.pathspec)
        kept = {name: owner for name, owner in seen.items() if owner != own}
        rows = self._store.rows(_OF_ATTEMPT.format("distinct e.name"), [*own.split("/"), self._attempt])
        return {**{row[0]: own for row in rows}, **kept}

    def _child_names(self) -> list[str]:
        return sorted(self._visible())

    def _child(self, name: str) -> DataArtifact:
        path = f"{self.pathspec}/{name}"
        if name not in self._owners:
            return DataArtifact(path, self._attempt, store=self._store)
        return DataArtifact.listed(path, self._store, {"attempt": self._attempt, "owner": self._owners[name]})

    def _identity(self) -> tuple[object, ...]:
        return (*super()._identity(), self._attempt)

    def __reduce__(self) -> tuple[Any, ...]:
        return reopened, (self._LEVEL, self.pathspec, self._store.url, self._attempt, self._store.as_of_us)


_OF_ATTEMPT = (
    "select {} from told.artifact_events e join fold.runs r on r.flow = e.flow and r.raw_run_id = e.run_id "
    "and r.run_uid = e.run_uid where r.flow = ? and r.run_id = ? "
    "and e.step = ? and e.task_id = ? and e.attempt = ? and e.kind = 'artifact_saved'"
)


class DataArtifact(Recorded):
    """An artifact: `DataArtifact("MyFlow/17/fit/4/model")`, one that the task saved itself or inherited."""

    _LEVEL = 5
    _NOUN = "artifact"
    _owner: str

    def __init__(self, pathspec: str, attempt: int | None = None, *, store: Answers | None = None) -> None:
        self._attempt = attempt
        super().__init__(pathspec, store=store)

    def _on_listed(self) -> None:
        self._attempt = self._facts_known["attempt"]
        self._owner = str(self._facts_known["owner"])

    @property
    def data(self) -> Any:
        """The value, loaded anew each time. Raises: NotFound, StoreDamaged, WeftError for a pickle that fails."""
        from weft.lineage.serializers import load

        recorded = read_recorded(self._store, [self.sha]).get(self.sha)
        if recorded is None:
            raise NotFound(f"The value of {self.pathspec} is not in the store. Run `weft verify`.")
        data, path = read_content(self._store, recorded)
        value = load(self._facts[2], data, path)
        tell(ClientRead(self._store.url, self._owner, self.id, self.sha, self.size))
        return value

    @property
    def sha(self) -> str:
        """The digest of its bytes, `sha256:` and 64 hex digits."""
        return str(self._facts[0])

    @property
    def size(self) -> int:
        """In bytes, as stored."""
        return int(self._facts[1])

    @property
    def serializer(self) -> str:
        return str(self._facts[2])

    @property
    def type(self) -> str:
        """The name of its type."""
        return str(self._facts[3])

    @property
    def created_at(self) -> datetime:
        at: datetime = self._facts[4]
        return at

    @property
    def finished_at(self) -> datetime:
        return self.created_at

    @property
    def producer_pathspec(self) -> str:
        """The task that saved it."""
        return self._owner

    @property
    def origin_pathspec(self) -> str | None:
        origin = self.parent.origin_pathspec
        return None if origin is None else f"{origin}/{self.id}"

    def _check(self) -> None:
        task = "/".join(self._parts[:4])
        if self._parts[2:4] == ["_parameters", "0"]:
            self._owner = task
        else:
            visible = Task(task, self._attempt, store=self._store)._visible()
            if self.id not in visible:
                raise NotFound(f"{task} has no artifact {self.id!r}.{near(self.id, sorted(visible))}")
            self._owner = visible[self.id]
        # Who names it wants to know at once whether it is there.
        _ = self._facts

    @cached_property
    def _facts(self) -> tuple[Any, ...]:
        """Digest, size, serializer, type and time; what is recorded of them does not change."""
        where = [*self._owner.split("/"), self.id]
        rows = self._store.rows(
            "select digest, size_bytes, serializer, type, created_at from artifacts "
            "where flow = ? and run_id = ? and step = ? and task_id = ? and name = ? order by attempt desc limit 1",
            where,
        )
        if self._attempt is not None:
            columns = "'sha256:' || lower(hex(e.digest)), e.size_bytes, e.serializer, e.type, make_timestamp(e.time_us)"
            query = _OF_ATTEMPT.format(columns) + " and e.name = ?"
            rows = self._store.rows(query, [*where[:4], self._attempt, self.id]) or rows
        if not rows:
            raise NotFound(
                f"{self._owner} recorded no artifact {self.id!r}. Copy the store it came from into this one."
            )
        return rows[0]

    def _child_names(self) -> list[str]:
        return []

    def _identity(self) -> tuple[object, ...]:
        return (*super()._identity(), self._attempt)

    def __reduce__(self) -> tuple[Any, ...]:
        return reopened, (self._LEVEL, self.pathspec, self._store.url, self._attempt, self._store.as_of_us)


class TaskData:
    """The artifacts of a task as attributes: its own, those it inherited, and the parameters."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._names = task._visible()
        self._loaded: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self._names:
            hint = "" if name.startswith("_") else near(name, sorted(self._names))
            raise AttributeError(f"{self._task.pathspec} has no artifact {name!r}.{hint}")
        if name not in self._loaded:
            self._loaded[name] = self._task._child(name).data
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __dir__(self) -> list[str]:
        return sorted(self._names)

    def __repr__(self) -> str:
        return f"<TaskData {self._task.pathspec}: {', '.join(sorted(self._names))}>"
