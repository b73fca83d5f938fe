"""`weft verify` and `weft compact`: care of the store."""

from __future__ import annotations

import click

from weft.cli.format import escape_controls, format_bytes, format_count
from weft.cli.output import Output
from weft.cli.session import Session, json_option

__all__ = ["compact", "verify"]


@click.command(short_help="Check every byte of the store against its checksums.")
@json_option
@click.pass_obj
def verify(session: Session, is_json: bool) -> int:
    """Check every byte of the store against its checksums.

    Frames by CRC, segments and objects by sha256, and whether all that events name is there. Exit code
    0: the store is sound; 1: damage, each finding with its file, its place and what to do. A torn end of
    a journal (a process was killed while it wrote) was never acknowledged and is no damage.

    \b
    Examples:
      weft verify
      weft --store /backup/.weft verify --json
    """
    from weft.lineage.verify import verify as verify_storage

    report = verify_storage(session.storage())
    output = Output(is_json=is_json)
    if is_json:
        output.document({"is_sound": report.is_sound, **report._asdict()})
        return 0 if report.is_sound else 1
    for problem in report.problems:
        place = "" if problem.offset is None else f" at byte {problem.offset:,}"
        style = "yellow" if problem.is_torn else "red"
        output.line(f"{escape_controls(problem.path)}{place}: {escape_controls(problem.reason)}", style)
        output.line(f"  affected: {escape_controls(problem.affected)}")
        output.line(f"  {problem.advice}")
    counts = ", ".join(
        format_count(count, noun)
        for count, noun in (
            (report.event_count, "event"),
            (report.journal_count, "journal"),
            (report.segment_file_count, "segment file"),
            (report.object_count, "object"),
        )
    )
    output.line(
        f"{'sound' if report.is_sound else 'DAMAGED'}: {counts}", "green" if report.is_sound else "red"
    )
    return 0 if report.is_sound else 1


@click.command(short_help="Seal closed journals into Parquet segments.")
@json_option
@click.pass_obj
def compact(session: Session, is_json: bool) -> int:
    """Seal closed journals, and those of processes that died, into Parquet segments.

    Nothing is lost and no answer changes: many small files become few that are fast to ask. Journals of
    runs that are at work are left alone. What was sealed is removed later, when no reader needs it.

    \b
    Example:
      weft compact
    """
    from weft.lineage.log import EventLog

    storage = session.storage()
    report = EventLog(storage).seal(force=True)
    output = Output(is_json=is_json)
    files = [file.path for segment in report.segments for file in segment.files.values()]
    size_bytes = sum(storage.size(path) for path in files)
    if is_json:
        output.document(
            {
                "events": report.event_count,
                "journals_sealed": report.sealed,
                "journals_removed": report.removed,
                "journals_left": [{"path": path, "reason": reason} for path, reason in report.left],
                "segments": len(report.segments),
                "size_bytes": size_bytes,
            }
        )
        return 0
    output.line(
        f"sealed {format_count(report.event_count, 'event')} of {format_count(len(report.sealed), 'journal')} "
        f"into {format_count(len(report.segments), 'segment')} ({format_bytes(size_bytes)})"
    )
    if report.removed:
        output.line(f"removed {format_count(len(report.removed), 'journal')} that had been sealed before")
    for path, reason in report.left:
        output.line(f"left {escape_controls(path)}: {escape_controls(reason)}", "yellow")
    return 0
