"""Processes that seal and compact are killed at any moment, while others read: nobody sees anything but all events.

Slow; WEFT_TEST_SEED=<seed> replays the moments of the kills.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import faults
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.schema import Event
from weft.lineage.verify import verify

_SEED = faults.seeds([11])[0]
_ROUNDS = 12
_JOURNALS_OF_A_ROUND = 4
_KINDS = ("run_started", "task_created", "artifact_saved", "artifact_used", "console_written")

#: Seals each journal by itself, so that there is something to merge, then merges and removes without any grace.
_COMPACTOR = """
import sys
from weft.lineage import sealing
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
sealing._BATCH_BYTES = 1
import pyarrow.parquet
log = EventLog(LocalStorage(sys.argv[1]))
print("ready", flush=True)
while True:
    log.tidy(is_whole=True, grace_s=-1)
"""

#: Reads until it is told to stop: every answer has all events that were there before it was asked.
_READER = """
import os, sys
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
folder = sys.argv[1]
answers = 0
while not os.path.exists(folder + "/stop"):
    least = int(open(folder + "/committed").read())
    found = [(e.writer, e.seq) for e in EventLog(LocalStorage(folder)).events() if e.kind != "journal_closed"]
    assert len(set(found)) == len(found), "an event came twice"
    assert len(found) >= least, (len(found), least)
    answers += 1
print(answers)
"""


def _commit(root: str, count: int) -> None:
    """Say how many events are there; read whole or not at all."""
    temporary = Path(root, ".committed.tmp")
    temporary.write_text(str(count))
    temporary.rename(Path(root, "committed"))


@pytest.mark.slow
def test_compactors_are_killed_while_others_read(tmp_path: Path) -> None:
    print(f"WEFT_TEST_SEED={_SEED}")
    draw = random.Random(_SEED)
    root = str(tmp_path / "store")
    storage = LocalStorage(root)
    committed = 0
    storage.put("committed", b"0")
    readers = [
        subprocess.Popen([sys.executable, "-c", _READER, root], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for _ in range(_ROUNDS):
            for _ in range(_JOURNALS_OF_A_ROUND):
                journal = Journal.create(storage)
                journal.append([Event(kind=kind, flow="F", run_id=str(committed)) for kind in _KINDS])
                journal.close()
                committed += len(_KINDS)
            _commit(root, committed)
            with subprocess.Popen(
                [sys.executable, "-c", _COMPACTOR, root], stdout=subprocess.PIPE, text=True
            ) as compactor:
                assert compactor.stdout is not None
                compactor.stdout.readline()
                # The moment of the kill is what is tried here; nothing waits for it.
                time.sleep(draw.random() * 0.4)
                compactor.kill()
            assert all(reader.poll() is None for reader in readers)
            found = [event for event in EventLog(storage).events() if event.kind != "journal_closed"]
            assert len(found) == len({(event.writer, event.seq) for event in found}) == committed
        assert verify(storage, is_deep=True).is_sound
    finally:
        Path(root, "stop").touch()
        answers = [reader.communicate()[0] for reader in readers]
    assert all(reader.returncode == 0 for reader in readers)
    assert all(int(answer) > 0 for answer in answers)
    for _ in range(2):
        EventLog(storage).tidy(is_whole=True, grace_s=-1)
    assert storage.list("journal") == []
    assert len(EventLog(storage).segments()) == 1
    report = verify(storage, is_deep=True)
    assert report.problems == []
    assert report.event_count == committed * 6 // 5
    shutil.rmtree(root)
