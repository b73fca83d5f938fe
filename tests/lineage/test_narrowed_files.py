"""Files are left out by what their footers say, and then hold nothing of what is looked for."""

from __future__ import annotations

import inspect
import random
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults import seeds
from tests.lineage.test_checkpoint import History
from tests.lineage.test_newest import compare
from weft.lineage import segments
from weft.lineage.footers import column_bounds
from weft.lineage.log import EventLog
from weft.lineage.narrowed_files import NarrowedFiles
from weft.lineage.sight import Sight, look
from weft.lineage.views import Views


def footer_of(path: Path) -> bytes:
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    return data[-8 - length : -8]


def end_batch(history: History) -> None:
    """Seal what was told, and end the journals it came from."""
    history.turn()
    history.turn()
    history.seal()


def narrowed(history: History) -> tuple[Sight, Views, NarrowedFiles]:
    sight = look(history.storage, EventLog(history.storage))
    views = Views(sight.sealed)
    views.add(sight.tail)
    return sight, views, NarrowedFiles(views)


@pytest.mark.parametrize("row_group_size", [3, 1000])
def test_bounds_of_a_column_are_those_that_parquet_tells(row_group_size: int, tmp_path: Path) -> None:
    draw = random.Random(4)
    run_ids = [str(draw.randrange(10**6)) for _ in range(50)]
    times = [draw.randrange(-(10**15), 10**15) for _ in range(50)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"run_id": run_ids, "time_us": times}), path, row_group_size=row_group_size)
    metadata = pq.ParquetFile(path).metadata
    told = [
        [
            (s.min, s.max)
            for group in range(metadata.num_row_groups)
            if (s := metadata.row_group(group).column(column).statistics) is not None
        ]
        for column in (0, 1)
    ]
    texts, numbers = (column_bounds(footer_of(path), column) for column in ("run_id", "time_us"))
    assert texts is not None
    assert numbers is not None
    assert [(least.decode(), greatest.decode()) for least, greatest in texts] == told[0]
    found = [tuple(int.from_bytes(bound, "little", signed=True) for bound in pair) for pair in numbers]
    assert found == told[1]


@pytest.mark.parametrize(
    "what", ["a value that looks like a column", "no statistics", "cut off", "no column"]
)
def test_bounds_that_are_not_told_plainly_are_none(what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    value = b"\x19\x18\x07time_us\x15\x00" if what.startswith("a value") else b"value"
    table = pa.table({"blob": [value], "time_us": [7]})
    pq.write_table(table, path, write_statistics=what != "no statistics")
    footer = footer_of(path)
    if what == "cut off":
        footer = footer[: footer.rindex(b"\x19\x18\x07time_us") + 12]
    assert column_bounds(footer, "absent" if what == "no column" else "time_us") is None


@pytest.mark.skipif(
    "bloom_filter_options" not in inspect.signature(pq.ParquetWriter.__init__).parameters,
    reason="this pyarrow writes no Bloom filters",
)
def test_a_digest_is_looked_for_in_the_files_that_may_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.lineage.event_tables.COPIED_BYTES_MAX", 0)
    options_of = segments._writer_options
    history = History(tmp_path / "store", random.Random(3))
    for number in range(6):
        if number == 4:
            # As an older pyarrow writes them.
            monkeypatch.setattr(
                "weft.lineage.segments._writer_options",
                lambda *given: {k: v for k, v in options_of(*given).items() if k != "bloom_filter_options"},
            )
        for _ in range(30):
            history.tell()
        end_batch(history)
    sight, views, files = narrowed(history)
    paths = {
        family: {file.path for file in sight.sealed.files if file.family == family}
        for family in ("artifact", "run")
    }
    mute = {path for path in paths["artifact"] if not _has_bloom_filters(path)}
    assert 0 < len(mute) < len(paths["artifact"])
    rows = views.rows("select digest from raw.artifact_events where kind = 'artifact_saved' order by digest")
    assert len(rows) > 50
    for (digest,) in [*rows, (bytes(32),)]:
        found = files.with_digest(("artifact", "run"), digest)
        for family, relation in found.items():
            counted = [
                views.connection.execute(
                    f"select count(*) from {source} where digest = ?", [digest]
                ).fetchall()
                for source in (relation, f"raw.{family}_events")
            ]
            assert counted[0] == counted[1]
        read = {path for path in paths["artifact"] if path in found["artifact"]}
        # A filter may be wrong once in a hundred times, but not for all files.
        assert mute <= read
        assert read < paths["artifact"]
    history.close()


def _has_bloom_filters(path: str) -> bool:
    query = "select bool_and(bloom_filter_offset is not null) from parquet_metadata(?) where path_in_schema = 'digest'"
    return bool(duckdb.execute(query, [path]).fetchall()[0][0])


@pytest.mark.parametrize("seed", seeds(range(2)))
def test_newest_runs_are_found_in_some_of_many_files(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"WEFT_TEST_SEED={seed}")
    monkeypatch.setattr("weft.lineage.event_tables.COPIED_BYTES_MAX", 0)
    monkeypatch.setattr("weft.lineage.newest._SPARE_RUNS", 1)
    monkeypatch.setattr("weft.lineage.newest._WIDENED", 2)
    history = History(tmp_path / "store", random.Random(seed))
    for _ in range(9):
        for _ in range(5):
            history.tell()
        end_batch(history)
    sight, views, files = narrowed(history)
    relations = [relation for relation, _ in files.by_time()]
    run_files = [file for file in sight.sealed.files if file.family == "run"]
    assert [relation.count(".parquet") for relation in relations[:2]] == [1, 3]
    assert relations[-1] == "raw.run_events"
    assert len(run_files) > 3
    last = "select flow, run_id, time_us from raw.run_events where kind = 'run_started' order by time_us desc limit 1"
    ((flow, run_id, time_us),) = views.rows(last)
    counts = [
        views.connection.execute(
            f"select count(*) from {source} where flow = ? and run_id = ?", [flow, run_id]
        ).fetchall()
        for source in (files.with_runs("run", [run_id]), "raw.run_events")
    ]
    assert counts[0] == counts[1]
    assert files.with_runs("run", [run_id]).count(".parquet") < len(run_files)
    compare(history, None)
    compare(history, time_us - history.draw.randrange(20_000))
    history.close()
