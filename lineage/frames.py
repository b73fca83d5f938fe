"""pandas frames as Arrow tables and back, only where a frame comes back with every type and value it had.

A frame that has anything outside the tested set (`to_arrow` gives None) is for another serializer:
columns not named by unique strings, a MultiIndex, a `freq`, `attrs`, objects other than strings,
periods, intervals, sparse columns, time zones without a name in the zone database.

What Arrow cannot say of a frame is JSON under the key `weft` of the schema's metadata:
`index` (a range, or the form of the column `__index__`), `columns` (their form and name), `forms`, one
for each column. A form is a list that begins with numpy, times, string, masked, object or category.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["METADATA_KEY", "from_arrow", "to_arrow"]

METADATA_KEY = b"weft"

_INDEX_COLUMN = "__index__"
_CATEGORIES_MAX = 10_000
_STRINGS = ({str}, {str, type(None)}, {type(None)}, set[type]())
_MASKED = frozenset({"Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "boolean"})

Form = list[Any]


class _Untested(Exception):
    """A part of the frame is outside the tested set."""


def to_arrow(frame: Any) -> Any | None:
    """The Arrow table of a pandas frame, with what it takes to make the frame again; None outside the tested set."""
    import json

    import pyarrow as pa

    try:
        if frame.attrs or not frame.flags.allows_duplicate_labels or frame.shape[1] == 0:
            raise _Untested
        names, columns_form = _labels(frame.columns)
        forms, arrays = [], []
        for position in range(len(names)):
            form, array = _column(frame.iloc[:, position])
            forms.append(form)
            arrays.append(array)
        index_form, index_array = _index(frame.index)
        if index_array is not None:
            if _INDEX_COLUMN in names:
                raise _Untested
            names.append(_INDEX_COLUMN)
            arrays.append(index_array)
        description = {"index": index_form, "columns": columns_form, "forms": forms}
        table = pa.Table.from_arrays(arrays, names=names)
        return table.replace_schema_metadata({METADATA_KEY: json.dumps(description, ensure_ascii=True)})
    except (_Untested, pa.ArrowException, UnicodeError, OverflowError):
        return None


def from_arrow(table: Any) -> Any:
    """The frame that `to_arrow` was given."""
    import json

    import pandas as pd

    description = json.loads(table.schema.metadata[METADATA_KEY])
    names = table.column_names
    index_form = description["index"]
    if index_form[0] == "range":
        index = pd.RangeIndex(*index_form[1:4], name=index_form[4])
    else:
        names = names[:-1]
        name, form = index_form[1:]
        index = _index_of(_values(table.column(_INDEX_COLUMN), form), form, name)
    columns = {
        # Without a dtype pandas would take objects for strings.
        position: pd.Series(
            _values(table.column(position), form), index, object if form[0] == "object" else None
        )
        for position, form in enumerate(description["forms"])
    }
    frame = pd.DataFrame(columns, index=index)
    labels_form, labels_name = description["columns"]
    frame.columns = _index_of(_string_labels(names, labels_form), labels_form, labels_name)
    return frame


# From pandas


def _labels(columns: Any) -> tuple[list[str], list[Any]]:
    """The names of the columns, and the form and name of their index."""
    import pandas as pd

    names = list(columns)
    if type(columns) is not pd.Index or set(map(type, names)) != {str} or not columns.is_unique:
        raise _Untested
    return names, [_string_form(columns.dtype), _name(columns.name)]


def _index(index: Any) -> tuple[Form, Any | None]:
    """The form of a row index, and its column if it is not a range."""
    import pandas as pd

    if type(index) is pd.RangeIndex:
        return ["range", index.start, index.stop, index.step, _name(index.name)], None
    if type(index) is not pd.Index and not (type(index) is pd.DatetimeIndex and index.freq is None):
        raise _Untested
    form, array = _column(pd.Series(index))
    return ["column", _name(index.name), form], array


def _column(series: Any) -> tuple[Form, Any]:
    """The form of a column and its Arrow array. Raises: _Untested."""
    import pandas as pd
    import pyarrow as pa

    dtype = series.dtype
    if isinstance(dtype, pd.StringDtype):
        return _string_form(dtype), _plain_array(pa.array(series.array, pa.large_string(), from_pandas=True))
    if isinstance(dtype, pd.CategoricalDtype):
        return _category(series.array, dtype)
    if isinstance(dtype, pd.DatetimeTZDtype):
        zone = _zone(dtype.tz)
        naive = series.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
        _require_range(naive)
        return ["times", naive.dtype.str, zone], pa.array(naive).cast(pa.timestamp(dtype.unit, zone))
    if dtype.name in _MASKED and type(dtype).__module__.partition(".")[0] == "pandas":
        return ["masked", dtype.name], pa.array(series.array)
    if not hasattr(dtype, "isnative"):
        raise _Untested
    if dtype.kind == "O":
        if set(map(type, series.array)) not in _STRINGS:
            raise _Untested
        return ["object"], pa.array(list(series.array), pa.large_string())
    is_number = dtype.kind in "biu" or dtype.str in ("<f4", "<f8")
    if not dtype.isnative or not (is_number or dtype.kind in "mM") or dtype.metadata:
        raise _Untested
    _require_range(series.to_numpy())
    # NaN stays NaN; NaT becomes null.
    return ["numpy", dtype.str], pa.array(series.to_numpy())


def _require_range(values: Any) -> None:
    """Parquet has no seconds: such times are written as milliseconds, which older pyarrow does unchecked."""
    import numpy as np

    if values.dtype.str == "<M8[s]":
        seconds = values[~np.isnat(values)].astype("i8")
        if len(seconds) and max(int(seconds.max()), -int(seconds.min())) >= 2**63 // 1000:
            raise _Untested


def _string_form(dtype: Any) -> Form:
    import pandas as pd

    if isinstance(dtype, pd.StringDtype):
        return ["string", dtype.storage, "NA" if dtype.na_value is pd.NA else "nan"]
    if dtype == object:
        return ["object"]
    raise _Untested


def _category(values: Any, dtype: Any) -> tuple[Form, Any]:
    import pandas as pd
    import pyarrow as pa

    categories = dtype.categories
    labels = list(categories)
    known = type(categories) is pd.Index and categories.name is None
    if not known or not set(map(type, labels)) <= {str} or len(labels) > _CATEGORIES_MAX:
        raise _Untested
    codes = pa.array(values.codes, mask=values.codes < 0)
    array = pa.array(labels, pa.large_string()).take(codes)
    return ["category", bool(dtype.ordered), labels, _string_form(categories.dtype)], array


def _plain_array(array: Any) -> Any:
    """One array of what may come in chunks."""
    return array.combine_chunks() if hasattr(array, "combine_chunks") else array


def _name(name: object) -> str | None:
    if name is None or type(name) is str:
        return name
    raise _Untested


def _zone(zone: Any) -> str:
    """A name for a time zone that gives that zone again."""
    import datetime

    if zone is datetime.UTC:
        return "UTC"
    zoneinfo = sys.modules.get("zoneinfo")
    is_known = zoneinfo is not None and type(zone) is zoneinfo.ZoneInfo and zone.key not in (None, "UTC")
    if zoneinfo is not None and is_known and zoneinfo.ZoneInfo(zone.key) is zone:
        key: str = zone.key
        return key
    raise _Untested


# To pandas


def _values(column: Any, form: Form) -> Any:
    """The pandas or NumPy array of a column."""
    import numpy as np
    import pandas as pd

    kind = form[0]
    if kind == "numpy":
        values = column.to_numpy()
        return np.array(values.astype(form[1], copy=False), copy=True)
    if kind == "times":
        naive = column.cast(_without_zone(column.type)).to_numpy().astype(form[1], copy=False)
        return pd.DatetimeIndex(naive).tz_localize("UTC").tz_convert(_zone_of(form[2])).array
    if kind == "string":
        return _string_dtype(form).__from_arrow__(column)
    if kind == "masked":
        return pd.api.types.pandas_dtype(form[1]).__from_arrow__(column)
    if kind == "object":
        values = np.empty(len(column), dtype=object)
        values[:] = column.to_pylist()
        return values
    assert kind == "category", form
    labels = _index_of(_string_labels(form[2], form[3]), form[3], None)
    return pd.Categorical(column.to_pylist(), dtype=pd.CategoricalDtype(labels, ordered=form[1]))


def _index_of(values: Any, form: Form, name: str | None) -> Any:
    import pandas as pd

    return pd.Index(values, dtype=object, name=name) if form[0] == "object" else pd.Index(values, name=name)


def _string_labels(labels: list[str], form: Form) -> Any:
    import pandas as pd

    return labels if form[0] == "object" else pd.array(labels, dtype=_string_dtype(form))


def _string_dtype(form: Form) -> Any:
    import pandas as pd

    # Without `na_value`, which pandas 2.2 does not know, missing is NA.
    return pd.StringDtype(form[1]) if form[2] == "NA" else pd.StringDtype(form[1], na_value=float("nan"))


def _zone_of(name: str) -> Any:
    if name == "UTC":
        import datetime

        return datetime.UTC
    import zoneinfo

    return zoneinfo.ZoneInfo(name)


def _without_zone(kind: Any) -> Any:
    import pyarrow as pa

    return pa.timestamp(kind.unit)
