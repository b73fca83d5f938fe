"""Two runs of an open store compared: facts are fetched, code is read, and the pure core orders what differs."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from weft.lineage.code_units import Unit, compare_code, steps_reached, units_of
from weft.lineage.collector import CollectorPause
from weft.lineage.contrasts import contrast
from weft.lineage.diff import Diff, compare
from weft.lineage.errors import WeftError
from weft.lineage.ids import digest_from_text
from weft.lineage.pairing import collect_pairs
from weft.lineage.pairs import Pairs, RunFacts
from weft.lineage.run_facts import find_runs

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["compare_runs", "read_code"]

Units = dict[tuple[str, str], Unit]


def compare_runs(store: Answers, a: str, b: str) -> Diff:
    """Compare two runs, each `Flow/run` or a flow for its newest. Raises: NotFound with near names, UsageError."""
    with CollectorPause():
        account, (run_a, run_b) = find_runs(store, (a, b))
        return _compare(store, collect_pairs(account, run_a, run_b))


def _compare(store: Answers, pairs: Pairs) -> Diff:
    before, after = _changed_units(store, pairs)
    changes = compare_code(before, after)
    steps = [node["name"] for run in (pairs.a, pairs.b) for node in (run.graph or {}).get("steps", ())]
    reached = {
        (change.path, change.name): steps_reached((change.path, change.name), (before, after), steps)
        for change in changes
        if not change.is_cosmetic
    }
    reached = _as_recorded(reached, pairs)
    return compare(pairs, changes, reached, partial(contrast, store))


def _as_recorded(reached: dict[tuple[str, str], list[str]], pairs: Pairs) -> dict[tuple[str, str], list[str]]:
    """What changes of code reach, by what the runs recorded of each step: its code is the same, or it is not.

    Names say too much; and where they say too little, any of the changes may be why a step's code is another.
    """
    a, b = pairs.a.step_code, pairs.b.step_code
    if not a or not b:
        return reached
    differing = [step for step in {**a, **b} if a.get(step) != b.get(step)]
    unexplained = [step for step in differing if not any(step in steps for steps in reached.values())]
    return {
        place: [step for step in steps if step in differing] + unexplained for place, steps in reached.items()
    }


def read_code(store: Answers, code_digest: str) -> tuple[str, dict[str, str]]:
    """The entry and the texts by path of a code snapshot; without those whose bytes are gone.

    Raises: NotFound when the manifest is gone, StoreDamaged.
    """
    manifest = json.loads(store.objects.get(digest_from_text(code_digest)))
    files = {}
    for path, digest in manifest["files"].items():
        files[path] = store.objects.get(digest_from_text(digest)).decode("utf-8", "replace")
    return manifest["entry"], files


def _changed_units(store: Answers, pairs: Pairs) -> tuple[Units, Units]:
    """The units of both snapshots; none where the code is the same, or cannot be read any more."""
    if pairs.a.code_digest == pairs.b.code_digest:
        return {}, {}
    files = [_files(store, run) for run in (pairs.a, pairs.b)]
    if any(texts is None for texts in files):
        return {}, {}
    before, after = (units_of(texts or {}) for texts in files)
    return before, after


def _files(store: Answers, run: RunFacts) -> dict[str, str] | None:
    if run.code_digest is None:
        return None
    try:
        return read_code(store, run.code_digest)[1]
    except (WeftError, ValueError, KeyError, TypeError):
        return None
