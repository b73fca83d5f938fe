"""weft.json: made once by whoever comes first, and read by all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from weft.lineage.description import FORMAT, create_store, find_store, read_description
from weft.lineage.errors import NotFound, StoreDamaged, StoreTooNew
from weft.lineage.local import LocalStorage
from weft.lineage.memory import MemoryStorage
from weft.lineage.paths import DESCRIPTION


def test_store_is_created_once_and_hidden_from_git(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path / "deep" / ".weft"))
    description = create_store(storage)
    assert description.format == FORMAT
    assert create_store(storage) == read_description(storage) == description
    assert storage.get(".gitignore") == b"*\n"
    assert sorted(os.listdir(storage.root)) == [".gitignore", "weft.json"]


def test_ten_processes_create_one_store(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from weft.lineage.description import create_store\n"
        "from weft.lineage.local import LocalStorage\n"
        "sys.stdin.read()\n"
        "print(create_store(LocalStorage(sys.argv[1])).store_id)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / ".weft")]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(10)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    ids = {process.communicate()[0].strip() for process in processes}
    assert ids == {read_description(LocalStorage(str(tmp_path / ".weft"))).store_id}


def test_store_of_a_newer_format_is_refused() -> None:
    storage = MemoryStorage()
    text = json.dumps({"format": FORMAT + 1, "version": "9.9", "store_id": "ab"})
    storage.put(DESCRIPTION, text.encode())
    with pytest.raises(StoreTooNew, match=r"written by weft 9\.9.*Upgrade weft\.$"):
        create_store(storage)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"format": "x"}', b"\xff"])
def test_description_that_cannot_be_read_is_damage(text: bytes) -> None:
    storage = MemoryStorage()
    storage.put(DESCRIPTION, text)
    with pytest.raises(StoreDamaged, match="Put it back"):
        read_description(storage)


def test_no_store_is_not_found() -> None:
    with pytest.raises(NotFound, match=r"There is no store at memory:.*--store"):
        read_description(MemoryStorage())


def test_store_is_found_upwards_unless_it_is_named(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    (below / ".weft").mkdir(parents=True)
    assert find_store(str(below), {}) is None
    create_store(LocalStorage(str(tmp_path / ".weft")))
    assert find_store(str(below), {}) == str(tmp_path / ".weft")
    assert find_store(str(below), {"WEFT_STORE": "s3://bucket/x"}) == "s3://bucket/x"
