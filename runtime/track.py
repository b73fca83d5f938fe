"""`track`: what a step reads and writes outside the store, and the collection of it for one attempt."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

from weft.lineage import events, reads
from weft.lineage.errors import UsageError
from weft.lineage.events import RunRef
from weft.lineage.external import Fingerprint, fingerprint, normalized
from weft.lineage.ids import TaskRef
from weft.lineage.reads import ClientRead
from weft.lineage.schema import Event
from weft.runtime.parameters import Parameter

__all__ = [
    "ExternalUses",
    "Tracking",
    "foreign_use",
    "included_use",
    "is_path",
    "note_unasked",
    "parameter_uses",
    "track",
]

PathOrURI = TypeVar("PathOrURI", bound="str | os.PathLike[str]")

_DIRECTIONS = ("read", "write")

#: Larger files are not read through when nobody asked for it by name; size and time stand for the content.
_UNASKED_BYTES_MAX = 1 << 30


class ExternalUses:
    """What one attempt touches outside the store, in the order it first did.

    What is read is fingerprinted when it is noted, what is written at the end of the attempt.
    """

    def __init__(self, store_url: str | None = None) -> None:
        self._store_url = store_url
        self._reads: dict[tuple[str, Fingerprint], None] = {}
        self._writes: dict[str, None] = {}
        #: By URI: what `stat` said when an unasked read was noted.
        self._stats: dict[str, tuple[int, ...] | None] = {}

    def note(self, uri: str, direction: str) -> None:
        """Somebody asked for it by name."""
        if direction == "write":
            self._writes[uri] = None
        else:
            self.note_content(uri, fingerprint(uri))

    def note_unasked(self, uri: str, direction: str) -> None:
        """A reader or writer was seen at work: the same file is not read through twice, nor a huge one at all.

        What it does in the store is weft's own business.
        """
        if self._store_url is not None and uri.startswith((self._store_url + "/", self._store_url + "#")):
            return
        if direction == "write":
            self._writes[uri] = None
            return
        facts = _stat(uri)
        if uri in self._stats and self._stats[uri] == facts:
            return
        self._stats[uri] = facts
        self.note_content(uri, fingerprint(uri, _UNASKED_BYTES_MAX))

    def note_content(self, uri: str, content: Fingerprint) -> None:
        """It was read, and this is what was there."""
        self._reads[uri, content] = None

    def events(self, task: TaskRef, attempt: int) -> list[Event]:
        """One event for each; what was written is fingerprinted now."""
        told = [_event(task, attempt, uri, "read", content) for uri, content in self._reads]
        return told + [_event(task, attempt, uri, "write", fingerprint(uri)) for uri in self._writes]


_current: ExternalUses | None = None


class Tracking:
    """While the block runs, `track` and the client tell of what is read and written."""

    def __init__(self, uses: ExternalUses, on_read: Any) -> None:
        self._uses = uses
        self._on_read = on_read

    def __enter__(self) -> None:
        global _current
        self._before = _current, reads.listen(self._on_read)
        _current = self._uses

    def __exit__(self, *_: object) -> None:
        global _current
        _current, listener = self._before
        reads.listen(listener)


def track(path_or_uri: PathOrURI, direction: str = "read") -> PathOrURI:
    """Record that this step reads or writes a file, a folder or a URI, and give it back.

        table = pandas.read_csv(weft.track("flights.csv"))
        weft.track("report.html", "write")

    What is read is recorded as it is now, what is written as it is at the end of the step. Outside a step
    nothing is recorded, so that functions that track can be used anywhere.

    Raises: UsageError for a direction that is neither "read" nor "write".
    """
    if direction not in _DIRECTIONS:
        raise UsageError(f'{direction!r} is no direction of data. Write track(path, "read") or "write".')
    if _current is not None:
        _current.note(normalized(path_or_uri), direction)
    return path_or_uri


def note_unasked(uri: str, direction: str) -> None:
    """A reader or writer was seen at work; outside a step nothing is recorded."""
    if _current is not None:
        _current.note_unasked(uri, direction)


def is_path(parameter: Parameter) -> bool:
    """Whether the type of a parameter says that its value is a path; click has such a type, too."""
    kind = parameter.type
    return (isinstance(kind, type) and issubclass(kind, os.PathLike)) or "Path" in (
        type(kind).__name__,
        getattr(kind, "__name__", None),
    )


def parameter_uses(run: RunRef, paths: Mapping[str, str]) -> list[Event]:
    """An event for each parameter whose path names something that exists now, by the parameter's name."""
    task = run.task("_parameters", "0")
    told = []
    for name, path in paths.items():
        uri = normalized(path)
        if os.path.exists(uri):
            content = fingerprint(uri, _UNASKED_BYTES_MAX)
            told.append(_event(task, None, uri, "read", content, name))
    return told


def included_use(run: RunRef, name: str, path: str, content: Fingerprint) -> Event:
    """The event for a file whose content is a parameter's value."""
    return _event(run.task("_parameters", "0"), None, path, "read", content, name, is_included=True)


def foreign_use(read: ClientRead) -> tuple[str, Fingerprint]:
    """What was loaded from another store, as something external."""
    digest = bytes.fromhex(read.digest.removeprefix("sha256:"))
    return f"{read.url}#{read.producer}/{read.name}", Fingerprint(digest, read.size_bytes)


def _event(
    task: TaskRef,
    attempt: int | None,
    uri: str,
    direction: str,
    content: Fingerprint,
    parameter: str | None = None,
    is_included: bool = False,
) -> Event:
    facts = {"state": content.state, "parameter": parameter, "is_included": is_included or None}
    known = {name: value for name, value in facts.items() if value is not None}
    return events.external_used(task, attempt, uri, direction, content.digest, content.size_bytes, known)


def _stat(uri: str) -> tuple[int, ...] | None:
    try:
        facts = os.stat(uri)
    except (OSError, ValueError):
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
