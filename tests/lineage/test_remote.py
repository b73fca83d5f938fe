"""A remote store in bad weather: requests that fail, answers that get lost, servers that know no conditions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from weft.lineage import clock, remote
from weft.lineage.errors import NotFound, StoreConflict, StoreUnavailable, UsageError
from weft.lineage.local import LocalStorage
from weft.lineage.remote import RemoteStorage
from weft.lineage.stores import open_storage


class Answered(OSError):
    """What s3fs makes of an answer: an error of the operating system, caused by one that knows the status."""

    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(f"status {status}")
        self.__cause__ = Refused(status, code)


class Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}


class NoCredentialsError(Exception):
    """botocore's has this name, too."""


class Weather(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Memory whose next requests fail: `troubles` are (method, error, whether it was carried out)."""

    protocol = "weather"
    troubles: ClassVar[list[tuple[str, Exception, bool]]] = []
    is_conditional = True

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        stripped: str = MemoryFileSystem._strip_protocol(str(path).replace("weather://", "memory://"))
        return stripped

    def _trouble(self, method: str) -> tuple[Exception, bool] | None:
        if self.troubles and self.troubles[0][0] == method:
            _, error, is_done = self.troubles.pop(0)
            return error, is_done
        return None

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        trouble = self._trouble("put")
        if trouble is None or trouble[1]:
            super().pipe_file(path, value, mode=mode if self.is_conditional else "overwrite")
        if trouble is not None:
            raise trouble[0]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        trouble = self._trouble("get")
        if trouble is not None:
            raise trouble[0]
        data: bytes = super().cat_file(path, start=start, end=end)
        return data


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RemoteStorage]:
    fsspec.register_implementation("weather", Weather, clobber=True)
    monkeypatch.setattr(remote, "_PAUSE_MIN_S", 0.001)
    monkeypatch.setattr(remote, "_PAUSE_MAX_S", 0.001)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "copies"))
    Weather.troubles.clear()
    yield RemoteStorage(f"weather://{os.urandom(6).hex()}/store")
    assert Weather.troubles == []


@pytest.mark.parametrize("status", [409, 429, 500, 503])
def test_request_is_made_again_after_what_passes(storage: RemoteStorage, status: int) -> None:
    storage.put("file", b"x")
    Weather.troubles += [("get", Answered(status), False)] * 3
    assert storage.get("file") == b"x"


def test_conflict_that_the_server_says_in_its_own_way_is_one(storage: RemoteStorage) -> None:
    storage.create_exclusive("first", b"x")
    Weather.troubles.append(("put", Answered(412), False))
    with pytest.raises(StoreConflict, match="exists already"):
        storage.create_exclusive("second", b"x")


@pytest.mark.parametrize("error", [TimeoutError("no answer"), ConnectionResetError("reset"), Answered(503)])
def test_creation_whose_answer_was_lost_finds_its_own_bytes(storage: RemoteStorage, error: Exception) -> None:
    storage.create_exclusive("first", b"x")
    Weather.troubles.append(("put", error, True))
    storage.create_exclusive("file", b"mine")
    assert storage.get("file") == b"mine"


def test_creation_whose_answer_was_lost_does_not_take_the_bytes_of_another(storage: RemoteStorage) -> None:
    storage.create_exclusive("file", b"theirs")
    Weather.troubles.append(("put", TimeoutError("no answer"), False))
    with pytest.raises(StoreConflict):
        storage.create_exclusive("file", b"mine")
    assert storage.get("file") == b"theirs"


def test_equal_bytes_of_a_first_try_are_a_conflict(storage: RemoteStorage) -> None:
    storage.create_exclusive("file", b"")
    with pytest.raises(StoreConflict):
        storage.create_exclusive("file", b"")


def test_server_that_knows_no_conditions_is_found_out_and_written_with_care(
    storage: RemoteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Weather, "is_conditional", False)
    storage.create_exclusive("file", b"first")
    with pytest.raises(StoreConflict):
        storage.create_exclusive("file", b"second")
    assert storage.get("file") == b"first"
    assert storage.list("") == ["file"]


def test_patience_ends(storage: RemoteStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.put("file", b"x")
    monkeypatch.setattr(remote, "_PATIENCE_S", 0.0)
    Weather.troubles.append(("get", Answered(503), False))
    with pytest.raises(StoreUnavailable, match=r"out of reach.*status 503.*AWS_ENDPOINT_URL.*try again"):
        storage.get("file")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (NoCredentialsError("Unable to locate credentials"), r"needs credentials.*AWS_ACCESS_KEY_ID"),
        (Answered(403), r"does not allow this.*Check the credentials"),
        (Answered(404, "NoSuchBucket"), r"bucket that does not exist.*Create the bucket"),
        (ValueError("odd"), r"out of reach.*odd"),
    ],
)
def test_trouble_that_stays_is_said_at_once_with_its_fix(
    storage: RemoteStorage, error: Exception, sentence: str
) -> None:
    Weather.troubles.append(("get", error, False))
    with pytest.raises(StoreUnavailable, match=sentence):
        storage.get("file")


def test_copies_are_fetched_once_and_may_go_at_any_time(storage: RemoteStorage, tmp_path: Path) -> None:
    storage.put("log/run/one", b"1")
    storage.put("log/run/two", b"2")
    paths = ["log/run/one", "log/run/two", "log/run/one"]
    first = storage.localize(paths)
    assert [Path(path).read_bytes() for path in first] == [b"1", b"2", b"1"]
    assert all(path.startswith(str(tmp_path / "copies" / "weft")) for path in first)
    Path(first[0]).write_bytes(b"damaged")
    assert storage.localize(paths) == first
    assert storage.forget_copy("log/run/one")
    assert not storage.forget_copy("log/run/one")
    assert Path(storage.localize(paths)[0]).read_bytes() == b"1"
    assert sorted(os.listdir(Path(first[0]).parent)) == ["one", "two"]
    with pytest.raises(NotFound):
        storage.localize(["log/run/three"])


def test_copies_that_nobody_used_for_longest_make_room(
    storage: RemoteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [f"log/run/{number}" for number in range(5)]
    for path in paths:
        storage.put(path, b"ten bytes.")
    local = storage.localize(paths)
    for hours, copy in zip((3, 5, 4, 2, 0), local, strict=True):
        used_s = clock.now_us() / 1e6 - hours * 3600
        os.utime(copy, (used_s, used_s))
    monkeypatch.setenv("WEFT_CACHE_MAX_BYTES", "30")
    assert storage.localize([paths[2]]) == [local[2]]
    assert storage.copies.prune() == [local[1], local[0]], "that which was asked for is in use"
    assert storage.copies.prune() == []
    monkeypatch.setenv("WEFT_CACHE_MAX_BYTES", "0")
    assert storage.localize(paths) == local
    assert sorted(os.listdir(Path(local[0]).parent)) == ["0", "1", "2", "3", "4"], "in use, though too many"
    monkeypatch.setenv("WEFT_CACHE_MAX_BYTES", "much")
    with pytest.raises(UsageError, match="no number of bytes"):
        storage.copies.prune()


def test_copies_that_cannot_be_kept_name_the_folder(
    storage: RemoteStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    again = RemoteStorage(storage.url)
    again.put("log/one", b"1")
    with pytest.raises(StoreUnavailable, match=r"cannot be kept in .*XDG_CACHE_HOME"):
        again.localize(["log/one"])


def test_url_names_a_folder_or_a_remote_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    for url in ("~/store", "file:///home/ada/store", "file://~/store", "/home/ada/./store"):
        found = open_storage(url)
        assert isinstance(found, LocalStorage)
        assert found.url == "/home/ada/store"
    assert open_storage("s3://bucket/prefix/").url == "s3://bucket/prefix"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nonsense://x", r"no place for a store.*Name a folder, s3://bucket/prefix"),
        ("gs://bucket/x", r"needs a package.*gcsfs.*pip"),
    ],
)
def test_url_that_leads_nowhere_names_the_fix(url: str, sentence: str) -> None:
    with pytest.raises(StoreUnavailable, match=sentence):
        open_storage(url).get("weft.json")


def test_nothing_of_fsspec_is_imported_before_the_first_request() -> None:
    import subprocess
    import sys

    script = (
        "import sys\n"
        "from weft.lineage.stores import open_storage\n"
        "open_storage('s3://bucket/prefix')\n"
        "open_storage('folder')\n"
        "print(sorted({'fsspec', 's3fs', 'asyncio', 'botocore'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
