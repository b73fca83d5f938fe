from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Ask


def test_runs_are_listed_newest_first(weft: Ask) -> None:
    rows = weft("runs", "--json").json
    assert [(row["flow"], row["run_id"], row["status"]) for row in rows] == [
        ("DelayFlow", "2", "succeeded"),
        ("DelayFlow", "1", "failed"),
    ]
    assert rows[0]["origin_run_id"] == "1"
    assert rows[1]["root_cause"] == "DelayFlow/1/fit/3"
    assert rows[0]["started_at"].endswith("Z")


def test_runs_as_text_name_each_run(weft: Ask) -> None:
    answer = weft("runs")
    assert answer.code == 0
    assert answer.out.splitlines()[0].split()[:2] == ["run", "status"]
    assert "DelayFlow/1" in answer.out
    assert "\x1b" not in answer.out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--status", "failed"), ["1"]),
        (("--tag", "nightly"), ["1"]),
        (("--tag", "nightly", "--tag", "other"), []),
        (("--flow", "DelayFlow"), ["2", "1"]),
        (("--flow", "Other"), []),
        (("--where", "tasks_failed > 0 -- why"), ["1"]),
        (("--limit", "1"), ["2"]),
        (("--limit", "0"), ["2", "1"]),
    ],
)
def test_runs_are_narrowed(options: tuple[str, ...], expected: list[str], weft: Ask) -> None:
    assert [row["run_id"] for row in weft("runs", "--json", *options).json] == expected


def test_runs_says_so_when_there_are_none(weft: Ask) -> None:
    answer = weft("runs", "--flow", "Other")
    assert (answer.code, answer.out) == (0, "no runs\n")


@pytest.mark.parametrize("where", ["nonsense > 1", "true) UNION SELECT 1 --", "; DROP TABLE runs"])
def test_condition_that_is_no_sql_is_refused(where: str, weft: Ask) -> None:
    answer = weft("runs", "--where", where)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")


def test_as_of_an_event_shows_what_was_known_then(weft: Ask) -> None:
    ended = weft("log", "--kind", "run_failed", "--json").out
    event_id = ended.split('"id": "')[1].split('"')[0]
    rows = weft("--as-of", event_id, "runs", "--json").json
    assert [(row["run_id"], row["status"]) for row in rows] == [("1", "failed")]


def test_as_of_nonsense_is_wrong_usage(weft: Ask) -> None:
    answer = weft("--as-of", "last tuesday", "runs")
    assert (answer.code, answer.out) == (2, "")
    assert "ISO 8601" in answer.err
