"""`weft push` and `weft pull`, as they are typed."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Project
from tests.servers import S3
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.paths import OBJECTS
from weft.lineage.store import open_store
from weft.lineage.verify import verify

FLOW = """
    class SmallFlow(FlowSpec):
        @step
        def start(self):
            self.text = "x" * 9000
            self.next(self.end)

        @step
        def end(self):
            self.size = len(self.text)

    SmallFlow()
"""


@pytest.fixture
def project(project: Project) -> Project:
    project.write(FLOW)
    assert project.call("run").code == 0
    return project


def _weft(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("WEFT")}
    return subprocess.run(
        [sys.executable, "-m", "weft", *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def _events(store: Path) -> list[object]:
    return [*EventLog(LocalStorage(str(store))).events()]


def test_push_makes_a_store_and_says_what_it_sent(project: Project) -> None:
    other = project.folder / "other"
    done = _weft(project.folder, "push", "other")
    assert (done.returncode, done.stderr) == (0, "")
    count = len(_events(project.store))
    assert done.stdout.startswith(f"sent {count} events in 1 file and 3 objects (")
    assert done.stdout.strip().endswith(f"to {other}")
    assert _events(other) == _events(project.store)
    again = _weft(project.folder, "push", "other", "--json")
    assert json.loads(again.stdout) == {
        "is_complete": True,
        "events": 0,
        "segments": 0,
        "journals": 0,
        "objects": 0,
        "size_bytes": 0,
        "left": [],
    }


def test_pull_into_a_named_folder_makes_a_store_that_answers(project: Project) -> None:
    done = _weft(project.folder, "--store", "mine", "pull", str(project.store))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("brought ")
    with open_store(str(project.folder / "mine")) as store:
        assert store.sql("select status from runs").fetchall() == [("succeeded",)]
        assert store.verify().problems == []
    assert (project.folder / "mine" / ".gitignore").read_text() == "*\n"


def test_pull_and_push_between_two_projects_meet_in_the_same_events(project: Project) -> None:
    other = project.folder / "other"
    assert project.call("--store", str(other), "run").code == 0
    for arguments in (("push", "other"), ("pull", "other"), ("push", "other")):
        assert _weft(project.folder, *arguments).returncode == 0
    assert _events(other) == _events(project.store)
    with open_store(str(other)) as store:
        assert store.sql("select count(*) from runs").fetchall() == [(2,)]


def test_push_of_a_missing_object_names_who_needs_it(project: Project) -> None:
    storage = LocalStorage(str(project.store))
    path = max(storage.list(OBJECTS), key=storage.size)
    storage.delete(path)
    done = _weft(project.folder, "push", "other")
    assert done.returncode == 1
    assert f"left {path}: Object sha256:" in done.stdout
    assert "/start/1/text need" in done.stdout
    assert "then repeat this." in done.stdout
    assert _events(project.folder / "other") == _events(project.store)
    assert len(verify(LocalStorage(str(project.folder / "other"))).problems) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("push", ".weft"), 2, "is this store itself"),
        (("pull", "nowhere"), 2, "There is no store at"),
        (("--store", "nowhere", "push", "other"), 2, "There is no store at"),
        (("--as-of", "2026-01-01", "push", "other"), 2, "Leave --as-of out."),
        (("push",), 2, "Missing argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_push_and_pull_refuse_in_one_sentence(
    project: Project, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = _weft(project.folder, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project.folder / "nowhere").exists()
    assert not (project.folder / "other").exists()


def test_pull_without_a_store_here_names_the_option(tmp_path: Path) -> None:
    done = _weft(tmp_path, "pull", "nowhere")
    assert done.returncode == 2
    assert "--store" in done.stderr


def test_push_to_an_object_store_and_pull_from_it(project: Project, s3: S3) -> None:
    url = s3.new_url()
    done = _weft(project.folder, "push", url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().endswith(f"to {url}")
    runs = json.loads(_weft(project.folder, "--store", url, "runs", "--json").stdout)
    assert [run["status"] for run in runs] == ["succeeded"]
    puts = len(s3.puts(url))
    assert _weft(project.folder, "push", url).stdout.startswith("sent 0 events")
    assert len(s3.puts(url)) == puts
    assert _weft(project.folder, "--store", "mine", "pull", url).returncode == 0
    assert _events(project.folder / "mine") == _events(project.store)
    assert verify(LocalStorage(str(project.folder / "mine"))).problems == []


def test_push_shows_bars_on_a_terminal_only(project: Project) -> None:
    leader, follower = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "weft", "push", "other", "--json"],
            cwd=project.folder,
            stdout=subprocess.PIPE,
            stderr=follower,
            check=False,
        )
    finally:
        os.close(follower)
    shown = os.read(leader, 65_536).decode()
    os.close(leader)
    assert done.returncode == 0
    assert json.loads(done.stdout)["is_complete"]
    assert "objects" in shown
    assert "100%" in shown
