"""Files that OpenLineage events are written to, one a line, and what of the log a file does not have yet.

A sink has no position of its own: what is in the file says what is missing, so that whatever kept an event from
being written, the log gives it again. Where writing failed, a note in `cache/` says so to the next run.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from weft.lineage.errors import WeftError
from weft.lineage.objects import Objects
from weft.lineage.openlineage import NAMESPACE, Document, Lookup, TableSchema, key_of, translate
from weft.lineage.paths import object_path
from weft.lineage.schema import COLUMNS, Event
from weft.lineage.storage import Storage, get_or_none
from weft.lineage.table_columns import columns_of_footer

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = [
    "NAMESPACE_VARIABLE",
    "FileSink",
    "MissedNote",
    "documents_of",
    "lookup_in",
    "namespace_of",
    "text_of",
]

#: As OpenLineage's own clients have it.
NAMESPACE_VARIABLE = "OPENLINEAGE_NAMESPACE"

_FAMILIES = ("run", "task", "artifact", "use")
_LINES_AT_ONCE = 500
_RUNS_AT_ONCE = 500
_TASKS_AT_ONCE = 5_000
_FOOTER_TAIL_BYTES = 8
_FOOTER_BYTES_MAX = 16 << 20


def namespace_of(given: str | None) -> str:
    """The namespace that was given, else that of the environment, else weft's."""
    return given or os.environ.get(NAMESPACE_VARIABLE) or NAMESPACE


class FileSink:
    """A file that only grows, by one write for each batch of lines."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._is_torn = False

    def write(self, lines: list[str]) -> None:
        """Append whole lines. A line that was cut off is ended first, and stands there as no JSON.

        Raises: OSError; then nothing or a part is written, and all of it may be given again.
        """
        data = "".join(f"{line}\n" for line in lines).encode()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self.path, flags, 0o666)
        try:
            data = (b"\n" if self._is_torn or _ends_within_a_line(self.path) else b"") + data
            while data:
                written = os.write(descriptor, data)
                self._is_torn = written < len(data)
                data = data[written:]
            self._is_torn = False
        finally:
            os.close(descriptor)

    def known(self) -> set[tuple[str, str]]:
        """Which events the file has, as `key_of` names them. Raises: OSError."""
        found = set()
        try:
            with open(self.path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    try:
                        found.add(key_of(json.loads(line)))
                    except (ValueError, KeyError, TypeError):
                        continue
        except FileNotFoundError:
            return set()
        return found

    def add_missing(self, documents: Iterable[Document]) -> int:
        """Append those that the file does not have; how many. Raises: OSError."""
        known = self.known()
        waiting: list[str] = []
        count = 0
        for document in documents:
            if key_of(document) not in known:
                waiting.append(text_of(document))
                count += 1
            if len(waiting) >= _LINES_AT_ONCE:
                self.write(waiting)
                waiting = []
        if waiting:
            self.write(waiting)
        return count


class MissedNote:
    """A note in the store's cache that a sink has missed something, and since when. It is a hint: nothing rests on it."""

    def __init__(self, storage: Storage, sink_path: str) -> None:
        self._storage = storage
        self._sink_path = os.path.abspath(sink_path)
        name = hashlib.sha256(self._sink_path.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        self._path = f"cache/openlineage/{name}.json"

    def read(self) -> int | None:
        """The log time of the first event that was missed; None where nothing was."""
        data = get_or_none(self._storage, self._path)
        try:
            return None if data is None else int(json.loads(data)["since_us"])
        except (ValueError, KeyError, TypeError):
            return 0

    def write(self, since_us: int) -> None:
        before = self.read()
        since_us = since_us if before is None else min(before, since_us)
        note = {"sink": self._sink_path, "since_us": since_us}
        self._storage.put(self._path, json.dumps(note).encode())

    def clear(self) -> None:
        self._storage.delete(self._path)


def text_of(document: Document) -> str:
    """One line of JSON, the same for the same event."""
    return json.dumps(document, ensure_ascii=True, sort_keys=True, separators=(",", ":"))


def documents_of(store: Answers, namespace: str, since_us: int | None = None) -> Iterator[Document]:
    """The OpenLineage events of all runs, by flow and then the oldest run first; with `since_us` only later ones."""
    lookup = lookup_in(store.objects)
    runs = store.rows(
        "select flow, run_id, run_uid, tasks from runs where ?::bigint is null or finished_at is null "
        "or epoch_us(finished_at) > ? order by flow, started_at, run_id",
        [since_us, since_us],
    )
    for flow, batch in _batches(runs):
        told = _events_of(store, flow, batch)
        for uid in batch:
            for document in translate(told.get(uid, ()), lookup, namespace):
                if since_us is None or _time_us(document) > since_us:
                    yield document


def _batches(runs: Iterable[tuple[Any, ...]]) -> Iterator[tuple[str, dict[bytes, str]]]:
    """Runs of one flow that are read at once, each time so many that their events fit into memory: ids by `run_uid`."""
    batch: dict[bytes, str] = {}
    last_flow, count = "", 0
    for flow, run_id, uid, tasks in runs:
        if batch and (flow != last_flow or len(batch) >= _RUNS_AT_ONCE or count + tasks > _TASKS_AT_ONCE):
            yield last_flow, batch
            batch, count = {}, 0
        batch[bytes.fromhex(uid)] = run_id.partition("~")[0]
        last_flow, count = flow, count + tasks
    if batch:
        yield last_flow, batch


def _events_of(store: Answers, flow: str, runs: dict[bytes, str]) -> dict[bytes, list[Event]]:
    """What the log tells of runs of a flow, by `run_uid`, in its order."""
    columns = ", ".join(column.name for column in COLUMNS)
    found: dict[bytes, list[Event]] = {}
    for family in _FAMILIES:
        rows = store.rows(
            f"select {columns} from raw.{family}_events where flow = ? and run_id in (select unnest(?::varchar[]))",
            [flow, sorted(set(runs.values()))],
        )
        for row in rows:
            event = Event(*row)
            if event.run_uid in runs:
                payload: Any = event.payload
                event = event._replace(payload=json.loads(payload) if payload else None)
                found.setdefault(event.run_uid or b"", []).append(event)
    for events in found.values():
        events.sort(key=lambda event: (event.time_us, event.writer, event.seq))
    return found


def lookup_in(objects: Objects) -> Lookup:
    """Looks up code and footers in a store; what is gone or damaged is not there."""
    return Lookup(_cached_code(objects), partial(_schema_of, objects))


def _cached_code(objects: Objects) -> Callable[[bytes], tuple[str, dict[str, str]] | None]:
    """Runs in a row mostly have the same code."""
    known: dict[bytes, tuple[str, dict[str, str]] | None] = {}

    def read(digest: bytes) -> tuple[str, dict[str, str]] | None:
        if digest not in known:
            known.clear()
            known[digest] = _code_of(objects, digest)
        return known[digest]

    return read


def _code_of(objects: Objects, digest: bytes) -> tuple[str, dict[str, str]] | None:
    try:
        manifest: Any = json.loads(objects.get(digest))
        texts = {
            path: objects.get(bytes.fromhex(sha)).decode("utf-8", "replace")
            for path, sha in manifest["files"].items()
        }
        return str(manifest["entry"]), texts
    except (WeftError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _schema_of(objects: Objects, saved: Event) -> TableSchema | None:
    """From the footer of a Parquet artifact; only the footer is read."""
    if saved.digest is None or not (saved.serializer or "").startswith("parquet-"):
        return None
    try:
        footer = _footer_in(saved.blob) if saved.blob is not None else _footer_of(objects, saved)
        rows, columns = columns_of_footer(footer)
    except (WeftError, ValueError, KeyError, IndexError, TypeError):
        return None
    return TableSchema(rows, tuple(columns))


def _footer_in(data: bytes) -> bytes:
    length = int.from_bytes(data[-_FOOTER_TAIL_BYTES:-4], "little")
    return data[-_FOOTER_TAIL_BYTES - length : -_FOOTER_TAIL_BYTES]


def _footer_of(objects: Objects, saved: Event) -> bytes:
    path = object_path(saved.digest or b"")
    end = (saved.size_bytes or 0) - _FOOTER_TAIL_BYTES
    length = int.from_bytes(objects.storage.read_range(path, end, 4), "little")
    if length > _FOOTER_BYTES_MAX:
        raise ValueError("the footer is too large")
    return objects.storage.read_range(path, end - length, length)


def _time_us(document: Document) -> int:
    from weft.lineage.moment import moment_us

    return moment_us(document["eventTime"])


def _ends_within_a_line(path: str) -> bool:
    """Whether a writer before was cut off in a line. What is no file, such as a pipe, has no end to look at."""
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size == 0:
            return False
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False
