"""Flows written to files and run as users run them, and their record as it lies in the store."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest

from tests.servers import S3, moto
from weft.lineage import clock
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.objects import Objects
from weft.lineage.projections import RunState, TaskState, fold
from weft.lineage.schema import Event
from weft.lineage.serializers import load

_PRELUDE = (
    "from weft import FlowSpec, JSONType, Parameter, catch, current, environment, retry, step, timeout\n"
)
_WAIT_S = 60.0

#: Flows that old releases ran.
collect_ignore = ["fixtures"]


class Done(NamedTuple):
    """How a command ended. Tasks' output is on `out`, each line with its stamp and place."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What tasks printed, without stamp and place."""
        return [line.partition("] ")[2] for line in self.out.splitlines()]


class Project:
    """A folder with a flow in it and a store, as a user has one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / ".weft"
        self._started: list[subprocess.Popen[bytes]] = []
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("WEFT", "METAFLOW"))
        } | {"WEFT_USER": "ada", "PYTHONDONTWRITEBYTECODE": "1"}

    def write(self, source: str, file: str = "flow.py", prelude: str = _PRELUDE) -> Path:
        """A file that holds `source` after the usual import."""
        path = self.folder / file
        path.write_text(prelude + textwrap.dedent(source))
        return path

    def command(self, *arguments: str, file: str = "flow.py") -> list[str]:
        return [sys.executable, file, *arguments]

    def call(self, *arguments: str, file: str = "flow.py", **environment: str) -> Done:
        """Run a command of the flow to its end."""
        return self.call_in(self.folder, self.command(*arguments, file=file), environment)

    def call_under(self, shell: str, *arguments: str) -> Done:
        """Run a command of the flow after a shell did something, such as setting a limit."""
        return self.call_in(
            self.folder, ["sh", "-c", f'{shell} && exec "$@"', "sh", *self.command(*arguments)]
        )

    def call_in(self, folder: Path, command: list[str], environment: dict[str, str] | None = None) -> Done:
        done = subprocess.run(
            command,
            cwd=folder,
            env=self._environment | (environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_WAIT_S,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode())

    def run(self, *arguments: str, **environment: str) -> Run:
        """`run`, which must succeed; its record."""
        done = self.call("run", *arguments, **environment)
        assert done.code == 0, done.err + done.out
        return self.newest()

    def fail(self, *arguments: str, **environment: str) -> Run:
        """`run`, which must fail; its record."""
        done = self.call("run", *arguments, **environment)
        assert done.code == 1, done.err + done.out
        return self.newest()

    def resume(self, *arguments: str, **environment: str) -> Run:
        """`resume`, which must succeed; its record."""
        done = self.call("resume", *arguments, **environment)
        assert done.code == 0, done.err + done.out
        return self.newest()

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """A command that goes on, at the head of a process group of its own; its output comes in a pipe."""
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self._environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def stop_all(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        # What a killed run may leave behind: flows that start processes note them here.
        pids = self.folder / "pids"
        for pid in pids.read_text().split() if pids.exists() else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    @property
    def log(self) -> EventLog:
        return EventLog(LocalStorage(str(self.store)))

    def runs(self) -> list[Run]:
        """All runs of the store, oldest first."""
        log = self.log
        states = fold(log.events(), log.dead_writers(), clock.now_us(), log.live_writers())
        found = sorted(states.values(), key=lambda state: int(state.run_id))
        return [Run(self, state) for state in found]

    def newest(self) -> Run:
        return self.runs()[-1]

    def value(self, event: Event) -> Any:
        """The value that an event carries or names."""
        assert event.serializer is not None
        assert event.digest is not None
        if event.blob is not None:
            return load(event.serializer, event.blob)
        objects = Objects(LocalStorage(str(self.store)))
        pack = (event.payload or {}).get("pack")
        if pack is None:
            return load(event.serializer, objects.get(event.digest))
        offset = (event.payload or {})["pack_offset"]
        return load(
            event.serializer, objects.get(bytes.fromhex(pack))[offset : offset + (event.size_bytes or 0)]
        )


class Run:
    """What is recorded of one run."""

    def __init__(self, project: Project, state: RunState) -> None:
        self.project = project
        self.state = state

    @property
    def run_id(self) -> str:
        return self.state.run_id

    @property
    def status(self) -> str:
        return self.state.status

    @property
    def is_spawned(self) -> bool:
        payload = None if self.state.started is None else self.state.started.payload
        return payload is not None and payload["isolation"] == "spawn"

    @property
    def end(self) -> dict[str, Any]:
        """The payload of the event that ended the run."""
        assert self.state.ended is not None
        return self.state.ended.payload or {}

    @property
    def parameters(self) -> dict[str, Any]:
        return {name: self.project.value(event) for name, event in self.state.parameters.items()}

    @property
    def statuses(self) -> dict[str, str]:
        """By `step` or `step[positions]`, in the order of creation."""
        return {self._place(task): task.status for task in self.state.tasks.values()}

    @property
    def tasks(self) -> dict[str, TaskState]:
        return {self._place(task): task for task in self.state.tasks.values()}

    def events(self, kind: str) -> list[Event]:
        found = self.project.log.events(run_uid=self.state.run_uid)
        return [event for event in found if event.kind == kind]

    def saved(self, place: str) -> dict[str, Any]:
        """What the final attempt of a task saved itself, or that of the task that stands in for it."""
        task = self.tasks[place]
        origin = task.origin
        if origin is not None:
            (run,) = (run for run in self.project.runs() if run.run_id == origin.run_id)
            task = run.state.tasks[origin.step or "", origin.task_id or ""]
        return {
            name: self.project.value(event)
            for name, event in task.artifacts.items()
            if event.kind == "artifact_saved"
        }

    def console(self, place: str, stream: str = "stdout", attempt: int = 0) -> list[str]:
        """The lines that an attempt printed."""
        task = self.tasks[place]
        lines: list[str] = []
        for event in self.events("console_written"):
            if (event.step, event.task_id, event.attempt, event.name) == (
                task.step,
                task.task_id,
                attempt,
                stream,
            ):
                objects = Objects(LocalStorage(str(self.project.store)))
                packed = event.blob if event.blob is not None else objects.get(event.digest or b"")
                lines += [text for _, text in msgpack.unpackb(zlib.decompress(packed))]
        return lines

    @staticmethod
    def _place(task: TaskState) -> str:
        positions = ".".join(str(level.position) for level in task.levels)
        return f"{task.step}[{positions}]" if positions else task.step


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty folder to write flows to and to run them in."""
    made = Project(tmp_path)
    yield made
    made.stop_all()


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """One server for all tests of a process; each test takes a store of its own."""
    with moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def s3(moto_server: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3:
    """S3 as the environment names it, with local copies in a folder of the test's own."""
    for name, value in {**moto_server.environment, "XDG_CACHE_HOME": str(tmp_path / "copies")}.items():
        monkeypatch.setenv(name, value)
    return moto_server
