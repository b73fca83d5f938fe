from __future__ import annotations

import datetime
import io
import zoneinfo
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from weft.lineage.serializers import Dumped, dump, load

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def bytes_of(dumped: Dumped) -> bytes:
    return b"".join(dumped.parts)


def again(value: Any, serializer: str) -> Any:
    dumped = dump(value)
    assert dumped.serializer == serializer
    loaded = load(dumped.serializer, bytes_of(dumped))
    assert type(loaded) is type(value)
    assert dump(loaded).digest == dumped.digest
    return loaded


TIMES = ["2020-02-29 12:34:56", None, "1969-12-31 23:59:59"]

PANDAS = {
    "ints": pd.DataFrame({f"i{n}": np.array([1, 0, 127], dtype=n) for n in "bBhHiIlL"}),
    "floats": pd.DataFrame({"a": [1.5, np.nan, -0.0], "b": np.array([np.inf, np.nan, 1], "f4")}),
    "bools": pd.DataFrame({"a": [True, False]}),
    "str": pd.DataFrame({"a": ["x", None, ""], "b": ["ä", "🎉", "\0"]}),
    "object strings": pd.DataFrame({"a": pd.Series(["x", None], dtype=object)}),
    "string NA": pd.DataFrame({"a": pd.array(["x", None], dtype=pd.StringDtype("python"))}),
    "string arrow": pd.DataFrame({"a": pd.array(["x", None], dtype=pd.StringDtype("pyarrow"))}),
    "nullable": pd.DataFrame(
        {"a": pd.array([1, None], dtype="Int64"), "b": pd.array([True, None], dtype="boolean")}
    ),
    "times": pd.DataFrame({u: pd.to_datetime(TIMES).astype(f"M8[{u}]") for u in ("s", "ms", "us", "ns")}),
    "durations": pd.DataFrame(
        {u: pd.to_timedelta([1, None, -1], unit="h").astype(f"m8[{u}]") for u in ("s", "ms", "us", "ns")}
    ),
    "zones": pd.DataFrame(
        {
            "utc": pd.to_datetime(TIMES, utc=True),
            "berlin": pd.to_datetime(TIMES, utc=True).tz_convert(BERLIN),
            "ns": pd.to_datetime(TIMES, utc=True).tz_convert(BERLIN).as_unit("ns"),
            "s": pd.to_datetime(TIMES, utc=True).tz_convert(BERLIN).as_unit("s"),
        }
    ),
    "category": pd.DataFrame(
        {
            "a": pd.Categorical(["x", None, "y"], categories=["z", "y", "x"], ordered=True),
            "b": pd.Categorical(["q", "q", "q"]),
            "c": pd.Categorical(["q", "q", "q"], categories=pd.Index(["r", "q"], dtype=object)),
        }
    ),
    "no rows": pd.DataFrame(
        {"a": np.array([], dtype="i8"), "s": pd.Series([], dtype="str"), "o": pd.Series([], dtype=object)}
    ),
    "range": pd.DataFrame({"a": [1, 2, 3]}, index=pd.RangeIndex(5, 11, 2, name="row")),
    "int index": pd.DataFrame({"a": [1, 2]}, index=pd.Index([5, 3], name="id")),
    "str index": pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", "y"])),
    "object index": pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", None], dtype=object)),
    "time index": pd.DataFrame({"a": [1, 2]}, index=pd.DatetimeIndex(["2020-01-01", None], name="at")),
    "zoned index": pd.DataFrame({"a": [1]}, index=pd.DatetimeIndex(["2020-01-01"], tz=BERLIN)),
    "named columns": pd.DataFrame([[1, 2]], columns=pd.Index(["a", "b"], name="kind")),
    "object columns": pd.DataFrame([[1, 2]], columns=pd.Index(["a", "b"], dtype=object)),
    "odd names": pd.DataFrame({"": [1], "a.b": [2], "ä \n": [3]}),
    "filtered": pd.DataFrame({"a": [1, 2, 3], "s": ["x", "y", "z"]})[lambda f: f["a"] > 1],
}


@pytest.mark.parametrize("case", PANDAS)
def test_pandas_frames_come_back_as_they_were(case: str) -> None:
    frame = PANDAS[case]
    loaded = again(frame, "parquet-pandas/1")
    assert_frame_equal(
        loaded, frame, check_exact=True, check_index_type="exact", check_column_type="exact", check_freq=True
    )
    assert list(map(repr, loaded.dtypes)) == list(map(repr, frame.dtypes))
    assert type(loaded.index) is type(frame.index)
    assert repr(loaded.index.dtype) == repr(frame.index.dtype)
    assert repr(loaded.columns.dtype) == repr(frame.columns.dtype)
    for name in frame:
        if frame[name].dtype == object:
            assert list(map(type, loaded[name])) == list(map(type, frame[name]))


UNTESTED_PANDAS = {
    "objects": pd.DataFrame({"a": [{1: 2}, [3]]}),
    "mixed missing": pd.DataFrame({"a": pd.Series(["x", None, np.nan], dtype=object)}),
    "int columns": pd.DataFrame([[1, 2]]),
    "same names": pd.DataFrame([[1, 2]], columns=["a", "a"]),
    "levels": pd.DataFrame({"a": [1]}, index=pd.MultiIndex.from_tuples([("x", 1)])),
    "freq": pd.DataFrame({"a": [1, 2]}, index=pd.date_range("2020", periods=2)),
    "periods": pd.DataFrame({"a": pd.period_range("2020", periods=2)}),
    "intervals": pd.DataFrame({"a": pd.interval_range(0, 2)}),
    "sparse": pd.DataFrame({"a": pd.arrays.SparseArray([0, 1])}),
    "int categories": pd.DataFrame({"a": pd.Categorical([1, 2])}),
    "fixed zone": pd.DataFrame({"a": pd.to_datetime(["2020-01-01T00:00+01:00"])}),
    "big endian": pd.DataFrame({"a": np.array([1, 2], dtype=">i4")}),
    "half": pd.DataFrame({"a": np.array([1, 2], dtype="f2")}),
    "complex": pd.DataFrame({"a": [1j]}),
    "nullable float": pd.DataFrame({"a": pd.array([1.5, None], dtype="Float64")}),
    "no columns": pd.DataFrame(index=[1, 2]),
    "surrogates": pd.DataFrame({"a": pd.Series(["\ud800"], dtype=object)}),
    "far seconds": pd.DataFrame({"a": np.array([2**62], dtype="M8[s]")}),
    "name of ours": pd.DataFrame({"__index__": [1]}, index=[5]),
    "tuple name": pd.DataFrame({"a": [1]}, index=pd.Index([1], name=("x", 1))),
    "arrow types": pd.DataFrame({"a": pd.array([1, None], dtype=pd.ArrowDtype(pa.int64()))}),
}


@pytest.mark.parametrize("case", UNTESTED_PANDAS)
def test_pandas_frames_outside_the_tested_set_are_pickles(case: str) -> None:
    frame = UNTESTED_PANDAS[case]
    dumped = dump(frame)
    assert dumped.serializer.startswith("pickle")
    loaded = load(dumped.serializer, bytes_of(dumped))
    assert_frame_equal(loaded, frame, check_exact=True)


def test_pandas_frames_with_attributes_or_subclasses_are_pickles() -> None:
    frame = pd.DataFrame({"a": [1]})
    frame.attrs["unit"] = "m"
    assert dump(frame).serializer.startswith("pickle")
    strict = pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False)
    assert dump(strict).serializer.startswith("pickle")


def test_a_loaded_frame_can_be_changed(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "s": ["x", "y"], "t": pd.to_datetime(["2020-01-01", "2021-01-01"])})
    dumped = dump(frame)
    path = tmp_path / "object"
    path.write_bytes(bytes_of(dumped))
    loaded = load(dumped.serializer, path.read_bytes(), str(path))
    loaded.loc[0, "a"] = 9
    loaded["s"] = "z"
    assert loaded["a"].tolist() == [9, 2]
    assert path.read_bytes() == bytes_of(dumped)


ITEMS = pa.struct([("x", pa.int64()), ("y", pa.list_(pa.string()))])
ARROW = {
    "numbers": pa.table(
        {
            str(kind): pa.array([1, None, 0], kind)
            for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32())
        }
        | {"u64": pa.array([2**64 - 1, None, 0], pa.uint64())}
        | {str(kind): pa.array([float("nan"), None, -0.0], kind) for kind in (pa.float32(), pa.float64())}
    ),
    "texts": pa.table({"a": ["x", None], "b": pa.array(["x", ""], pa.large_string())}),
    "bytes": pa.table({"a": [b"x", None], "b": pa.array([b"x", b"\0"], pa.large_binary())}),
    "times": pa.table(
        {u: pa.array([0, None, 10**12], pa.timestamp(u)) for u in ("ms", "us", "ns")}
        | {
            f"{u} berlin": pa.array([0, None, 1], pa.timestamp(u, "Europe/Berlin"))
            for u in ("ms", "us", "ns")
        }
        | {f"{u} offset": pa.array([0, None, 1], pa.timestamp(u, "+01:00")) for u in ("ms", "us", "ns")}
        | {f"d{u}": pa.array([0, None, -5], pa.duration(u)) for u in ("s", "ms", "us", "ns")}
        | {f"t{u}": pa.array([0, None, 5], pa.time64(u)) for u in ("us", "ns")}
        | {"date": pa.array([datetime.date(1, 1, 1), None, datetime.date(9999, 1, 1)])}
    ),
    "decimals": pa.table({"a": pa.array([Decimal("1.50"), None], pa.decimal128(20, 2))}),
    "nested": pa.table(
        {
            "l": pa.array([[1], [], None, [None]], pa.list_(pa.int64())),
            "ll": pa.array([["a"], [], None, [None]], pa.large_list(pa.string())),
            "s": pa.array([{"x": 1, "y": ["a"]}, None, {"x": None, "y": None}, {"x": 2, "y": []}], ITEMS),
        }
    ),
    "not null": pa.table(
        [pa.array([1, 2])], schema=pa.schema([pa.field("a", pa.int64(), nullable=False)], {b"k": b"v"})
    ),
    "of pandas": pa.Table.from_pandas(pd.DataFrame({"a": [1, 2]}, index=["x", "y"])),
    "no rows": pa.table({"a": pa.array([], pa.int64()), "s": pa.array([], pa.string())}),
    "chunks": pa.concat_tables([pa.table({"a": [1]}), pa.table({"a": [2, 3]})]),
    "slice": pa.table({"a": list(range(100)), "s": ["x"] * 100}).slice(5, 10),
}


@pytest.mark.parametrize("case", ARROW)
def test_arrow_tables_come_back_as_they_were(case: str) -> None:
    table = ARROW[case]
    loaded = again(table, "parquet-arrow/1")
    assert loaded.schema.equals(table.schema, check_metadata=True)
    assert (loaded.schema.metadata or {}) == (table.schema.metadata or {})
    # NaN differs from itself, so what is written again says it better than equality.
    if case != "numbers":
        assert loaded.equals(table)
    assert repr(loaded.to_pylist()) == repr(table.to_pylist())


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"a": pa.array([1], pa.timestamp("s"))}),
        pa.table({"a": pa.array(["x"]).dictionary_encode()}),
        pa.table({"a": pa.array([None])}),
        pa.table([[1], [2]], names=["a", "a"]),
        pa.table({}),
        pa.table([[1]], schema=pa.schema([pa.field("a", pa.int64(), metadata={"k": "v"})])),
        pa.table({"a": [1]}, metadata={"weft": "x"}),
    ],
)
def test_arrow_tables_outside_the_tested_set_are_pickles(table: pa.Table) -> None:
    dumped = dump(table)
    assert dumped.serializer.startswith("pickle")
    assert load(dumped.serializer, bytes_of(dumped)).equals(table)


POLARS = {
    "numbers": pl.DataFrame(
        [
            pl.Series(str(kind), [1, None, 0], dtype=kind)
            for kind in (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)
        ]
        + [pl.Series(str(kind), [float("nan"), None, -0.0], dtype=kind) for kind in (pl.Float32, pl.Float64)]
    ),
    "texts": pl.DataFrame(
        {"a": ["x", None, "a longer text than twelve"], "b": [b"x", None, b""], "c": [True, None, False]}
    ),
    "times": pl.DataFrame(
        {
            "date": [datetime.date(2020, 1, 1), None],
            "time": [datetime.time(1, 2, 3, 4), None],
            "us": [datetime.datetime(2020, 1, 1), None],
            "d": [datetime.timedelta(1), None],
        }
    ).with_columns(
        ms=pl.col("us").cast(pl.Datetime("ms")),
        ns=pl.col("us").cast(pl.Datetime("ns")),
        zoned=pl.col("us").dt.replace_time_zone("Europe/Berlin"),
        dms=pl.col("d").cast(pl.Duration("ms")),
        dns=pl.col("d").cast(pl.Duration("ns")),
    ),
    "decimals": pl.DataFrame({"a": pl.Series(["1.50", None]).cast(pl.Decimal(20, 2))}),
    "nested": pl.DataFrame({"l": [[1], [], None], "s": [{"a": 1, "b": ["x"]}, None, {"a": None, "b": None}]}),
    "no rows": pl.DataFrame(schema={"a": pl.Int64, "s": pl.String}),
    "chunks": pl.concat([pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [2]})], rechunk=False),
}


@pytest.mark.parametrize("case", POLARS)
def test_polars_frames_come_back_as_they_were(case: str) -> None:
    frame = POLARS[case]
    loaded = again(frame, "parquet-polars/1")
    assert loaded.schema == frame.schema
    assert loaded.equals(frame)


@pytest.mark.parametrize(
    "frame",
    [
        pl.DataFrame({"a": pl.Series(["x"], dtype=pl.Categorical)}),
        pl.DataFrame({"a": pl.Series(["x"], dtype=pl.Enum(["x", "y"]))}),
        pl.DataFrame({"a": pl.Series([None], dtype=pl.Null)}),
        pl.DataFrame({"a": pl.Series([[1, 2]], dtype=pl.Array(pl.Int64, 2))}),
        pl.DataFrame(),
    ],
)
def test_polars_frames_outside_the_tested_set_are_pickles(frame: pl.DataFrame) -> None:
    dumped = dump(frame)
    assert dumped.serializer.startswith("pickle")
    loaded = load(dumped.serializer, bytes_of(dumped))
    assert loaded.schema == frame.schema
    assert loaded.equals(frame)


@pytest.mark.parametrize(
    "frame",
    [PANDAS["str"], PANDAS["zones"], ARROW["nested"], POLARS["texts"]],
    ids=["pandas", "zones", "arrow", "polars"],
)
def test_tables_are_parquet_that_sql_looks_into(frame: Any, tmp_path: Path) -> None:
    path = tmp_path / "object.parquet"
    path.write_bytes(bytes_of(dump(frame)))
    with duckdb.connect() as connection:
        rows = connection.execute(f"SELECT count(*) FROM '{path}'").fetchall()
    assert rows == [(len(frame),)]


def test_the_footer_names_no_version() -> None:
    for frame in (PANDAS["str"], ARROW["numbers"], POLARS["texts"]):
        data = bytes_of(dump(frame))
        assert pq.read_metadata(io.BytesIO(data)).created_by == "weft"
        for version in (pa.__version__, pd.__version__, pl.__version__):
            assert version.encode() not in data


def test_a_text_like_the_writers_own_survives_in_the_footer() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), sink)
    writer = pq.read_metadata(sink).created_by
    table = pa.table({writer: [writer, " " + writer]}, metadata={writer: writer})
    assert again(table, "parquet-arrow/1").equals(table, check_metadata=True)


def test_the_bytes_of_a_table_are_fixed() -> None:
    """The digest was the same with pyarrow 17.0.0 and 26.0.1; a change is one of the format and needs a new tag."""
    table = pa.table(
        {
            "a": [1, 2] * 5000,
            "s": ["x", None] * 5000,
            "t": pa.array([1, None] * 5000, pa.timestamp("us", "UTC")),
            "l": [[1], [2, 3]] * 5000,
            "d": pa.array([Decimal("1.5"), None] * 5000, pa.decimal128(20, 2)),
            "f": [0.5, float("nan")] * 5000,
        }
    )
    assert dump(table).digest.hex() == "cf80abe338fabecc5ae4b83d1a109062d65e643ea8f022b1bf4d13befce14e11"


def test_chunks_and_copies_do_not_change_the_digest() -> None:
    whole = pa.table({"a": list(range(1000)), "s": [str(i % 7) for i in range(1000)]})
    pieces = pa.concat_tables([whole.slice(0, 300), whole.slice(300, 700)])
    assert dump(pieces).digest == dump(whole).digest
    frame = pd.DataFrame({"a": [1, 2, 3], "s": ["x", "y", "z"]})
    assert dump(frame[["a", "s"]].copy()).digest == dump(frame).digest


def test_rows_of_many_groups_come_back() -> None:
    frame = pd.DataFrame({"a": np.arange(2**20 + 5), "b": np.arange(2**20 + 5) % 7})
    assert_frame_equal(again(frame, "parquet-pandas/1"), frame)


_CELLS: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": st.floats(),
    "bool": st.booleans(),
    "str": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    "Int64": st.none() | st.integers(-(2**63), 2**63 - 1),
    "M8[ns]": st.none() | st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)),
}


@st.composite
def _frames(draw: st.DrawFn) -> pd.DataFrame:
    length = draw(st.integers(0, 5))
    names = draw(
        st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4, unique=True)
    )
    columns = {}
    for name in names:
        dtype = draw(st.sampled_from(sorted(_CELLS)))
        cells = draw(st.lists(_CELLS[dtype], min_size=length, max_size=length))
        columns[name] = pd.Series(cells, dtype=dtype)
    return pd.DataFrame(columns, columns=pd.Index(names, dtype="str"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(frame=_frames())
def test_any_frame_of_tested_types_comes_back(frame: pd.DataFrame) -> None:
    assert_frame_equal(again(frame, "parquet-pandas/1"), frame, check_exact=True)
