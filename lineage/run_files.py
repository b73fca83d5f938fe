"""Which segment files hold events of some runs, and which of their rows these are. Pure, but for what it is given."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from weft.lineage.places import events_in, segment_key
from weft.lineage.run_demands import RunKey
from weft.lineage.sources import Sealed, SealedFile

__all__ = ["condition_of", "files_of", "recorded"]

_TWIN = re.compile(r"~\d+$")


def files_of(run: RunKey, places: Iterable[bytes] | None, sealed: Sealed) -> tuple[list[SealedFile], int]:
    """The files of segments that hold events of a run, or may, and how many events the places know of; without
    places that may be any file."""
    if places is None:
        return list(sealed.files), 0
    events: dict[bytes, int] = {}
    for data in places:
        events.update(events_in(data, *run))
    files = [
        file
        for file in sealed.files
        if not file.is_covered or not events.keys().isdisjoint(map(segment_key, file.known_as))
    ]
    return files, sum(events.values())


def recorded(runs: Iterable[RunKey]) -> set[RunKey]:
    """The runs that may be meant: a second run of one pathspec is shown as `id~2`."""
    return {(flow, run_id) for flow, shown in runs for run_id in (shown, _TWIN.sub("", shown))}


def condition_of(runs: Iterable[RunKey]) -> str:
    """What rows of these runs are like, by constants, so that it reaches the statistics of the files."""
    ordered = sorted(runs)
    flows, run_ids = sorted({flow for flow, _ in ordered}), sorted({run_id for _, run_id in ordered})
    apart = f"flow in ({_texts(flows)}) and run_id in ({_texts(run_ids)})"
    if len(ordered) == len(flows) * len(run_ids):
        return apart
    exact = " or ".join(
        f"(flow = {_texts([flow])} and run_id = {_texts([run_id])})" for flow, run_id in ordered
    )
    return f"{apart} and ({exact})"


def _texts(values: Sequence[str]) -> str:
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)
