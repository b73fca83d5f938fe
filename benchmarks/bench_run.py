"""Running flows: what a process, a step, a wide foreach and a resume cost."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.measure import Cost, bare_forks_s, bare_syncs_s, best_of, run_python
from benchmarks.report import Figure, answer_of
from benchmarks.workloads import Size, chain_source, resume_source, wide_source
from weft.lineage.description import STORE_FOLDER
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog

__all__ = ["measure_hello", "measure_resume", "measure_steps", "measure_wide"]

_BARE = "python -c pass"
_FRAME_BYTES = 300
_MEGABYTE = 1 << 20

_HELLO_STEPS = 3
_WORKERS = 2


def measure_hello(size: Size, seed: int, folder: str) -> tuple[list[Figure], str]:
    """Three linear steps that do nothing: the whole process, store and all."""
    Path(folder, "hello.py").write_text(chain_source(_HELLO_STEPS), encoding="utf-8")
    bare_s, hello_s = best_of(
        3 * size.repeats,
        lambda: run_python(["-c", "pass"], folder).wall_s,
        lambda: run_python(["hello.py", "run"], folder).wall_s,
    )
    figures = [
        Figure("python -c pass", bare_s * 1e3, "ms"),
        Figure("hello, whole process", hello_s * 1e3, "ms", hello_s / bare_s, _BARE, "8 x"),
    ]
    return figures, answer_of(_lengths(os.path.join(folder, STORE_FOLDER)))


def measure_steps(size: Size, seed: int, folder: str) -> tuple[list[Figure], str]:
    """Each further linear step: a long chain minus a short one."""
    names = []
    for steps in (size.chain_short, size.chain_long):
        names.append(f"chain_{steps}.py")
        Path(folder, names[-1]).write_text(chain_source(steps), encoding="utf-8")
    fork_s, short_s, long_s = best_of(
        size.repeats,
        lambda: bare_forks_s(size.chain_long, folder) / size.chain_long,
        lambda: run_python([names[0], "run"], folder).wall_s,
        lambda: run_python([names[1], "run"], folder).wall_s,
    )
    step_s = (long_s - short_s) / (size.chain_long - size.chain_short)
    return [
        Figure("one bare fork", fork_s * 1e3, "ms"),
        Figure("each further linear step", step_s * 1e3, "ms", step_s / fork_s, "bare fork", "4 ms"),
    ], answer_of(_lengths(os.path.join(folder, STORE_FOLDER)))


def measure_wide(size: Size, seed: int, folder: str) -> tuple[list[Figure], str]:
    """A wide foreach and its join, with two workers."""
    Path(folder, "wide.py").write_text(wide_source(size.wide, seed), encoding="utf-8")
    costs: list[Cost] = []

    def run() -> float:
        store = os.path.join(folder, f"wide-{len(costs)}")
        arguments = ["wide.py", "--store", store, "run", "--max-workers", str(_WORKERS)]
        costs.append(run_python(arguments, folder, watches_memory=True))
        return costs[-1].wall_s

    forks_s, syncs_s, wall_s = best_of(
        size.repeats,
        lambda: bare_forks_s(size.wide, folder),
        lambda: bare_syncs_s(size.wide, _FRAME_BYTES, folder),
        run,
    )
    best = min(costs, key=lambda cost: cost.wall_s)
    store = os.path.join(folder, "wide-0")
    written = sum(len(files) for _, _, files in os.walk(store))
    figures = [
        Figure(f"{size.wide:,} bare forks", forks_s, "s"),
        Figure(f"{size.wide:,} bare write + fdatasync", syncs_s, "s"),
        Figure(f"{size.wide:,}-wide, wall", wall_s, "s", wall_s / forks_s, "bare forks", "2.5 s"),
        Figure(f"{size.wide:,}-wide, wall", wall_s, "s", wall_s / syncs_s, "bare syncs"),
        Figure(f"{size.wide:,}-wide, CPU", best.cpu_s, "s", best.cpu_s / forks_s, "bare forks"),
        Figure("files in the store", written, "files", target="20"),
        Figure("bytes in the store, per task", _stored_bytes(store) / size.wide, "bytes"),
    ]
    peaks = [cost.peak_rss_bytes for cost in costs if cost.peak_rss_bytes is not None]
    if peaks:
        figures.append(Figure("scheduler, peak memory", max(peaks) / _MEGABYTE, "MB", target="60 MB"))
    return figures, answer_of([_lengths(store), _value(store, "total"), _line_count(store)])


def measure_resume(size: Size, seed: int, folder: str) -> tuple[list[Figure], str]:
    """Resume a wide run whose last step failed: all but that step is reused."""
    Path(folder, "flow.py").write_text(resume_source(size.resume_wide), encoding="utf-8")
    run_python(["flow.py", "run", "--run-id-file", "run-id"], folder, env={"FAIL": "1"}, expected_code=1)
    run_id = Path(folder, "run-id").read_text(encoding="utf-8").strip()
    bare_s, resume_s = best_of(
        size.repeats,
        lambda: run_python(["-c", "pass"], folder).wall_s,
        lambda: run_python(["flow.py", "resume", "--origin-run-id", run_id], folder).wall_s,
    )
    store = os.path.join(folder, STORE_FOLDER)
    figures = [
        Figure(f"resume of {size.resume_wide} done tasks", resume_s, "s", resume_s / bare_s, _BARE, "0.3 s")
    ]
    return figures, answer_of(_value(store, "answer"))


def _events(store: str) -> list[Any]:
    return EventLog(LocalStorage(store)).events()


def _lengths(store: str) -> list[int]:
    """How many tasks succeeded in a run: each number that occurs, once."""
    done = Counter(event.run_uid for event in _events(store) if event.kind == "attempt_succeeded")
    return sorted(set(done.values()))


def _value(store: str, name: str) -> float:
    """The number that the runs of a store agree on for an artifact."""
    found = {e.value_number for e in _events(store) if e.kind == "artifact_saved" and e.name == name}
    (value,) = found
    assert isinstance(value, float)
    return value


def _line_count(store: str) -> int:
    chunks = [e for e in _events(store) if e.kind == "console_written" and e.step == "work"]
    return sum(chunk.payload["lines"] for chunk in chunks)


def _stored_bytes(store: str) -> int:
    return sum(file.stat().st_size for file in Path(store).rglob("*") if file.is_file())
