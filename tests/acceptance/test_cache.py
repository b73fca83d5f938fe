"""`@cache` and `--reuse`: finished tasks of earlier ordinary runs stand in, where code and reads are the same."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.conftest import Project
from weft.lineage.store import open_store

if TYPE_CHECKING:
    from tests.conftest import Run

FLOW = """
    import os
    from weft import cache, track
    def scale(x, by):
        return x * by
    class Sums(FlowSpec):
        by = Parameter("by", default=2)
        items = Parameter("items", default="1,2,3")
        @step
        def start(self):
            self.xs = [int(text) for text in self.items.split(",")]
            self.next(self.each, foreach="xs")
        @cache
        @step
        def each(self):
            self.y = scale(self.input, self.by)
            self.next(self.join)
        @cache
        @step
        def join(self, inputs):
            self.ys = [branch.y for branch in inputs]
            self.next(self.end)
        @step
        def end(self):
            self.total = sum(self.ys)
    if __name__ == "__main__":
        Sums()
    """


def _reused(run: Run) -> set[str]:
    return {place for place, status in run.statuses.items() if status == "reused"}


def _code_edits() -> list[tuple[str, str, bool]]:
    return [
        ("return x * by", "return x * by  # a note", True),
        ("return x * by", "'''Scaled.'''\n        return (x * by)", True),
        ("return x * by", "return by * x", False),
        ("def scale(x, by)", "def unused():\n        return 1\n    def scale(x, by)", True),
        ('"by", default=2', '"by", default=4', False),
        ("self.y = scale", "self.y = 0 + scale", False),
    ]


def test_cached_steps_are_reused_across_runs_and_others_run(project: Project) -> None:
    project.write(FLOW)
    first = project.run()
    assert not _reused(first)
    second = project.run()
    assert _reused(second) == {"each[0]", "each[1]", "each[2]", "join"}
    assert second.saved("end") == {"total": 12}
    other = project.run("--by", "3")
    assert not _reused(other)
    # A value that was used before the last run is found again.
    assert _reused(project.run("--by", "2")) == _reused(second)


def test_reuse_holds_for_all_steps_and_no_reuse_for_none(project: Project) -> None:
    project.write(FLOW)
    project.run()
    assert set(project.run("--reuse").statuses.values()) == {"reused"}
    assert not _reused(project.run("--no-reuse"))
    plain = FLOW.replace("        @cache\n", "")
    project.write(plain)
    assert not _reused(project.run())
    assert set(project.run("--reuse").statuses.values()) == {"reused"}
    assert "each[0]" in _reused(project.run("--with", "cache"))


@pytest.mark.parametrize(("old", "new", "is_reused"), _code_edits())
def test_edit_counts_as_it_does_in_a_resume(project: Project, old: str, new: str, is_reused: bool) -> None:
    project.write(FLOW)
    project.run()
    project.write(FLOW.replace(old, new))
    run = project.run()
    assert ("each[0]" in _reused(run)) is is_reused
    fresh = project.run("--no-reuse")
    assert run.saved("end") == fresh.saved("end")


def test_item_is_found_wherever_it_stands_in_the_list(project: Project) -> None:
    project.write(FLOW)
    project.run()
    moved = project.run("--items", "9,3,1")
    assert _reused(moved) == {"each[1]", "each[2]"}
    assert moved.saved("end") == {"total": 26}


def test_step_that_asks_for_its_place_is_reused_only_there(project: Project) -> None:
    source = FLOW.replace("self.y = scale(self.input, self.by)", "self.y = (self.input, self.index)")
    project.write(source.replace("sum(self.ys)", "self.ys"))
    project.run("--items", "1,2,3")
    moved = project.run("--items", "3,2,1")
    assert _reused(moved) == {"each[1]"}
    assert moved.saved("end") == {"total": [(3, 0), (2, 1), (1, 2)]}


def test_list_that_is_reused_brings_its_items_along(project: Project) -> None:
    source = FLOW.replace("int(text) for", 'int(text) * (b"x" * 900 != 0) for').replace(
        "        @step\n        def start", "        @cache\n        @step\n        def start"
    )
    project.write(source.replace("scale(self.input, self.by)", "scale(self.input, self.by) + 1"))
    project.run()
    project.write(source.replace("scale(self.input, self.by)", "scale(self.input, self.by) + 2"))
    run = project.run()
    assert _reused(run) == {"start"}
    assert run.saved("end") == {"total": 18}


def test_tracked_file_counts_by_its_content(project: Project) -> None:
    project.write(FLOW.replace("scale(self.input, self.by)", "int(open(track('by.txt')).read())"))
    path = project.folder / "by.txt"
    path.write_text("5")
    project.run()
    path.write_text("6")
    changed = project.run()
    assert not _reused(changed)
    assert changed.saved("end") == {"total": 18}
    path.write_text("5")
    os.utime(path, (1, 1))
    back = project.run()
    assert "each[0]" in _reused(back)
    assert back.saved("end") == {"total": 15}


def test_finished_tasks_of_a_run_that_failed_stand_in(project: Project) -> None:
    project.write(FLOW.replace("self.total = sum(self.ys)", "raise ValueError(1)"))
    project.fail()
    project.write(FLOW)
    assert "join" in _reused(project.run())


def test_tasks_of_a_scheduler_that_was_killed_stand_in(project: Project) -> None:
    waiting = FLOW.replace(
        "self.total = sum",
        "import time\n            print('here', flush=True)\n            time.sleep(60 * (os.environ.get('HOLD') == '1'))\n            self.total = sum",
    )
    project.write(waiting)
    process = project.start("run", HOLD="1")
    assert process.stdout is not None
    while b"here" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "join" in _reused(project.run())


def test_caught_failure_is_tried_again(project: Project) -> None:
    source = FLOW.replace(
        "        @cache\n        @step\n        def join", "        @step\n        def join"
    ).replace(
        "        @cache\n        @step\n        def each",
        "        @catch(var='problem')\n        @cache\n        @step\n        def each",
    )
    source = source.replace(
        "self.y = scale", "self.y = 0\n            assert os.path.exists('ready')\n            self.y = scale"
    )
    project.write(source)
    project.run()
    (project.folder / "ready").write_text("")
    run = project.run()
    assert not _reused(run)
    assert run.saved("end") == {"total": 12}
    assert "each[0]" in _reused(project.run())


def test_task_whose_artifacts_are_gone_runs(project: Project) -> None:
    project.write(FLOW.replace("self.y = scale", "self.big = b'x' * 9000\n            self.y = scale"))
    project.run()
    for path in (project.store / "objects").rglob("*"):
        if path.is_file() and path.stat().st_size > 8000:
            path.unlink()
    run = project.run()
    assert _reused(run) == {"join"}
    why = next(e for e in run.events("task_created") if e.step == "each").payload or {}
    assert "its artifacts are gone: big" in why["why"]["reason"]


def test_runs_of_others_are_not_believed_unless_trusted(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project.write(FLOW)
    project.run(WEFT_USER="grace")
    assert not _reused(project.run("--by", "2"))
    far = Project(tmp_path_factory.mktemp("far"))
    far.write(FLOW)
    far.run("--by", "7")
    pulled = project.call_in(project.folder, [*_weft(), "pull", str(far.store)])
    assert pulled.code == 0, pulled.err
    assert not _reused(project.run("--by", "7", "--no-reuse"))
    far.run("--by", "8")
    assert project.call_in(project.folder, [*_weft(), "pull", str(far.store)]).code == 0
    assert "join" in _reused(project.run("--by", "8", "--trust"))


def test_ten_concurrent_runs_of_one_cached_flow(project: Project) -> None:
    """Whatever each finds done, all come to the same, and what came of it is in the record of each."""
    project.write(FLOW)
    project.run("--items", "1,2,3,4")
    started = [
        project.start("run", "--items", f"1,2,3,4,{5 + n % 2}", "--max-workers", "2") for n in range(10)
    ]
    for process in started:
        assert process.stdout is not None
        text = process.stdout.read().decode()
        assert process.wait(60) == 0, text
    runs = project.runs()[1:]
    assert len({run.run_id for run in runs}) == 10
    for run in runs:
        last = run.saved("start")["xs"][-1]
        assert run.saved("end") == {"total": 2 * (10 + last)}
        assert {f"each[{i}]" for i in range(4)} <= _reused(run)
    assert set(project.run("--items", "1,2,3,4,6", "--reuse").statuses.values()) == {"reused"}
    done = project.call_in(project.folder, [*_weft(), "verify"])
    assert done.code == 0, done.err


def test_why_explains_reuse_of_ordinary_runs_in_the_same_way(project: Project) -> None:
    project.write(FLOW)
    first = project.run()
    second = project.run("--items", "1,2,5")
    with open_store(str(project.store)) as store:
        reused = store.why(f"Sums/{second.run_id}/each/{second.tasks['each[0]'].task_id}")
        ran = store.why(f"Sums/{second.run_id}/each/{second.tasks['each[2]'].task_id}")
        ((count,),) = store.sql(
            "select sum(tasks_reused) from steps where run_id = $r", r=second.run_id
        ).fetchall()
    origin = f"Sums/{first.run_id}/each/{first.tasks['each[0]'].task_id}"
    assert reused.reason == f"It was reused: same code and reads as {origin}."
    assert (reused.is_forced, {part.state for part in reused.parts}) == (False, {"equal"})
    assert ran.reason == "It ran because no finished task had the same code and reads."
    assert ran.is_forced
    assert count == 2


def test_flow_may_have_parameters_called_reuse_and_trust(project: Project) -> None:
    source = FLOW.replace('"by", default=2', '"reuse", default=2').replace(
        "by = Parameter", "reuse = Parameter"
    )
    source = source.replace("self.by", "self.reuse").replace(
        "items = Par", 'trust = Parameter("trust", default="t")\n        items = Par'
    )
    project.write(source)
    project.run("--reuse", "3", "--trust", "yes")
    run = project.run("--reuse", "3")
    assert "join" in _reused(run)
    assert run.saved("end") == {"total": 18}


def test_resume_of_a_cached_run_goes_on_from_it(project: Project) -> None:
    project.write(FLOW)
    project.run()
    project.write(
        FLOW.replace("self.total = sum(self.ys)", "self.total = sum(self.ys) / (os.environ.get('OK') == '1')")
    )
    project.fail()
    run = project.resume(OK="1")
    assert run.statuses["start"] == "reused"
    assert run.statuses["end"] == "succeeded"
    assert run.saved("end") == {"total": 12.0}
    with open_store(str(project.store)) as store:
        origins = store.sql(
            "select distinct split_part(origin_pathspec, '/', 2) from tasks where run_id = $r and step = 'each'",
            r=run.run_id,
        ).fetchall()
    assert origins == [(project.runs()[0].run_id,)]


def _weft() -> list[str]:
    import sys

    return [sys.executable, "-m", "weft"]
