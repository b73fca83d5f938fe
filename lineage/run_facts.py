"""What is recorded of a run as a whole, for who compares or repeats it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from weft.lineage.errors import NotFound, UsageError
from weft.lineage.ids import digest_to_text, parse_pathspec
from weft.lineage.named_runs import NamedRun, find_run_named, find_runs_named, of_runs
from weft.lineage.pairs import RunFacts
from weft.lineage.targets import near

if TYPE_CHECKING:
    from datetime import datetime

    from weft.lineage.answers import Answers

__all__ = ["find_run", "read_run_facts"]


def find_run(store: Answers, text: str) -> tuple[str, str]:
    """Flow and id of the run that `Flow/run` names; of a flow alone the newest. Raises: NotFound, UsageError."""
    spec = parse_pathspec(text)
    if spec.step is not None:
        raise UsageError(f"{text} names more than a run. Write {spec.flow}/{spec.run_id}.")
    if spec.run_id is not None and find_run_named(store, spec.flow, spec.run_id) is not None:
        return spec.flow, spec.run_id
    runs = store.rows(
        "select run_id from fold.runs where flow = ? order by started_at desc, run_id desc", [spec.flow]
    )
    if not runs:
        flows = [row[0] for row in store.rows("select distinct flow from fold.runs")]
        raise NotFound(f"There is no flow {spec.flow!r} in {store.url}.{near(spec.flow, flows)}")
    if spec.run_id is None:
        return spec.flow, runs[0][0]
    hint = near(spec.run_id, [row[0] for row in runs])
    raise NotFound(f"There is no run {spec.flow}/{spec.run_id} in {store.url}.{hint}")


def read_run_facts(store: Answers, names: list[tuple[str, str]]) -> list[RunFacts]:
    """What is recorded of runs that are there, each (flow, run id)."""
    runs = find_runs_named(store, names)
    condition, params = of_runs(runs.values(), "raw_run_id")
    rows = store.rows(
        "select run_uid, started_at, (epoch_us(finished_at) - epoch_us(started_at)) / 1e6, origin_run_id, user_name "
        f"from fold.runs where {condition}",
        params,
    )
    known = {bytes(uid): more for uid, *more in rows}
    condition, params = of_runs(runs.values())
    told: list[dict[bytes, dict[str, Any]]] = []
    for family, kind in (("run", "run_started"), ("other", "code_reached")):
        payloads: dict[bytes, dict[str, Any]] = {}
        for uid, payload in store.rows(
            f"select run_uid, payload from told.{family}_events where kind = '{kind}' and {condition} "
            "order by epoch desc, time_us",
            params,
        ):
            payloads.setdefault(bytes(uid), json.loads(payload) if payload else {})
        told.append(payloads)
    found = []
    for name in names:
        run = runs[name]
        started_at, duration_s, origin, user = known[run.uid]
        found.append(
            _run_facts(run, started_at, duration_s, origin, user, *(each.get(run.uid, {}) for each in told))
        )
    return found


def _run_facts(
    run: NamedRun,
    started_at: datetime | None,
    duration_s: float | None,
    origin: str | None,
    user: str | None,
    started: dict[str, Any],
    reached: dict[str, Any],
) -> RunFacts:
    return RunFacts(
        f"{run.flow}/{run.run_id}",
        run.flow,
        run.run_id,
        run.status,
        started_at,
        duration_s,
        None if run.code_digest is None else digest_to_text(run.code_digest),
        origin,
        started.get("graph") or None,
        _environment(started, reached, user),
        tuple(map(str, started.get("command") or ())),
        {step: code["digest"] for step, code in (reached.get("steps") or {}).items()},
    )


def _environment(started: dict[str, Any], reached: dict[str, Any], user: str | None) -> dict[str, str]:
    git = started.get("git") or {}
    facts = {name: started.get(name) for name in ("python", "platform", "weft", "host", "isolation")}
    facts |= {"user": user, "git commit": git.get("commit"), "git branch": git.get("branch")}
    # What was imported when the run began, and what the code imports later.
    told = {**(reached.get("packages") or {}), **(started.get("packages") or {})}
    packages = {name.replace("-", "_"): version for name, version in told.items()}
    facts |= {f"package {name}": version for name, version in sorted(packages.items())}
    return {name: str(value) for name, value in facts.items() if value is not None}
