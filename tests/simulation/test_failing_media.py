"""Disks that fill up, turn read-only or fail, for real: a small tmpfs, limits of the kernel, system calls that fail.

What a machine does not allow is skipped with the reason.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import faults
from weft.lineage.description import create_store
from weft.lineage.errors import StoreUnavailable
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.objects import Objects
from weft.lineage.schema import Event
from weft.lineage.verify import verify

if TYPE_CHECKING:
    from tests.conftest import Done, Project

_SIZE_BYTES = 5 * 1024 * 1024

FLOW = """
    import os
    class Heavy(FlowSpec):
        @step
        def start(self):
            self.xs = list(range(12))
            self.next(self.body, foreach="xs")
        @step
        def body(self):
            self.data = os.urandom(700_000)
            self.next(self.join)
        @step
        def join(self, inputs):
            self.total = sum(len(i.data) for i in inputs)
            self.next(self.end)
        @step
        def end(self):
            print(self.total)
    if __name__ == "__main__":
        Heavy()
    """

LIGHT = FLOW.replace("700_000", "70").replace("Heavy", "Light")


def _mount(folder: Path, *options: str) -> None:
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine does not let us mount: {done.stderr.strip()}")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 5 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a tmpfs of 5 MB")
    folder = tmp_path / "small"
    folder.mkdir()
    _mount(folder, "-t", "tmpfs", "-o", f"size={_SIZE_BYTES}", "tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(folder: Path, but_bytes: int) -> Path:
    """Take all space but `but_bytes`."""
    ballast = folder / "ballast"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    ballast.write_bytes(bytes(max(0, free - but_bytes)))
    return ballast


def _names(storage: LocalStorage) -> list[str]:
    return [str(event.name) for event in EventLog(storage).events() if event.kind == "tag_added"]


def test_a_journal_on_a_full_disk_keeps_what_was_acknowledged(small: Path) -> None:
    storage = LocalStorage(str(small / "store"))
    create_store(storage)
    ballast = _fill(small, 300_000)
    journal = Journal.create(storage)
    acknowledged = []

    def write_on() -> None:
        for number in range(1000):
            journal.append([Event(kind="tag_added", name=str(number), blob=os.urandom(1000))])
            journal.sync()
            acknowledged.append(str(number))

    with pytest.raises(StoreUnavailable, match=r"^The disk is full: .* Free some space and try again\.$"):
        write_on()
    assert len(acknowledged) > 100
    assert _names(storage) == acknowledged
    ballast.unlink()
    # What did not fit was not written: the same journal goes on.
    journal.append([Event(kind="tag_added", name="after")])
    journal.close()
    assert _names(storage) == [*acknowledged, "after"]
    assert verify(storage).problems == []


def test_sealing_on_a_full_disk_changes_nothing_and_goes_on_later(small: Path) -> None:
    storage = LocalStorage(str(small / "store"))
    create_store(storage)
    for number in range(5):
        journal = Journal.create(storage)
        kinds = ("tag_added", "task_created", "artifact_saved")
        journal.append([Event(kind=k, name=f"{number}", blob=os.urandom(20_000)) for k in kinds])
        journal.close()
        EventLog(storage).seal(force=True, grace_s=60)
    before = EventLog(storage).events()
    for free_bytes in (0, 30_000, 110_000, 150_000):
        ballast = _fill(small, free_bytes)
        with pytest.raises(StoreUnavailable, match="The disk is full"):
            EventLog(storage).tidy(is_whole=True, grace_s=60)
        assert EventLog(storage).events() == before
        assert verify(storage).is_sound
        assert not list((small / "store").rglob(".*.tmp"))
        ballast.unlink()
    for _ in range(2):
        EventLog(storage).tidy(is_whole=True, grace_s=-1)
    assert EventLog(storage).events() == before
    assert storage.list("journal") == []
    assert verify(storage).problems == []


def test_objects_on_a_full_disk_are_whole_or_not_there(small: Path) -> None:
    objects = Objects(LocalStorage(str(small)))
    values = [os.urandom(400_000) for _ in range(20)]
    put: list[bytes] = []
    with pytest.raises(StoreUnavailable, match="The disk is full"):
        put.extend(objects.put([value]) for value in values)
    assert len(put) > 5
    assert [objects.get(digest) for digest in put] == values[: len(put)]
    assert list(objects.all()) == sorted(put)
    assert not list(small.rglob(".*.tmp"))


def _is_one_sentence(done: Done, *words: str) -> None:
    """Exit code 3, and the last line of stderr says why and what to do."""
    assert done.code == 3, done.out + done.err
    last = done.err.strip().splitlines()[-1]
    assert last.endswith("."), done.err
    assert "Traceback" not in done.err
    assert any(word in last for word in words), last


def test_a_flow_on_a_full_disk_says_so_and_resumes_once_there_is_space(project: Project, small: Path) -> None:
    """Code 3 where the record cannot be written; 1 where an artifact cannot, which fails its task by name."""
    project.write(FLOW)
    store = str(small / "store")
    done = project.call("--store", store, "run", "--max-workers", "2")
    assert done.code in (1, 3), done.err
    assert "The disk is full" in done.err
    assert "Traceback" not in done.err
    storage = LocalStorage(store)
    assert verify(storage).is_sound
    finished = [e for e in EventLog(storage).events() if e.kind == "attempt_succeeded" and e.step == "body"]
    assert finished
    subprocess.run(["mount", "-o", "remount,size=40m", str(small)], check=True)
    done = project.call("--store", store, "resume")
    assert done.code == 0, done.out + done.err
    assert verify(storage).is_sound
    reused = [e for e in EventLog(storage).events() if e.kind == "task_reused" and e.step == "body"]
    assert len(reused) == len(finished), "what was acknowledged ran again"


def test_a_read_only_store_is_read_and_refuses_a_run(project: Project, small: Path) -> None:
    project.write(LIGHT)
    store = str(small / "store")
    assert project.call("--store", store, "run").code == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    _is_one_sentence(project.call("--store", store, "run"), "Make it writable")
    for command in (["runs"], ["verify"], ["sql", "select * from tasks"], ["log"]):
        done = project.call_in(
            project.folder, [*project.command("-m", "weft")[:1], "-m", "weft", "--store", store, *command]
        )
        assert done.code == 0, done.err
        assert done.err == ""


@pytest.mark.parametrize("seed", faults.seeds([1, 2, 3]))
@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_a_sync_that_fails_ends_the_run_with_3(project: Project, call: str, seed: int) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    project.write(LIGHT)
    assert project.run().status == "succeeded"
    # Each thread counts its own calls.
    when = random.Random(seed).randrange(1, 4)
    inject = f"inject={call}:error=EIO:when={when}+"
    traced = project.folder / "traced"
    command = [strace, "-f", "-qq", "-o", str(traced), "-e", f"trace={call}", "-e", inject]
    done = project.call_in(project.folder, [*command, *project.command("run")])
    if "ptrace" in done.err:
        pytest.skip(f"strace may not trace here: {done.err.strip()}")
    if "INJECTED" in traced.read_text():
        _is_one_sentence(done, "out of reach", "could not be written")
    else:
        assert done.code == 0, done.err
    assert verify(project.log.storage).is_sound
    assert project.runs()[0].status == "succeeded"
    assert project.runs()[-1].status in ("succeeded", "failed", "lost")
    assert project.call("run").code == 0


@pytest.mark.parametrize("seed", faults.seeds([5]))
def test_copies_cut_as_a_power_loss_cuts_are_sound(project: Project, tmp_path: Path, seed: int) -> None:
    """Each journal of a copy ends anywhere; what was sealed is whole."""
    project.write(LIGHT)
    project.run()
    project.log.seal(force=True, grace_s=-1)
    project.run()
    draw = random.Random(seed)
    right = {(event.writer, event.seq): event for event in project.log.events()}
    for number in range(20):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(project.store, copy)
        for path in (copy / "journal").glob("*.wj"):
            data = path.read_bytes()
            cut = data[: draw.randrange(len(data) + 1)]
            if draw.random() < 0.5:
                # The file has its new size, and from a sector on nothing of it was written.
                cut = (cut[: len(cut) // 512 * 512]).ljust(len(data), b"\0")
            path.write_bytes(cut)
        storage = LocalStorage(str(copy))
        assert verify(storage).is_sound, f"WEFT_TEST_SEED={seed}: {verify(storage).problems}"
        for event in EventLog(storage).events():
            assert right[event.writer, event.seq] == event
        shutil.rmtree(copy)
