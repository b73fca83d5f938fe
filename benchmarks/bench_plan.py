"""Resume as a plan: what it costs to say what would become of each task, and to reuse them all; reuse by a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import best_of, run_python
from benchmarks.report import Figure, answer_of
from benchmarks.workloads import Size, plan_source

__all__ = ["measure_plan"]

_BARE = "python -c pass"


def measure_plan(size: Size, seed: int, folder: str) -> tuple[list[Figure], str]:
    """A foreach of `plan_wide` items and its join, done; planned with everything compared, resumed, and run with reuse."""
    Path(folder, "flow.py").write_text(plan_source(size.plan_wide), encoding="utf-8")
    run_python(["flow.py", "--quiet", "run", "--isolation", "inline", "--run-id-file", "run-id"], folder)
    origin = ["--from", Path(folder, "run-id").read_text(encoding="utf-8").strip(), "--changed"]
    plan = ["flow.py", "resume", *origin, "--plan", "--json"]
    repeats = min(size.repeats, 3)
    bare_s, plan_s, resume_s, reuse_s = best_of(
        repeats,
        lambda: run_python(["-c", "pass"], folder).wall_s,
        lambda: run_python(plan, folder).wall_s,
        lambda: run_python(["flow.py", "--quiet", "resume", *origin], folder).wall_s,
        lambda: run_python(["flow.py", "--quiet", "run", "--reuse"], folder).wall_s,
    )
    done = subprocess.run([sys.executable, *plan], cwd=folder, check=True, capture_output=True)
    tasks = f"{size.plan_wide + 3:,} tasks"
    figures = [
        Figure("python -c pass", bare_s * 1e3, "ms"),
        Figure(f"resume --changed --plan of {tasks}", plan_s, "s", plan_s / bare_s, _BARE, "1 s"),
        Figure(f"resume --changed of {tasks}, all reused", resume_s, "s", resume_s / bare_s, _BARE, "2 s"),
        Figure(f"run --reuse of {tasks}, all reused", reuse_s, "s", reuse_s / bare_s, _BARE),
    ]
    return figures, answer_of(json.loads(done.stdout)["counts"])
