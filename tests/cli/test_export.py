"""`weft export openlineage` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tests.openlineage import check_event

if TYPE_CHECKING:
    import pytest

    from tests.cli.conftest import Ask


def test_events_are_lines_of_json(weft: Ask) -> None:
    answer = weft("export", "openlineage")
    assert (answer.code, answer.err) == (0, "")
    documents = [json.loads(line) for line in answer.out.splitlines()]
    for document in documents:
        check_event(document)
    ends = [d["eventType"] for d in documents if d["job"]["name"] == "DelayFlow"]
    assert ends == ["START", "FAIL", "START", "COMPLETE"]
    assert {d["job"]["namespace"] for d in documents} == {"weft"}


def test_the_namespace_is_given_or_that_of_the_environment(
    weft: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "ours")
    assert '"namespace":"ours"' in weft("export", "openlineage").out
    assert '"namespace":"mine"' in weft("export", "openlineage", "--namespace", "mine").out


def test_only_what_came_later_is_exported(weft: Ask) -> None:
    events = [json.loads(line) for line in weft("log", "--json").out.splitlines()]
    (ended,) = [event["id"] for event in events if event["kind"] == "run_failed"]
    later = weft("export", "openlineage", "--since", ended).out
    earlier = weft("--as-of", ended, "export", "openlineage").out
    assert later
    assert earlier
    assert sorted([*later.splitlines(), *earlier.splitlines()]) == sorted(
        weft("export", "openlineage").out.splitlines()
    )


def test_a_file_is_written_anew_or_added_to(weft: Ask, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    whole = weft("export", "openlineage").out.splitlines()
    path.write_text(whole[0] + "\n")
    appended = weft("export", "openlineage", "--append", "--output", str(path))
    assert (appended.code, appended.out) == (0, "")
    assert f"{len(whole) - 1} events written" in appended.err
    assert sorted(path.read_text().splitlines()) == sorted(whole)
    weft("export", "openlineage", "--output", str(path))
    assert path.read_text().splitlines() == whole


def test_what_cannot_be_written_or_meant_is_refused(weft: Ask, tmp_path: Path) -> None:
    for arguments in (("--append",), ("--output", str(tmp_path / "no" / "file")), ("--since", "yesterday")):
        answer = weft("export", "openlineage", *arguments)
        assert (answer.code, answer.out) == (2, ""), arguments
    assert weft("export", "tarot").code == 2
