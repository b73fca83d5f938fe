"""What every storage adapter promises."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults import FaultyStorage, RemoteFaultyStorage
from weft.lineage.errors import NotFound, StoreConflict
from weft.lineage.local import LocalStorage
from weft.lineage.memory import MemoryStorage
from weft.lineage.remote import RemoteStorage
from weft.lineage.storage import Storage, get_or_none

if TYPE_CHECKING:
    from tests.servers import S3


class StorageContract:
    """Subclass it for an adapter and give the fixture `storage`."""

    racers = 8
    races = 20

    def test_put_and_get_give_the_same_bytes(self, storage: Storage) -> None:
        storage.put("log/a/file", b"first")
        storage.put("log/a/file", [b"sec", memoryview(b"ond")])
        assert storage.get("log/a/file") == b"second"
        assert storage.exists("log/a/file")
        assert storage.size("log/a/file") == 6

    def test_read_range_stops_at_the_end_of_the_file(self, storage: Storage) -> None:
        storage.put("file", b"0123456789")
        assert storage.read_range("file", 2, 3) == b"234"
        assert storage.read_range("file", 8, 100) == b"89"
        assert storage.read_range("file", 50, 1) == b""

    def test_missing_file_is_not_found(self, storage: Storage) -> None:
        storage.put("folder/file", b"")
        for path in ("nothing", "folder/nothing", "folder/file/below"):
            with pytest.raises(NotFound, match="is not in the store"):
                storage.get(path)
            with pytest.raises(NotFound):
                storage.read_range(path, 0, 1)
            with pytest.raises(NotFound):
                storage.size(path)
            with pytest.raises(NotFound):
                storage.modified_us(path)
            assert not storage.exists(path)
            assert storage.try_lock(path) is None

    def test_list_is_sorted_and_deep_and_ignores_names_with_a_dot(self, storage: Storage) -> None:
        for path in ("b/2", "b/1", "a/x/y", "top", "ab/1"):
            storage.put(path, b"")
        assert storage.list("b") == ["b/1", "b/2"]
        assert storage.list("b/") == ["b/1", "b/2"]
        assert storage.list("a") == ["a/x/y"]
        assert storage.list("nothing") == []
        assert storage.list("") == ["a/x/y", "ab/1", "b/1", "b/2", "top"]

    def test_scan_says_what_list_does_with_sizes_and_times(self, storage: Storage) -> None:
        for path in ("b/2", "b/1", "a/x/y", "top"):
            storage.put(path, path.encode())
        for prefix in ("", "b", "b/", "a", "nothing"):
            found = storage.scan(prefix)
            assert [file.path for file in found] == storage.list(prefix)
            assert [file.size_bytes for file in found] == [len(file.path) for file in found]
            assert [file.modified_us for file in found] == [storage.modified_us(f.path) for f in found]

    def test_localized_files_are_those_of_the_store(self, storage: Storage) -> None:
        storage.put("log/a/one", b"first")
        storage.put("log/b/one", b"second")
        found = storage.localize(["log/b/one", "log/a/one"])
        assert [Path(path).read_bytes() for path in found] == [b"second", b"first"]
        assert storage.localize([]) == []

    def test_delete_takes_a_file_away_and_forgives_its_absence(self, storage: Storage) -> None:
        storage.put("file", b"x")
        storage.delete("file")
        storage.delete("file")
        assert not storage.exists("file")

    def test_create_exclusive_has_one_winner(self, storage: Storage) -> None:
        storage.create_exclusive("folder/file", b"first")
        with pytest.raises(StoreConflict, match="exists already"):
            storage.create_exclusive("folder/file", b"second")
        assert storage.get("folder/file") == b"first"

    def test_refresh_moves_the_time_of_a_file_that_is_there(self, storage: Storage) -> None:
        storage.put("file", b"x")
        before_us = storage.modified_us("file")
        assert storage.refresh("file")
        assert storage.modified_us("file") >= before_us
        assert not storage.refresh("nothing")

    def test_a_file_is_synced_whoever_wrote_it(self, storage: Storage) -> None:
        storage.put("journal/one", b"x")
        storage.sync_file("journal/one")
        assert storage.get("journal/one") == b"x"

    def test_many_requests_at_once_give_their_answers_in_order(self, storage: Storage) -> None:
        for number in range(20):
            storage.put(f"journal/{number}", str(number).encode())
        paths = [f"journal/{number}" for number in range(21)]
        found = storage.at_once(lambda path: get_or_none(storage, path), paths)
        assert list(found) == [*(str(number).encode() for number in range(20)), None]
        assert list(storage.at_once(storage.get, [])) == []
        with pytest.raises(NotFound):
            storage.at_once(storage.get, ["journal/1", "journal/nothing", "journal/2"])

    def test_create_exclusive_race_of_many_threads_has_one_winner(self, storage: Storage) -> None:
        wins: list[int] = []
        gate = threading.Barrier(self.racers)

        def create(number: int) -> None:
            gate.wait()
            try:
                storage.create_exclusive("file", str(number).encode())
                wins.append(number)
            except StoreConflict:
                pass

        for _ in range(self.races):
            threads = [threading.Thread(target=create, args=(number,)) for number in range(self.racers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(wins) == 1
            assert storage.get("file") == str(wins.pop()).encode()
            storage.delete("file")


class AppendContract(StorageContract):
    """What is promised where files can grow."""

    def test_append_file_grows_is_cut_back_and_read_meanwhile(self, storage: Storage) -> None:
        file = storage.create_append("journal/one")
        assert file.write(b"hello") == 5
        assert file.write(b"world") == 5
        assert storage.get("journal/one") == b"helloworld"
        file.truncate(5)
        assert file.write(b"!") == 1
        file.sync()
        file.close()
        file.close()
        assert storage.get("journal/one") == b"hello!"

    def test_append_file_is_exclusive_by_name(self, storage: Storage) -> None:
        file = storage.create_append("journal/one")
        with pytest.raises(StoreConflict):
            storage.create_append("journal/one")
        file.close()
        assert storage.list("") == ["journal/one"]

    def test_lock_is_held_by_the_writer_until_it_closes(self, storage: Storage) -> None:
        file = storage.create_append("journal/one")
        assert storage.try_lock("journal/one") is None
        assert storage.try_lock("journal/one", shared=True) is None
        file.close()
        lock = storage.try_lock("journal/one")
        assert lock is not None
        lock.release()
        lock.release()

    def test_shared_locks_go_together_and_exclude_an_exclusive_one(self, storage: Storage) -> None:
        storage.put("file", b"")
        locks = [storage.try_lock("file", shared=True) for _ in range(2)]
        assert None not in locks
        assert storage.try_lock("file") is None
        for lock in locks:
            assert lock is not None
            lock.release()
        alone = storage.try_lock("file")
        assert alone is not None
        assert storage.try_lock("file", shared=True) is None
        alone.release()


class ChunkContract(StorageContract):
    """What is promised where files cannot grow."""

    def test_there_are_no_locks_and_they_prove_nothing(self, storage: Storage) -> None:
        storage.put("file", b"x")
        assert not storage.can_append
        assert not storage.locks_prove_death
        assert storage.try_lock("file") is None
        assert storage.try_lock("file", shared=True) is None


class TestMemoryStorage(AppendContract):
    @pytest.fixture
    def storage(self) -> Storage:
        return MemoryStorage()


class TestMemoryStorageOfChunks(ChunkContract):
    @pytest.fixture
    def storage(self) -> Storage:
        return MemoryStorage(can_append=False)


class TestFaultyStorage(AppendContract):
    """Where nothing goes wrong, the disk of the crash tests is a store like any other."""

    @pytest.fixture
    def storage(self) -> Storage:
        return FaultyStorage()


class TestFaultyStorageOfChunks(ChunkContract):
    @pytest.fixture
    def storage(self) -> Storage:
        return RemoteFaultyStorage()


class TestRemoteStorageInMemory(ChunkContract):
    """fsspec's own file system in memory."""

    @pytest.fixture
    def storage(self) -> Storage:
        return RemoteStorage(f"memory://store-{os.urandom(6).hex()}/below")


class TestRemoteStorageOnS3(ChunkContract):
    races = 5

    @pytest.fixture
    def storage(self, s3: S3) -> Storage:
        return RemoteStorage(s3.new_url())

    def test_condition_is_tried_out_once(self, storage: Storage, s3: S3) -> None:
        before = len(s3.puts())
        for number in range(3):
            storage.create_exclusive(f"file-{number}", b"x")
        assert len(s3.puts()) - before == 2 + 3


class TestLocalStorage(AppendContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return LocalStorage(str(tmp_path / "not" / "there" / "yet"))

    def test_nothing_is_left_beside_the_files(self, storage: Storage) -> None:
        storage.put("folder/file", b"x")
        storage.create_exclusive("folder/other", b"x")
        storage.create_append("folder/third").close()
        with pytest.raises(StoreConflict):
            storage.create_exclusive("folder/file", b"y")
        folder = storage.local_path("folder")
        assert folder is not None
        assert sorted(os.listdir(folder)) == ["file", "other", "third"]

    def test_files_of_writes_under_way_are_not_listed(self, storage: Storage) -> None:
        storage.put("folder/.hidden.tmp", b"x")
        assert storage.list("") == []

    def test_descriptor_of_an_append_file_is_not_inherited(self, storage: Storage) -> None:
        file = storage.create_append("journal/one")
        path = storage.local_path("journal/one")
        assert path is not None
        mine = [fd for fd in map(int, os.listdir("/dev/fd")) if _leads_to(fd, path)]
        assert [os.get_inheritable(fd) for fd in mine] == [False]
        file.close()


def _leads_to(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
