"""`import weft` gives the names that are promised, and costs little."""

from __future__ import annotations

import subprocess
import sys

import pytest

import weft

AUTHORING = (
    "FlowSpec",
    "Parameter",
    "cache",
    "catch",
    "current",
    "environment",
    "resources",
    "retry",
    "step",
    "timeout",
)
ASKING = ("DataArtifact", "Flow", "Run", "Step", "Task", "open_store", "sql")
HEAVY = ("click", "duckdb", "pyarrow", "pandas", "numpy", "s3fs", "fsspec", "asyncio", "_duckdb")


def test_exports_are_sorted_and_resolve() -> None:
    assert weft.__all__ == sorted(weft.__all__)
    for name in weft.__all__:
        assert getattr(weft, name) is not None


@pytest.mark.parametrize("name", AUTHORING + ASKING)
def test_exports_hold_the_promised_name(name: str) -> None:
    assert name in weft.__all__


def test_import_loads_no_heavy_library() -> None:
    code = f"import sys, weft; weft.FlowSpec; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
