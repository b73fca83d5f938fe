"""The system calls of the real local store, recorded: whatever it relies on was made durable before.

`RecordedCalls` stands between `weft.lineage.local` and the operating system. It tells each call to the disk
model of `tests.faults`, so that after any call the power can be lost as often as wanted. What is found then
is written to a folder and opened by the real store, and held against the model of the crash tests.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import faults
from tests.faults import Disk, Inode
from tests.simulation.world import Content, World, contents, tidy
from weft.lineage.errors import StoreConflict, StoreUnavailable
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.objects import Objects
from weft.lineage.schema import Event
from weft.lineage.verify import verify


class RecordedCalls:
    """What a process asked of the operating system below one folder, told to a disk that fails."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.disk = Disk()
        self.calls: list[str] = []
        self.folders: set[str] = set()
        #: Called after each call that changes something.
        self.watch: Callable[[], None] = lambda: None
        #: Makes the next call of that name fail.
        self.failing: dict[str, int] = {}
        self._files: dict[int, tuple[str, Inode | None]] = {}
        for name in ("open", "close", "write", "ftruncate", "fsync", "link", "rename", "unlink", "mkdir"):
            monkeypatch.setattr(os, name, self._recorded(name, getattr(os, name)))
        # What `files.sync` calls where the kernel has it.
        monkeypatch.setattr(os, "fdatasync", self._recorded("fdatasync", os.fdatasync))

    def _recorded(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        tell = getattr(self, f"_{name}")

        def call(*arguments: Any, **options: Any) -> Any:
            if (number := self.failing.pop(name, None)) is not None:
                raise OSError(number, os.strerror(number))
            answer = real(*arguments, **options)
            what = tell(answer, *arguments, **options)
            if what is not None:
                self.calls.append(what)
                self.disk.story.append(what)
                self.watch()
            return answer

        return call

    def _inside(self, path: Any) -> str | None:
        text = os.fspath(path)
        if text == str(self.root):
            return ""
        return text.removeprefix(f"{self.root}/") if str(text).startswith(f"{self.root}/") else None

    def _open(self, descriptor: int, path: Any, flags: int, *_: Any, **__: Any) -> str | None:
        inside = self._inside(path)
        if inside is None:
            return None
        if flags & os.O_DIRECTORY:
            self._files[descriptor] = inside, None
            return None
        if flags & os.O_CREAT:
            self.disk.set_name(inside, Inode())
            self._files[descriptor] = inside, self.disk.names[inside]
            return f"create {_plain(inside)}"
        return None

    def _close(self, _: None, descriptor: int) -> None:
        self._files.pop(descriptor, None)

    def _write(self, written: int, descriptor: int, data: Any) -> str | None:
        path, inode = self._files.get(descriptor, ("", None))
        if inode is None:
            return None
        inode.write(bytes(data)[:written])
        return f"write {_plain(path)}"

    def _ftruncate(self, _: None, descriptor: int, size: int) -> str | None:
        path, inode = self._files.get(descriptor, ("", None))
        if inode is None:
            return None
        del inode.data[size:]
        return f"truncate {_plain(path)}"

    def _fdatasync(self, _: None, descriptor: int) -> str | None:
        path, inode = self._files.get(descriptor, ("", None))
        if inode is None:
            return None
        inode.sync()
        return f"sync {_plain(path)}"

    def _fsync(self, _: None, descriptor: int) -> str | None:
        if descriptor not in self._files:
            return None
        path, inode = self._files[descriptor]
        assert inode is None, "files are synced by fdatasync"
        self.disk.sync_folder(path)
        return f"sync folder {path}"

    def _link(self, _: None, source: Any, target: Any) -> str | None:
        old, new = self._inside(source), self._inside(target)
        if old is None or new is None:
            return None
        self.disk.set_name(new, self.disk.names[old])
        return f"link {new}"

    def _rename(self, _: None, source: Any, target: Any) -> str | None:
        old, new = self._inside(source), self._inside(target)
        if old is None or new is None:
            return None
        inode = self.disk.names[old]
        self.disk.set_name(old, None)
        self.disk.set_name(new, inode)
        return f"rename {new}"

    def _unlink(self, _: None, path: Any, **__: Any) -> str | None:
        inside = self._inside(path)
        if inside is None:
            return None
        self.disk.set_name(inside, None)
        return f"unlink {_plain(inside)}"

    def _mkdir(self, _: None, path: Any, *__: Any) -> str | None:
        inside = self._inside(path)
        if inside is None or inside == "":
            return None
        self.disk.set_name(inside, Inode())
        self.folders.add(inside)
        return f"mkdir {inside}"


def _plain(path: str) -> str:
    """Names of writes under way are random: only what they are for is told."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{'.' + name[1:].split('.')[0] + '.tmp' if name.startswith('.') else name}"


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedCalls:
    root = tmp_path / "store"
    root.mkdir()
    return RecordedCalls(root, monkeypatch)


def test_a_file_is_synced_before_it_has_its_name_and_the_name_before_it_counts(
    recorded: RecordedCalls,
) -> None:
    storage = LocalStorage(str(recorded.root))
    storage.put("log/run/new", b"x")
    made = ["mkdir log", "sync folder ", "mkdir log/run", "sync folder log"]
    publish = ["create log/run/.new.tmp", "write log/run/.new.tmp", "sync log/run/.new.tmp"]
    assert recorded.calls == [*made, *publish, "rename log/run/new", "sync folder log/run"]

    recorded.calls.clear()
    storage.create_exclusive("log/run/new2", b"x")
    publish = [call.replace("new", "new2") for call in publish]
    closing = ["unlink log/run/.new2.tmp", "sync folder log/run"]
    assert recorded.calls == [*publish, "link log/run/new2", *closing]


def test_a_journal_has_a_durable_name_before_an_event_is_in_it(recorded: RecordedCalls) -> None:
    journal = Journal.create(LocalStorage(str(recorded.root)), b"w" * 16)
    journal.append([Event(kind="tag_added")])
    journal.sync()
    journal.close()
    path = journal.path
    calls = [call for call in recorded.calls if "tmp" not in call]
    created = ["mkdir journal", "sync folder ", f"link {path}", "sync folder journal"]
    written = [f"write {path}", f"sync {path}"]
    # A descriptor keeps the name that it was opened by.
    temporary = f"journal/.{path.removeprefix('journal/').split('.')[0]}.tmp"
    assert calls == created
    done = [call.replace(temporary, path) for call in recorded.calls[len(recorded.calls) - 4 :]]
    assert done == [*written, *written]


def test_an_object_and_a_segment_are_durable_before_anything_names_them(recorded: RecordedCalls) -> None:
    storage = LocalStorage(str(recorded.root))
    digest = Objects(storage).put([b"value"])
    journal = Journal.create(storage)
    journal.append([Event(kind="artifact_saved", digest=digest)])
    journal.close()
    for path in storage.list("objects"):
        assert recorded.calls.index(f"sync folder {path.rpartition('/')[0]}") < recorded.calls.index(
            f"link {journal.path}"
        )
    EventLog(storage).seal(force=True, grace_s=-1)
    removed = recorded.calls.index(f"unlink {journal.path}")
    (segment,) = storage.list("log/artifact")
    assert recorded.calls.index(f"rename {segment}") < recorded.calls.index("sync folder log/artifact")
    assert len(recorded.calls) - recorded.calls[::-1].index("sync folder log/artifact") <= removed


class _Moment:
    """A disk as a power loss left it, and what had been acknowledged by then."""

    def __init__(self, world: World, disk: Disk) -> None:
        self.disk = disk
        self.told: dict[str, Content] = dict(world.told)
        self.acknowledged = set(world.acknowledged)
        self.objects = dict(world.objects)


def _moments(recorded: RecordedCalls, seed: int, count: int, share: float) -> list[_Moment]:
    """Run a workload, losing the power in thought after a `share` of its calls."""
    draw = random.Random(seed)
    moments: list[_Moment] = []
    forgotten: list[Journal] = []
    world = World(LocalStorage(str(recorded.root)), seed, forgotten.append)

    def watch() -> None:
        if draw.random() < share:
            moments.append(_Moment(world, recorded.disk.after_power_loss(draw, faults.LOSSES[:4])))

    recorded.watch = watch
    world.act(count)
    recorded.watch = lambda: None
    moments.append(_Moment(world, recorded.disk.after_power_loss(draw, faults.LOSSES[:4])))
    return moments


def _check(moment: _Moment, folder: Path, folders: set[str]) -> None:
    folder.mkdir()
    for path, inode in sorted(moment.disk.names.items()):
        above = path.split("/")[:-1]
        if not all("/".join(above[: n + 1]) in moment.disk.names for n in range(len(above))):
            continue  # The folder itself was lost.
        if path in folders:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(inode.data)
    storage = LocalStorage(str(folder))
    try:
        found = contents(storage)
        assert moment.acknowledged <= set(found), f"lost: {moment.acknowledged - set(found)}"
        assert all(moment.told.get(name) == content for name, content in found.items())
        for digest, data in moment.objects.items():
            assert Objects(storage).get(digest) == data
        assert verify(storage).is_sound
        tidy(EventLog(storage))
        assert contents(storage) == found
    except Exception as error:
        story = "\n".join(moment.disk.story[-40:])
        raise AssertionError(f"{error}\n--- the story ---\n{story}") from error


@pytest.mark.parametrize("seed", faults.seeds([4]))
def test_power_loss_after_some_calls_of_the_real_store(
    recorded: RecordedCalls, tmp_path: Path, seed: int
) -> None:
    moments = _moments(recorded, seed, 20, 0.06)
    assert len(moments) > 1
    for number, moment in enumerate(moments):
        _check(moment, tmp_path / str(number), recorded.folders)


@pytest.mark.slow
@pytest.mark.parametrize("seed", faults.seeds(range(200, 203)))
def test_power_loss_after_every_call_of_the_real_store(
    recorded: RecordedCalls, tmp_path: Path, seed: int
) -> None:
    moments = _moments(recorded, seed, 40, 1.0)
    for number, moment in enumerate(moments):
        _check(moment, tmp_path / str(number), recorded.folders)
    print(f"seed {seed}: {len(recorded.calls)} calls, {len(moments)} disks")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("call", ["open", "write", "fdatasync", "link", "rename", "fsync", "mkdir"])
def test_every_call_that_fails_is_one_sentence_and_leaves_nothing_half(
    recorded: RecordedCalls, call: str, number: int
) -> None:
    storage = LocalStorage(str(recorded.root))
    storage.put("log/run/old", b"old")
    recorded.failing[call] = number
    path = "log/new/file" if call == "mkdir" else "log/run/old"
    publish = storage.create_exclusive if call == "link" else storage.put
    path = "log/run/other" if call == "link" else path
    with pytest.raises(StoreUnavailable) as raised:
        publish(path, b"new")
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)
    assert storage.get("log/run/old") == (b"new" if call == "fsync" else b"old")
    assert not [file for file in recorded.root.rglob(".*.tmp")]
    recorded.failing.clear()
    try:
        publish(path, b"new")
    except StoreConflict:
        raise AssertionError("what failed was not undone") from None
    assert storage.get(path) == b"new"
