"""Figures, the answers they were measured on, and where: as text for people, as JSON for a comparison."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Figure", "Report", "answer_of"]

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("weft", "click", "duckdb", "msgpack", "pyarrow")


class Figure(NamedTuple):
    """One measurement. `ratio` compares it with `reference`, measured in the same minute.

    `value` is in `unit`; `target` is what the project promised for it, as text.
    """

    name: str
    value: float
    unit: str
    ratio: float | None = None
    reference: str = ""
    target: str = ""

    def line(self) -> str:
        text = f"  {self.name:<44} {_number(self.value):>10} {self.unit:<9}"
        if self.ratio is not None:
            text += f" {_number(self.ratio):>8} x {self.reference}"
        if self.target:
            text = f"{text:<98}  target {self.target}"
        return text.rstrip()


class Report:
    """Everything one call of `python -m benchmarks` found. Printed as it comes."""

    def __init__(self, size: str, seed: int, folder: str) -> None:
        self.figures: dict[str, list[Figure]] = {}
        self.answers: dict[str, str] = {}
        self._circumstances = _circumstances(folder) | {"size": size, "seed": seed}

    def begin(self) -> None:
        facts = self._circumstances
        print(
            f"weft {facts['versions']['weft']} at {facts['commit']}{' and changes' if facts['is_dirty'] else ''}, "
            f"Python {facts['python']}, {facts['cores']} cores ({facts['cpu']}), {facts['file_system']}, "
            f"size {facts['size']}, seed {facts['seed']}"
        )

    def add(self, benchmark: str, title: str, figures: list[Figure], answer: str) -> None:
        """Take in what one benchmark found, and print it."""
        self.figures[benchmark] = figures
        self.answers[benchmark] = answer
        print(f"\n{title}")
        for figure in figures:
            print(figure.line())
        print(f"  answer {answer}", flush=True)

    def write(self, path: str) -> None:
        document = {
            **self._circumstances,
            "figures": {name: [f._asdict() for f in found] for name, found in self.figures.items()},
            "answers": self.answers,
        }
        Path(path).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def answer_of(value: Any) -> str:
    """A short hash of plain values: equal answers of two machines show that both did the same work."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _number(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.3f}" if value < 1 else f"{value:,.2f}"


def _circumstances(folder: str) -> dict[str, Any]:
    return {
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "is_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "file_system": _file_system(folder),
        "versions": {name: version(name) for name in _PACKAGES},
        "command": sys.orig_argv[1:],
    }


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _file_system(folder: str) -> str:
    """The type of the file system that the stores lie on: a sync costs nothing on some."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown file system"
    target = os.path.realpath(folder)
    best = ("", "unknown file system")
    for mount in mounts:
        point, kind = mount.split()[1:3]
        if (target == point or target.startswith(point.rstrip("/") + "/")) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]
