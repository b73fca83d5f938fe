from __future__ import annotations

from pathlib import Path

import click
import pytest

import weft
from weft.lineage.errors import UsageError
from weft.lineage.events import RunRef
from weft.runtime.parameters import Parameter
from weft.runtime.track import ExternalUses, Tracking, is_path, track

_TASK = RunRef(b"u" * 16, "F", "1").task("start", "1")


def test_track_outside_a_step_gives_back_what_it_was_given() -> None:
    path = Path("x.csv")
    assert track(path) is path
    assert weft.track is track


def test_track_refuses_another_direction() -> None:
    with pytest.raises(UsageError, match="no direction of data"):
        track("x.csv", "append")


def test_tracking_records_each_content_once(tmp_path: Path) -> None:
    uses = ExternalUses()
    path = tmp_path / "x"
    with Tracking(uses, None):
        for text in ("one", "one", "two"):
            path.write_text(text)
            track(path)
            track(path, "write")
        path.write_text("three")
    track(path)
    told = uses.events(_TASK, 2)
    assert [((event.payload or {})["direction"], event.size_bytes) for event in told] == [
        ("read", 3),
        ("read", 3),
        ("write", 5),
    ]
    assert {event.attempt for event in told} == {2}


def test_unasked_reads_of_an_unchanged_file_are_one(tmp_path: Path) -> None:
    uses = ExternalUses()
    path = tmp_path / "x"
    path.write_text("one")
    for _ in range(3):
        uses.note_unasked(str(path), "read")
    assert len(uses.events(_TASK, 0)) == 1


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(Path, True), (click.Path(exists=True), True), (click.Path, True), (str, False), (int, False)],
)
def test_parameters_are_paths_by_their_type(kind: object, expected: bool) -> None:
    assert is_path(Parameter("x", type=kind)) == expected
