from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from weft.lineage import events
from weft.lineage.events import RunRef
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Ask


def test_show_run_has_steps_parameters_and_failures(weft: Ask) -> None:
    record = weft("show", "DelayFlow/1", "--json").json
    assert record["kind"] == "run"
    assert record["run"]["status"] == "failed"
    assert [(row["name"], row["value"]) for row in record["parameters"]] == [("alpha", "0.5")]
    assert [row["step"] for row in record["steps"]] == ["start", "fit"]
    failure = record["failures"][0]
    assert (failure["pathspec"], failure["error_type"]) == ("DelayFlow/1/fit/3", "ValueError")


def test_show_run_as_text_names_the_root_cause(weft: Ask) -> None:
    answer = weft("show", "DelayFlow/1")
    assert answer.code == 0
    assert "root cause" in answer.out
    assert "ValueError: too few flights" in answer.out
    assert "nightly" in answer.out


def test_show_step_lists_its_tasks(weft: Ask) -> None:
    record = weft("show", "DelayFlow/2/fit", "--json").json
    assert [(row["task_id"], row["status"]) for row in record["tasks"]] == [
        ("2", "reused"),
        ("3", "succeeded"),
    ]
    assert "DelayFlow/1/fit/2" in weft("show", "DelayFlow/2/fit").out


def test_show_task_has_attempts_inputs_and_artifacts(weft: Ask) -> None:
    record = weft("show", "DelayFlow/2/fit/3", "--json").json
    assert [row["status"] for row in record["attempts"]] == ["succeeded"]
    assert [(row["name"], row["item_index"]) for row in record["inputs"]] == [("carriers", 1)]
    assert [(row["name"], row["value_number"]) for row in record["artifacts"]] == [("rmse", 18.25)]
    assert "carriers[1]" in weft("show", "DelayFlow/2/fit/3").out


def test_show_failed_task_has_the_traceback(weft: Ask) -> None:
    answer = weft("show", "DelayFlow/1/fit/3")
    assert "traceback\nTraceback\nValueError\n" in answer.out


def test_show_artifact_names_producer_and_consumers(weft: Ask) -> None:
    record = weft("show", "DelayFlow/2/fit/3/rmse", "--json").json
    assert record["artifact"]["type"] == "float"
    assert record["producer"] == "DelayFlow/2/fit/3"
    assert [row["pathspec"] for row in record["consumers"]] == ["DelayFlow/2/end/4"]


def test_show_artifact_of_a_reused_task_names_who_made_it(weft: Ask) -> None:
    record = weft("show", "DelayFlow/2/fit/2/rmse", "--json").json
    assert record["producer"] == "DelayFlow/1/fit/2"
    assert "DelayFlow/2/end/4" in [row["pathspec"] for row in record["consumers"]]


def test_show_of_a_parameter_as_an_artifact_names_the_steps(weft: Ask) -> None:
    answer = weft("show", "DelayFlow/1/_parameters/0/alpha")
    assert answer.code == 2
    assert "There is no step '_parameters' in DelayFlow/1." in answer.err


def test_show_flow_lists_its_runs(weft: Ask) -> None:
    assert [row["run_id"] for row in weft("show", "DelayFlow", "--json").json["runs"]] == ["2", "1"]


@pytest.mark.parametrize(
    ("pathspec", "noun", "near"),
    [
        ("DelayFlwo/1", "flow 'DelayFlwo'", "DelayFlow"),
        ("DelayFlow/17", "run '17'", "1"),
        ("DelayFlow/1/fti", "step 'fti'", "fit"),
        ("DelayFlow/1/fit/33", "task '33'", "3"),
        ("DelayFlow/1/fit/2/rsme", "artifact 'rsme'", "rmse"),
    ],
)
def test_show_of_an_unknown_name_lists_near_ones(pathspec: str, noun: str, near: str, weft: Ask) -> None:
    answer = weft("show", pathspec)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: There is no {noun}")
    assert near in answer.err.split("Near names:")[1]


def test_show_of_what_is_no_pathspec_is_wrong_usage(weft: Ask) -> None:
    answer = weft("show", "a//b")
    assert (answer.code, answer.out) == (2, "")


@pytest.mark.parametrize("graph", [{}, {"name": "Other"}, {"start": "start", "end": "end"}])
def test_show_run_whose_graph_says_little(weft: Ask, store_folder: Path, graph: dict[str, str]) -> None:
    run = RunRef(b"o" * 16, "Other", "1")
    journal = Journal.create(LocalStorage(str(store_folder)))
    journal.append(
        [
            events.run_started(run, None, {"user": "me", "graph": graph}),
            events.task_created(run.task("start", "1"), (), (), None),
            events.run_ended(run, "succeeded", {}),
        ]
    )
    journal.close()
    record = weft("show", "Other/1", "--json").json
    assert [row["step"] for row in record["steps"]] == ["start"]
