"""`--as-of` before a command: every question is answered as of then, and what deals with the present says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Ask


@pytest.fixture
def then(weft: Ask) -> str:
    """The id of the event that ended run 1."""
    events = [record for record in _records(weft("log", "--json").out) if record["kind"] == "run_failed"]
    return str(events[0]["id"])


def _records(text: str) -> list[dict[str, object]]:
    import json

    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    "command",
    [
        ("runs",),
        ("show", "DelayFlow"),
        ("log",),
        ("sql", "SELECT run_id FROM runs"),
        ("lineage", "DelayFlow", "--down"),
    ],
)
def test_what_came_later_is_not_there(weft: Ask, then: str, command: tuple[str, ...]) -> None:
    assert "DelayFlow/2" in weft("runs").out
    answer = weft("--as-of", then, *command)
    assert answer.code == 0, answer.err
    assert "DelayFlow/2" not in answer.out
    assert "resumed" not in answer.out


@pytest.mark.parametrize(
    "command", [("show", "DelayFlow/2"), ("logs", "DelayFlow/2"), ("diff", "DelayFlow/1", "DelayFlow/2")]
)
def test_a_run_of_later_is_not_found(weft: Ask, then: str, command: tuple[str, ...]) -> None:
    answer = weft("--as-of", then, *command)
    assert (answer.code, answer.out) == (2, "")
    assert "Near names: 1" in answer.err


def test_before_the_store_began_it_says_when_it_began(weft: Ask) -> None:
    answer = weft("--as-of", "2001-01-01", "runs")
    assert (answer.code, answer.out) == (2, "")
    assert "it began at 20" in answer.err


@pytest.mark.parametrize("command", [("verify",), ("compact",), ("log", "-f"), ("logs", "DelayFlow/1", "-f")])
def test_what_has_no_past_says_so(weft: Ask, then: str, command: tuple[str, ...]) -> None:
    answer = weft("--as-of", then, *command)
    assert (answer.code, answer.out) == (2, "")
    assert "Leave out --as-of." in answer.err
