"""`weft verify` and `weft compact`: care of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from weft.cli.format import escape_controls, format_bytes, format_count
from weft.cli.meter import Meter
from weft.cli.output import Output
from weft.cli.session import Session, json_option

if TYPE_CHECKING:
    from weft.lineage.verify import Problem

__all__ = ["compact", "verify"]


@click.command(short_help="Check every byte of the store against its checksums.")
@click.option(
    "--deep", "is_deep", is_flag=True, help="Also work out the hashes of sealed journals, and decode values."
)
@json_option
@click.pass_obj
def verify(session: Session, is_deep: bool, is_json: bool) -> int:
    """Check every byte of the store against its checksums.

    Frames by CRC, segments and objects by sha256, and whether all that events name is there. With --deep
    also the running hash of every journal that was sealed, from its events, and whether every value but
    pickles can be decoded. Exit code 0: the store is sound; 1: damage, each finding with its file, its
    place, what it affects and what to do. A torn end of a journal (a process was killed while it wrote)
    was never acknowledged and is no damage; neither are temporary files of writes that were cut off.

    \b
    Examples:
      weft verify
      weft --store /backup/.weft verify --deep --json
    """
    from weft.lineage.verify import verify as verify_storage

    storage = session.storage()
    with Meter("verifying") as meter:
        report = verify_storage(storage, is_deep=is_deep, progress=meter)
    output = Output(is_json=is_json)
    if is_json:
        problems = [problem._asdict() for problem in report.problems]
        output.document({"is_sound": report.is_sound, **report._asdict(), "problems": problems})
        return 0 if report.is_sound else 1
    for problem in report.problems:
        style = "yellow" if problem.is_torn else "red"
        output.line(
            f"{escape_controls(problem.path)}{_place(problem)}: {escape_controls(problem.reason)}", style
        )
        output.line(f"  affected: {escape_controls(problem.affected)}")
        output.line(f"  {problem.advice}")
    if report.leftovers:
        count = format_count(len(report.leftovers), "temporary file")
        output.line(f"{count} of writes under way or cut off; `weft compact` removes those older than a day")
    counts = ", ".join(
        format_count(count, noun)
        for count, noun in (
            (report.event_count, "event"),
            (report.journal_count, "journal"),
            (report.segment_file_count, "segment file"),
            (report.object_count, "object"),
        )
    )
    counts += f", {format_count(report.value_count, 'value')} decoded" if is_deep else ""
    output.line(
        f"{'sound' if report.is_sound else 'DAMAGED'}: {counts}", "green" if report.is_sound else "red"
    )
    return 0 if report.is_sound else 1


def _place(problem: Problem) -> str:
    if problem.offset is None:
        return ""
    if not problem.length or problem.length == 1:
        return f" at byte {problem.offset:,}"
    return f" at byte {problem.offset:,} to {problem.offset + problem.length - 1:,}"


@click.command(short_help="Seal closed journals, and merge small segments into large ones.")
@json_option
@click.pass_obj
def compact(session: Session, is_json: bool) -> int:
    """Seal closed journals, and those of processes that died, and merge small segments into large ones.

    Nothing is lost and no answer changes: many small files become few that are fast to ask. Journals of
    runs that are at work are left alone. What was sealed or merged is removed a minute later or more, by
    the next call that may, when no reader needs it and the bytes that stay were checked. Of big stores what
    runs became is kept in `cache/`, so that questions need not work it out again.

    \b
    Example:
      weft compact
    """
    from weft.lineage.checkpointing import refresh_checkpoint
    from weft.lineage.log import EventLog

    storage = session.storage()
    with Meter("compacting") as meter:
        log = EventLog(storage)
        sealed, compacted, swept = log.tidy(is_whole=True, progress=meter)
        folded = refresh_checkpoint(storage, log)
    output = Output(is_json=is_json)
    left = [*sealed.left, *compacted.left]
    if is_json:
        output.document(
            {
                "events": sealed.event_count,
                "journals_sealed": sealed.sealed,
                "journals_removed": sealed.removed,
                "journals_left": [{"path": path, "reason": reason} for path, reason in left],
                "segments": len(sealed.segments),
                "size_bytes": sum(segment.size_bytes for segment in sealed.segments),
                "segments_before": compacted.segments_before,
                "segments_after": compacted.segments_after,
                "events_merged": compacted.event_count,
                "segment_files_removed": compacted.removed,
                "temporary_files_removed": swept,
                "runs_folded": folded.runs,
            }
        )
        return 0
    size_bytes = sum(segment.size_bytes for segment in sealed.segments)
    output.line(
        f"sealed {format_count(sealed.event_count, 'event')} of {format_count(len(sealed.sealed), 'journal')} "
        f"into {format_count(len(sealed.segments), 'segment')} ({format_bytes(size_bytes)})"
    )
    if compacted.merged:
        output.line(
            f"merged {format_count(compacted.event_count, 'event')}: {compacted.segments_before} segments "
            f"are now {compacted.segments_after}"
        )
    for paths, noun, reason in (
        (sealed.removed, "journal", "that had been sealed before"),
        (compacted.removed, "segment file", "whose events are in other segments"),
        (swept, "temporary file", "of writes that were cut off"),
    ):
        if paths:
            output.line(f"removed {format_count(len(paths), noun)} {reason}")
    for path, reason in left:
        output.line(f"left {escape_controls(path)}: {escape_controls(reason)}", "yellow")
    return 0
