from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Ask


def test_lineage_leads_from_the_last_artifact_to_the_first(weft: Ask) -> None:
    answer = weft("lineage", "DelayFlow/2/end/4/best")
    assert answer.code == 0
    assert answer.out.startswith("best")
    assert "rmse" in answer.out
    assert "carriers" in answer.out


def test_lineage_as_json_has_nodes_and_edges(weft: Ask) -> None:
    graph = weft("lineage", "DelayFlow/2/end/4/best", "--json").json
    assert graph["direction"] == "up"
    assert "DelayFlow/1/start/1/carriers" in [node["id"] for node in graph["nodes"]]
    assert {edge["kind"] for edge in graph["edges"]} == {"used", "generated_by"}


def test_lineage_down_finds_what_was_made(weft: Ask) -> None:
    graph = weft("lineage", "DelayFlow/1/start/1/carriers", "--down", "--json").json
    assert "DelayFlow/2/end/4/best" in [node["id"] for node in graph["nodes"]]


def test_lineage_stops_at_the_depth_asked_for(weft: Ask) -> None:
    graph = weft("lineage", "DelayFlow/2/end/4/best", "--depth", "1", "--json").json
    assert "DelayFlow/1/start/1/carriers" not in [node["id"] for node in graph["nodes"]]


@pytest.mark.parametrize(("form", "beginning"), [("dot", "digraph"), ("mermaid", "flowchart"), ("json", "{")])
def test_lineage_is_drawn_in_the_format_asked_for(form: str, beginning: str, weft: Ask) -> None:
    assert weft("lineage", "DelayFlow/2/end/4/best", "--format", form).out.startswith(beginning)


@pytest.mark.parametrize("target", ["DelayFlow/2/end/4/bset", "DelayFlow/9", "ffffffffffff"])
def test_lineage_of_an_unknown_target_is_not_found(target: str, weft: Ask) -> None:
    answer = weft("lineage", target)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")


def test_lineage_json_and_another_format_contradict(weft: Ask) -> None:
    assert weft("lineage", "DelayFlow/2", "--json", "--format", "dot").code == 2


def test_lineage_down_says_how_far_it_reaches(weft: Ask) -> None:
    out = weft("lineage", "DelayFlow/1/start/1/carriers", "--down").out
    # Run 1 failed at its second carrier; run 2 took over the first.
    assert out.splitlines()[-1] == "reaches 3 artifacts of 3 tasks in 2 runs of 1 flow"
    radius = weft("lineage", "DelayFlow/1/start/1/carriers", "--down", "--json").json["radius"]
    assert (radius["artifacts"], radius["runs"]) == (3, 2)


def test_lineage_takes_equal_contents_when_asked(weft: Ask) -> None:
    assert weft("lineage", "DelayFlow/2/end/4/best", "--same-content").code == 0


def test_lineage_of_first_digits_of_several_digests_names_them(weft: Ask) -> None:
    digests = [row["digest"] for row in weft("sql", "SELECT DISTINCT digest FROM artifacts", "--json").json]
    assert len(digests) > 1
    answer = weft("lineage", digests[0][:18])
    assert answer.code == 0
