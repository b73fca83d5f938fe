from __future__ import annotations

import collections
import datetime
import json
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.lineage.serializers import dump
from weft.lineage.values import number_of, preview_of, type_name_of

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(value=_JSON)
def test_previews_are_the_json_of_plain_values(value: Any) -> None:
    expected = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    preview = preview_of(value)
    if preview is not None:
        assert json.loads(preview) == value
        assert len(preview.encode()) <= 1024
    else:
        assert len(expected.encode()) > 1000


@pytest.mark.parametrize(
    ("value", "preview"),
    [
        (None, "null"),
        (float("nan"), '"NaN"'),
        (float("inf"), '"Infinity"'),
        (float("-inf"), '"-Infinity"'),
        ([1.0, float("nan"), -0.0], '[1.0,"NaN",-0.0]'),
        ((1, {2}), "[1,[2]]"),
        ({"b": 1, "a": 2}, '{"b":1,"a":2}'),
        ({1: 1, None: 2, 0.5: 3, False: 4}, '{"1":1,"null":2,"0.5":3,"false":4}'),
        ({1: 1, "1": 2}, None),
        ({(1, 2): 3}, None),
        ('say "hi"\n\x00\\', '"say \\"hi\\"\\n\\u0000\\\\"'),
        ("\ud800", None),
        (b"x", None),
        ([1, [b"x"]], None),
        (bytearray(b"x"), None),
        ("x" * 1022, '"' + "x" * 1022 + '"'),
        ("x" * 1023, None),
        ("ä" * 600, None),
        (list(range(1000)), None),
        (2**5000, None),
        (Decimal("1.10"), "1.10"),
        (Decimal("-sNaN"), '"NaN"'),
        (Decimal("-Infinity"), '"-Infinity"'),
        (1 + 2j, '"(1+2j)"'),
        (datetime.date(2020, 1, 2), '"2020-01-02"'),
        (datetime.timedelta(minutes=1.5), "90.0"),
        (np.int8(-3), "-3"),
        (np.float32("nan"), '"NaN"'),
        (np.str_("x"), '"x"'),
        (np.datetime64("2020-01-02"), '"2020-01-02"'),
        (np.bytes_(b"x"), None),
        (np.zeros(2), None),
        (collections.OrderedDict(a=1), None),
    ],
)
def test_previews(value: Any, preview: str | None) -> None:
    assert dump(value).value == preview


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (True, 1.0),
        (3, 3.0),
        (2.5, 2.5),
        (float("nan"), None),
        (float("inf"), math.inf),
        (10**400, None),
        (Decimal("1.5"), 1.5),
        (Decimal("NaN"), None),
        (Decimal("sNaN"), None),
        (np.int64(3), 3.0),
        (np.bool_(True), 1.0),
        (np.float32(0.5), 0.5),
        (np.float64("nan"), None),
        (np.complex64(1), None),
        (np.datetime64("2020-01-01"), None),
        (np.array(3), None),
        (pa.scalar(3), 3.0),
        (pa.scalar(2.5), 2.5),
        (pa.scalar(Decimal("1.5")), 1.5),
        (pa.scalar("3"), None),
        (pa.scalar(None), None),
        ("3", None),
        (None, None),
        ([3], None),
        (1j, None),
    ],
)
def test_numbers(value: Any, number: float | None) -> None:
    assert number_of(value) == number


def test_types_have_the_names_people_know() -> None:
    names = {
        "NoneType": None,
        "list": [],
        "numpy.ndarray": np.zeros(1),
        "numpy.float64": np.float64(1),
        "pandas.DataFrame": pd.DataFrame(),
        "pandas.Series": pd.Series([1]),
        "polars.DataFrame": pl.DataFrame(),
        "pyarrow.Table": pa.table({}),
        "datetime.date": datetime.date(1, 1, 1),
        "collections.OrderedDict": collections.OrderedDict(),
        "function": lambda: 1,
    }
    assert {name: type_name_of(value) for name, value in names.items()} == {name: name for name in names}
