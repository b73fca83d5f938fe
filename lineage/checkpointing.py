"""Making checkpoints: fold what no part covers yet, write it as one more part, merge small parts.

Never before an answer: `weft compact` does it, and commands once their answer is out. One process writes at
a time; readers go on with what they have opened.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from weft.lineage import clock
from weft.lineage.checkpoint import (
    CHECKPOINTS,
    DESCRIPTION_PATH,
    Checkpoint,
    CheckpointBroken,
    Covered,
    Part,
    PartFile,
    covered_of,
    description_of,
    digest_of,
    read_checkpoint,
    writers_bytes,
)
from weft.lineage.coverage import Coverage, uncovered_journals
from weft.lineage.engine import load_engine
from weft.lineage.errors import NotFound, StoreConflict
from weft.lineage.event_tables import is_small
from weft.lineage.folds import FOLDED, Folds
from weft.lineage.log import EventLog
from weft.lineage.manifest import Piece, Segment, SegmentFile, list_segment_files, pieces_of, segments_of
from weft.lineage.objects import sha256_of
from weft.lineage.paths import JOURNALS, journal_name
from weft.lineage.places import places_bytes
from weft.lineage.proofs import sha256_of_file
from weft.lineage.sight import sealed_file
from weft.lineage.sources import Sealed, SealedFile
from weft.lineage.storage import Storage
from weft.lineage.view_sql import read_events

__all__ = ["CheckpointReport", "refresh_checkpoint"]

R = TypeVar("R")

_LOCK_PATH = f"{CHECKPOINTS}.lock"
_ROW_GROUP_ROWS = 32_768
#: Runs are sorted by their beginning, and of most lists only the first few of them are wanted.
_ROW_GROUP_RUNS = 8_192

#: What DuckDB may hold in memory; the rest it spills. Ten million events of 104,000 runs do with 300 MB, not with 250,
#: and take a sixth more time of the processor than with the 1.6 GB they would use.
_MEMORY_LIMIT = "320MB"

#: A part is merged into the new one when it has fewer runs than so many times those of the new.
_MERGED_TIMES = 4

#: Files of an earlier checkpoint stay so long, for readers that are at work with it.
_GRACE_US = 60_000_000

#: How the rows of each state are sorted in its file, so that questions about few of them read few.
_ORDERS = {
    "fences": "run_uid",
    "counted": "started_at desc",
    "tasks": "flow, raw_run_id, run_uid, first_us, step, task_id",
    "steps": "flow, raw_run_id, run_uid, first_us",
    "reuses": "flow, raw_run_id, run_uid, step, task_id",
    "retried": "flow, raw_run_id, run_uid, step, task_id",
    "parameters": "flow, raw_run_id, run_uid, name",
    "tags": "flow, raw_run_id, run_uid, tag",
    "numbers": "name, value_number, flow, raw_run_id",
}


class CheckpointReport(NamedTuple):
    """What was folded: segments that were not covered before, and the runs in the new part."""

    segments: int
    runs: int


def refresh_checkpoint(storage: Storage, log: EventLog, bytes_max: int | None = None) -> CheckpointReport:
    """Bring the checkpoint of a big store up to its segments; with `bytes_max` only about so many of them at a time.

    Raises: StoreUnavailable on a store that cannot be written to; StoreDamaged.
    """
    nothing = CheckpointReport(0, 0)
    pieces = pieces_of(log.segments())
    if is_small(file.size_bytes for piece in pieces for file in piece.segment.files.values()):
        return nothing
    if not storage.exists(_LOCK_PATH):
        try:
            storage.create_exclusive(_LOCK_PATH, b"")
        except StoreConflict:
            return nothing
    lock = storage.try_lock(_LOCK_PATH)
    if lock is None:
        return nothing
    try:
        return _refresh(storage, log, pieces, bytes_max)
    except (NotFound, CheckpointBroken):
        # Compacted, or begun anew, meanwhile: the next one will find it at rest.
        return nothing
    finally:
        lock.release()


def _refresh(storage: Storage, log: EventLog, pieces: list[Piece], bytes_max: int | None) -> CheckpointReport:
    known = read_checkpoint(storage)
    covered = None if known is None else known.covered_among(pieces)
    if known is not None and (covered is None or not _is_sound(storage, known)):
        known, covered = None, None
    covered = covered or set()
    new = [piece.segment for piece in pieces if piece.segment.segment_id not in covered]
    if bytes_max is not None:
        new = _first_of(new, bytes_max)
    wanted = covered | {segment.segment_id for segment in new}
    pieces = [piece for piece in pieces if piece.segment.segment_id in wanted]
    parts = list(known.parts) if known is not None else []
    has_twins = known is not None and known.has_twins
    runs = 0
    if new:
        with tempfile.TemporaryDirectory(prefix="weft-checkpoint-") as folder:
            part, parts, has_twins = _within_memory(
                partial(_fold, storage, log, pieces, known, covered, new, folder)
            )
        parts.append(part)
        runs = part.runs
    segments = {
        piece.segment.segment_id: covered_of(
            piece.segment, known if piece.segment.segment_id in covered else None
        )
        for piece in pieces
    }
    journals = _sealed_journals(storage, [piece.segment for piece in pieces])
    is_whole = all(piece.only is None for piece in pieces)
    made = Checkpoint(parts, segments, is_whole, journals, _spent_files(storage, segments), has_twins)
    if made != known:
        storage.put(DESCRIPTION_PATH, description_of(made))
    _remove_unused(storage, made)
    return CheckpointReport(len(new), runs)


def _is_sound(storage: Storage, checkpoint: Checkpoint) -> bool:
    try:
        return all(
            sha256_of(storage, file.path).hex() == digest_of(file.path)
            for part in checkpoint.parts
            for file in part.files.values()
        )
    except NotFound:
        return False


def _first_of(segments: list[Segment], bytes_max: int) -> list[Segment]:
    chosen: list[Segment] = []
    size_bytes = 0
    for segment in segments:
        size_bytes += sum(file.size_bytes for file in segment.files.values())
        if chosen and size_bytes > bytes_max:
            break
        chosen.append(segment)
    return chosen


def _within_memory(fold: Callable[[str | None], R]) -> R:
    """What `fold` gives with little memory; if that is too little, or there is no room to spill to, with what there is."""
    error_type = load_engine().Error
    try:
        return fold(_MEMORY_LIMIT)
    except error_type as error:
        if type(error).__name__ not in ("OutOfMemoryException", "IOException"):
            raise
    return fold(None)


def _fold(
    storage: Storage,
    log: EventLog,
    pieces: Sequence[Piece],
    known: Checkpoint | None,
    covered: set[str],
    new: list[Segment],
    folder: str,
    memory_limit: str | None,
) -> tuple[Part, list[Part], bool]:
    """The new part, the earlier ones that stay beside it, and whether runs share a pathspec."""
    files, by_path = _files_of(storage, pieces, covered)

    def prove(paths: Sequence[str]) -> None:
        log.prove([by_path[path] for path in paths if path in by_path])

    earlier = known.parts if known is not None else []
    folded = None if known is None else known.folded(storage)
    folds = Folds(Sealed(tuple(files), folded), None, prove, folder, is_building=True)
    try:
        if memory_limit is not None:
            folds.connection.execute(f"set memory_limit = '{memory_limit}'")
        places = _places(folds, [file for file in files if not file.is_covered])
        folds.need_states(FOLDED)
        fresh = folds.rows_in("state.counted" if known is None else "dirty.counted")
        # Each state of the new part: the dirty runs, and what the parts say that it takes in.
        kept = len(earlier)
        while kept and earlier[kept - 1].runs < _MERGED_TIMES * fresh:
            kept -= 1
            fresh += earlier[kept].runs
        known_dirty = [
            row[0] for row in folds.connection.execute("select run_uid from dirty.known").fetchall()
        ]
        taken = range(kept, len(earlier))
        written = {}
        for name in FOLDED:
            selects = [f"select * from {'state' if known is None else 'dirty'}.{name}"]
            selects += [folds.select_part(name, number) for number in taken]
            written[name] = _write(storage, folds, name, " union all ".join(selects), folder)
        runs = folds.rows_in(f"read_parquet('{os.path.join(folder, 'counted.parquet')}')")
        orphans = _orphans(folds, known is not None)
        has_twins = bool(
            folds.connection.execute(
                "select 1 from state.counted group by flow, raw_run_id having count(*) > 1 limit 1"
            ).fetchall()
        )
    finally:
        folds.connection.close()
    before = [earlier[number].files for number in taken]
    writers = [storage.get(files["writers"].path) for files in before]
    written["writers"] = _put(storage, _sorted_records(b"".join([writers_bytes(new), *writers])), "writers")
    known_places = [storage.get(files["places"].path) for files in before]
    written["places"] = _put(storage, places_bytes(places, *known_places), "places")
    again = set(known_dirty)
    staying = [part._replace(stale=sorted({*part.stale, *again}), orphans=[]) for part in earlier[:kept]]
    return Part(written, runs, [], orphans), staying, has_twins


def _files_of(
    storage: Storage, pieces: Sequence[Piece], covered: set[str]
) -> tuple[list[SealedFile], dict[str, SegmentFile]]:
    """The files to read, and by their local path those of the store."""
    by_path: dict[str, SegmentFile] = {}
    files = []
    for piece in pieces:
        listed = list(piece.segment.files.values())
        for file, path in zip(listed, storage.localize([file.path for file in listed]), strict=True):
            by_path[path] = file
            is_covered = piece.segment.segment_id in covered
            files.append(sealed_file(piece, file.footer.family, path, is_covered, [piece.segment.segment_id]))
    return files, by_path


def _places(folds: Folds, files: Sequence[SealedFile]) -> list[tuple[str, str, str, int]]:
    """(segment id, flow, run id, events) of each run in each segment of these files. They are proven first."""
    by_segment: dict[str, list[str]] = {}
    for file in files:
        by_segment.setdefault(file.known_as[0], []).append(file.path)
    found = []
    for segment_id, paths in by_segment.items():
        folds.prove_files(paths)
        rows = folds.connection.execute(
            f"select flow, run_id, count(*) from ({read_events(paths)}) "
            "where flow is not null and run_id is not null group by all"
        ).fetchall()
        found += [(segment_id, flow, run_id, count) for flow, run_id, count in rows]
    return found


def _orphans(folds: Folds, is_more: bool) -> list[tuple[bytes, str, str]]:
    """Runs that tasks or artifacts name and no event of their own: no part holds them."""
    schema = "dirty" if is_more else "told"
    suffix = "told" if is_more else "events"
    found: set[tuple[bytes, str, str]] = set()
    for family in ("task", "artifact"):
        found.update(
            folds.connection.execute(
                f"select distinct run_uid, flow, run_id from {schema}.{family}_{suffix} e where run_uid is not null "
                "and flow is not null and run_id is not null and run_uid not in (select run_uid from state.counted)"
            ).fetchall()
        )
    return sorted(found)


def _write(storage: Storage, folds: Folds, name: str, select: str, folder: str) -> PartFile:
    """Write a state of the new part, with the time of its run's last event in every row, and publish it."""
    path = os.path.join(folder, f"{name}.parquet")
    if name == "counted":
        query = f"select s.*, s.settled_us as run_last_us from ({select}) s"
    else:
        query = (
            f"select s.*, c.settled_us as run_last_us from ({select}) s join state.counted c using (run_uid)"
        )
    rows = _ROW_GROUP_RUNS if name == "counted" else _ROW_GROUP_ROWS
    folds.connection.execute(
        f"copy ({query} order by {_ORDERS[name]}) to '{path}' (format parquet, compression zstd, row_group_size {rows})"
    )
    digest = sha256_of_file(path).hex()
    target = f"{CHECKPOINTS}/{digest}.parquet"
    size_bytes = os.path.getsize(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        view = memoryview(data)
        try:
            storage.put(target, view)
        finally:
            view.release()
    return PartFile(target, size_bytes)


def _put(storage: Storage, data: bytes, ending: str) -> PartFile:
    import hashlib

    path = f"{CHECKPOINTS}/{hashlib.sha256(data).hexdigest()}.{ending}"
    storage.put(path, data)
    return PartFile(path, len(data))


def _sorted_records(data: bytes) -> bytes:
    return b"".join(sorted({data[at : at + 8] for at in range(0, len(data), 8)}))


def _sealed_journals(storage: Storage, segments: Sequence[Segment]) -> dict[str, int]:
    """Journals that are still there, and of which these segments hold all."""
    listed = [(file, name) for file in storage.scan(JOURNALS) if (name := journal_name(file.path))]
    coverage = Coverage([segment.ranges for segment in segments], {name.writer for _, name in listed})
    uncovered = {path for path, _ in uncovered_journals(storage, listed, coverage)}
    return {file.path: file.size_bytes for file, _ in listed if file.path not in uncovered}


def _spent_files(storage: Storage, segments: dict[str, Covered]) -> list[str]:
    """Segment files that are still there, but of segments that whole ones stand for."""
    files = list_segment_files(storage, {})
    whole = [segment for segment in segments_of(files, with_replaced=True) if not segment.missing]
    pieces = {piece.segment.segment_id for piece in pieces_of(segments_of(files))}
    gone = {segment.segment_id for segment in whole} - pieces
    return sorted(file.path for file in files if file.footer.segment_id in gone - set(segments))


def _remove_unused(storage: Storage, checkpoint: Checkpoint) -> None:
    used = {file.path for part in checkpoint.parts for file in part.files.values()} | {DESCRIPTION_PATH}
    oldest_us = clock.now_us() - _GRACE_US
    for file in storage.scan(CHECKPOINTS):
        if file.path not in used and file.modified_us < oldest_us:
            storage.delete(file.path)
