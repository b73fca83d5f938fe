"""Every benchmark runs at its tiny size and finds the right answer; how fast is nobody's business here."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent

SEED = 17
NUMBERS = [(SEED * 2654435761 + item) % 2**32 for item in range(4)]

#: What the tiny size computes: lengths of runs in tasks, sums, lines printed, events and bytes written.
ANSWERS: dict[str, Any] = {
    "hello": [3],
    "steps": [3, 5],
    "wide": [[7], float(sum(NUMBERS)), 12],
    "resume": 0.0 + 1 + 4,
    "plan": {"reuse": 9},
    "diff": [0, 0, 5],
}

#: Hashes of the seeded history as it was read back: from journals, then from a segment.
HISTORY = "000b6c27610220cd"
LINEAGE = "1ede0ce64b21462c"
RUNS = "d408e44efc0c578c"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("benchmarks")
    path = folder / "report.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--size",
        "tiny",
        "--folder",
        str(folder),
        "--json",
        str(path),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", ANSWERS)
def test_benchmark_finds_the_right_answer(report: dict[str, Any], name: str) -> None:
    assert report["answers"][name] == _hash(ANSWERS[name])


def test_history_is_the_same_read_and_sealed(report: dict[str, Any]) -> None:
    assert report["answers"]["read"] == report["answers"]["seal"] == HISTORY


def test_runs_are_listed(report: dict[str, Any]) -> None:
    assert report["answers"]["list"] == RUNS


def test_lineage_is_walked(report: dict[str, Any]) -> None:
    assert report["answers"]["lineage"] == LINEAGE


def test_benchmarks_all_have_figures(report: dict[str, Any]) -> None:
    assert set(report["figures"]) == set(report["answers"])
    assert {*ANSWERS, "append", "read", "seal", "list", "scale", "lineage", "commands"} == set(
        report["answers"]
    )
    for figures in report["figures"].values():
        assert figures
        assert all(figure["name"] and figure["unit"] for figure in figures)


def _hash(answer: Any) -> str:
    return hashlib.sha256(json.dumps(answer, sort_keys=True).encode()).hexdigest()[:16]


def test_report_says_where_and_on_what(report: dict[str, Any]) -> None:
    assert {"commit", "cpu", "cores", "file_system", "python", "seed", "size", "versions"} <= set(report)
    assert report["size"] == "tiny"


def test_unknown_benchmark_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "speed"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "speed" in done.stderr
