"""Stores that earlier releases wrote are read as those read them; stores of later ones are refused.

The files in tests/fixtures/stores are never written again: see the README there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.paths import journal_name
from weft.lineage.schema import Event
from weft.lineage.store import Store
from weft.lineage.upcast import upcast
from weft.lineage.verify import verify
from weft.lineage.view_sql import VIEWS

STORES = Path(__file__).parent.parent / "fixtures" / "stores"
NAMES = sorted(path.name for path in STORES.iterdir() if path.is_dir() and path.name[0].isdigit())


def _as_written(store: Path) -> None:
    """Segments, and the journals they were made from."""


def _without_sealed_journals(store: Path) -> None:
    """As some time later: what was sealed is removed."""
    log = EventLog(LocalStorage(str(store)))
    sealed = {(r.writer, r.first_seq) for segment in log.segments() for r in segment.ranges}
    for path in (store / "journal").iterdir():
        name = journal_name(f"journal/{path.name}")
        if name is not None and tuple(name) in sealed:
            path.unlink()


def _without_segments(store: Path) -> None:
    """As before it was sealed."""
    shutil.rmtree(store / "log")


def _sealed(store: Path) -> None:
    """All is sealed by this version, the journals are gone."""
    EventLog(LocalStorage(str(store))).seal(force=True, grace_s=0)


def _sealed_anew(store: Path) -> None:
    _without_segments(store)
    _sealed(store)


def _compacted(store: Path) -> None:
    """Sealed by this version in the newest format, and merged with the segment of the old one."""
    log = EventLog(LocalStorage(str(store)))
    log.seal(force=True, grace_s=0)
    report = log.compact(is_whole=True, grace_s=0)
    assert report.segments_after == 1
    assert len(log.segments()) == 1


VARIANTS = (_as_written, _without_sealed_journals, _without_segments, _sealed, _sealed_anew, _compacted)


def _copy(name: str, folder: Path, vary: Callable[[Path], None] = _as_written) -> Path:
    store = folder / "store"
    shutil.copytree(STORES / name / "store", store)
    vary(store)
    return store


def _expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((STORES / name / "expected.json").read_text(encoding="utf-8"))
    return found


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, datetime) else value


def _event_of(row: list[Any]) -> Event:
    """An event whose bytes were written as hex."""
    columns = ("writer", "run_uid", "digest", "blob")
    values = dict(zip(Event._fields, row, strict=True))
    return Event(
        **values | {name: bytes.fromhex(values[name]) for name in columns if values[name] is not None}
    )


def test_corpus_holds_a_store_of_the_first_release() -> None:
    assert NAMES[:2] == ["0.1.0", "0.1.0-kinds"]
    for name in NAMES:
        assert not (STORES / name / "store" / "cache").exists()


@pytest.mark.parametrize("vary", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_old_store_has_the_events_it_had(tmp_path: Path, name: str, vary: Callable[[Path], None]) -> None:
    storage = LocalStorage(str(_copy(name, tmp_path, vary)))
    expected = [upcast(_event_of(row)) for row in _expected(name)["log"]]
    found = EventLog(storage).events()
    assert found == expected
    assert verify(storage).problems == []


@pytest.mark.parametrize("vary", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_old_store_gives_the_answers_it_gave(tmp_path: Path, name: str, vary: Callable[[Path], None]) -> None:
    expected = _expected(name)
    told = {f"{e.writer.hex()}:{e.seq}": e for e in (upcast(_event_of(row)) for row in expected.pop("log"))}
    assert set(expected) <= set(VIEWS)
    with Store(LocalStorage(str(_copy(name, tmp_path, vary)))) as store:
        for view, answer in expected.items():
            # Columns may have been added since.
            columns = answer["columns"]
            found = [
                [row[c] for c in columns] for row in store.sql(f"select * from {view} order by all").dicts()
            ]
            rows = answer["rows"]
            if view == "events":
                rows = [_brought_up_to_date(row, columns, told) for row in rows]
                found = [_brought_up_to_date(row, columns, told) for row in found]
            assert sorted(map(_text, found)) == sorted(map(_text, rows)), view


def _brought_up_to_date(row: list[Any], columns: list[str], told: dict[str, Event]) -> list[Any]:
    """A row of the events view, as it is since its kind has another version."""
    fields = dict(zip(columns, row, strict=True))
    event = told[fields["id"]]
    if event.version != fields["version"]:
        fields |= {"version": event.version, "payload": json.dumps(event.payload, separators=(",", ":"))}
    return list(fields.values())


def _text(row: list[Any]) -> str:
    return json.dumps([_plain(value) for value in row])


def _command(store: Path, *arguments: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WEFT")}
    return subprocess.run(
        [
            sys.executable,
            *arguments[:1],
            *(("weft",) if arguments[0] == "-m" else ()),
            "--store",
            str(store),
            *arguments[1:],
        ],
        cwd=folder,
        env=clean | {"WEFT_USER": "ada", "PYTHONDONTWRITEBYTECODE": "1"} | env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "flow", "status", "reused"),
    [("0.1.0", "flow.py", "failed", 3), ("0.1.0-kinds", "kinds.py", "lost", 3)],
)
def test_old_run_is_resumed(tmp_path: Path, name: str, flow: str, status: str, reused: int) -> None:
    store = _copy(name, tmp_path, _without_sealed_journals)
    shutil.copy(STORES / name / flow, tmp_path)
    with Store(LocalStorage(str(store))) as opened:
        query = "select run_id from runs where status = $status order by started_at desc"
        run_id = opened.sql(query, status=status).fetchall()[0][0]
    done = _command(store, flow, "resume", "--origin-run-id", run_id, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    with Store(LocalStorage(str(store))) as opened:
        query = (
            "select runs.status, count(*) filter (where tasks.status = 'reused') from runs join tasks "
            "using (flow, run_id) where runs.origin_run_id = $origin group by runs.run_id, runs.status "
            "order by runs.run_id desc"
        )
        assert opened.sql(query, origin=run_id).fetchall()[0] == ("succeeded", reused)
        problems = opened.verify().problems
    assert problems == []


COMMANDS = [
    ("runs",),
    ("show", "CorpusFlow"),
    ("logs", "CorpusFlow/1"),
    ("lineage", "CorpusFlow/1/end/1"),
    ("sql", "select * from runs"),
    ("sql", "--ddl"),
    ("log",),
    ("verify",),
    ("compact",),
    ("runs", "--json"),
    ("verify", "--json"),
]
FLOW_COMMANDS = [("run",), ("resume",), ("dump", "1/start"), ("logs", "1/start")]


@pytest.mark.parametrize("arguments", [*COMMANDS, *FLOW_COMMANDS], ids=" ".join)
def test_newer_store_is_refused_in_one_sentence(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    store = _copy("0.1.0", tmp_path)
    shutil.copy(STORES / "0.1.0" / "flow.py", tmp_path)
    description = json.loads((store / "weft.json").read_text())
    (store / "weft.json").write_text(json.dumps(description | {"format": 99, "version": "9.0.0"}))
    before = _files(store)
    place = "flow.py" if arguments in FLOW_COMMANDS else "-m"
    done = _command(store, place, *arguments, folder=tmp_path)
    _check_refused(done, "has format 99, written by weft 9.0.0")
    assert _files(store) == before


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_newer_segment_is_refused_in_one_sentence(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    store = _copy("0.1.0", tmp_path)
    _write_newer_segment(store)
    before = _files(store)
    done = _command(store, "-m", *arguments, folder=tmp_path)
    _check_refused(done, "has format 99, which a newer weft wrote")
    assert _files(store) == before


def _check_refused(done: subprocess.CompletedProcess[str], reason: str) -> None:
    assert done.returncode == 3, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert reason in done.stderr
    assert done.stderr.strip().endswith("Upgrade weft.")
    assert len(done.stderr.strip().splitlines()) == 1


def _files(store: Path) -> dict[str, bytes]:
    found = {path for path in store.rglob("*") if path.is_file() and path.parts[-2] != "cache"}
    return {str(path): path.read_bytes() for path in found}


def _write_newer_segment(store: Path) -> None:
    """A segment as a later version may write it: only its format is known."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, pa.schema([("novelty", pa.int64())])) as file:
        file.write_table(pa.table({"novelty": [1]}))
        file.add_key_value_metadata({"weft": 'weft-segment:{"format":99,"surprise":[]}'})
    data = sink.getvalue().to_pybytes()
    (store / "log" / "run" / f"{hashlib.sha256(data).hexdigest()}.parquet").write_bytes(data)
