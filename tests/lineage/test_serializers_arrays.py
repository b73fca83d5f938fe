from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weft.lineage.serializers import Dumped, dump, load


def bytes_of(dumped: Dumped) -> bytes:
    return b"".join(dumped.parts)


def same(loaded: Any, array: np.ndarray[Any, Any]) -> bool:
    return (
        type(loaded) is np.ndarray
        and loaded.dtype == array.dtype
        and loaded.dtype.str == array.dtype.str
        and loaded.shape == array.shape
        and loaded.tobytes() == array.tobytes()
    )


_DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(sizes=(16, 32, 64), endianness="?"),
    hnp.complex_number_dtypes(sizes=(64, 128), endianness="?"),
    hnp.datetime64_dtypes(endianness="?"),
    hnp.timedelta64_dtypes(endianness="?"),
    hnp.unicode_string_dtypes(endianness="?"),
    hnp.byte_string_dtypes(),
)
_ARRAYS = hnp.arrays(_DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_dims=4))


@settings(max_examples=200, deadline=None)
@given(array=_ARRAYS, order=st.sampled_from(["C", "F"]))
def test_any_array_without_objects_comes_back(array: np.ndarray[Any, Any], order: Any) -> None:
    array = np.array(array, order=order)
    dumped = dump(array)
    assert dumped.serializer == "npy/1"
    data = bytes_of(dumped)
    loaded = load(dumped.serializer, data)
    assert same(loaded, array)
    assert loaded.flags.writeable
    assert loaded.flags.f_contiguous == array.flags.f_contiguous
    assert dump(loaded).digest == dumped.digest
    assert same(np.load(io.BytesIO(data), allow_pickle=False), array)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(1000.0),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array(3),
        np.zeros((0, 3)),
        np.array(["a"]),
    ],
    ids=str,
)
def test_arrays_are_mapped_and_changes_stay_here(array: np.ndarray[Any, Any], tmp_path: Path) -> None:
    dumped = dump(array)
    path = tmp_path / "object"
    path.write_bytes(bytes_of(dumped))
    loaded = load(dumped.serializer, path.read_bytes(), str(path))
    assert same(loaded, array)
    assert loaded.flags.aligned
    loaded.fill(7)
    assert path.read_bytes() == bytes_of(dumped)
    assert same(load(dumped.serializer, path.read_bytes(), str(path)), array)


def test_gaps_in_memory_do_not_change_the_digest() -> None:
    wide = np.arange(40).reshape(4, 10)
    assert dump(wide[:, ::3]).digest == dump(wide[:, ::3].copy()).digest
    assert dump(wide[::-1]).digest == dump(wide[::-1].copy()).digest
    assert same(load("npy/1", bytes_of(dump(np.broadcast_to(np.int32(3), (2, 2))))), np.full((2, 2), 3, "i4"))


def test_the_contents_are_not_copied() -> None:
    array = np.arange(1000.0)
    dumped = dump(array)
    assert np.shares_memory(np.frombuffer(dumped.parts[1], "u1"), array)
    assert len(dumped.parts[0]) % 64 == 0


def test_the_bytes_of_an_array_are_fixed() -> None:
    head = "{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }"
    expected = b"\x93NUMPY\x01\x00\x76\x00" + head.encode().ljust(117) + b"\n" + b"\x01\x00\x02\x00"
    assert bytes_of(dump(np.array([1, 2], "<i2"))) == expected


@pytest.mark.parametrize(
    "array",
    [
        np.array([{}], dtype=object),
        np.zeros(2, dtype=[("a", "i4")]),
        np.zeros(2, dtype=np.longdouble),
        np.zeros(2, dtype=np.dtype("i4", metadata={"unit": "m"})),
        np.ma.masked_array([1, 2], [False, True]),
        np.zeros(2).view(np.recarray),
    ],
    ids=lambda array: f"{type(array).__name__} {array.dtype}",
)
def test_other_arrays_are_pickles(array: np.ndarray[Any, Any]) -> None:
    dumped = dump(array)
    assert dumped.serializer.startswith("pickle")
    loaded = load(dumped.serializer, bytes_of(dumped))
    assert type(loaded) is type(array)
    assert loaded.dtype == array.dtype
