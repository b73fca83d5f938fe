"""Of the segment files of a family those that may hold what is looked for, by statistics and Bloom filters.

DuckDB finds the same out, but opens every file for it. In its memory a footer takes a megabyte or two, as that of the
first family holds the ranges of the segment; and to plan and run a scan takes a fifth of a millisecond for each file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from weft.lineage.footers import column_bounds
from weft.lineage.sources import Sealed, SealedFile

if TYPE_CHECKING:
    from weft.lineage.views import Views

__all__ = ["NarrowedFiles"]

#: What of a footer is read: what stands behind the row groups is the rest of it.
_FOOTER_BYTES_MAX = 256 * 1024
_TRAILER_BYTES = 8

#: So many files are read first, and so many times as many when those were too few.
_FIRST_FILES = 1
_WIDENED = 3


class NarrowedFiles:
    """Relations over the events of one family, of some segment files and of the tail.

    All files of the family are proven first: their statistics are believed as their rows are.
    """

    def __init__(self, views: Views) -> None:
        self.views = views

    def by_time(self) -> Iterator[tuple[str, int]]:
        """Relations over more and more run events, those of the latest files first, each with the time that no event
        which is not in it is later than, in µs; the last has all, and so a time before all."""
        self.views.need_events(("run",))
        files = self.views.plain_files("run")
        bounded = sorted(
            ((until, file) for file in files if (until := _until_us(file)) is not None),
            key=lambda each: each[0],
            reverse=True,
        )
        count = _FIRST_FILES
        while len(bounded) == len(files) and count < len(bounded):
            yield self._relation("run", [file for _, file in bounded[:count]]), bounded[count][0]
            count *= _WIDENED
        yield "raw.run_events", -1

    def with_runs(self, family: str, run_ids: Collection[str]) -> str:
        """A relation over at least those events of a family that are of runs with these ids."""
        self.views.need_events((family,))
        files = self.views.plain_files(family)
        wanted = sorted(run_id.encode() for run_id in run_ids)
        kept = [file for file in files if _may_hold(file, wanted)]
        return self._relation(family, kept) if len(kept) < len(files) else f"raw.{family}_events"

    def with_digest(self, families: Sequence[str], digest: bytes) -> dict[str, str]:
        """Relations over at least those events of each family that have a digest."""
        self.views.need_events(families)
        files = {family: self.views.plain_files(family) for family in families}
        passed_over = self._without(digest, [file.path for family in families for file in files[family]])
        kept = {
            family: [file for file in files[family] if file.path not in passed_over] for family in families
        }
        return {
            family: self._relation(family, kept[family])
            if len(kept[family]) < len(files[family])
            else f"raw.{family}_events"
            for family in families
        }

    def _without(self, digest: bytes, paths: list[str]) -> set[str]:
        """Those of some files whose Bloom filters rule a digest out."""
        if not paths:
            return set()
        query = (
            "select file_name from parquet_bloom_probe(?, 'digest', ?::BLOB) "
            "group by file_name having bool_and(bloom_filter_excludes)"
        )
        return {path for (path,) in self.views.connection.execute(query, [paths, digest]).fetchall()}

    def _relation(self, family: str, files: list[SealedFile]) -> str:
        return self.views.events_of(family, Sealed(tuple(files)))


def _until_us(file: SealedFile) -> int | None:
    """The time that no event of a file is later than; None where that is not known."""
    bounds = _bounds(file, "time_us")
    if bounds is None or not all(len(greatest) == 8 for _, greatest in bounds):
        return None
    return max((int.from_bytes(greatest, "little", signed=True) for _, greatest in bounds), default=-1)


def _may_hold(file: SealedFile, run_ids: list[bytes]) -> bool:
    bounds = _bounds(file, "run_id")
    return bounds is None or any(
        least <= run_id <= greatest for least, greatest in bounds for run_id in run_ids
    )


def _bounds(file: SealedFile, column: str) -> list[tuple[bytes, bytes]] | None:
    with open(file.path, "rb") as opened:
        size_bytes = opened.seek(0, 2)
        opened.seek(size_bytes - _TRAILER_BYTES)
        length = int.from_bytes(opened.read(4), "little")
        opened.seek(size_bytes - _TRAILER_BYTES - length)
        return column_bounds(opened.read(min(length, _FOOTER_BYTES_MAX)), column)
