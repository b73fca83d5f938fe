"""How far something reaches: how many artifacts, tasks, runs and flows a graph holds beside its roots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weft.lineage.sides import External

if TYPE_CHECKING:
    from weft.lineage.edges import Graph

__all__ = ["radius_line", "radius_of"]

_REUSING = """
    select distinct run_uid, flow, run_id, producer_step, producer_task_id, producer_flow, producer_run_id
    from raw.task_events where kind = 'task_reused' and {}
"""


def radius_of(graph: Graph) -> dict[str, int]:
    """See `Graph.radius`."""
    sides = [graph.sides["down"]] if "down" in graph.sides else list(graph.sides.values())
    keys = {key for side in sides for key, _ in side.depths()}
    keys -= {key for side in sides for key in side.roots}
    artifacts = [key for key in keys if len(key) == 3]
    tasks = {
        (key[0], key[1]) for key in keys if not isinstance(key, External) and key[0].step != "_parameters"
    }
    runs = {(place.flow, place.run_id) for place, _ in tasks}
    return {
        "artifacts": len(artifacts),
        "tasks": len([key for key in keys if len(key) == 2 and not isinstance(key, External)]),
        "externals": len([key for key in keys if isinstance(key, External)]),
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
        place = (maker_flow, maker_run, step)
        if any(tuple(p) == place and task_id in ids for p, ids in side.tasks.items()):
            found.add((flow, uses.shown(uid, flow, run_id)))
    return len(found - runs)


def _count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
