"""A long history: how fast it is written and sealed, and how large it is. A store that is there is measured again."""

from __future__ import annotations

import json
import os
from typing import Any

from benchmarks.bench_views import measure_views
from benchmarks.report import Figure, answer_of
from benchmarks.scale import History, Landmarks, write_history
from benchmarks.workloads import Size
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.paths import SEGMENTS

__all__ = ["history_in", "landmarks_of", "measure_scale"]


def measure_scale(size: Size, seed: int, folder: str) -> tuple[list[Figure], str]:
    """Write the history of a seed unless `folder` holds it already, and tell what it took."""
    history = history_in(folder, seed, size.history)
    storage = LocalStorage(os.path.join(folder, "store"))
    segments = EventLog(storage).segments()
    stored = sum(file.size_bytes for file in storage.scan(SEGMENTS))
    told = [history.event_count, history.run_count, history.landmarks._asdict()]
    figures = [
        Figure("events", history.event_count, "events"),
        Figure("runs", history.run_count, "runs"),
        Figure("made and appended, without syncs", history.event_count / history.write_s, "events/s"),
        Figure("sealed", history.sealed_count / history.seal_s, "events/s", target="100,000"),
        Figure("size of segments", stored / history.sealed_count, "B/event", target="36"),
        Figure("kept as", len(segments), "segments"),
    ]
    if history.seal_cpu_s:
        # Stores that were made before this was noted do not tell it.
        rate = history.sealed_count / history.seal_cpu_s
        figures.insert(4, Figure("sealed, by the time of processors", rate, "events/s"))
    return figures + measure_views(storage.root, size.repeats), answer_of(told)


def landmarks_of(folder: str) -> Landmarks:
    """The runs of a history that are unlike the others."""
    return _read(folder).landmarks


def history_in(folder: str, seed: int, count: int) -> History:
    """The history of a seed in `folder`, made if it is not there."""
    try:
        found = _read(folder)
    except FileNotFoundError:
        found = write_history(os.path.join(folder, "store"), seed, count)
        with open(_description(folder), "w", encoding="utf-8") as file:
            json.dump(found._asdict() | {"landmarks": found.landmarks._asdict()}, file, indent=2)
    return found


def _read(folder: str) -> History:
    with open(_description(folder), encoding="utf-8") as file:
        fields: dict[str, Any] = json.load(file)
    return History(**fields | {"landmarks": Landmarks(**fields["landmarks"])})


def _description(folder: str) -> str:
    return os.path.join(folder, "history.json")
