"""Which run a resume goes on from, read from the log."""

from __future__ import annotations

from weft.lineage import clock
from weft.lineage.errors import NotFound, UsageError
from weft.lineage.events import Event
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.projections import RunState, fold

__all__ = ["choose_origin"]

#: What a plan is made from; reads and console output are not needed.
_FAMILIES = ("run", "task", "artifact")


def choose_origin(
    storage: LocalStorage, flow: str, user: str, run_id: str | None
) -> tuple[RunState, dict[bytes, RunState], int]:
    """The run to resume, the states of all runs it builds on, and the time of the last event read.

    Without `run_id` it is this user's newest run of the flow that has ended or is lost.

    Raises: NotFound when there is none; UsageError for a run that is still running.
    """
    log = EventLog(storage)
    dead, now_us = log.dead_writers(), clock.now_us()
    heads = fold(log.events(flow=flow, families=("run",)), dead, now_us)
    chosen = _newest(heads, flow, user) if run_id is None else _named(heads, flow, run_id)
    if chosen.status == "running":
        raise UsageError(
            f"{flow}/{chosen.run_id} is still running. Wait for its end or stop it, then resume; "
            "or name another run with --origin-run-id."
        )
    recorded = log.events(run_uid=chosen.run_uid, families=_FAMILIES)
    runs = fold(recorded, dead, now_us)
    last_time_us = recorded[-1].time_us if recorded else 0
    known = {(chosen.flow, chosen.run_id)}
    while missing := _producers(recorded) - known:
        known |= missing
        recorded = [
            event
            for producer_flow, producer_run in sorted(missing)
            for event in log.events(flow=producer_flow, run_id=producer_run, families=_FAMILIES)
        ]
        runs |= fold(recorded, dead, now_us)
    return runs[chosen.run_uid], runs, last_time_us


def _producers(recorded: list[Event]) -> set[tuple[str, str]]:
    """The runs that tasks were reused or artifacts merged from."""
    return {
        (event.producer_flow, event.producer_run_id)
        for event in recorded
        if event.producer_flow is not None and event.producer_run_id is not None
    }


def _newest(runs: dict[bytes, RunState], flow: str, user: str) -> RunState:
    own = [run for run in runs.values() if run.started is not None and _user(run) == user]
    resumable = [run for run in own if run.status != "running"]
    if not resumable:
        what = f"only {flow}/{own[0].run_id}, which is still running" if own else "none"
        raise NotFound(
            f"There is no run of {flow} by {user} to resume ({what}). Run the flow first, or name a run with "
            "--origin-run-id."
        )
    return max(resumable, key=lambda run: run.started.time_us if run.started is not None else 0)


def _named(runs: dict[bytes, RunState], flow: str, run_id: str) -> RunState:
    found = [run for run in runs.values() if run.run_id == run_id]
    if not found:
        from difflib import get_close_matches

        near = get_close_matches(run_id, [run.run_id for run in runs.values()], n=3, cutoff=0.3)
        hint = f" Near: {', '.join(near)}." if near else ""
        raise NotFound(
            f"There is no run {flow}/{run_id} in this store.{hint} `weft runs --flow {flow}` lists them."
        )
    return found[-1]


def _user(run: RunState) -> str | None:
    payload = run.started.payload if run.started is not None else None
    return None if payload is None else payload.get("user")
