"""The record of the log: its columns, and a table of the kinds of events. Pure.

An event is a past-tense fact. Its columns are those of `COLUMNS`, which is also the schema of the
segments (`field_id` is what readers bind by) and the order of the values in a journal frame. Columns
are only ever added, at the end. What views filter or join on has a column; the rest is `payload`, a
dict of plain JSON values. `blob` holds bytes that travel inside the event: small artifact values,
foreach items and console chunks.

`writer`, `seq` and `time_us` are stamped when the event is committed to a journal; until then they
are empty. The id of a committed event is `(writer, seq)`.

Some facts can be told twice (the end of an attempt, by a zombie and by its successor): kinds that
share a `fact` tell the same fact about the same run, task or attempt, and folds believe the one with
the highest `epoch`, then the first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = [
    "COLUMNS",
    "FAMILIES",
    "KINDS",
    "Column",
    "Event",
    "Kind",
    "Payload",
    "family_of",
]

Payload = dict[str, Any]

#: Families in the order they are written; each is one Parquet file of a segment. Kinds this version
#: does not know are kept in "other".
FAMILIES = ("run", "task", "artifact", "use", "console", "other")


class Event(NamedTuple):
    """One fact. The fields are the columns of `COLUMNS`, in their order."""

    writer: bytes = b""
    seq: int = -1
    kind: str = ""
    version: int = 1
    time_us: int = 0
    run_uid: bytes | None = None
    flow: str | None = None
    run_id: str | None = None
    step: str | None = None
    task_id: str | None = None
    attempt: int | None = None
    payload: Payload | None = None
    name: str | None = None
    digest: bytes | None = None
    size_bytes: int | None = None
    type: str | None = None
    serializer: str | None = None
    value: str | None = None
    value_number: float | None = None
    blob: bytes | None = None
    producer_flow: str | None = None
    producer_run_id: str | None = None
    producer_step: str | None = None
    producer_task_id: str | None = None
    item_index: int | None = None
    is_absent: bool | None = None
    foreach_path: str | None = None
    epoch: int = 0


class Column(NamedTuple):
    """One column of the log: its name, its type in SQL, and the field id readers bind it by."""

    name: str
    sql_type: str
    field_id: int


_SQL_TYPES = {
    "writer": "BLOB",
    "seq": "BIGINT",
    "version": "SMALLINT",
    "time_us": "BIGINT",
    "run_uid": "BLOB",
    "attempt": "SMALLINT",
    "digest": "BLOB",
    "size_bytes": "BIGINT",
    "value_number": "DOUBLE",
    "blob": "BLOB",
    "item_index": "BIGINT",
    "is_absent": "BOOLEAN",
    "epoch": "SMALLINT",
}

#: One table makes both the writer's schema and the reader's map: a wrong field id would give another
#: column's values without an error.
COLUMNS = tuple(
    Column(name, _SQL_TYPES.get(name, "VARCHAR"), field_id)
    for field_id, name in enumerate(Event._fields, start=1)
)


class Kind(NamedTuple):
    """What is known of a kind: its family, its current version, and the fact it tells, if that can be told twice."""

    family: str
    version: int = 1
    fact: str | None = None


KINDS: dict[str, Kind] = {
    "run_started": Kind("run"),
    "code_saved": Kind("run"),
    "parameter_set": Kind("run"),
    "tag_added": Kind("run"),
    "tag_removed": Kind("run"),
    "lease_renewed": Kind("run"),
    "run_succeeded": Kind("run", fact="run_end"),
    "run_failed": Kind("run", fact="run_end"),
    "run_cancelled": Kind("run", fact="run_end"),
    "run_lost": Kind("run", 2, "run_end"),
    "step_started": Kind("task"),
    "task_created": Kind("task"),
    "task_reused": Kind("task"),
    "attempt_started": Kind("task"),
    "attempt_succeeded": Kind("task", fact="attempt_end"),
    "attempt_failed": Kind("task", fact="attempt_end"),
    "attempt_caught": Kind("task", fact="attempt_end"),
    "attempt_cancelled": Kind("task", fact="attempt_end"),
    "retry_scheduled": Kind("task"),
    "artifact_saved": Kind("artifact"),
    "artifact_merged": Kind("artifact"),
    "artifact_used": Kind("use"),
    "external_used": Kind("use"),
    "console_written": Kind("console"),
    "code_reached": Kind("other"),
    "journal_closed": Kind("other"),
}


def family_of(kind: str) -> str:
    """The family a kind is stored in; "other" for kinds this version does not know."""
    known = KINDS.get(kind)
    return "other" if known is None else known.family
