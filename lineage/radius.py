"""How far something reaches: how many artifacts, tasks, runs and flows a graph holds beside its roots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft.lineage.sides import External
from weft.lineage.uses import Place

if TYPE_CHECKING:
    from weft.lineage.edges import Graph

__all__ = ["radius_line", "radius_of"]

_REUSING = """
    select distinct run_uid, flow, run_id, producer_step, producer_task_id, producer_flow, producer_run_id
    from told.task_events where kind = 'task_reused' and {}
"""


def radius_of(graph: Graph) -> dict[str, int]:
    """See `Graph.radius`."""
    side = graph.sides.get("down") or graph.sides["up"]
    side.complete()
    #: Artifacts and tasks by step, without the roots.
    artifacts: dict[Place, int] = {}
    tasks = {place: len(ids) for place, ids in side.tasks.items()}
    for (place, _), ids in side.artifacts.items():
        artifacts[place] = artifacts.get(place, 0) + len(ids)
    externals = len(side.externals)
    for key in side.roots:
        if isinstance(key, External):
            externals -= 1
        else:
            counted = artifacts if len(key) == 3 else tasks
            counted[key[0]] -= 1
    places = [place for counts in (artifacts, tasks) for place, count in counts.items() if count]
    runs = {(place.flow, place.run_id) for place in places if place.step != "_parameters"}
    return {
        "artifacts": sum(artifacts.values()),
        "tasks": sum(tasks.values()),
        "externals": externals,
        "runs": len(runs),
        "flows": len({flow for flow, _ in runs}),
        "reusing_runs": _reusing_runs(graph, runs),
    }


def radius_line(graph: Graph) -> str:
    """One line that counts what was made from the roots."""
    counts = graph.radius()
    parts = [f"{_count(counts['artifacts'], 'artifact')} of {_count(counts['tasks'], 'task')}"]
    parts += [f"in {_count(counts['runs'], 'run')} of {_count(counts['flows'], 'flow')}"]
    line = "reaches " + " ".join(parts)
    if counts["externals"]:
        line += f", {_count(counts['externals'], 'file or URI', 'files and URIs')} outside"
    if counts["reusing_runs"]:
        verb = "reuses" if counts["reusing_runs"] == 1 else "reuse"
        line += f"; {_count(counts['reusing_runs'], 'further run')} {verb} tasks of these"
    return line


def _reusing_runs(graph: Graph, runs: set[tuple[str, str]]) -> int:
    side = graph.sides.get("down")
    if side is None or not runs:
        return 0
    uses = graph.details.uses
    condition, params = uses.condition(runs, "producer_flow", "producer_run_id")
    found = set()
    for uid, flow, run_id, *producer in graph.details.store.rows(_REUSING.format(condition), params):
        step, task_id, maker_flow, maker_run = producer
        if task_id in side.tasks.get(Place(maker_flow, maker_run, step), ()):
            found.add((flow, uses.shown(uid, flow, run_id)))
    return len(found - runs)


def _count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
