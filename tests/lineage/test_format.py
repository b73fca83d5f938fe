"""The bytes on disk are those of docs/format.md, and its program reads a store without weft."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from weft.lineage import codec
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.schema import COLUMNS, FAMILIES, Event

DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"


def test_frame_has_the_bytes_it_always_had() -> None:
    event = Event(
        kind="tag_added", run_uid=b"u" * 16, flow="F", run_id="1", name="best", payload={"kind": "user"}
    )
    expected = (
        "3e000000 0300000000000000 96244208 055efebd"
        "9b a97461675f6164646564 01 cf0006651728988000 c41075757575757575757575757575757575"
        "a146 a131 c0 c0 c0 81a46b696e64a475736572 a462657374"
    )
    assert codec.encode(event, 3, 1_800_000_000_000_000) == bytes.fromhex(expected)


def test_columns_and_families_are_documented() -> None:
    text = DOCUMENT.read_text()
    for column in COLUMNS:
        assert re.search(rf"\| {column.field_id} \| {column.name} \|", text), column
    for family in FAMILIES:
        assert f"`{family}`" in text


def test_program_of_the_document_reads_what_weft_reads(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python file=read_store.py\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "read_store"}
    exec(program, names)  # noqa: S102 - the document is ours
    storage = LocalStorage(str(tmp_path / "store"))
    log = EventLog(storage)
    for number in range(3):
        for _ in range(2):
            journal = Journal.create(storage, size_max_bytes=300)
            journal.append(
                [Event(kind=kind, name=str(number)) for kind in ("run_started", "task_created", "new")]
            )
            journal.append([Event(kind="tag_added")])
            if number < 2:
                journal.close()
        with warnings.catch_warnings():
            # The program is short: it leaves its files to the collector.
            warnings.simplefilter("ignore", ResourceWarning)
            found = names["events"](Path(storage.root)).values()
            read = {(event["writer"], event["seq"], event["kind"]) for event in found}
        assert read == {(event.writer, event.seq, event.kind) for event in log.events()}
        log.seal(force=True, grace_s=60 if number else -1)
