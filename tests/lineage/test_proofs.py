"""Files may be hashed before they are wanted; what changes in between is hashed again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from weft.lineage.errors import NotFound
from weft.lineage.local import LocalStorage
from weft.lineage.proofs import Proofs


@pytest.mark.parametrize("harm", ["nothing", "flipped", "replaced"])
def test_a_hash_that_was_made_ahead_is_of_the_file_that_is_there(tmp_path: Path, harm: str) -> None:
    place = tmp_path / "file"
    place.write_bytes(b"first")
    os.utime(place, (1, 1))
    proofs = Proofs(LocalStorage(str(tmp_path)))
    proofs.begin([str(place), str(tmp_path / "gone")])
    done = proofs._hashing._begun[str(place)]
    assert done.wait(10)
    if harm == "flipped":
        place.write_bytes(b"fi2st")
    elif harm == "replaced":
        (tmp_path / "other").write_bytes(b"other")
        os.utime(tmp_path / "other", (1, 1))
        os.replace(tmp_path / "other", place)
    assert proofs.sha256_of_file(str(place)) == hashlib.sha256(place.read_bytes()).digest()
    with pytest.raises(NotFound):
        proofs.sha256_of_file(str(tmp_path / "gone"))


@pytest.mark.parametrize("has_threads", [True, False])
def test_files_that_wait_for_their_turn_are_hashed_where_they_are_wanted(
    tmp_path: Path, has_threads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoThread:
        def __init__(self, **_: object) -> None:
            raise RuntimeError("can't start new thread")

    if not has_threads:
        monkeypatch.setattr("weft.lineage.proofs.Thread", NoThread)
    places = [tmp_path / str(number) for number in range(40)]
    for place in places:
        place.write_bytes(place.name.encode() * 10_000)
    proofs = Proofs(LocalStorage(str(tmp_path)))
    for group in (places[:20], places, places):
        proofs.begin([str(place) for place in group])
    for place in reversed(places):
        for _ in range(2):
            assert proofs.sha256_of_file(str(place)) == hashlib.sha256(place.read_bytes()).digest()
    assert not proofs._hashing._waiting
    assert not proofs._hashing._begun
