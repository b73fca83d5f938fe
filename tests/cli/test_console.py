from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Ask


def test_logs_of_a_run_name_the_task_of_each_line(weft: Ask) -> None:
    lines = weft("logs", "DelayFlow/1").out.splitlines()
    assert "fit/2 | fitting AA" in lines
    assert "fit/3 | too few flights" in lines


def test_logs_of_a_task_are_its_lines_alone(weft: Ask) -> None:
    assert weft("logs", "DelayFlow/1/fit/2").out == "fitting AA\n\\e[2Jdone\n"


@pytest.mark.parametrize(("option", "expected"), [("--stderr", 1), ("--stdout", 2)])
def test_logs_are_narrowed_to_a_stream(option: str, expected: int, weft: Ask) -> None:
    rows = weft("logs", "DelayFlow/1/fit/3", option, "--json").json
    assert [row["stream"] for row in rows] == [option[2:]] * expected
    assert rows[0]["pathspec"] == "DelayFlow/1/fit/3"


def test_logs_of_a_reused_task_are_those_of_its_origin(weft: Ask) -> None:
    assert "fitting AA" in weft("logs", "DelayFlow/2/fit/2").out


def test_logs_followed_end_with_the_run(weft: Ask) -> None:
    answer = weft("logs", "DelayFlow/1", "-f", "--json")
    assert [json.loads(line)["text"] for line in answer.out.splitlines()].count("too few flights") == 1


@pytest.mark.parametrize("pathspec", ["DelayFlow", "DelayFlow/9", "DelayFlow/1/fit/9"])
def test_logs_of_what_is_not_there_is_not_found(pathspec: str, weft: Ask) -> None:
    answer = weft("logs", pathspec)
    assert (answer.code, answer.out) == (2, "")
