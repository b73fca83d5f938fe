"""Processes measured from outside, and the yardsticks: what bare Python needs for the same thing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Cost", "bare_forks_s", "bare_syncs_s", "best_of", "load_arrow_s", "run_python"]

_SAMPLE_S = 0.01

_FORKS = """
import os, time
start = time.perf_counter()
for _ in range({count}):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
print(time.perf_counter() - start)
"""

_SYNCS = """
import os, time
sync = getattr(os, "fdatasync", os.fsync)
file = os.open({path!r}, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
frame = bytes({size})
start = time.perf_counter()
for _ in range({count}):
    os.write(file, frame)
    sync(file)
print(time.perf_counter() - start)
os.unlink({path!r})
"""


class Cost(NamedTuple):
    """What one process took, its children included; `peak_rss_bytes` is its own, None where nobody knows."""

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int | None


def run_python(
    arguments: Sequence[str],
    folder: str,
    env: Mapping[str, str] | None = None,
    expected_code: int = 0,
    watches_memory: bool = False,
) -> Cost:
    """Run this interpreter in `folder` and measure the whole process. Its output is thrown away.

    Raises: RuntimeError with what it said when it ends with another code.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WEFT_"))}
    with open(os.path.join(folder, "stderr.txt"), "w+b") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env={**clean, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        watch = _MemoryWatch(process.pid) if watches_memory else None
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        process.returncode = code = os.waitstatus_to_exitcode(status)
        peak = None if watch is None else watch.end()
        if code != expected_code:
            said.seek(0)
            text = said.read().decode(errors="replace")
            raise RuntimeError(f"python {' '.join(arguments)} ended with {code}:\n{text}")
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, peak)


class _MemoryWatch:
    """Reads the high-water mark of one process until it ends; that of its children is not in it."""

    def __init__(self, pid: int) -> None:
        self._path = Path(f"/proc/{pid}/status")
        self._peak_bytes: int | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def end(self) -> int | None:
        self._is_over.set()
        self._thread.join()
        return self._peak_bytes

    def _watch(self) -> None:
        while not self._is_over.wait(_SAMPLE_S):
            try:
                lines = self._path.read_text(encoding="ascii", errors="replace").splitlines()
            except OSError:
                return
            for line in lines:
                if line.startswith("VmHWM:"):
                    self._peak_bytes = int(line.split()[1]) * 1024


def best_of(repeats: int, *calls: Callable[[], float]) -> list[float]:
    """The smallest result of each call. They take turns, so that a slow moment hits all of them."""
    results = [[call() for call in calls] for _ in range(repeats)]
    return [min(column) for column in zip(*results, strict=True)]


def bare_forks_s(count: int, folder: str) -> float:
    """`count` times fork, exit and wait, in an interpreter that has imported nothing."""
    return _bare(_FORKS.format(count=count), folder)


def bare_syncs_s(count: int, size_bytes: int, folder: str) -> float:
    """`count` times write and sync of `size_bytes`, to a file in `folder`."""
    path = os.path.join(folder, "bare-syncs")
    return _bare(_SYNCS.format(count=count, size=size_bytes, path=path), folder)


def _bare(code: str, folder: str) -> float:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def load_arrow_s() -> float:
    """Seconds it takes to load what Parquet is written with; with it pandas, where there is one: pyarrow's first
    array looks for it. Once in a process, and so no part of a rate."""
    start = time.perf_counter()
    import pyarrow as pa
    import pyarrow.parquet

    pa.array([0])
    return time.perf_counter() - start
