"""Which run a resume goes on from, read from the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from weft.lineage import clock
from weft.lineage.collector import CollectorPause
from weft.lineage.errors import NotFound, UsageError
from weft.lineage.ids import Pathspec
from weft.lineage.log import EventLog
from weft.lineage.objects import Objects
from weft.lineage.projections import LEASE_US, RunState, fold, is_from_elsewhere
from weft.lineage.schema import KINDS, Event, Payload
from weft.lineage.serializers import is_pickle
from weft.lineage.storage import Storage
from weft.runtime.graph import Graph
from weft.runtime.history import History, Origin, Uses, role_of
from weft.runtime.keys import FlowCode
from weft.runtime.processes import is_alive
from weft.runtime.refs import load_ref, ref_of
from weft.runtime.reuse import Candidates, Reuse
from weft.runtime.world import outside

__all__ = ["Owner", "choose_origin", "configs_of_origin", "open_reuse"]

#: What a plan is made from; console output is not needed.
_FAMILIES = ("run", "task", "artifact", "other")

#: What attempts read is needed only of tasks whose digest of it, which their end tells, is not what it would be now.
_LATER = ("use",)

#: Dead writers, the time in µs, writers that live, and the id of the store, as `fold` takes them.
_Known = tuple[set[bytes], int, set[bytes], str]

#: What candidates are found in: what is known of runs, and the ends of tasks.
_CANDIDATE_KINDS = (*(kind for kind, known in KINDS.items() if known.family == "run"), "attempt_succeeded")

#: Events that were read, and a call that gives more of them.
_Read = tuple[list[Event], Callable[[], list[Event]]]

_USES = frozenset({"artifact_used", "external_used"})


class Owner(NamedTuple):
    """Whose runs are built on unasked: those of one user, made in one store and not brought there from another."""

    user: str
    store_id: str

    def has_made(self, run: RunState) -> bool:
        """Whether the run says so. Runs of weft 0.1 do not say in which store they were made."""
        told = _told(run)
        return told.get("user") == self.user and told.get("store_id") == self.store_id

    def made_elsewhere(self, run: RunState) -> bool:
        """Whether the run was brought here from another store."""
        return is_from_elsewhere(run.started, self.store_id)

    def may_have_made(self, run: RunState) -> bool:
        """Whether nothing that the run says is against it."""
        told = _told(run)
        return told.get("user") == self.user and told.get("store_id") in (None, self.store_id)


def choose_origin(storage: Storage, flow: str, owner: Owner, run_id: str | None) -> Origin:
    """The run to resume, with all it builds on.

    `run_id` may be a pathspec. Without it, it is the owner's newest run of the flow that has ended or is lost.

    Raises: NotFound when there is none; UsageError for a run that is still running.
    """
    with CollectorPause():
        return _choose(EventLog(storage, keeps_tail=True), flow, owner, run_id)


def _choose(log: EventLog, flow: str, owner: Owner, run_id: str | None) -> Origin:
    # Of a scheduler that is stopped the lease runs out, but as long as it can be seen it is not taken over.
    known = log.dead_writers(), clock.now_us(), log.live_writers(), owner.store_id
    read: _Read | None = None
    if run_id is None:
        chosen = _newest(fold(log.events(flow=flow, families=("run",)), *known), flow, owner)
    else:
        # Of a run that is named no other has to be read.
        name = run_id.removeprefix(f"{flow}/")
        read = log.events_and_later(_FAMILIES, _LATER, flow, name)
        runs = fold(read[0] or log.events(flow=flow, families=("run",)), *known)
        chosen = _named(runs, flow, name)
    if chosen.status == "running":
        raise UsageError(_still_running(chosen, known[1]))
    last_seq = None
    # A scheduler that is at work on another store, or on what this one was copied from, cannot be fenced off from
    # here: that it is lost is not ours to tell, or what it says later would not be believed where it is at home.
    is_ours = not owner.made_elsewhere(chosen) and not is_alive(_told(chosen))
    if chosen.status == "lost" and chosen.writer is not None and is_ours:
        # Asked before the events are read: a scheduler that says more meanwhile is not fenced off, but heard again.
        last_seq, read = log.last_seq(chosen.writer), None
    if read is not None:
        read = [event for event in read[0] if event.run_uid == chosen.run_uid], read[1]
    return _gather(log, chosen, last_seq, known, read)


def _gather(
    log: EventLog, chosen: RunState, last_seq: int | None, known: _Known, read: _Read | None = None
) -> Origin:
    """A run, with all it builds on; `read` are its events where they were read already."""
    if read is None or not read[0]:
        read = log.events_and_later(_FAMILIES, _LATER, run_uid=chosen.run_uid)
        runs = fold(read[0], *known)
    else:
        runs = {chosen.run_uid: chosen}
    recorded, later = read
    uses = [later]
    last_time_us = recorded[-1].time_us if recorded else 0
    builds_on = {(chosen.flow, chosen.run_id)}
    while missing := _producers(recorded) - builds_on:
        builds_on |= missing
        recorded = []
        for producer_flow, producer_run in sorted(missing):
            told, later = log.events_and_later(_FAMILIES, _LATER, producer_flow, producer_run)
            recorded += told
            uses.append(later)
        runs |= fold(recorded, *known)
    return Origin(runs[chosen.run_uid], runs, _once(uses), last_time_us, last_seq)


def _once(later: Sequence[Callable[[], list[Event]]]) -> Callable[[], Uses]:
    """What attempts read, put together when it is first asked for."""
    found: dict[tuple[bytes, str, str], list[Event]] = {}
    waiting = list(later)

    def uses() -> Uses:
        while waiting:
            for event in waiting.pop(0)():
                if event.kind in _USES and event.run_uid is not None:
                    key = (event.run_uid, event.step or "", event.task_id or "")
                    found.setdefault(key, []).append(event)
        return found

    return uses


def configs_of_origin(origin: Origin, objects: Objects, attributes: Iterable[str]) -> dict[str, Any]:
    """The documents that a run has recorded of configs. Raises: NotFound, StoreDamaged."""
    producer = Pathspec(origin.run.flow, origin.run.run_id, "_parameters", "0")
    found = {}
    for name in attributes:
        event = origin.run.parameters.get(name)
        # A run saves no config as a pickle, so one that says it did is not believed.
        if event is not None and role_of(event) == "config" and not is_pickle(event.serializer or ""):
            found[name] = load_ref(ref_of(event, producer, None), objects)
    return found


def open_reuse(
    storage: Storage, graph: Graph, owner: Owner, steps: frozenset[str], code: FlowCode, is_trusting: bool
) -> Reuse:
    """What decides about reuse of the flow's tasks in `steps`, from all runs of the flow that the owner made.

    If `is_trusting`, from those of everybody.
    """
    with CollectorPause():
        log = EventLog(storage, keeps_tail=True)
        known = log.dead_writers(), clock.now_us(), log.live_writers(), owner.store_id
        recorded = log.events(flow=graph.name, families=("run", "task"), kinds=_CANDIDATE_KINDS)
        runs = fold(recorded, *known)
        believed = {uid: run for uid, run in runs.items() if is_trusting or owner.has_made(run)}
        candidates = Candidates()
        for run in believed.values():
            candidates.add(run, known[1])
    names = {(run.flow, run.run_id) for run in believed.values()}
    histories: dict[bytes, History] = {}

    def history_of(run_uid: bytes) -> History:
        if run_uid not in histories:
            with CollectorPause():
                histories[run_uid] = History(_gather(log, believed[run_uid], None, known))
        return histories[run_uid]

    return Reuse(
        candidates,
        history_of,
        graph,
        steps,
        outside(Objects(storage)),
        code,
        lambda flow, run_id: (flow, run_id) in names,
        recorded[-1].time_us if recorded else 0,
    )


def _still_running(run: RunState, now_us: int) -> str:
    """Who holds a run, since when nothing was heard, and when it may be taken over."""
    payload = _told(run)
    owner = f"{payload.get('user')} on {payload.get('host')}, process {payload.get('pid')}"
    heard_s = max(0, now_us - (run.lease_us - LEASE_US)) // 1_000_000
    return (
        f"{run.flow}/{run.run_id} is still running ({owner}; its lease was renewed {heard_s} s ago). It can be "
        f"resumed once its process is gone, or, where that cannot be seen, {LEASE_US // 1_000_000} s after its last "
        "lease. Wait for its end or stop it; or name another run with --origin-run-id."
    )


def _producers(recorded: list[Event]) -> set[tuple[str, str]]:
    """The runs that tasks were reused or artifacts merged from."""
    return {
        (event.producer_flow, event.producer_run_id)
        for event in recorded
        if event.producer_flow is not None
        and event.producer_run_id is not None
        and event.kind != "artifact_used"
    }


def _newest(runs: dict[bytes, RunState], flow: str, owner: Owner) -> RunState:
    of_user = [run for run in runs.values() if _told(run).get("user") == owner.user]
    own = [run for run in of_user if owner.may_have_made(run)]
    resumable = [run for run in own if run.status != "running"]
    if not resumable:
        what = "none"
        if own:
            what = f"only {flow}/{own[0].run_id}, which is still running"
        elif of_user:
            what = f"only {flow}/{of_user[-1].run_id}, which was made in another store"
        raise NotFound(
            f"There is no run of {flow} by {owner.user} to resume ({what}). Run the flow first, or name a run with "
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


def _told(run: RunState) -> Payload:
    """What the run said of itself as it started."""
    return (run.started.payload if run.started is not None else None) or {}
