from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from weft import DataArtifact, Flow, Metaflow, Run, Step, Task, get_namespace, namespace
from weft.lineage import events as kinds
from weft.lineage.errors import NotFound, UsageError
from weft.lineage.events import Level


@pytest.fixture
def told(story: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two runs of Hello: the first failed at its end, the second resumed it."""
    monkeypatch.setenv("WEFT_STORE", str(tmp_path / "store"))
    first = story.run("Hello", "1")
    story.parameter(first, "alpha", 3)
    story.tell(kinds.tag_added(first, "user:me", "system"))
    start = story.task(first, "start", "1", x={"a": 1}, big=[0])
    fit = story.task(
        first, "fit", "2", (start,), (Level("fit", "xs", 4, 9, "x"),), reads=(("x", start),), y=2
    )
    join = story.task(first, "join", "3", (fit,), z=1)
    story.merge(join, "big", start)
    end = story.task(first, "end", "4", (join,), is_done=False, partial=1)
    story.tell(kinds.attempt_failed(end, 0, "builtins.ValueError", {"message": "bad", "traceback": "tb"}))
    story.end(first, "failed", root_cause=end.pathspec)
    second = story.run("Hello", "2", origin_run_id="1", origin_run_uid=first.run_uid.hex())
    story.parameter(second, "alpha", 3)
    story.tell(kinds.tag_added(second, "nice", "user"))
    again = [story.reuse(second, start)]
    for task in (fit, join):
        again.append(story.reuse(second, task, (again[-1],)))
    story.task(second, "end", "9", (again[-1],), reads=(("z", join),), out="done")
    story.end(second)
    return story


def test_flows_and_runs_come_newest_first(told: Any) -> None:
    assert Metaflow().flows == [Flow("Hello")]
    assert [flow.id for flow in Metaflow()] == ["Hello"]
    assert "Hello" in Metaflow()
    flow = Metaflow()["Hello"]
    assert [run.id for run in flow] == ["2", "1"]
    assert [run.id for run in flow.runs("nice")] == ["2"]
    assert flow.latest_run == flow.latest_successful_run == Run("Hello/2")
    assert flow["1"].parent == flow
    assert "3" not in flow


def test_a_run_tells_how_it_went(told: Any) -> None:
    bad, good = Run("Hello/1"), Run("Hello/2")
    assert (good.status, good.finished, good.successful) == ("succeeded", True, True)
    assert (bad.status, bad.finished, bad.successful) == ("failed", False, False)
    assert good.end_task == Task("Hello/2/end/9")
    assert (bad.end_task, bad.data, bad.code) == (None, None, None)
    assert good.data is not None
    assert good.data.out == "done"
    assert good.origin_pathspec == "Hello/1"
    assert bad.origin_pathspec is None
    assert good.finished_at is not None
    assert good.created_at is not None
    assert good.user_tags == good.tags == {"nice"}
    assert bad.system_tags == {"user:me"}
    assert {step.id for step in good.steps()} == {"start", "fit", "join", "end"}
    assert list(good.steps("other")) == []


def test_a_task_sees_what_it_inherited_merged_and_the_parameters(told: Any) -> None:
    task = Run("Hello/1")["fit"].task
    assert task.data.x == {"a": 1}
    assert task.data.alpha == 3
    assert task.data.y == 2
    assert sorted(task.data) == ["alpha", "big", "x", "y"]
    join = Task("Hello/1/join/3")
    assert sorted(join.data) == ["alpha", "big", "z"]
    assert join.data.big == [0]
    assert [artifact.id for artifact in join] == ["alpha", "big", "z"]
    assert join.artifacts.big.data == [0]
    assert "x" not in join
    with pytest.raises(AttributeError, match="no artifact 'x'"):
        _ = join.data.x
    with pytest.raises(KeyError):
        join["x"]


def test_a_reused_task_stands_for_its_origin(told: Any) -> None:
    task = Task("Hello/2/fit/2")
    assert (task.status, task.finished, task.successful) == ("reused", True, True)
    assert task.origin_pathspec == "Hello/1/fit/2"
    assert (task.data.y, task.data.x) == (2, {"a": 1})
    assert task["y"].origin_pathspec == "Hello/1/fit/2/y"
    assert Task("Hello/2/end/9").data.big == [0]


def test_a_failed_task_keeps_its_error_and_artifacts(told: Any) -> None:
    task = Task("Hello/1/end/4")
    assert (task.status, task.finished, task.successful) == ("failed", False, False)
    assert task.exception is not None
    assert (task.exception.type, task.exception.message, str(task.exception)) == (
        "builtins.ValueError",
        "bad",
        "tb",
    )
    assert task.data.partial == 1
    assert Task("Hello/2/end/9").exception is None


def test_attempts_are_chosen_by_number(told: Any) -> None:
    run = told.run("Again", "1")
    task = told.task(run, "start", "1", is_done=False, x="first")
    told.tell(kinds.attempt_failed(task, 0, "E", {"message": "m"}), kinds.retry_scheduled(task, 1, 0.0))
    told.tell(kinds.attempt_started(task, 1, 1, "h"))
    told.tell(kinds.artifact_saved(task, 1, "x", told.content("second")))
    told.tell(kinds.attempt_caught(task, 1, "E", {"message": "m"}, {"next": []}))
    last, first = Task(task.pathspec), Task(task.pathspec, attempt=0)
    assert (last.data.x, first.data.x) == ("second", "first")
    assert (last.exception, first.exception is None) == (None, False)
    assert (last.finished, last.successful, last.current_attempt) == (True, False, 1)
    assert last != first
    with pytest.raises(NotFound, match="no attempt 7"):
        Task(task.pathspec, attempt=7)


def test_artifacts_tell_their_digest_and_size(told: Any) -> None:
    artifact = DataArtifact("Hello/2/end/9/z")
    assert artifact.data == 1
    assert artifact.sha.startswith("sha256:")
    assert (artifact.type, artifact.size, artifact.serializer) == ("int", 1, "plain/1")
    assert artifact.producer_pathspec == "Hello/1/join/3"
    assert artifact.parent == Task("Hello/2/end/9")
    assert artifact.created_at == artifact.finished_at


def test_artifacts_that_were_listed_are_not_looked_for_again(told: Any) -> None:
    task = Task("Hello/2/end/9")
    with mock.patch.object(task._store, "rows", wraps=task._store.rows) as asked:
        artifacts = list(task)
        for_names = asked.call_count
        assert [artifact.id for artifact in artifacts] == ["alpha", "big", "out", "x", "y", "z"]
        assert all(artifact.size for artifact in artifacts)
        assert asked.call_count == for_names + len(artifacts)
    assert [artifact.producer_pathspec for artifact in artifacts[:2]] == [
        "Hello/2/_parameters/0",
        "Hello/1/start/1",
    ]
    assert artifacts == [DataArtifact(artifact.pathspec) for artifact in artifacts]


def test_tasks_know_their_place(told: Any) -> None:
    task = Task("Hello/1/fit/2")
    assert (task.index, Task("Hello/1/start/1").index) == (4, None)
    assert task.parent_tasks == [Task("Hello/1/start/1")]
    assert task.child_tasks == [Task("Hello/1/join/3")]
    assert task.metadata_dict["foreach-execution-path"] == "fit:4"
    assert Task("Hello/2/fit/2").metadata_dict["origin-run-id"] == "1"
    assert task.stdout == ""
    assert list(task.loglines("stderr")) == []
    assert task.path_components == ["Hello", "1", "fit", "2"]


def test_objects_pickle_and_compare(told: Any) -> None:
    for found in (Flow("Hello"), Run("Hello/1"), Step("Hello/1/fit"), Task("Hello/1/fit/2", attempt=0)):
        copy = pickle.loads(pickle.dumps(found))
        assert copy == found
        assert hash(copy) == hash(found)
        assert repr(copy) == repr(found)
    assert Run("Hello/1") != Run("Hello/2")
    assert "Hello/1" in Run("Hello/1")._repr_html_()


def test_what_is_not_there_is_named_with_near_names(told: Any) -> None:
    with pytest.raises(NotFound, match="Hello"):
        Flow("Helo")
    with pytest.raises(NotFound, match="no run Hello/7"):
        Run("Hello/7")
    with pytest.raises(NotFound, match="fit"):
        Step("Hello/1/fti")
    with pytest.raises(NotFound, match="There is no flow"):
        Task("Nope/1/fit/2")
    with pytest.raises(UsageError, match="Flow/run"):
        Run("Hello")


def test_namespace_narrows_what_is_seen(told: Any) -> None:
    assert get_namespace() is None
    try:
        namespace("user:me")
        assert [run.id for run in Flow("Hello")] == ["1"]
        assert Flow("Hello").latest_successful_run is None
        with pytest.raises(NotFound, match=r"namespace\(None\)"):
            Run("Hello/2")
        namespace("user:nobody")
        assert Metaflow().flows == []
    finally:
        namespace(None)


def test_code_of_a_run_is_its_files(told: Any) -> None:
    import json

    sha = told.objects.put([b"print(1)\n"]).hex()
    manifest = told.objects.put([json.dumps({"entry": "flow.py", "files": {"flow.py": sha}}).encode()])
    run = kinds.RunRef(b"c" * 16, "Coded", "1")
    told.tell(kinds.run_started(run, manifest, {"user": "me"}))
    code = Run("Coded/1").code
    assert code is not None
    assert (code.entry, code.flowspec) == ("flow.py", "print(1)\n")
