"""Flows whose record lies on S3 (moto's server, in a process of its own), as users run and ask them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from weft import open_store
from weft.lineage import clock, events
from weft.lineage.errors import StoreConflict
from weft.lineage.events import RunRef
from weft.lineage.journal import Journal
from weft.lineage.log import EventLog
from weft.lineage.paths import JOURNALS, OBJECTS
from weft.lineage.stores import open_storage
from weft.lineage.verify import verify

if TYPE_CHECKING:
    from tests.conftest import Done, Project
    from tests.servers import S3

_WIDE = """
class Wide(FlowSpec):
    @step
    def start(self):
        import os
        self.items = list(range(int(os.environ.get("WIDTH", "97"))))
        self.large = b"x" * 100_000
        self.next(self.body, foreach="items")

    @step
    def body(self):
        import sys
        self.out = self.input + len(self.large)
        print(sorted({"asyncio", "botocore", "fsspec", "s3fs"} & set(sys.modules)))
        self.next(self.join)

    @step
    def join(self, inputs):
        import os
        if "WIDE_FAILS" in os.environ:
            raise ValueError("as asked")
        self.total = sum(i.out for i in inputs)
        self.large = inputs[0].large[:10_000]
        self.next(self.end)

    @step
    def end(self):
        print("total", self.total)

if __name__ == "__main__":
    Wide()
"""

_SMALL = """
class Small(FlowSpec):
    @step
    def start(self):
        self.x = b"1" * 5000
        self.next(self.end)

    @step
    def end(self):
        print(len(self.x))

if __name__ == "__main__":
    Small()
"""


class Far:
    """A project whose store is at `url`, and the server it lies on."""

    def __init__(self, project: Project, s3: S3) -> None:
        self.project = project
        self.s3 = s3
        self.url = s3.new_url()

    def call(self, *arguments: str, **environment: str) -> Done:
        """A command of the flow."""
        return self.project.call("--store", self.url, *arguments, **environment)

    def weft(self, *arguments: str, **environment: str) -> Done:
        command = [sys.executable, "-m", "weft", "--store", self.url, *arguments]
        return self.project.call_in(self.project.folder, command, environment)

    def statuses(self) -> list[str]:
        with open_store(self.url) as store:
            return [row[0] for row in store.sql("select status from runs order by started_at").rows]


@pytest.fixture
def far(s3: S3, project: Project) -> Iterator[Far]:
    yield Far(project, s3)
    assert not [path for path in project.folder.iterdir() if path.name == ".weft"]


def test_a_run_of_100_tasks_makes_few_requests_and_answers_all_questions(far: Far, tmp_path: Path) -> None:
    far.project.write(_WIDE)
    done = far.call("run", "--max-workers", "2")
    assert done.code == 0, done.err
    assert done.lines[-1] == "total 9704656"
    assert done.lines.count("[]") == 97, "workers import nothing of what talks to the store"
    assert len(far.s3.puts(far.url)) <= 40
    assert not any((tmp_path / "copies" / "weft").glob("*/spool/*"))
    with open_store(far.url) as store:
        assert store.sql("select status, tasks from runs").rows == [("succeeded", 100)]
        run_id = store.sql("select run_id from runs").rows[0][0]
        assert [line.text for line in store.lines(f"Wide/{run_id}/end")] == ["total 9704656"]
        graph = store.lineage(f"Wide/{run_id}/join/99/total")
        assert f"Wide/{run_id}/start/1/large" in {node.id for _, node in graph.with_depth()}
        assert store.run(f"Wide/{run_id}")["start"].task["large"].data == b"x" * 100_000
        assert store.verify().problems == []
    assert "sealed" in far.weft("compact").out
    assert len(open_storage(far.url).list(JOURNALS)) > 0, "sealed chunks stay for the time of grace"
    assert verify(open_storage(far.url)).problems == []
    # Copies may be gone at any time.
    fresh = {"XDG_CACHE_HOME": str(tmp_path / "other")}
    assert '"tasks": 100' in far.weft("runs", "--json", **fresh).out


def test_a_failed_run_is_resumed_on_another_machine(far: Far, tmp_path: Path) -> None:
    far.project.write(_WIDE)
    assert far.call("run", WIDE_FAILS="yes", WIDTH="5").code == 1
    done = far.call("resume", XDG_CACHE_HOME=str(tmp_path / "other"))
    assert done.code == 0, done.err
    assert "6 tasks of Wide/" in done.err
    assert done.lines == ["total 500010"]
    assert far.statuses() == ["failed", "succeeded"]
    assert verify(open_storage(far.url)).problems == []


@pytest.mark.parametrize("isolation", ["inline", "spawn"])
def test_a_run_of_another_isolation_is_recorded_alike(far: Far, isolation: str) -> None:
    far.project.write(_SMALL)
    done = far.call("run", "--isolation", isolation)
    assert done.code == 0, done.err
    assert "5000" in done.out
    assert far.statuses() == ["succeeded"]
    storage = open_storage(far.url)
    # The flow's file, the list of such files, and one value.
    assert len(storage.list(OBJECTS)) == 3
    assert verify(storage).problems == []


def test_a_killed_run_is_not_taken_over_before_its_lease_is_over(far: Far) -> None:
    far.project.write(
        _SMALL.replace("self.x = ", "import os, time; os.write(1, b'here\\n'); time.sleep(60); self.x = ")
    )
    process = far.project.start("--store", far.url, "run")
    assert process.stdout is not None
    for line in process.stdout:
        if line.endswith(b"here\n"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert far.statuses() == ["running"]
    run_id = EventLog(open_storage(far.url)).events()[0].run_id
    done = far.call("resume", "--origin-run-id", run_id or "")
    assert done.code == 2
    assert f"Small/{run_id} is still running (ada on " in done.err
    assert f"process {process.pid}" in done.err
    assert "120 s after its last lease" in done.err


def test_a_run_that_was_taken_over_commits_no_more(far: Far) -> None:
    """Its scheduler was stopped for longer than its lease, and comes back."""
    far.project.write(_SMALL)
    assert far.call("run").code == 0
    storage = open_storage(far.url)
    run = RunRef(b"z" * 16, "Small", "1")
    zombie = Journal.create(storage, now_us=lambda: clock.now_us() - 500 * 1_000_000)
    zombie.append([events.run_started(run, None, {"user": "ada", "host": "far", "pid": 1})])
    zombie.sync()
    done = far.call("resume", "--origin-run-id", "1")
    assert done.code == 0, done.err
    zombie.append([events.run_ended(run, "succeeded", {})])
    with pytest.raises(StoreConflict, match="taken over this run"):
        zombie.sync()
    assert far.statuses() == ["lost", "succeeded", "succeeded"]
    assert verify(storage).problems == []


def test_a_store_that_is_not_there_is_none(far: Far) -> None:
    done = far.weft("runs")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: There is no store at {far.url}.")


def test_a_server_that_is_not_there_is_named(far: Far) -> None:
    done = far.weft("runs", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith(f"error: {far.url} is out of reach at http://127.0.0.1:9 (")
    assert done.err.count("\n") == 1
