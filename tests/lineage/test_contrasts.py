"""Contents are compared cell by cell, element by element and part by part, and never as pickles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.lineage.conftest import Story
from weft.lineage.contrasts import contrast, contrast_arrays, contrast_plain, contrast_tables
from weft.lineage.pairs import Saved


def test_cells_of_tables_are_counted_by_column() -> None:
    nan = float("nan")
    a = pa.table({"x": [1.0, nan, None, 4.0], "y": ["a", "b", "c", "d"], "z": [[1], [2], [3], None]})
    b = pa.table({"x": [1.0, nan, None, 5.0], "y": ["a", "b", None, "d"], "z": [[1], [9], [3], None]})
    found = contrast_tables(a, b)
    assert found.total == 3
    assert {(part.place, part.a, part.b) for part in found.parts} == {
        ("x[3]", "4.0", "5.0"),
        ("y[2]", "'c'", "None"),
        ("z[1]", "[2]", "[9]"),
    }
    assert "3 of 12 cells" in found.summary


def test_tables_of_other_shape_say_what_became_of_them() -> None:
    a = pa.table({"x": [1, 2, 3], "y": [1, 2, 3], "gone": [1, 2, 3]})
    b = pa.table({"x": [1, 2], "y": ["1", "2"], "new": [1, 2]})
    found = contrast_tables(a, b)
    for words in ("3 rows became 2", "without gone", "with new as well", "y is string and was int64"):
        assert words in found.summary
    assert found.total == 0
    assert "the 2 rows that both have are equal" in found.summary


@pytest.mark.parametrize(
    ("a", "b", "total", "words"),
    [
        (np.array([1.0, np.nan, 3.0]), np.array([1.0, np.nan, 4.5]), 1, "by 1.5 at most"),
        (np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]]), 1, "by 1 at most"),
        (np.array([1, 2]), np.array([1, 2, 3]), None, "shape (2,) became"),
        (np.array([True, False]), np.array([True, True]), 1, "1 of 2"),
        (np.array(["a", "b"]), np.array(["a", "c"]), 1, "1 of 2"),
        (np.array([0.0]), np.array([-0.0]), 0, "sign of a zero"),
        (np.array(5), np.array(6), 1, "1 of 1"),
    ],
)
def test_elements_of_arrays_are_counted(a: Any, b: Any, total: int | None, words: str) -> None:
    found = contrast_arrays(a, b)
    assert found.total == total
    assert words in found.summary


def test_an_element_is_named_by_its_index() -> None:
    (part,) = contrast_arrays(np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]])).parts
    assert part == ("[1, 1]", "4", "5")


@pytest.mark.parametrize(
    ("a", "b", "parts"),
    [
        ({"k": [1, 2], "gone": 1}, {"k": [1, 3], "new": 2}, ["['k'][1]", "['gone']", "['new']"]),
        ([1, 2, 3], [1, 2], ["[2]"]),
        ((1, {"a": {2}}), (1, {"a": {3}}), ["[1]['a']", "[1]['a']"]),
        (1, 1.0, [""]),
        (float("nan"), float("nan"), []),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
    ],
)
def test_parts_of_plain_values_are_named_by_the_way_to_them(a: Any, b: Any, parts: list[str]) -> None:
    found = contrast_plain(a, b)
    assert [part.place for part in found.parts] == parts
    assert found.total == len(parts)


def test_no_pickle_is_loaded(story: Story) -> None:
    def saved(serializer: str) -> Saved:
        return Saved("sha256:" + "0" * 64, 10, "Model", serializer, None)

    found = contrast(story.store(), saved("pickle/5"), saved("plain/1"))
    assert (found.kind, found.total) == ("opaque", None)
    assert "pickles are not looked into" in found.summary
