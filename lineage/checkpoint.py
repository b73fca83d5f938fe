"""Checkpoints: what sealed events fold to, kept as a cache below `cache/checkpoint/`, and what they cover.

    cache/checkpoint/checkpoint.json       what there is, with a sha256 of its own
    cache/checkpoint/<sha256>.parquet      one state of one part
    cache/checkpoint/<sha256>.writers      the writers of the segments of one part, 8 bytes of each, sorted
    cache/checkpoint/<sha256>.places       which of these segments hold events of which run (see `places`)

A checkpoint is a few parts, largest first; a run is in one of them, or in a later one anew (then it is *stale*
in the earlier). It is used as long as every segment it covers is there, or one that was compacted from such.
Anything odd, and it is as if there were none: all of it can be deleted.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from weft.lineage.errors import WeftError
from weft.lineage.fold_sql import STATES, state_sql
from weft.lineage.folds import FOLDED
from weft.lineage.manifest import Piece, Segment
from weft.lineage.paths import CACHE
from weft.lineage.schema import COLUMNS
from weft.lineage.sources import Folded, FoldedPart
from weft.lineage.storage import Storage
from weft.lineage.upcast import UPCASTERS

__all__ = [
    "CHECKPOINTS",
    "DESCRIPTION_PATH",
    "Checkpoint",
    "CheckpointBroken",
    "Covered",
    "Part",
    "PartFile",
    "covered_of",
    "description_of",
    "digest_of",
    "read_checkpoint",
    "writers_bytes",
]

CHECKPOINTS = f"{CACHE}/checkpoint"
DESCRIPTION_PATH = f"{CHECKPOINTS}/checkpoint.json"

_FORMAT = 3
_WRITER_BYTES = 8


class CheckpointBroken(Exception):
    """A file of the checkpoint is gone or not what it was: read on without one."""


class PartFile(NamedTuple):
    """A file of a part; its name is its sha256."""

    path: str
    size_bytes: int


class Part(NamedTuple):
    """What was folded in one go. `files` by state, and `writers` and `places`; a later part tells `stale` runs anew."""

    files: dict[str, PartFile]
    runs: int
    stale: list[bytes]
    orphans: list[tuple[bytes, str, str]]


class Covered(NamedTuple):
    """A segment that is covered: its files, by family, how many events it has, and the lowest version of each kind.

    `folded` are the ids under which places know it: its own, or those of the segments it was compacted from.
    """

    files: dict[str, str]
    rows: int
    versions: dict[str, int]
    folded: list[str]


class Checkpoint(NamedTuple):
    """What the description says. `is_whole`: of no segment a part is left out.

    `journals` need not be read, by size, and neither do the `spent` segment files: others hold their events.
    """

    parts: list[Part]
    segments: dict[str, Covered]
    is_whole: bool
    journals: dict[str, int]
    spent: list[str]
    has_twins: bool

    def is_all_of(self, segment_paths: Iterable[str]) -> bool:
        """Whether just these files are covered, so that no footer needs to be read."""
        mine = {path for covered in self.segments.values() for path in covered.files.values()}
        listed = set(segment_paths)
        return self.is_whole and mine <= listed and listed - mine <= set(self.spent)

    def covered_among(self, pieces: Sequence[Piece]) -> set[str] | None:
        """The ids of those segments that are covered; None when one that should be there is not."""
        ids = {piece.segment.segment_id for piece in pieces}
        found = {segment_id for segment_id in ids if segment_id in self.segments}
        for piece in pieces:
            if piece.segment.segment_id not in found and self._is_merged(piece.segment):
                found |= {piece.segment.segment_id}
                ids |= set(piece.segment.replaces)
        return found if set(self.segments) <= ids else None

    def _is_merged(self, segment: Segment) -> bool:
        """Whether a segment holds what covered ones held, no more and no less."""
        return (
            segment.why == "compact"
            and bool(segment.replaces)
            and set(segment.replaces) <= set(self.segments)
            and sum(self.segments[gone].rows for gone in segment.replaces) == sum(segment.rows.values())
        )

    def known_as(self, segment: Segment) -> list[str]:
        """The ids under which places know a segment that is covered; of another none."""
        if segment.segment_id in self.segments:
            return self.segments[segment.segment_id].folded
        known = [self.segments[gone].folded for gone in segment.replaces if gone in self.segments]
        return [segment_id for ids in known for segment_id in ids]

    def folded(self, storage: Storage) -> Folded:
        """The files where they can be read. Raises: CheckpointBroken."""
        names = [part.files[name].path for part in self.parts for name in (*FOLDED, "places")]
        try:
            local = iter(storage.localize(names))
        except WeftError as error:
            raise CheckpointBroken(str(error)) from error
        parts = tuple(
            FoldedPart({name: next(local) for name in FOLDED}, tuple(part.stale), next(local))
            for part in self.parts
        )
        orphans = tuple(orphan for part in self.parts for orphan in part.orphans)
        return Folded(parts, orphans, self.has_twins)

    def knows_writer(self, storage: Storage, writers: Iterable[bytes]) -> bool:
        """Whether covered segments may hold events of one of these writers. Raises: CheckpointBroken."""
        wanted = [writer[:_WRITER_BYTES] for writer in writers]
        for part in self.parts if wanted else ():
            file = part.files["writers"]
            try:
                data = storage.get(file.path)
            except WeftError as error:
                raise CheckpointBroken(str(error)) from error
            if hashlib.sha256(data).hexdigest() != digest_of(file.path):
                raise CheckpointBroken(file.path)
            places = range(0, len(data), _WRITER_BYTES)
            for writer in wanted:
                index = bisect_left(places, writer, key=lambda at: data[at : at + _WRITER_BYTES])
                if index < len(places) and data.startswith(writer, places[index]):
                    return True
        return False


def digest_of(path: str) -> str:
    """The sha256 that a file's name says, as hex."""
    return path.rpartition("/")[2].partition(".")[0]


def writers_bytes(segments: Iterable[Segment]) -> bytes:
    """What is kept of the writers of some segments, to know others from them."""
    return b"".join(sorted({w[:_WRITER_BYTES] for s in segments for w in s.ranges.writers()}))


def covered_of(segment: Segment, known: Checkpoint | None) -> Covered:
    """What a checkpoint says of a segment; `known` is the one that covers it already, if any."""
    files = {family: file.path for family, file in segment.files.items()}
    folded = (known.known_as(segment) if known is not None else []) or [segment.segment_id]
    return Covered(files, sum(segment.rows.values()), segment.versions, folded)


def read_checkpoint(storage: Storage) -> Checkpoint | None:
    """The checkpoint of a store; None when there is none, or none that this version can use."""
    try:
        outer = json.loads(storage.get(DESCRIPTION_PATH))
        text = outer["checkpoint"]
        if hashlib.sha256(text.encode()).hexdigest() != outer["sha256"]:
            return None
        return _parse(json.loads(text))
    except (WeftError, ValueError, KeyError, TypeError, AttributeError):
        return None


def description_of(checkpoint: Checkpoint) -> bytes:
    body = {
        "format": _FORMAT,
        "folds": _folds_digest(),
        "parts": [
            {
                "files": part.files,
                "runs": part.runs,
                "stale": [uid.hex() for uid in part.stale],
                "orphans": [[uid.hex(), flow, run_id] for uid, flow, run_id in part.orphans],
            }
            for part in checkpoint.parts
        ],
        "segments": checkpoint.segments,
        "is_whole": checkpoint.is_whole,
        "journals": checkpoint.journals,
        "spent": checkpoint.spent,
        "has_twins": checkpoint.has_twins,
    }
    text = json.dumps(body, separators=(",", ":"))
    outer = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "checkpoint": text}
    return json.dumps(outer, separators=(",", ":")).encode()


def _parse(body: Mapping[str, Any]) -> Checkpoint | None:
    if body["format"] != _FORMAT or body["folds"] != _folds_digest():
        return None
    parts = [
        Part(
            {name: PartFile(*file) for name, file in part["files"].items()},
            part["runs"],
            [bytes.fromhex(uid) for uid in part["stale"]],
            [(bytes.fromhex(uid), flow, run_id) for uid, flow, run_id in part["orphans"]],
        )
        for part in body["parts"]
    ]
    if not all({*FOLDED, "writers", "places"} <= set(part.files) for part in parts):
        return None
    segments = {segment_id: Covered(*covered) for segment_id, covered in body["segments"].items()}
    return Checkpoint(parts, segments, body["is_whole"], body["journals"], body["spent"], body["has_twins"])


def _folds_digest() -> str:
    """Of the SQL that states are made by, and of what is upcast: what another version folded otherwise is not used."""
    told = [state_sql(name) for name in STATES] + [column.name for column in COLUMNS]
    told += [f"{kind} {version}" for kind, version in sorted(UPCASTERS)]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]
