"""Two runs told event by event differ in what was told, and the first difference explains the others."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from tests.lineage.conftest import Story
from weft.lineage import events as kinds
from weft.lineage.diff import Diff
from weft.lineage.errors import NotFound, UsageError
from weft.lineage.events import Level, RunRef
from weft.lineage.ids import Pathspec, TaskRef

WAYS: list[dict[str, Any]] = [
    {"name": "start", "kind": "foreach", "next": ["fit"], "foreach": "items"},
    {"name": "fit", "kind": "linear", "next": ["join"]},
    {"name": "join", "kind": "join", "next": ["end"]},
    {"name": "end", "kind": "end", "next": []},
]
GRAPH = {"start": "start", "end": "end", "steps": WAYS}
SOURCE = "class F:\n    def start(self):\n        return 1\n\n    def fit(self):\n        return {}\n"


def code_of(story: Story, source: str) -> bytes:
    file = story.objects.put([source.encode()])
    manifest = json.dumps({"entry": "f.py", "files": {"f.py": file.hex()}}).encode()
    return story.objects.put([manifest], hashlib.sha256(manifest).digest())


def read(
    story: Story, task: TaskRef, name: str, value: object, producer: TaskRef, item: int | None = None
) -> None:
    origin = Pathspec(producer.flow, producer.run_id, producer.step, producer.task_id)
    story.tell(kinds.artifact_used(task, 0, name, story.content(value).digest, origin, item))


def tell_run(
    story: Story,
    run_id: str,
    flow: str = "F",
    alpha: float = 0.5,
    body: str = "2",
    noise: int = 0,
    items: tuple[int, ...] = (1, 2, 3),
    failed: int | None = None,
    reads_alpha: bool = True,
    **payload: Any,
) -> RunRef:
    """start splits over items, fit multiplies each by alpha, join adds up."""
    run = RunRef(f"{flow}/{run_id}".encode().rjust(16, b"."), flow, run_id)
    code = code_of(story, SOURCE.format(body))
    told = {"user": "me", "python": "3.11.1", "host": "box", "graph": GRAPH, **payload}
    story.tell(kinds.run_started(run, code, told))
    story.parameter(run, "alpha", alpha)
    start = story.task(run, "start", "1", items=list(items))
    fits = []
    for place, item in enumerate(items):
        levels = (Level("fit", "items", place, len(items), str(item)),)
        fit = run.task("fit", str(place + 2))
        story.tell(
            kinds.task_created(fit, (("start", "1"),), levels, None), kinds.attempt_started(fit, 0, 1, "box")
        )
        read(story, fit, "items", item, start, place)
        if reads_alpha:
            read(story, fit, "alpha", alpha, run.task("_parameters", "0"))
        if place == failed:
            story.tell(kinds.attempt_failed(fit, 0, "ValueError", {"message": "no"}))
            story.end(run, "failed", root_cause=fit.pathspec)
            return run
        score = item * alpha * int(body) + noise
        story.tell(
            kinds.artifact_saved(fit, 0, "score", story.content(score)),
            kinds.artifact_saved(fit, 0, "item", story.content(item)),
            kinds.attempt_succeeded(fit, 0, {"next": ["join"]}, {"cpu_s": 0.1}),
        )
        fits.append((fit, score))
    join = story.task(run, "join", "9", tuple(fit for fit, _ in fits), is_done=False)
    for fit, score in fits:
        read(story, join, "score", score, fit)
    total = sum(score for _, score in fits)
    story.tell(
        kinds.artifact_saved(join, 0, "total", story.content(total)),
        kinds.attempt_succeeded(join, 0, {"next": ["end"]}, {}),
    )
    story.end(run)
    return run


def causes(diff: Diff) -> list[tuple[str, list[str]]]:
    return [(c.id, [f"{e.step}/{e.name} {e.total}" for e in c.effects]) for c in diff.causes]


def test_runs_that_did_the_same_are_equal(story: Story) -> None:
    tell_run(story, "1")
    tell_run(story, "2")
    diff = story.store().diff("F/1", "F/2")
    assert diff.is_equal
    assert (diff.differences, diff.causes, diff.code) == ([], [], [])
    assert diff.equal_artifacts == 8


def test_a_parameter_explains_what_follows_from_it(story: Story) -> None:
    tell_run(story, "1")
    tell_run(story, "2", alpha=1.5)
    diff = story.store().diff("F/1", "F/2")
    assert causes(diff) == [("parameter alpha", ["fit/score 3", "join/total 1"])]
    total = next(d for d in diff.differences if d.id == "artifact join/total")
    assert set(total.because) == {f"artifact fit[{i}]/score" for i in range(3)}
    assert (total.a, total.b) == ("6.0", "18.0")
    assert not diff.is_equal


def test_code_explains_the_steps_it_reaches(story: Story) -> None:
    tell_run(story, "1")
    tell_run(story, "2", body="3")
    diff = story.store().diff("F/1", "F/2")
    assert causes(diff) == [("code f.py:F.fit", ["fit/score 3", "join/total 1"])]
    (change,) = diff.code
    assert "-        return 2" in change.diff
    assert "+        return 3" in diff.text()


def test_the_cause_upstream_comes_first(story: Story) -> None:
    """The code of the second step is no reason for what the first one saved."""
    tell_run(story, "1", items=(1, 2, 3))
    tell_run(story, "2", items=(1, 5, 3), body="3")
    diff = story.store().diff("F/1", "F/2")
    assert causes(diff) == [
        ("artifact start/items", ["fit/item 1", "fit/score 1", "join/total 1"]),
        ("code f.py:F.fit", ["fit/score 3", "fit/item 1", "join/total 1"]),
    ]
    by_id = {d.id: d for d in diff.differences}
    assert by_id["artifact fit[0]/score"].because == ("code f.py:F.fit",)
    assert "artifact start/items" in by_id["artifact fit[1]/score"].because


def test_what_nothing_recorded_explains_is_a_cause_itself(story: Story) -> None:
    tell_run(story, "1")
    tell_run(story, "2", noise=1)
    diff = story.store().diff("F/1", "F/2")
    assert causes(diff) == [("artifact fit/score", ["join/total 1"])]
    assert len(diff.causes[0].differences) == 3
    assert "nothing that is recorded explains it" in diff.text()


def test_the_environment_may_explain_where_nothing_else_does(story: Story) -> None:
    tell_run(story, "1", packages={"numpy": "1.0", "same": "1"})
    tell_run(story, "2", packages={"numpy": "2.0", "same": "1"}, noise=1, host="other")
    diff = story.store().diff("F/1", "F/2")
    assert causes(diff) == [
        ("environment package numpy", ["fit/score 3", "join/total 1"]),
        ("environment host", []),
    ]
    assert [cause.is_certain for cause in diff.causes] == [False, True]
    assert "may explain" in diff.text()


def test_packages_that_one_run_did_not_record_are_not_compared(story: Story) -> None:
    tell_run(story, "1")
    tell_run(story, "2", packages={"numpy": "2.0"})
    assert story.store().diff("F/1", "F/2").differences == []


def test_a_failure_explains_what_is_missing_after_it(story: Story) -> None:
    tell_run(story, "1", failed=1, reads_alpha=False)
    tell_run(story, "2", body="3", reads_alpha=False)
    diff = story.store().diff("F/1", "F/2")
    assert [cause.id for cause in diff.causes] == ["code f.py:F.fit"]
    by_id = {d.id: d for d in diff.differences}
    assert (by_id["task fit[1]"].a, by_id["task fit[1]"].b) == ("failed", "succeeded")
    assert by_id["task fit[2]"].because == ("task fit[1]",)
    assert by_id["artifact join/total"].because == ("task join",)


def test_a_longer_list_explains_the_tasks_it_makes(story: Story) -> None:
    tell_run(story, "1", items=(1, 2))
    tell_run(story, "2", items=(1, 2, 3))
    diff = story.store().diff("F/1", "F/2")
    assert [cause.id for cause in diff.causes] == ["artifact start/items"]
    by_id = {d.id: d for d in diff.differences}
    assert by_id["task fit[2]"].because == ("artifact start/items",)
    assert by_id["artifact join/total"].because == ("artifact fit[2]/score",)


def test_a_reused_task_is_the_task_it_stands_for(story: Story) -> None:
    first = tell_run(story, "1")
    run = RunRef(b"resumed".rjust(16, b"."), "F", "2")
    story.tell(
        kinds.run_started(run, code_of(story, SOURCE.format("2")), {"graph": GRAPH, "python": "3.11.1"})
    )
    story.parameter(run, "alpha", 0.5)
    start = story.reuse(run, first.task("start", "1"))
    for place in range(3):
        task = run.task("fit", str(place + 2))
        origin = Pathspec("F", "1", "fit", str(place + 2))
        levels = (Level("fit", "items", place, 3, ""),)
        story.tell(
            kinds.task_reused(
                task, origin, ((start.step, start.task_id),), levels, None, {"status": "succeeded"}
            )
        )
    story.reuse(run, first.task("join", "9"))
    story.end(run)
    diff = story.store().diff("F/1", "F/2")
    assert diff.is_equal
    assert diff.reads == []
    assert diff.equal_artifacts == 8


def test_what_a_value_was_in_the_run_of_an_origin_is_of_no_matter(story: Story) -> None:
    first = story.run("F", "1")
    story.parameter(first, "size", 1)
    start = story.task(first, "start", "1", x=1)
    story.end(first)
    for run_id, size in (("2", 2), ("3", 3)):
        run = story.run("F", run_id)
        story.tell(kinds.parameter_set(run, "size", story.content(size), "constant"))
        story.reuse(run, start)
        story.end(run)
    (difference,) = story.store().diff("F/2", "F/3").differences
    assert difference.id == "constant size"


@pytest.mark.parametrize("is_parameter", [False, True])
def test_files_that_were_read_explain(story: Story, is_parameter: bool) -> None:
    for run_id, digest, noise in (("1", b"a" * 32, 0), ("2", b"b" * 32, 1)):
        run = tell_run(story, run_id, noise=noise)
        tasks: list[tuple[TaskRef, int | None, dict[str, str]]]
        if is_parameter:
            tasks = [(run.task("_parameters", "0"), None, {"parameter": "alpha"})]
        else:
            tasks = [(run.task("fit", task_id), 0, {}) for task_id in ("2", "3", "4")]
        for task, attempt, facts in tasks:
            story.tell(kinds.external_used(task, attempt, "/data.csv", "read", digest, 1, facts))
    diff = story.store().diff("F/1", "F/2")
    assert causes(diff) == [("input /data.csv", ["fit/score 3", "join/total 1"])]


def test_a_changed_graph_is_explained_by_its_code(story: Story) -> None:
    tell_run(story, "1")
    steps = [WAYS[0], {**WAYS[1], "decorators": ["retry"]}, *WAYS[2:]]
    tell_run(story, "2", body="3", graph={**GRAPH, "steps": steps})
    by_id = {d.id: d for d in story.store().diff("F/1", "F/2").differences}
    assert by_id["graph fit"].because == ("code f.py:F.fit",)
    assert by_id["graph fit"].b == "linear to join with retry"


def test_runs_of_different_flows_are_compared_where_they_can_be(story: Story) -> None:
    tell_run(story, "1")
    tell_run(story, "2", flow="G", alpha=1.5)
    diff = story.store().diff("F/1", "G/2")
    assert "different flows" in diff.notes[0]
    assert {d.kind for d in diff.differences} >= {"flow", "parameter", "artifact"}
    assert "different flows" in diff.text()


def test_contents_are_looked_into_when_asked(story: Story) -> None:
    tell_run(story, "1", items=(1, 2, 3))
    tell_run(story, "2", items=(1, 5, 3))
    diff = story.store().diff("F/1", "F/2")
    found = diff.contrast("artifact start/items")
    assert found is not None
    assert [tuple(part) for part in found.parts] == [("[1]", "2", "5")]
    assert diff.contrast("parameter alpha") is None


def test_a_diff_is_shown_as_json_and_in_notebooks(story: Story) -> None:
    tell_run(story, "1")
    tell_run(story, "2", alpha=1.5)
    diff = story.store().diff("F/1", "F")
    document = json.loads(diff.json())
    assert document == diff.document() | {"a": document["a"], "b": document["b"]}
    assert document["a"]["started_at"] == f"{diff.a.started_at.isoformat()}Z"  # type: ignore[union-attr]
    assert document["artifacts"] == {"equal": 4, "changed": 4, "only_a": 0, "only_b": 0}
    assert document["causes"][0]["id"] == "parameter alpha"
    assert any(d["contrast"] for d in document["differences"])
    html = diff._repr_html_()
    assert "<table>" in html
    assert "alpha" in html


@pytest.mark.parametrize(
    ("target", "words"), [("F/9", "Near names: 1"), ("H/1", "Near names: F"), ("H", "Near names: F")]
)
def test_an_unknown_run_gets_near_names(story: Story, target: str, words: str) -> None:
    tell_run(story, "1")
    with pytest.raises(NotFound, match=words):
        story.store().diff("F/1", target)


def test_more_than_a_run_is_refused(story: Story) -> None:
    tell_run(story, "1")
    with pytest.raises(UsageError, match="names more than a run"):
        story.store().diff("F/1", "F/1/fit")


def test_a_circle_in_a_damaged_record_ends(story: Story) -> None:
    """Two tasks that say they read each other: no run does that, and a merge of damaged stores may."""
    for run_id, value in (("1", 1), ("2", 2)):
        run = story.run("F", run_id, graph=GRAPH)
        a, b = (
            story.task(run, "start", "1", is_done=False, x=value),
            story.task(run, "end", "2", is_done=False, y=value),
        )
        read(story, a, "y", value, b)
        read(story, b, "x", value, a)
        story.end(run)
    diff = story.store().diff("F/1", "F/2")
    assert {d.id for d in diff.differences} >= {"artifact start/x", "artifact end/y"}
    assert diff.causes


def test_code_whose_bytes_are_gone_is_not_compared(story: Story) -> None:
    for run_id in "12":
        run = RunRef(run_id.encode().rjust(16, b"."), "F", run_id)
        story.tell(kinds.run_started(run, run_id.encode() * 32, {"graph": GRAPH}))
        story.end(run)
    assert story.store().diff("F/1", "F/2").code == []


def test_steps_come_in_one_order_where_no_graph_says_which(story: Story) -> None:
    """Those of the first run as they came, then the others."""
    for run_id, steps in (("1", ("load", "fit")), ("2", ("start", "load", "show"))):
        run = story.run("F", run_id)
        for number, step in enumerate(steps, start=1):
            story.task(run, step, str(number), x=1)
        story.end(run)
    with story.store() as store:
        for _ in range(20):
            assert [times.step for times in store.diff("F/1", "F/2").times] == [
                "load",
                "fit",
                "start",
                "show",
            ]


@pytest.mark.parametrize("held_max", [4_000, 0])
def test_of_a_parameter_that_is_told_twice_the_first_counts_as_in_the_view(
    story: Story, held_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.lineage.held._EVENTS_MAX", held_max)
    for run_id, values in (("1", (1, 5)), ("2", (2, 4)), ("3", (1, 3))):
        run = story.run("F", run_id)
        for value in values:
            story.parameter(run, "alpha", value)
        story.end(run)
    with story.store() as store:
        shown = dict(store.rows("select run_id, value from parameters"))
        (changed,) = store.diff("F/1", "F/2").differences
        assert (changed.a, changed.b) == (shown["1"], shown["2"]) == ("1", "2")
        assert not store.diff("F/1", "F/3").differences
