from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from weft.lineage import events
from weft.lineage.events import RunRef
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage

if TYPE_CHECKING:
    from tests.cli.conftest import Ask


def _journals(store: Path) -> list[Path]:
    return sorted((store / "journal").glob("*.wj"))


def test_compact_seals_what_is_closed_and_changes_no_answer(store_folder: Path, weft: Ask) -> None:
    before = weft("log", "--json").out
    report = weft("compact", "--json").json
    assert len(report["journals_sealed"]) == 2
    assert list((store_folder / "log").rglob("*.parquet"))
    assert weft("log", "--json").out == before


def test_compact_twice_has_nothing_to_do(weft: Ask) -> None:
    assert "2 journals" in weft("compact").out
    assert "sealed 0 events of 0 journals" in weft("compact").out


def test_compact_merges_small_segments(store_folder: Path, weft: Ask) -> None:
    for number in range(3):
        weft("compact")
        _record_runs(store_folder, 1, number)
    before = weft("log", "--json").out
    report = weft("compact", "--json").json
    assert (report["segments_before"], report["segments_after"], report["segments"]) == (2, 1, 1)
    assert weft("log", "--json").out == before
    _record_runs(store_folder, 1, 9)
    assert "2 segments are now 1" in weft("compact").out


def test_compact_removes_what_a_write_left_behind_a_day_ago(store_folder: Path, weft: Ask) -> None:
    old, new = store_folder / "log" / "run" / ".a.1234.tmp", store_folder / "objects" / ".b.1234.tmp"
    for path in (old, new):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert "removed 1 temporary file" in weft("compact").out
    assert not old.exists()
    assert new.exists()


def test_verify_names_the_place_of_damage(store_folder: Path, weft: Ask) -> None:
    journal = _journals(store_folder)[0]
    content = bytearray(journal.read_bytes())
    content[len(content) // 2] ^= 1
    journal.write_bytes(content)
    answer = weft("verify")
    assert answer.code == 1
    assert f"journal/{journal.name} at byte" in answer.out
    assert "DAMAGED" in answer.out
    assert weft("verify", "--json").code == 1


def test_verify_of_a_torn_end_is_sound(store_folder: Path, weft: Ask) -> None:
    journal = _journals(store_folder)[0]
    journal.write_bytes(journal.read_bytes()[:-10])
    answer = weft("verify")
    assert answer.code == 0
    assert f"journal/{journal.name} at byte" in answer.out
    assert "sound: " in answer.out


def _record_runs(store: Path, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        run = RunRef(number.to_bytes(16), "Small", str(number))
        journal = Journal.create(LocalStorage(str(store)))
        journal.append([events.run_started(run, None, {"user": "ada"}), events.run_ended(run, "succeeded")])
        journal.close()


def test_a_question_seals_when_many_journals_lie_there(store_folder: Path, weft: Ask) -> None:
    _record_runs(store_folder, 60)
    before = weft("runs", "--limit", "0", "--json").json
    assert list((store_folder / "log").rglob("*.parquet"))
    assert weft("runs", "--limit", "0", "--json").json == before
    assert len(before) == 62


def test_a_question_that_cannot_seal_answers_all_the_same(store_folder: Path, weft: Ask) -> None:
    _record_runs(store_folder, 60)
    (store_folder / "log").write_text("a file where a folder has to be")
    assert len(weft("runs", "--limit", "0", "--json").json) == 62


def test_an_answer_that_lacks_events_of_a_damaged_journal_says_so(weft: Ask, store_folder: Path) -> None:
    before = weft("sql", "select count(*) from events")
    assert before.err == ""
    journal, *_ = sorted((store_folder / "journal").iterdir())
    data = bytearray(journal.read_bytes())
    data[len(data) // 2] ^= 1
    journal.write_bytes(data)
    after = weft("sql", "select count(*) from events")
    assert after.code == 0
    assert after.out != before.out
    assert after.err.startswith(f"warning: journal/{journal.name} is damaged at byte ")
    assert after.err.endswith("Events that it held are not in this answer. Run `weft verify`.\n")
    assert weft("verify").code == 1
