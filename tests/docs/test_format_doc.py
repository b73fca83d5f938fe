"""docs/format.md has every column, kind and serializer, and its reader reads what weft reads."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from weft.lineage.description import FORMAT
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.manifest import SEGMENT_FORMAT
from weft.lineage.schema import COLUMNS, FAMILIES, KINDS
from weft.lineage.verify import verify

DOCUMENT = (Path(__file__).parent.parent.parent / "docs" / "format.md").read_text(encoding="utf-8")
READER = re.findall(r"^```python file=read_store.py\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)[0]


@pytest.fixture
def reader(tmp_path: Path) -> Any:
    path = tmp_path / "read_store.py"
    path.write_text(READER, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("read_store", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(readme_store: Path, tmp_path: Path) -> Path:
    """A copy of a store is a store."""
    return Path(shutil.copytree(readme_store, tmp_path / "store"))


def _check_reader(reader: Any, store: Path) -> int:
    ours = {
        (event.writer, event.seq): event._asdict() for event in EventLog(LocalStorage(str(store))).events()
    }
    theirs = reader.events(store)
    assert set(theirs) == set(ours)
    for key, event in ours.items():
        assert theirs[key] == event
    return len(ours)


def test_reader_reads_journals(reader: Any, copy: Path) -> None:
    assert list(copy.glob("journal/*.wj"))
    assert _check_reader(reader, copy) > 20


def test_reader_reads_segments_beside_journals_and_alone(reader: Any, copy: Path) -> None:
    log = EventLog(LocalStorage(str(copy)))
    count = len(log.events())
    log.seal(force=True)
    assert list(copy.glob("journal/*.wj"))
    assert _check_reader(reader, copy) == count
    log.seal(force=True, grace_s=0)
    assert not list(copy.glob("journal/*.wj"))
    assert _check_reader(reader, copy) == count


def test_running_hashes_of_what_a_flow_recorded_come_out_of_its_segments(copy: Path) -> None:
    storage = LocalStorage(str(copy))
    for _ in range(2):
        EventLog(storage).tidy(is_whole=True, grace_s=-1)
    assert not list(copy.glob("journal/*.wj"))
    report = verify(storage, is_deep=True)
    assert report.problems == []
    assert report.value_count > 3


def test_reader_stops_where_a_journal_is_torn(reader: Any, copy: Path) -> None:
    for path in copy.glob("journal/*.wj"):
        path.write_bytes(path.read_bytes()[:-7])
    assert _check_reader(reader, copy) > 20


def test_columns_are_documented_with_their_ids() -> None:
    documented = re.findall(r"^\| (\d+) \| (\w+) \| (\w+) \| \S", DOCUMENT, re.MULTILINE)
    assert documented == [(str(column.field_id), column.name, column.sql_type) for column in COLUMNS]


def test_kinds_are_documented_with_their_families() -> None:
    documented = re.findall(r"^\| `(\w+)` \| (\w+) \| ", DOCUMENT, re.MULTILINE)
    assert dict(documented) == {name: kind.family for name, kind in KINDS.items()}
    named = dict(re.findall(r"^\| `(\w+)` \| \w+ \| version (\d+):", DOCUMENT, re.MULTILINE))
    assert named == {name: str(kind.version) for name, kind in KINDS.items() if kind.version != 1}
    assert ", ".join(f"`{family}`" for family in FAMILIES) in DOCUMENT


def test_formats_are_those_of_the_code() -> None:
    assert (FORMAT, SEGMENT_FORMAT) == (1, 2), "the document says so"
    assert "| `format` | 2 |" in DOCUMENT


def test_serializers_are_documented() -> None:
    from weft.lineage import serializers

    tags = set(re.findall(r"\b(?:plain|npy|parquet-\w+|pickle\S*)/\d\b", serializers.__doc__ or ""))
    assert tags
    assert tags <= set(re.findall(r"^\| `(\S+/\d)` \|", DOCUMENT, re.MULTILINE))
