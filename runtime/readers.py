"""Readers and writers of pandas, pyarrow, polars and DuckDB that tell what they open, where that was asked for.

WEFT_TRACK=auto puts a wrapper around each of them when its library is imported. A wrapper calls what it
stands around, with the same arguments, and notes for the running step what these name; whatever goes wrong
with the noting, the call is as it was. Names that a file took out of a library before `import weft` are not
seen.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

from weft.lineage.external import is_remote, normalized
from weft.runtime.track import note_unasked

__all__ = ["TRACK_VARIABLE", "install_if_asked"]

TRACK_VARIABLE = "WEFT_TRACK"

#: Files that one pattern may name.
_FILES_MAX = 10_000

_QUOTED = re.compile(r"'((?:[^']|'')+)'")
_WRITES = re.compile(r"\b(copy\b.*\bto|export\s+database)\s*$", re.IGNORECASE | re.DOTALL)


class _Call(NamedTuple):
    """A function or method, what it does, and where its arguments name what it opens; `self` is not counted."""

    name: str
    direction: str
    position: int
    keyword: str


def _calls(names: str, direction: str, position: int, keyword: str) -> list[_Call]:
    return [_Call(name, direction, position, keyword) for name in names.split()]


_PANDAS_FRAME = [
    *_calls("to_csv to_json", "write", 0, "path_or_buf"),
    *_calls("to_parquet to_feather to_pickle to_orc to_stata", "write", 0, "path"),
    *_calls("to_excel", "write", 0, "excel_writer"),
    *_calls("to_hdf", "write", 0, "path_or_buf"),
]
_DUCKDB_READS = "read_csv read_parquet read_json from_parquet from_csv_auto"
_DUCKDB_TEXTS = _calls("sql query execute", "sql", 0, "query")

#: What is wrapped: by module the functions of "" and the methods of classes.
_WRAPPED: dict[str, dict[str, list[_Call]]] = {
    "pandas": {
        "": [
            *_calls("read_csv read_table read_fwf read_stata read_sas", "read", 0, "filepath_or_buffer"),
            *_calls("read_parquet read_feather read_orc", "read", 0, "path"),
            *_calls("read_json read_hdf", "read", 0, "path_or_buf"),
            *_calls("read_xml", "read", 0, "path_or_buffer"),
            *_calls("read_excel read_html", "read", 0, "io"),
            *_calls("read_pickle", "read", 0, "filepath_or_buffer"),
        ],
        "DataFrame": _PANDAS_FRAME,
        "Series": _PANDAS_FRAME,
    },
    "pyarrow.parquet": {
        "": [
            *_calls("read_table read_pandas", "read", 0, "source"),
            *_calls("write_table", "write", 1, "where"),
            *_calls("write_to_dataset", "write", 1, "root_path"),
        ]
    },
    "pyarrow.csv": {
        "": [*_calls("read_csv open_csv", "read", 0, "input_file"), *_calls("write_csv", "write", 1, "output_file")]
    },
    "pyarrow.json": {"": _calls("read_json", "read", 0, "input_file")},
    "pyarrow.feather": {
        "": [
            *_calls("read_table read_feather", "read", 0, "source"),
            *_calls("write_feather", "write", 1, "dest"),
        ]
    },
    "pyarrow.dataset": {
        "": [*_calls("dataset", "read", 0, "source"), *_calls("write_dataset", "write", 1, "base_dir")]
    },
    "polars": {
        "": _calls(
            "read_csv read_parquet read_json read_ndjson read_ipc read_avro read_excel scan_csv scan_parquet "
            "scan_ndjson scan_ipc",
            "read",
            0,
            "source",
        ),
        "DataFrame": [
            *_calls("write_csv write_parquet write_json write_ndjson write_ipc write_avro", "write", 0, "file"),
            *_calls("write_excel", "write", 0, "workbook"),
        ],
        "LazyFrame": _calls("sink_csv sink_parquet sink_ipc sink_ndjson", "write", 0, "path"),
    },
    "duckdb": {
        "": [*_calls(_DUCKDB_READS, "read", 0, "path_or_buffer"), *_DUCKDB_TEXTS],
        "DuckDBPyConnection": [*_calls(_DUCKDB_READS, "read", 0, "path_or_buffer"), *_DUCKDB_TEXTS],
        "DuckDBPyRelation": _calls("write_csv to_csv write_parquet to_parquet", "write", 0, "file_name"),
    },
}  # fmt: skip


def install_if_asked() -> None:
    """Wrap what is imported already, and the rest when it is, if WEFT_TRACK is `auto`."""
    if os.environ.get(TRACK_VARIABLE) != "auto":
        return
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    for name in _WRAPPED:
        module = sys.modules.get(name)
        if module is not None:
            _wrap_module(module, name)
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the modules of `_WRAPPED` as the other finders do, and wraps them once they are loaded."""

    def __init__(self) -> None:
        self._asking: set[str] = set()

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _WRAPPED or fullname in self._asking:
            return None
        from importlib.util import find_spec

        self._asking.add(fullname)
        try:
            spec = find_spec(fullname)
        finally:
            self._asking.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _WrappingLoader(spec.loader)
        return spec


class _WrappingLoader(Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _wrap_module(module, module.__name__)


def _wrap_module(module: ModuleType, name: str) -> None:
    for owner_name, calls in _WRAPPED[name].items():
        owner = getattr(module, owner_name, None) if owner_name else module
        for call in calls:
            function = getattr(owner, call.name, None)
            if callable(function) and not hasattr(function, "_weft_wrapped"):
                try:
                    setattr(owner, call.name, _wrapper(function, call, is_method=bool(owner_name)))
                except (AttributeError, TypeError):
                    continue  # A class that cannot be changed keeps its secrets.


def _wrapper(function: Callable[..., Any], call: _Call, is_method: bool) -> Callable[..., Any]:
    position = call.position + is_method

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        named = arguments[position] if len(arguments) > position else options.get(call.keyword)
        # What is read is there before, what is written after.
        if call.direction != "write":
            _note(named, call.direction, "read")
        result = function(*arguments, **options)
        if call.direction != "read":
            _note(named, call.direction, "write")
        return result

    wrapped._weft_wrapped = True  # type: ignore[attr-defined]  # functions take attributes
    return wrapped


def _note(named: Any, direction: str, way: str) -> None:
    """Note what an argument names: paths, open files, patterns, or SQL text with files in it."""
    try:
        if direction == "sql":
            texts = [text for text, found in _in_sql(named) if found == way] if isinstance(named, str) else []
        else:
            texts = list(_texts(named))
        for text in texts:
            for uri in _existing(text):
                note_unasked(uri, way)
    except Exception:  # noqa: BLE001  # The step must go on as if nobody looked.
        return


def _texts(named: Any) -> Iterator[str]:
    if isinstance(named, str | os.PathLike):
        yield os.fsdecode(named)
    elif isinstance(named, list | tuple):
        for one in named:
            yield from _texts(one)
    elif isinstance(name := getattr(named, "name", None), str) and hasattr(named, "fileno"):
        yield name


def _existing(text: str) -> Iterable[str]:
    """The files and URIs that a text names; a reader may also be given the data itself."""
    if is_remote(text):
        return [normalized(text)]
    if len(text) > os.pathconf("/", "PC_PATH_MAX"):
        return []
    uri = normalized(text)
    if os.path.exists(uri):
        return [uri]
    if not any(mark in text for mark in "*?["):
        return []
    import glob
    from itertools import islice

    return sorted(islice(glob.iglob(uri, recursive=True), _FILES_MAX))


def _in_sql(query: str) -> Iterator[tuple[str, str]]:
    """(text, direction) of the quoted texts of a statement that may be files."""
    for match in _QUOTED.finditer(query):
        way = "write" if _WRITES.search(query, 0, match.start()) else "read"
        yield match[1].replace("''", "'"), way
