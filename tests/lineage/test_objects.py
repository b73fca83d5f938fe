"""Objects: bytes under the name of their sha256."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.lineage.errors import NotFound, StoreDamaged
from weft.lineage.ids import digest_to_text
from weft.lineage.local import LocalStorage
from weft.lineage.memory import MemoryStorage
from weft.lineage.objects import Objects
from weft.lineage.paths import object_path


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_object_is_named_by_the_sha256_of_its_parts(parts: list[bytes]) -> None:
    objects = Objects(MemoryStorage())
    digest = objects.put([memoryview(part) for part in parts])
    whole = b"".join(parts)
    assert digest == hashlib.sha256(whole).digest()
    assert objects.get(digest) == whole
    assert objects.has(digest)
    assert objects.size(digest) == len(whole)
    assert list(objects.all()) == [digest]


def test_object_that_is_there_is_refreshed_and_not_written_again(tmp_path: Path) -> None:
    objects = Objects(LocalStorage(str(tmp_path)))
    digest = objects.put([b"abc"])
    path = objects.path_of(digest)
    assert path == str(tmp_path / object_path(digest))
    os.utime(path, (1, 1))
    inode = os.stat(path).st_ino
    assert objects.put([b"a", b"bc"], digest) == digest
    assert os.stat(path).st_ino == inode
    assert os.stat(path).st_mtime > 1


def test_object_that_was_changed_is_damage(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    objects = Objects(storage)
    digest = objects.put([b"abc"])
    storage.put(object_path(digest), b"abd")
    with pytest.raises(StoreDamaged, match=digest.hex()):
        objects.get(digest)


def test_missing_object_is_named() -> None:
    objects = Objects(MemoryStorage())
    digest = bytes(32)
    with pytest.raises(NotFound, match=digest_to_text(digest)):
        objects.get(digest)
    with pytest.raises(NotFound, match=digest_to_text(digest)):
        objects.size(digest)
    assert objects.path_of(digest) is None
    assert not objects.has(digest)
