"""What readers and writers of data libraries open is noted when WEFT_TRACK=auto, and nothing else changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

_HEAD = """
import io, json, os, sys
import weft
from weft.lineage.events import RunRef
from weft.runtime.track import ExternalUses, Tracking

uses = ExternalUses(os.path.abspath("store"))
with Tracking(uses, None):
"""
_TAIL = """
task = RunRef(b"u" * 16, "F", "1").task("start", "1")
told = [[e.payload["direction"], os.path.relpath(e.name) if e.name[0] == "/" else e.name, e.digest is not None]
        for e in uses.events(task, 0)]
print(json.dumps(sorted(told)))
"""


def _told(folder: Path, body: str, track: str = "auto", before: str = "") -> Any:
    code = before + _HEAD + textwrap.indent(textwrap.dedent(body), "    ") + _TAIL
    environment = {**os.environ, "WEFT_TRACK": track}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


_CSV = "a,b\n1,2\n"


def test_readers_and_writers_of_pandas_and_pyarrow_are_seen(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(_CSV)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "x.csv").write_text(_CSV)
    body = """
        import pandas as pd
        import pyarrow as pa, pyarrow.csv, pyarrow.parquet as pq
        frame = pd.read_csv("in.csv")
        assert pd.read_csv(io.StringIO("a\\n1")).a[0] == 1
        with open("in.csv") as file:
            pd.read_csv(file)
        frame.to_parquet("out.parquet")
        frame["a"].to_csv("series.csv")
        assert frame.to_csv().startswith(",a,b")
        pd.read_csv("store/x.csv")
        pq.write_table(pa.table({"x": [1]}), "arrow.parquet")
        assert pq.read_table("arrow.parquet").num_rows == 1
        pyarrow.csv.read_csv("in.csv")
        try:
            pd.read_csv("none.csv")
        except FileNotFoundError:
            pass
    """
    assert _told(tmp_path, body) == [
        ["read", "arrow.parquet", True],
        ["read", "in.csv", True],
        ["write", "arrow.parquet", True],
        ["write", "out.parquet", True],
        ["write", "series.csv", True],
    ]


def test_readers_and_writers_of_polars_and_duckdb_are_seen(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", "c d.csv"):
        (tmp_path / name).write_text(_CSV)
    body = """
        import duckdb
        import polars as pl
        assert pl.read_csv("a.csv").height == 1
        pl.scan_csv("b.csv").collect().write_parquet("polars.parquet")
        assert duckdb.sql("SELECT count(*) FROM 'c d.csv'").fetchall() == [(1,)]
        con = duckdb.connect()
        con.execute("COPY (SELECT * FROM read_csv('b.csv') WHERE 'x' = 'x') TO 'out.parquet'")
        assert con.read_parquet("out.parquet").fetchall() == [(1, 2)]
        con.sql("SELECT 'it''s', $$ 1 $$").fetchall()
        pl.read_csv("?.csv")
    """
    assert _told(tmp_path, body) == [
        ["read", "a.csv", True],
        ["read", "b.csv", True],
        ["read", "c d.csv", True],
        ["read", "out.parquet", True],
        ["write", "out.parquet", True],
        ["write", "polars.parquet", True],
    ]


@pytest.mark.parametrize("before", ["", "import pandas\n"])
def test_libraries_imported_before_weft_are_seen_too(tmp_path: Path, before: str) -> None:
    (tmp_path / "in.csv").write_text(_CSV)
    body = "import pandas\npandas.read_csv('in.csv')"
    assert _told(tmp_path, body, before=before) == [["read", "in.csv", True]]


def test_nothing_is_wrapped_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(_CSV)
    body = "import pandas\npandas.read_csv('in.csv')\nassert not hasattr(pandas.read_csv, '_weft_wrapped')"
    assert _told(tmp_path, body, track="off") == []


def test_what_goes_wrong_with_noting_does_not_break_the_step(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(_CSV)
    body = """
        import pandas as pd
        from weft.runtime import readers
        def broken(*arguments):
            raise RuntimeError("broken")
        readers.note_unasked = broken
        assert len(pd.read_csv("in.csv")) == 1
    """
    assert _told(tmp_path, body) == []
