"""A run that is at work while its store is pushed or copied, and resumed there: what it says later is believed.

Real processes; the lease is made to run out by a clock that is five minutes ahead, for which a C compiler is needed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.simulation.test_wrong_clock import CLOCK
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.verify import verify

if TYPE_CHECKING:
    from tests.conftest import Done, Project

FLOW = """
    import os, time
    class Live(FlowSpec):
        @step
        def start(self):
            self.x = 1
            self.next(self.wait)
        @step
        def wait(self):
            os.write(1, b"here\\n")
            while not os.path.exists("go") and not os.environ.get("GO"):
                time.sleep(0.02)
            self.y = self.x + 1
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        Live()
    """


@pytest.fixture
def ahead(tmp_path: Path) -> str:
    """The path of a library under which it is five minutes later."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    source, library = tmp_path / "ahead.c", tmp_path / "ahead.so"
    source.write_text(CLOCK.replace("-= 86400", "+= 300"))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return str(library)


def _weft(project: Project, *arguments: str, **environment: str) -> Done:
    return project.call_in(
        project.folder, [sys.executable, "-m", "weft", *arguments], os.environ | environment
    )


def _statuses(project: Project, store: Path, **environment: str) -> list[str]:
    """Of the runs of a store, oldest first."""
    done = _weft(project, "--store", str(store), "runs", "--json", **environment)
    assert done.code == 0, done.err
    return [run["status"] for run in reversed(json.loads(done.out))]


def _begin(project: Project) -> tuple[subprocess.Popen[bytes], str]:
    """A run that has come to its second step, and waits there for the file `go`."""
    project.write(FLOW)
    process = project.start("run")
    assert process.stdout is not None
    assert any(line.endswith(b"here\n") for line in process.stdout)
    return process, project.newest().run_id


def _finish(project: Project, process: subprocess.Popen[bytes]) -> None:
    (project.folder / "go").touch()
    process.communicate(timeout=60)
    assert process.returncode == 0


def _check_both(project: Project, other: Path, run_id: str) -> None:
    """Both stores say the same of the run, all of which is believed; nothing in them is damaged."""
    for store in (project.store, other):
        assert _statuses(project, store) == ["succeeded", "succeeded"]
        log = EventLog(LocalStorage(str(store)))
        assert not [event for event in log.events() if event.kind == "run_lost"]
        saved = _weft(
            project,
            "--store",
            str(store),
            "sql",
            f"select value from artifacts where run_id = '{run_id}' and name = 'y'",
        )
        assert "2" in saved.out.split(), saved
        assert verify(log.storage, is_deep=True).problems == []


@pytest.mark.parametrize("is_sealed", [False, True])
def test_run_that_was_pushed_and_resumed_there_while_it_went_on(
    project: Project, tmp_path: Path, ahead: str, is_sealed: bool
) -> None:
    process, run_id = _begin(project)
    far = tmp_path / "far"
    assert _weft(project, "push", str(far)).code == 0
    if is_sealed:
        EventLog(LocalStorage(str(far))).seal(force=True, grace_s=-1)
    # No lock there tells of its scheduler: as long as its lease is good it is at work, then it is lost.
    assert _statuses(project, far) == ["running"]
    resume = ("--store", str(far), "resume", "--origin-run-id", run_id)
    refused = project.call(*resume, GO="1")
    assert refused.code == 2, refused.err
    assert "is still running" in refused.err
    assert _statuses(project, far, LD_PRELOAD=ahead) == ["lost"]
    done = project.call(*resume, GO="1", LD_PRELOAD=ahead)
    assert done.code == 0, done.err
    _finish(project, process)
    assert _weft(project, "push", str(far)).code == 0
    assert _weft(project, "pull", str(far)).code == 0
    _check_both(project, far, run_id)


def test_run_whose_store_was_copied_and_that_was_resumed_there_while_it_went_on(
    project: Project, tmp_path: Path
) -> None:
    process, run_id = _begin(project)
    copy = tmp_path / "copy"
    shutil.copytree(project.store, copy)
    # The copy is a store like the first one, and nobody goes on in it.
    assert _statuses(project, copy) == ["lost"]
    done = project.call("--store", str(copy), "resume", "--origin-run-id", run_id, GO="1")
    assert done.code == 0, done.err
    _finish(project, process)
    assert _weft(project, "push", str(copy)).code == 0
    assert _weft(project, "pull", str(copy)).code == 0
    _check_both(project, copy, run_id)
