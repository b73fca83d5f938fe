"""A disk that fails, and stores on it: what the tests of durability are made of.

The model is that of a file system which keeps no more of its word than POSIX asks:

- Bytes written and not synced may be lost, in part, at any byte, or sector by sector in any order; a
  sector that was not written is zeros, or whatever lay there.
- A name made, moved or removed in a folder that was not synced since may be as it was at any moment in
  between. So a file may surface without its content where it was not synced before it got its name.
- A sync that failed loses what it was to save, although the next one succeeds.
- A process that dies leaves everything as it was, and holds no lock.

What goes wrong is drawn from `random.Random(seed)`, and told by `story`. WEFT_TEST_SEED=<seed> replays it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from weft.lineage import clock, files
from weft.lineage.errors import StoreConflict, StoreError, StoreUnavailable
from weft.lineage.storage import AppendFile, Data, Lock, R, StoredFile, T, parts_of

__all__ = [
    "LOSSES",
    "Crash",
    "Disk",
    "Fault",
    "FaultyStorage",
    "Inode",
    "Loss",
    "RemoteFaultyStorage",
    "seeds",
    "shard",
]

SECTOR_BYTES = 512

#: What may become of un-synced bytes.
Loss = Literal["lost", "kept", "torn", "zeros", "reordered", "garbage"]
LOSSES: tuple[Loss, ...] = ("lost", "kept", "torn", "zeros", "reordered", "garbage")


def seeds(default: Iterable[int]) -> list[int]:
    """The seeds of a test: those given, or the one of WEFT_TEST_SEED."""
    given = os.environ.get("WEFT_TEST_SEED")
    return [int(given)] if given else list(default)


#: A long sweep tries one in so many of its steps, unless it is asked for others.
SHARDS = 16


def shard(items: Iterable[T], seed: int) -> list[T]:
    """Of the steps of a sweep those whose turn it is: the seed says which, or WEFT_TEST_SHARD=<0 to 15, or "all">."""
    given = os.environ.get("WEFT_TEST_SHARD", str(seed % SHARDS))
    listed = list(items)
    return listed if given == "all" else listed[int(given) :: SHARDS]


class Crash(BaseException):
    """The machine stops here. Nothing that runs afterwards reaches the disk."""


class Inode:
    """A file's bytes: as processes see them, and as they are known to be on the disk."""

    __slots__ = ("data", "forgotten", "modified_us", "synced")

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.synced = bytes(data)
        #: Stretches that a failed sync dropped: they are in the cache, and no later sync writes them.
        self.forgotten: list[tuple[int, int]] = []
        self.modified_us = clock.now_us()

    def write(self, data: bytes | memoryview) -> None:
        self.data += data
        self.modified_us = clock.now_us()

    def sync(self) -> None:
        durable = bytearray(self.data)
        for start, end in self.forgotten:
            durable[start:end] = bytes(len(durable[start:end]))
        self.synced = bytes(durable)

    def forget(self) -> None:
        """A sync failed: the kernel marks the pages clean all the same."""
        if len(self.data) > len(self.synced):
            self.forgotten.append((len(self.synced), len(self.data)))

    def after_loss(self, loss: Loss, draw: random.Random) -> bytes:
        """What the disk holds once the power is back."""
        if bytes(self.data) == self.synced or loss == "lost":
            return self.synced
        seen = self.data if not self.forgotten else self._without_forgotten()
        if loss == "kept":
            return bytes(seen)
        kept = _common_bytes(self.synced, seen)
        if loss == "torn":
            return bytes(seen[: draw.randint(kept, len(seen))])
        result = bytearray(seen)
        if loss == "zeros":
            # Zeros begin at a sector, or where the last write ended that reached the disk.
            cut = draw.randint(kept, len(seen))
            cut = kept if draw.random() < 0.3 else min(-(-cut // SECTOR_BYTES) * SECTOR_BYTES, len(seen))
            result[cut:] = bytes(len(seen) - cut)
            return bytes(result)
        for start in range(kept - kept % SECTOR_BYTES, len(seen), SECTOR_BYTES):
            if draw.random() < 0.5:
                first, end = max(start, kept), min(start + SECTOR_BYTES, len(seen))
                result[first:end] = draw.randbytes(end - first) if loss == "garbage" else bytes(end - first)
        return bytes(result)

    def _without_forgotten(self) -> bytearray:
        result = bytearray(self.data)
        for start, end in self.forgotten:
            result[start:end] = bytes(len(result[start:end]))
        return result


class Disk:
    """Files by path, with what is durable of them. Folders are made as they are needed."""

    def __init__(self, capacity_bytes: int | None = None) -> None:
        self.names: dict[str, Inode] = {}
        self.capacity_bytes = capacity_bytes
        self.story: list[str] = []
        self._durable: dict[str, Inode] = {}
        #: What each name led to since its folder was synced, None for nothing.
        self._unsynced: dict[str, list[Inode | None]] = {}

    @property
    def free_bytes(self) -> int | None:
        if self.capacity_bytes is None:
            return None
        used = sum(len(inode.data) for inode in {id(i): i for i in self.names.values()}.values())
        return max(0, self.capacity_bytes - used)

    def set_name(self, path: str, inode: Inode | None) -> None:
        """Make a name lead to a file, or to none."""
        if inode is None:
            self.names.pop(path, None)
        else:
            self.names[path] = inode
        self._unsynced.setdefault(path, []).append(inode)

    def sync_folder(self, folder: str) -> None:
        for path in [path for path in self._unsynced if path.rpartition("/")[0] == folder]:
            del self._unsynced[path]
            inode = self.names.get(path)
            if inode is None:
                self._durable.pop(path, None)
            else:
                self._durable[path] = inode

    def after_kill(self) -> Disk:
        """The same disk for the next process: everything is as the dead one left it."""
        disk = Disk(self.capacity_bytes)
        disk.names = dict(self.names)
        disk._durable = dict(self._durable)
        disk._unsynced = {path: list(states) for path, states in self._unsynced.items()}
        disk.story = [*self.story, "the process was killed"]
        return disk

    def after_power_loss(self, draw: random.Random, losses: Sequence[Loss] = LOSSES) -> Disk:
        """One of the disks that may be found when the power is back. This one stays as it is."""
        disk = Disk(self.capacity_bytes)
        disk.story = [*self.story, "the power was lost"]
        found: dict[int, Inode] = {}
        for path in sorted({*self._durable, *self._unsynced}):
            states = [self._durable.get(path), *self._unsynced.get(path, [])]
            inode = draw.choice(states)
            if len(states) > 1:
                disk.story.append(f"{path}: state {states.index(inode)} of {len(states)} was found")
            if inode is None:
                continue
            if id(inode) not in found:
                loss = draw.choice(losses)
                found[id(inode)] = Inode(inode.after_loss(loss, draw))
                found[id(inode)].modified_us = inode.modified_us
                if inode.synced != bytes(inode.data) or inode.forgotten:
                    disk.story.append(
                        f"{path}: {loss}, {len(found[id(inode)].data)} bytes of {len(inode.data)}, "
                        f"{len(inode.synced)} synced"
                    )
            disk.names[path] = disk._durable[path] = found[id(inode)]
        return disk


class Fault(NamedTuple):
    """What goes wrong at I/O step `step`, counted from 0.

    `before`, `torn`, `after`: the machine stops. `error`: the call fails and does nothing (a sync drops
    what it was to save). `error_after`: it does its work and fails all the same, as a timeout does.
    With `is_lasting` every later step fails in the same way.
    """

    step: int
    kind: Literal["before", "torn", "after", "error", "error_after"]
    is_lasting: bool = False
    errno: int = errno.EIO

    def hits(self, step: int) -> bool:
        return step == self.step or (self.is_lasting and step > self.step)


class FaultyStorage:
    """A store on a `Disk`, which takes the steps of the real local store, one by one."""

    def __init__(self, disk: Disk | None = None, fault: Fault | None = None) -> None:
        self.disk = Disk() if disk is None else disk
        self.fault = fault
        self.steps = 0
        self.now_us = clock.now_us
        self._is_down = False
        self._writers: set[str] = set()
        self._readers: dict[str, int] = {}
        self._temporaries = 0
        self._creating = threading.Lock()

    @property
    def url(self) -> str:
        return "faulty:"

    @property
    def locks_prove_death(self) -> bool:
        return True

    @property
    def can_append(self) -> bool:
        return True

    @property
    def story(self) -> str:
        """What was done, step by step; for the message of a failed test."""
        return "\n".join(self.disk.story[-60:])

    # Writing

    def create_exclusive(self, path: str, data: Data) -> None:
        if path in self.disk.names:
            raise StoreConflict(f"{path} exists already. Read it instead of creating it.")
        temporary, inode = self._write_temporary(path, data)

        def link() -> None:
            with self._creating:
                if path in self.disk.names:
                    raise StoreConflict(f"{path} exists already. Read it instead of creating it.")
                self.disk.set_name(path, inode)

        try:
            self._step(f"link {path}", link)
        finally:
            self._step(f"unlink {temporary}", lambda: self.disk.set_name(temporary, None))
        self.sync_folder(_folder(path))

    def put(self, path: str, data: Data) -> None:
        temporary, inode = self._write_temporary(path, data)

        def rename() -> None:
            self.disk.set_name(path, inode)
            self.disk.set_name(temporary, None)

        try:
            self._step(f"rename {path}", rename)
        except StoreError:
            self.disk.set_name(temporary, None)
            raise
        self.sync_folder(_folder(path))

    def delete(self, path: str) -> None:
        if path in self.disk.names:
            self._step(f"unlink {path}", lambda: self.disk.set_name(path, None))

    def refresh(self, path: str) -> bool:
        if path not in self.disk.names:
            return False
        inode = self.disk.names[path]
        self._step(f"utime {path}", lambda: setattr(inode, "modified_us", self.now_us()))
        self.sync_folder(_folder(path))
        return True

    def create_append(self, path: str) -> AppendFile:
        if path in self.disk.names:
            raise StoreConflict(f"{path} exists already. Take another writer.")
        inode = Inode()
        self._step(f"create {path}", lambda: self.disk.set_name(path, inode))
        self._writers.add(path)
        try:
            self.sync_folder(_folder(path))
        except StoreError:
            self._writers.discard(path)
            raise
        return _FaultyAppendFile(self, path, inode)

    def sync_file(self, path: str) -> None:
        self._sync(self._inode(path), path)

    def sync_folder(self, path: str) -> None:
        folder = path.rstrip("/")
        self._step(f"sync folder {folder or '.'}", lambda: self.disk.sync_folder(folder))

    # Reading

    def get(self, path: str) -> bytes:
        return bytes(self._inode(path).data)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        return bytes(self._inode(path).data[offset : offset + length])

    def scan(self, prefix: str) -> list[StoredFile]:
        found = ((path, self.disk.names[path]) for path in self.list(prefix) if path in self.disk.names)
        return [StoredFile(path, len(inode.data), inode.modified_us) for path, inode in found]

    def localize(self, paths: Sequence[str]) -> list[str]:
        return [_local_copy(path, bytes(self._inode(path).data)) for path in paths]

    def forget_copy(self, path: str) -> bool:
        return False

    def at_once(self, function: Callable[[T], R], items: Iterable[T]) -> Sequence[R]:
        return [function(item) for item in items]

    def list(self, prefix: str) -> list[str]:
        self._check_up()
        return _below(prefix, self.disk.names)

    def exists(self, path: str) -> bool:
        self._check_up()
        return path in self.disk.names

    def size(self, path: str) -> int:
        return len(self._inode(path).data)

    def modified_us(self, path: str) -> int:
        return self._inode(path).modified_us

    def try_lock(self, path: str, *, shared: bool = False) -> Lock | None:
        self._check_up()
        if (
            path not in self.disk.names
            or path in self._writers
            or (self._readers.get(path, 0) > 0 and not shared)
        ):
            return None
        if shared:
            self._readers[path] = self._readers.get(path, 0) + 1
        else:
            self._writers.add(path)
        return _FaultyLock(self, path, shared)

    def local_path(self, path: str) -> str | None:
        return None

    # Faults

    def kill_writer(self, path: str) -> None:
        """The process that appends to `path` dies; all others live on."""
        self._writers.discard(path)

    def _inode(self, path: str) -> Inode:
        self._check_up()
        try:
            return self.disk.names[path]
        except KeyError:
            raise files.not_found(path) from None

    def _write_temporary(self, path: str, data: Data) -> tuple[str, Inode]:
        self._temporaries += 1
        folder, _, name = path.rpartition("/")
        temporary = f"{folder}/.{name}.{self._temporaries}.tmp".lstrip("/")
        inode = Inode()
        self._step(f"create {temporary}", lambda: self.disk.set_name(temporary, inode))
        try:
            rest = b"".join(parts_of(data))
            while rest:
                rest = rest[self._write(inode, temporary, rest) :]
            self._sync(inode, temporary)
        except StoreError:
            self.disk.set_name(temporary, None)
            raise
        return temporary, inode

    def _write(self, inode: Inode, path: str, data: bytes) -> int:
        """Write what there is space for, as the system call does."""
        free = self.disk.free_bytes
        if free == 0 and data:
            raise self._error(errno.ENOSPC, path)
        fitting = data if free is None else data[:free]
        cut = max(1, len(fitting) // 2)
        self._step(
            f"write {len(fitting)} bytes to {path}",
            lambda: inode.write(fitting),
            lambda: inode.write(fitting[:cut]),
        )
        return len(fitting)

    def _sync(self, inode: Inode, path: str) -> None:
        self._step(f"sync {path}", inode.sync, failing=inode.forget)

    def _step(
        self,
        what: str,
        act: Callable[[], None],
        tear: Callable[[], None] | None = None,
        failing: Callable[[], None] | None = None,
    ) -> None:
        """Take one I/O step, unless something goes wrong with it."""
        self._check_up()
        step, self.steps = self.steps, self.steps + 1
        self.disk.story.append(f"{step}: {what}")
        fault = self.fault
        if fault is None or not fault.hits(step):
            act()
            return
        self.disk.story.append(f"{step}: {fault.kind}")
        if fault.kind == "error":
            (failing or (lambda: None))()
            raise self._error(fault.errno, what)
        if fault.kind == "torn":
            (tear or act)()
        elif fault.kind != "before":
            act()
        if fault.kind == "error_after":
            raise self._error(fault.errno, what)
        self._is_down = True
        raise Crash

    def _check_up(self) -> None:
        if self._is_down:
            raise Crash

    def _error(self, number: int, path: str) -> StoreUnavailable:
        return files.unavailable(OSError(number, os.strerror(number)), path)


class _FaultyAppendFile:
    def __init__(self, storage: FaultyStorage, path: str, inode: Inode) -> None:
        self._storage = storage
        self._path = path
        self._inode = inode

    def write(self, data: bytes) -> int:
        return self._storage._write(self._inode, self._path, data)

    def truncate(self, size_bytes: int) -> None:
        def cut() -> None:
            del self._inode.data[size_bytes:]

        self._storage._step(f"truncate {self._path} to {size_bytes}", cut)

    def sync(self) -> None:
        self._storage._sync(self._inode, self._path)

    def close(self) -> None:
        self._storage._writers.discard(self._path)


class _FaultyLock:
    def __init__(self, storage: FaultyStorage, path: str, shared: bool) -> None:
        self._storage = storage
        self._path = path
        self._is_shared = shared
        self._is_held = True

    def release(self) -> None:
        if not self._is_held:
            return
        self._is_held = False
        if self._is_shared:
            self._storage._readers[self._path] -= 1
        else:
            self._storage._writers.discard(self._path)


class RemoteFaultyStorage(FaultyStorage):
    """A bucket: a write is one step and durable, nothing can grow, locks prove nothing, listings may lag.

    A listing leaves out files of the last `lag` changes, and shows those they deleted.
    """

    def __init__(self, disk: Disk | None = None, fault: Fault | None = None, lag: int = 0) -> None:
        super().__init__(disk, fault)
        self.lag = lag
        self._past: list[frozenset[str]] = [frozenset(self.disk.names)]

    @property
    def locks_prove_death(self) -> bool:
        return False

    @property
    def can_append(self) -> bool:
        return False

    def create_exclusive(self, path: str, data: Data) -> None:
        def create() -> None:
            with self._creating:
                if path in self.disk.names:
                    raise StoreConflict(f"{path} exists already. Read it instead of creating it.")
                self._change(path, Inode(b"".join(parts_of(data))))

        self._step(f"create {path}", create)

    def put(self, path: str, data: Data) -> None:
        self._step(f"put {path}", lambda: self._change(path, Inode(b"".join(parts_of(data)))))

    def delete(self, path: str) -> None:
        self._step(f"delete {path}", lambda: self._change(path, None))

    def create_append(self, path: str) -> AppendFile:
        raise NotImplementedError("files in a bucket do not grow")

    def sync_file(self, path: str) -> None:
        self._check_up()

    def try_lock(self, path: str, *, shared: bool = False) -> Lock | None:
        self._check_up()
        return None

    def list(self, prefix: str) -> list[str]:
        self._check_up()
        return _below(prefix, self._past[max(-len(self._past), -1 - self.lag)])

    def _change(self, path: str, inode: Inode | None) -> None:
        self.disk.set_name(path, inode)
        self.disk.sync_folder(_folder(path))
        self._past.append(frozenset(self.disk.names))


def _common_bytes(one: bytes, other: bytearray) -> int:
    """How many bytes at the start are the same."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return next(at for at in range(shorter) if one[at] != other[at])


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _below(prefix: str, paths: Iterable[str]) -> list[str]:
    folder = prefix.rstrip("/")
    found = (path for path in paths if not folder or path.startswith(folder + "/"))
    return sorted(path for path in found if not path.rpartition("/")[2].startswith("."))


class _Copies:
    """Local copies of files for readers that need a path, by their content; gone with the process."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="weft-faults-")
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


_copies: list[_Copies] = []


def _local_copy(path: str, data: bytes) -> str:
    if not _copies:
        _copies.append(_Copies())
    copy = f"{_copies[0].folder}/{hashlib.sha256(data).hexdigest()}-{path.rpartition('/')[2]}"
    if not os.path.exists(copy):
        with open(copy, "wb") as file:
            file.write(data)
    return copy
