"""One bit flipped in, or the end cut off, any byte of any file: the right answer or a named error, never a wrong one.

In process every byte of one file of each kind is tried, against what checks it. The slow test flips bits in
the store of real runs and asks every command. WEFT_TEST_SEED=<seed> chooses the bits.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tests import faults
from weft.lineage.description import create_store, read_description
from weft.lineage.errors import NotFound, StoreDamaged, WeftError
from weft.lineage.journal import Journal, parse_journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.memory import MemoryStorage
from weft.lineage.objects import Objects
from weft.lineage.paths import object_path
from weft.lineage.schema import Event
from weft.lineage.serializers import dump, load
from weft.lineage.verify import verify

if TYPE_CHECKING:
    from tests.conftest import Project

_SEED = faults.seeds([7])[0]
_KINDS = ("run_started", "task_created", "artifact_saved", "artifact_used", "console_written", "kind_of_2040")


def flips(data: bytes, step: int = 1) -> Iterator[tuple[int, bytes]]:
    """`data` with one bit of a byte flipped, for every `step`-th byte."""
    draw = random.Random(_SEED)
    for at in range(0, len(data), step):
        changed = bytearray(data)
        changed[at] ^= 1 << draw.randrange(8)
        yield at, bytes(changed)


def cuts(data: bytes, step: int = 1) -> Iterator[tuple[int, bytes]]:
    """`data` cut off at every `step`-th byte."""
    for size in range(0, len(data), step):
        yield size, data[:size]


def some_events() -> list[Event]:
    return [
        Event(kind=kind, run_uid=b"u" * 16, flow="Flow", run_id="1", step="fit", task_id="2", name=f"n{at}")
        for at, kind in enumerate(_KINDS * 2)
    ]


def test_weft_json_is_right_or_refused() -> None:
    storage = MemoryStorage()
    right = create_store(storage)
    data = storage.get("weft.json")
    for at, changed in [*flips(data), *flips(data), *cuts(data)]:
        storage.put("weft.json", changed)
        with contextlib.suppress(WeftError):
            assert read_description(storage) == right, f"byte {at}: {changed!r}"


@pytest.mark.parametrize("is_ended", [False, True])
def test_a_journal_gives_only_what_was_written_and_says_what_is_missing(is_ended: bool) -> None:
    storage = MemoryStorage()
    journal = Journal.create(storage)
    journal.append(some_events())
    if is_ended:
        journal.close()
    data = storage.get(journal.path)
    right = parse_journal(journal.path, data)
    ends = [right.events[0].seq]
    for at, changed in flips(data):
        found = parse_journal(journal.path, changed)
        assert found.state == "damaged", f"byte {at}"
        assert any(p.offset <= at < p.offset + p.length for p in found.problems)
        assert all(event in right.events for event in found.events)
        assert len(found.events) >= len(right.events) - 1
    frame_ends = 0
    for size, changed in cuts(data):
        found = parse_journal(journal.path, changed)
        assert found.events == right.events[: len(found.events)]
        # Cut between two frames it is a journal whose writer died there: nothing can tell the two apart.
        assert found.state in ("torn", "open"), f"cut to {size}"
        frame_ends += found.state == "open"
    assert frame_ends == len(right.events)
    assert ends == [0]


def _sealed(folder: Path) -> tuple[LocalStorage, list[Event]]:
    storage = LocalStorage(str(folder / "store"))
    create_store(storage)
    journal = Journal.create(storage)
    journal.append(some_events())
    journal.close()
    for _ in range(2):
        EventLog(storage).seal(force=True, grace_s=-1)
    assert storage.list("journal") == []
    return storage, EventLog(storage).events()


def _sweep_segments(folder: Path, step: int) -> int:
    storage, right = _sealed(folder)
    tried = 0
    for path in storage.list("log"):
        file = folder / "store" / path
        data = file.read_bytes()
        for at, changed in [*flips(data, step), *cuts(data, step)]:
            file.write_bytes(changed)
            tried += 1
            with pytest.raises(WeftError) as raised:
                EventLog(storage).events()
            assert str(raised.value).endswith("."), f"{path}, byte {at}"
            try:
                # Rows of other files of the segment may be asked for; they are right.
                found = EventLog(storage).events(families=("task",)) if tried % 17 == 0 else None
            except WeftError:
                found = None
            assert found is None or found == [event for event in right if event.kind == "task_created"]
            if tried % 101 == 0:
                assert not verify(storage).is_sound
        file.write_bytes(data)
    assert EventLog(storage).events() == right
    return tried


def test_no_row_of_a_changed_segment_is_believed(tmp_path: Path) -> None:
    assert _sweep_segments(tmp_path, 71) > 200


@pytest.mark.slow
def test_no_row_of_a_segment_changed_at_any_byte_is_believed(tmp_path: Path) -> None:
    print(f"{_sweep_segments(tmp_path, 1)} flips and cuts of segment files")


class Picklable:
    """What only pickle can write."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picklable)

    def __hash__(self) -> int:
        return 1


VALUES = {
    "plain": [1, "two", (3.0, None)],
    "npy": np.arange(4),
    "arrow": pa.table({"x": [1, 2]}),
    "pandas": pd.DataFrame({"x": [1, 2]}),
    "polars": pl.DataFrame({"x": [1, 2]}),
    "pickle": Picklable(),
    "pickle-buffers": {"a": np.arange(3), "b": Picklable()},
}


@pytest.mark.parametrize("name", VALUES)
def test_no_changed_object_is_given_out(name: str) -> None:
    storage = MemoryStorage()
    objects = Objects(storage)
    dumped = dump(VALUES[name])
    data = b"".join(bytes(part) for part in dumped.parts)
    digest = objects.put([data])
    load(dumped.serializer, objects.get(digest))
    for _, changed in [*flips(data), *cuts(data)]:
        storage.put(object_path(digest), changed)
        with pytest.raises(StoreDamaged, match="Run `weft verify`"):
            objects.get(digest)
    storage.delete(object_path(digest))
    with pytest.raises(NotFound):
        objects.get(digest)


FLOW = """
    class Small(FlowSpec):
        n = Parameter("n", default=3)
        @step
        def start(self):
            self.xs = list(range(self.n))
            self.big = [float(i) for i in range(1000)]
            self.next(self.body, foreach="xs")
        @step
        def body(self):
            self.y = self.input + len(self.big)
            print("item", self.input)
            self.next(self.join)
        @step
        def join(self, inputs):
            self.total = sum(i.y for i in inputs)
            self.next(self.end)
        @step
        def end(self):
            print(self.total)
    if __name__ == "__main__":
        Small()
    """

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("runs", "--json"),
    ("show", "{run}", "--json"),
    ("sql", "select name, value, digest from artifacts order by all"),
    ("sql", "select kind, count(*), max(payload) from events group by all order by all", "--format", "json"),
    ("log", "--json"),
    ("lineage", "{run}/join"),
    ("logs", "{run}"),
)


def _ask(store: Path, command: tuple[str, ...], run: str) -> subprocess.CompletedProcess[str]:
    arguments = [part.replace("{run}", run) for part in command]
    return subprocess.run(
        [sys.executable, "-m", "weft", "--store", str(store), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def history(project: Project) -> tuple[Path, str]:
    """A store with sealed runs, one that is not sealed, and one that was killed; and a run in it."""
    project.write(FLOW)
    for _ in range(2):
        project.run()
    project.log.seal(force=True, grace_s=-1)
    project.log.seal(force=True, grace_s=-1)
    project.run("--n", "2")
    run = project.newest()
    return project.store, f"Small/{run.run_id}"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_flips_in_a_real_store_never_change_an_answer(
    history: tuple[Path, str], tmp_path: Path, part: int
) -> None:
    store, run = history
    right = {command: _ask(store, command, run) for command in COMMANDS}
    assert [done.returncode for done in right.values()] == [0] * len(COMMANDS), right
    assert _ask(store, ("verify",), run).returncode == 0
    files = sorted(path for path in store.rglob("*") if path.is_file() and path.stat().st_size)
    kinds: dict[str, list[Path]] = {}
    for path in files:
        kinds.setdefault(path.relative_to(store).parts[0], []).append(path)
    kinds.pop(".gitignore", None)
    outcomes: dict[str, int] = {}
    for seed in range(part * 25, part * 25 + 25):
        draw = random.Random(f"{_SEED} {seed}")
        file = draw.choice(kinds[draw.choice(sorted(kinds))])
        data = bytearray(file.read_bytes())
        at = draw.randrange(len(data))
        data[at] ^= 1 << draw.randrange(8)
        copy = tmp_path / f"copy-{seed}"
        shutil.copytree(store, copy)
        (copy / file.relative_to(store)).write_bytes(data)
        for command in draw.sample(COMMANDS, 3):
            done = _ask(copy, command, run)
            outcome = _judge(done, right[command], store, copy)
            place = f"seed {seed}: {command} after a flip in byte {at} of {file.relative_to(store)}"
            assert outcome != "wrong", f"{place}\n{done.stdout}\n{done.stderr}"
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        done = _ask(copy, ("verify",), run)
        is_known = file.relative_to(store).parts[0] in ("journal", "log", "objects")
        assert done.returncode == (1 if is_known else done.returncode), f"seed {seed}: {done}"
        assert "Traceback" not in done.stderr
        shutil.rmtree(copy)
    print(outcomes)


def _judge(done: Any, right: Any, store: Path, copy: Path) -> str:
    """Whether an answer is right, refused with a reason, right as far as it goes with a warning, or wrong."""
    if "Traceback" in done.stderr or done.returncode not in (0, 1, 2, 3):
        return "wrong"
    if done.returncode == 0 and done.stdout.replace(str(copy), str(store)) == right.stdout:
        return "right"
    says_why = done.stderr.strip().endswith(".") and "weft verify" in done.stderr
    if done.returncode == 0:
        return "warned" if says_why else "wrong"
    return "refused" if done.stderr.strip().endswith(".") else "wrong"
