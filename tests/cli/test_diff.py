"""`weft diff` on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.conftest import Ask


def test_a_failed_run_and_its_repair_differ_in_the_task_that_failed(weft: Ask) -> None:
    answer = weft("diff", "DelayFlow/1", "DelayFlow/2")
    assert answer.code == 0
    assert answer.out.startswith("A  DelayFlow/1  failed")
    assert "fit[1]: failed → succeeded" in answer.out
    assert "end/best: 16.5 (only in B)" in answer.out


def test_a_run_is_equal_to_itself(weft: Ask) -> None:
    document = weft("diff", "DelayFlow/2", "DelayFlow", "--json").json
    assert document["is_equal"]
    assert (document["differences"], document["causes"]) == ([], [])


def test_a_diff_as_json_has_all_that_differs(weft: Ask) -> None:
    document = weft("diff", "DelayFlow/1", "DelayFlow/2", "--json").json
    assert document["a"]["pathspec"] == "DelayFlow/1"
    assert document["artifacts"] == {"equal": 2, "changed": 0, "only_a": 0, "only_b": 2}
    assert [d["id"] for d in document["differences"] if d["kind"] == "task"] == ["task end", "task fit[1]"]


def test_an_unknown_run_is_not_found(weft: Ask) -> None:
    answer = weft("diff", "DelayFlow/1", "DelayFlow/22")
    assert (answer.code, answer.out) == (2, "")
    assert "Near names: 2" in answer.err
