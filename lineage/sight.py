"""What a reader sees of a store at one moment: segment files, what is folded of them, and the tail.

With a checkpoint that covers just the segments that are listed no footer is read, and no file is proven
before a query needs its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from weft.lineage.checkpoint import Checkpoint, CheckpointBroken, digest_of, read_checkpoint
from weft.lineage.errors import NotFound, WeftError
from weft.lineage.log import EventLog
from weft.lineage.manifest import Piece, read_segment_file
from weft.lineage.paths import JOURNALS, SEGMENTS, journal_name, segment_name
from weft.lineage.schema import Event, family_of
from weft.lineage.sources import Sealed, SealedFile
from weft.lineage.storage import Storage
from weft.lineage.upcast import outdated_kinds

__all__ = ["FileGone", "Prover", "Sight", "look", "sealed_file"]


class FileGone(Exception):
    """A file that a query wanted was removed since it was listed: list again, and ask again."""


class Sight(NamedTuple):
    """The segments to read, where they lie locally, and the events of no segment."""

    sealed: Sealed
    local: dict[str, str]
    tail: list[Event]
    checkpoint: Checkpoint | None


class Prover:
    """Proves local files before their rows are believed: segments, and the files of checkpoints."""

    def __init__(self, storage: Storage, log: EventLog) -> None:
        self._storage = storage
        self._log = log
        #: The path in the store of each local file.
        self.local: dict[str, str] = {}
        self._proven: set[str] = set()

    def begin(self, local: Sequence[str]) -> None:
        """Begin to prove files that will be wanted, while something else is done."""
        self._log.proofs.begin([path for path in local if path not in self._proven])

    def prove(self, local: Sequence[str]) -> None:
        """Check files by the sha256 in their names, each once. Raises: StoreDamaged, CheckpointBroken, FileGone."""
        segments = []
        for path in local:
            if path in self._proven:
                continue
            name = segment_name(self.local.get(path, ""))
            if name is None:
                self._prove_folded(path)
            else:
                segments.append((self.local[path], name))
        try:
            self._log.prove([read_segment_file(self._storage, path, name) for path, name in segments])
        except NotFound as error:
            raise FileGone(str(error)) from error
        self._proven.update(local)

    def _prove_folded(self, path: str) -> None:
        try:
            is_sound = self._log.proofs.sha256_of_file(path).hex() == digest_of(path)
        except WeftError as error:
            raise CheckpointBroken(str(error)) from error
        if not is_sound:
            raise CheckpointBroken(f"{path} is not what it was.")


def look(storage: Storage, log: EventLog, broken: Checkpoint | None = None) -> Sight:
    """All there is now; a checkpoint that was found to be broken is left alone.

    Raises: NotFound when a journal was sealed and removed meanwhile; StoreError.
    """
    checkpoint = read_checkpoint(storage)
    if checkpoint is not None and checkpoint != broken:
        try:
            return _with_checkpoint(storage, log, checkpoint)
        except CheckpointBroken:
            pass
    return _at_large(storage, log, None)


def _with_checkpoint(storage: Storage, log: EventLog, checkpoint: Checkpoint) -> Sight:
    # Journals first, as in every listing: what is sealed in between is seen twice, never missed.
    journals = [(file, name) for file in storage.scan(JOURNALS) if (name := journal_name(file.path))]
    listed = [path for path in storage.list(SEGMENTS) if segment_name(path)]
    if not checkpoint.is_all_of(listed):
        return _at_large(storage, log, checkpoint)
    journals = [
        (file, name) for file, name in journals if checkpoint.journals.get(file.path, -1) < file.size_bytes
    ]
    if checkpoint.knows_writer(storage, [name.writer for _, name in journals]):
        # Segments may hold a part of these journals: only their ranges tell.
        return _at_large(storage, log, checkpoint)
    files = [
        (family, path, outdated_kinds(covered.versions), tuple(covered.folded))
        for covered in checkpoint.segments.values()
        for family, path in covered.files.items()
    ]
    local = storage.localize([path for _, path, _, _ in files])
    sealed = tuple(
        SealedFile(family, place, None, True, _of_family(outdated, family), segments)
        for (family, _, outdated, segments), place in zip(files, local, strict=True)
    )
    places = dict(zip(local, (path for _, path, _, _ in files), strict=True))
    return Sight(Sealed(sealed, checkpoint.folded(storage)), places, log.unsealed(journals), checkpoint)


def _at_large(storage: Storage, log: EventLog, checkpoint: Checkpoint | None) -> Sight:
    snapshot = log.snapshot()
    covered = None if checkpoint is None else checkpoint.covered_among(snapshot.pieces)
    sealed = []
    places = {}
    for piece in snapshot.pieces:
        paths = [file.path for file in piece.segment.files.values()]
        for family, path, local in zip(piece.segment.files, paths, storage.localize(paths), strict=True):
            is_covered = covered is not None and piece.segment.segment_id in covered
            known_as = checkpoint.known_as(piece.segment) if checkpoint is not None and is_covered else ()
            sealed.append(sealed_file(piece, family, local, is_covered, known_as))
            places[local] = path
    folded = None if checkpoint is None or covered is None else checkpoint.folded(storage)
    used = None if folded is None else checkpoint
    return Sight(Sealed(tuple(sealed), folded), places, snapshot.tail, used)


def sealed_file(
    piece: Piece, family: str, local: str, is_covered: bool, known_as: Sequence[str] = ()
) -> SealedFile:
    """How a file of a piece is read, that lies at the path `local`; `known_as` as the places of a checkpoint have it."""
    outdated = _of_family(outdated_kinds(piece.segment.versions), family)
    return SealedFile(family, local, piece.only, is_covered, outdated, tuple(known_as))


def _of_family(kinds: Sequence[str], family: str) -> tuple[str, ...]:
    return tuple(kind for kind in kinds if family_of(kind) == family)
