from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.conftest import Ask


def test_log_gives_one_object_a_line(weft: Ask) -> None:
    events = [json.loads(line) for line in weft("log", "--json").out.splitlines()]
    assert events[0]["kind"] == "run_started"
    assert events[0]["payload"]["user"] == "ada"
    assert [event["occurred_at"] for event in events] == sorted(event["occurred_at"] for event in events)


def test_log_is_narrowed_by_run_and_kind(weft: Ask) -> None:
    lines = weft("log", "--run", "DelayFlow/2", "--kind", "task_reused", "--json").out.splitlines()
    assert [json.loads(line)["task_id"] for line in lines] == ["1", "2"]


def test_log_limit_keeps_the_newest(weft: Ask) -> None:
    lines = weft("log", "--run", "2", "--limit", "1").out.splitlines()
    assert len(lines) == 1
    assert "run_succeeded" in lines[0]


def test_log_as_text_escapes_what_was_recorded(weft: Ask) -> None:
    answer = weft("log")
    assert answer.code == 0
    assert "\x1b" not in answer.out
    assert "DelayFlow/1/fit/3" in answer.out
