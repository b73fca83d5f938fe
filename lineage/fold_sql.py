"""The SQL text of the folds: what became of runs, steps and tasks. Pure.

Folds come in two layers. A *state* depends on events alone, so it can be kept in a checkpoint; it is
grouped by (run_uid, flow, run_id), so that a question about one run reads no other. What a *fold* shows
also depends on who lives, on the clock, and on whether runs share a pathspec. No state depends on the order
of events: `KEY` picks the told fact that is believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from weft.lineage.projections import LEASE_US
from weft.lineage.schema import KINDS

__all__ = [
    "ATTEMPT_ENDS",
    "EVENTS",
    "FENCES_COLUMNS",
    "FOLDS",
    "KEY",
    "PACKED",
    "REUSES_COLUMNS",
    "SHOWN_REUSES_COLUMNS",
    "STATES",
    "STATE_FAMILIES",
    "Moment",
    "families_of",
    "fold_sql",
    "state_sql",
    "told_sql",
    "unended",
    "with_parents",
]

#: The highest epoch is believed, then the first.
KEY = "row(-epoch, time_us, writer, seq)"

#: The states in the order they build on each other, with the families of events each is made from.
STATE_FAMILIES: dict[str, tuple[str, ...]] = {
    "fences": ("run",),
    "runs": ("run",),
    "tasks": ("run", "task"),
    "counted": ("run", "task"),
    "steps": ("task",),
    "reuses": ("task",),
    "retried": ("task",),
    "parameters": ("run",),
    "tags": ("run",),
    "numbers": ("run", "task", "artifact"),
}
STATES = tuple(STATE_FAMILIES)

#: The states a state is made from.
_PARENTS = {
    **dict.fromkeys(("runs", "steps", "reuses", "retried", "parameters", "tags"), ("fences",)),
    "tasks": ("runs",),
    "counted": ("runs", "tasks"),
    "numbers": ("retried",),
}

#: Where states are read from when nothing is said: all events that folds believe, and the other states.
EVENTS = {
    "recorded": "raw.run_events",
    **{family: f"told.{family}_events" for family in ("run", "task", "artifact")},
    **{name: f"state.{name}" for name in ("runs", "tasks", "retried")},
}


class Moment(NamedTuple):
    """What a fold shows depends on, beside events. `now` is SQL for the time in µs, "null" where unknown.

    `writers` are (writer, is dead) of all that are known to live or not; None: those in the table `raw.writers`.
    """

    has_twins: bool = True
    writers: tuple[tuple[bytes, bool], ...] | None = None
    now: str = "(select now_us from raw.clock)"


def _kinds(fact: str) -> str:
    return ", ".join(f"'{name}'" for name, kind in KINDS.items() if kind.fact == fact)


_RUN = "run_uid, flow, run_id"
_TASK = f"{_RUN}, step, task_id"

#: `KEY` as one number, the attempt before all and a code of four bits behind: a number takes a tenth of the time
#: and memory of a row. Attempts past 4,095 and epochs past 63 count as these; of the writer 20 bits decide.
PACKED = """(((((4095 - least(coalesce(attempt, 0), 4095))::hugeint << 6 | (63 - least(epoch, 63))) << 52 | time_us) << 20
    | ('0x' || substr(hex(writer), 1, 5))::integer) << 32 | (seq & 4294967295)) << 4"""
#: Of a packed number only time, writer and seq.
_WITHOUT_EPOCH = (1 << 108) - 1


#: Who took a run over says how far its lost scheduler was read: what that one commits later is not believed.
_FENCES = f"""
select run_uid, min(flow) as flow, min(run_id) as raw_run_id, arg_min(unhex(payload ->> '$.writer'), {KEY}) as writer,
    arg_min((payload ->> '$.last_seq')::bigint, {KEY}) as last_seq
from %(recorded)s where kind = 'run_lost' and run_uid is not null and payload ->> '$.writer' is not null group by run_uid
"""

_RUNS = f"""
with packed as (
    select {_RUN}, kind, time_us, writer, digest, {PACKED} as packed,
        case when kind in ('run_started', 'lease_renewed', {_kinds("run_end")}) then json_extract_string(payload, ['$.user',
            '$.origin_run_id', '$.origin_run_uid', '$.root_cause', '$.error_type', '$.error_message', '$.expires_us'])
        end as told
    from %(run)s where run_uid is not null and flow is not null and run_id is not null
), told as (
    select {_RUN}, min(time_us) as first_us, max(time_us) as last_us,
        arg_min(writer, packed & {_WITHOUT_EPOCH}) as first_writer,
        arg_min({{'time_us': time_us, 'writer': writer, 'digest': digest, 'user': told[1], 'run_id': told[2],
            'run_uid': told[3]}}, packed) filter (where kind = 'run_started') as started,
        arg_min({{'time_us': time_us, 'kind': kind, 'cause': told[4], 'type': told[5], 'message': told[6]}}, packed)
            filter (where kind in ({_kinds("run_end")})) as ended,
        arg_min(digest, packed) filter (where kind = 'code_saved') as code_digest,
        max(case when kind = 'lease_renewed' then told[7]::bigint end) as lease_us
    from packed group by {_RUN}
)
select run_uid, flow, run_id as raw_run_id, first_us, last_us,
    case when ended is null then coalesce(started.writer, first_writer) end as writer,
    make_timestamp(started.time_us) as started_at, started.user as user_name, started.run_id as origin_run_id,
    started.run_uid as origin_run_uid, coalesce(started.digest, code_digest) as code_digest,
    case when ended is null then lease_us end as lease_us, substr(ended.kind, 5) as ended,
    case when ended.kind <> 'run_lost' then make_timestamp(ended.time_us) end as finished_at,
    ended.cause as root_cause, ended.type as error_type, ended.message as error_message
from told
"""

ATTEMPT_ENDS = tuple(name for name, kind in KINDS.items() if kind.fact == "attempt_end")


def _code(kinds: Sequence[str]) -> str:
    whens = " ".join(f"when '{kind}' then {code}" for code, kind in enumerate(kinds))
    return f"case kind {whens} end"


_WHEN_ENDED = " ".join(
    f"when {code} then '{name.removeprefix('attempt_')}'" for code, name in enumerate(ATTEMPT_ENDS)
)
_IS_LAST = "t.final_attempt = 4095 - (t.ended >> 114)"
#: Attempts up to this number are told apart one by one when they are counted.
_ATTEMPTS_APART = 120
_BEGUN = f"kind in ('attempt_started', {_kinds('attempt_end')}) and attempt is not null"
_ENDED = f"kind in ({_kinds('attempt_end')}) and attempt is not null"

#: One pass over the events, with states of few bytes: there are ten tasks to a run, and millions of them.
_TASKS = f"""
with packed as (
    select {_TASK}, kind, time_us, attempt, foreach_path, {PACKED} as packed,
        case when kind <> 'attempt_started' and kind <> 'retry_scheduled'
            then json_extract_string(payload, ['$.duration_s', '$.task_key', '$.reason']) end as told
    from %(task)s where run_uid is not null and step is not null and task_id is not null
), folded as (
    select {_TASK}, min(time_us) as first_us, max(time_us) as last_us,
        min(packed | (kind = 'task_reused')::integer) filter (where kind in ('task_created', 'task_reused')) as placed,
        max(foreach_path) as foreach_path, max(told[3]) filter (where kind = 'task_reused') as reuse_reason,
        max(told[2]) as task_key, max(attempt) filter (where kind = 'retry_scheduled') as retry,
        bit_or(1::hugeint << least(attempt, {_ATTEMPTS_APART})) filter (where {_BEGUN}) as numbers,
        max(attempt) filter (where {_BEGUN}) as final_attempt,
        min(case when kind = 'attempt_started' then time_us else time_us - (1e6 * told[1]::double)::bigint end)
            filter (where {_BEGUN}) as started_us,
        min(packed | {_code(ATTEMPT_ENDS)}) filter (where {_ENDED}) as ended
    from packed group by {_TASK}
)
select t.run_uid, t.flow, t.run_id as raw_run_id, t.step, t.task_id, t.first_us, t.last_us,
    coalesce(t.placed & 1 = 1, false) as is_reused, t.foreach_path, t.reuse_reason, t.retry,
    (coalesce(bit_count(t.numbers), 0) + greatest(coalesce(t.final_attempt, 0) - {_ATTEMPTS_APART}, 0))::bigint as attempts,
    t.final_attempt, t.started_us, case when {_IS_LAST} then (t.ended >> 56 & 4503599627370495)::bigint end as ended_us,
    case when {_IS_LAST} then case (t.ended & 15)::integer {_WHEN_ENDED} end end as ended, t.task_key, r.ended as run_ended
from folded t join %(runs)s r on r.run_uid = t.run_uid and r.flow = t.flow and r.raw_run_id = t.run_id
"""

_COUNTED = """
select r.*, coalesce(t.tasks, 0) as tasks, coalesce(t.failed, 0) as tasks_failed,
    coalesce(t.waiting, 0) as tasks_waiting, greatest(r.last_us, t.last_us) as settled_us
from %(runs)s r left join (
    select run_uid, flow, raw_run_id, count(*) as tasks, max(last_us) as last_us,
        count(*) filter (where ended = 'failed' and not is_reused and coalesce(retry <= final_attempt, true)) as failed,
        count(*) filter (where ended = 'failed' and not is_reused and retry > final_attempt) as waiting
    from %(tasks)s group by all
) t on t.run_uid = r.run_uid and t.flow = r.flow and t.raw_run_id = r.raw_run_id
"""

_STEPS = """
select run_uid, flow, run_id as raw_run_id, step, min(time_us) as first_us
from %(task)s where run_uid is not null and step is not null group by all
"""

#: Found without folding all tasks: few are reused.
_REUSES = f"""
with placed as (
    select {_TASK}, arg_min({{'is_reused': kind = 'task_reused', 'flow': producer_flow, 'run_id': producer_run_id,
        'step': producer_step, 'task_id': producer_task_id}}, {KEY}) as believed
    from (
        select * from %(task)s where kind = 'task_reused'
        union all
        select e.* from %(task)s e semi join (select * from %(task)s where kind = 'task_reused') u
            on u.run_uid = e.run_uid and u.flow = e.flow and u.run_id = e.run_id and u.step = e.step
            and u.task_id = e.task_id
        where e.kind = 'task_created'
    ) where run_uid is not null group by all
)
select run_uid, flow, run_id as raw_run_id, step, task_id, believed.flow as origin_flow,
    believed.run_id as origin_run_id, believed.step as origin_step, believed.task_id as origin_task_id
from placed where believed.is_reused
"""

#: The columns of the state `fences`, for where there are none.
FENCES_COLUMNS = {
    "run_uid": "BLOB",
    "flow": "VARCHAR",
    "raw_run_id": "VARCHAR",
    "writer": "BLOB",
    "last_seq": "BIGINT",
}

_REUSED_AS = ("step", "task_id", "origin_flow", "origin_run_id", "origin_step", "origin_task_id")

#: The columns of the state `reuses` and of the fold, for where there are none.
REUSES_COLUMNS = {"run_uid": "BLOB", **dict.fromkeys(("flow", "raw_run_id", *_REUSED_AS), "VARCHAR")}
SHOWN_REUSES_COLUMNS = {
    "run_uid": "BLOB",
    **dict.fromkeys(("flow", "raw_run_id", "run_id", *_REUSED_AS, "origin_pathspec"), "VARCHAR"),
    "origin_uid": "BLOB",
}

#: Attempts whose saves no longer show, because a later one of the task was begun.
_RETRIED = """
select run_uid, flow, run_id as raw_run_id, step, task_id, max(attempt) as final_attempt
from %(task)s where attempt > 0 and kind <> 'retry_scheduled' group by all
"""

_PARAMETERS = f"""
select run_uid, flow, run_id as raw_run_id, name, arg_min(value, {KEY}) as value,
    arg_min(value_number, {KEY}) as value_number, arg_min(type, {KEY}) as type, arg_min(digest, {KEY}) as digest,
    arg_min(payload ->> '$.role', {KEY}) as role
from %(run)s where kind = 'parameter_set' and payload ->> '$.role' in ('parameter', 'config') group by all
"""

_TAGS = """
with told as (
    select run_uid, flow, run_id, name, arg_max({'kind': kind, 'tag_kind': payload ->> '$.kind', 'time_us': time_us},
        row(time_us, writer, seq)) as latest
    from %(run)s where kind in ('tag_added', 'tag_removed') group by all
)
select run_uid, flow, run_id as raw_run_id, name as tag, latest.tag_kind as kind, latest.time_us as added_us
from told where latest.kind = 'tag_added'
"""

#: Numbers that were saved, in the columns of artifacts; sorted by name and value they need no scan of history.
_NUMBERS = """
select e.run_uid, e.flow, e.run_id as raw_run_id, e.step, e.task_id, e.attempt, e.name, e.value_number, e.value, e.digest,
    e.size_bytes, e.type, e.serializer, e.time_us
from (
    select * from %(artifact)s where kind = 'artifact_saved' and value_number is not null
    union all
    select * from %(run)s where kind = 'parameter_set' and value_number is not null
) e anti join %(retried)s x
    on x.run_uid = e.run_uid and x.step = e.step and x.task_id = e.task_id and e.attempt < x.final_attempt
"""

_STATES = {
    "fences": _FENCES,
    "runs": _RUNS,
    "tasks": _TASKS,
    "counted": _COUNTED,
    "steps": _STEPS,
    "reuses": _REUSES,
    "retried": _RETRIED,
    "parameters": _PARAMETERS,
    "tags": _TAGS,
    "numbers": _NUMBERS,
}


def with_parents(names: Iterable[str]) -> set[str]:
    """Some states, and those that they are made from."""
    found = set(names)
    for name in tuple(found):
        found |= with_parents(_PARENTS.get(name, ()))
    return found


def families_of(states: Iterable[str]) -> set[str]:
    """The families of events that some states are made from."""
    return {family for state in states for family in STATE_FAMILIES[state]}


def told_sql(events: str, fences: str | None = "state.fences") -> str:
    """A SELECT of those of `events` that folds believe; `fences` is None where there are none."""
    if fences is None:
        return f"select * from {events}"
    return (
        f"select e.* from {events} e anti join {fences} f "
        "on f.run_uid = e.run_uid and f.writer = e.writer and e.seq > f.last_seq"
    )


def state_sql(name: str, sources: Mapping[str, str] | None = None) -> str:
    """The SELECT of one state. `sources` are the relations it reads, as `EVENTS` names them."""
    return _STATES[name] % {**EVENTS, **(sources or {})}


_TWIN = """t.raw_run_id || case row_number() over (partition by t.flow, t.raw_run_id order by t.first_us, t.run_uid)
    when 1 then '' else '~' || row_number() over (partition by t.flow, t.raw_run_id order by t.first_us, t.run_uid) end"""

_F_RUNS = """
select t.* exclude (ended), %(shown)s as run_id, t.ended,
    case
        when t.ended is not null then t.ended%(known)s
        when %(now)s is null then 'running'
        when greatest(coalesce(t.lease_us, 0), t.first_us + %(lease)s) < %(now)s then 'lost'
        else 'running'
    end as status
from %(state)s t%(writers)s
"""

_F_TASKS = """
with seen as (
    select t.*, coalesce(t.run_ended, r.status) as run_status, %(shown)s as run_id,
        case when t.final_attempt is null then null when t.ended is not null then t.ended
            when coalesce(t.run_ended, r.status) in ('running', 'cancelled') then coalesce(t.run_ended, r.status)
            else 'lost' end as final_status
    from state.tasks t left join (
        select run_uid, status from fold.runs where ended is null
    ) r on r.run_uid = t.run_uid%(twins)s
)
select * exclude (final_status, run_status),
    case
        when is_reused then 'reused'
        when final_status is null then case run_status when 'running' then 'pending' when 'lost' then 'lost' else 'cancelled' end
        when final_status = 'failed' and retry > final_attempt then
            case run_status when 'running' then 'retrying' when 'lost' then 'lost' else 'failed' end
        else final_status
    end as status
from seen
"""

_F_REUSES = """
select t.run_uid, t.flow, t.raw_run_id, %(shown)s as run_id, t.step, t.task_id, t.origin_flow, t.origin_run_id,
    t.origin_step, t.origin_task_id,
    t.origin_flow || '/' || t.origin_run_id || '/' || t.origin_step || '/' || t.origin_task_id as origin_pathspec,
    %(origin_uid)s as origin_uid
from state.reuses t%(named)s
    left join state.runs o on o.flow = t.origin_flow and o.raw_run_id = t.origin_run_id
"""

#: The numbers that reused tasks show as theirs, few of many, in the columns that the view artifacts puts together.
_F_LENT = """
select u.run_id, n.run_uid, u.flow, u.raw_run_id, u.step, u.task_id,
    n.* exclude (run_uid, flow, raw_run_id, step, task_id), u.origin_pathspec as producer, u.origin_pathspec
from fold.reuses u join state.numbers n on n.flow = u.origin_flow and n.raw_run_id = u.origin_run_id
    and n.run_uid = u.origin_uid and n.step = u.origin_step and n.task_id = u.origin_task_id
"""

#: The run a reused task is from: the one that was named, where there are several of one pathspec.
_TWIN_REUSES = {
    "shown": "coalesce(r.run_id, t.raw_run_id)",
    "named": " left join fold.runs r on r.run_uid = t.run_uid and r.flow = t.flow and r.raw_run_id = t.raw_run_id",
    "origin_uid": "arg_min(o.run_uid, row(lower(hex(o.run_uid)) is distinct from r.origin_run_uid, o.first_us, o.run_uid))",
}

#: What each fold shows is made from: folds and states.
FOLDS: dict[str, tuple[str, ...]] = {
    "runs": ("runs",),
    "counted": ("counted",),
    "tasks": ("runs", "tasks"),
    "reuses": ("runs", "reuses"),
    "lent": ("runs", "reuses", "numbers"),
}


def fold_sql(name: str, moment: Moment, states: str = "state") -> str:
    """The SELECT of one relation of the schema `fold`; for `runs` and `counted` from states in the schema `states`."""
    if name in ("runs", "counted"):
        known, writers = _known(moment.writers)
        return _F_RUNS % {
            "state": f"{states}.{name}",
            "shown": _TWIN if moment.has_twins else "t.raw_run_id",
            "lease": LEASE_US,
            "now": moment.now,
            "known": known,
            "writers": writers,
        }
    if name == "lent":
        return _F_LENT
    if name == "reuses":
        if moment.has_twins:
            return _F_REUSES % _TWIN_REUSES + "group by all"
        return _F_REUSES % {"shown": "t.raw_run_id", "named": "", "origin_uid": "o.run_uid"}
    return _F_TASKS % {
        "shown": "n.run_id" if moment.has_twins else "t.raw_run_id",
        "twins": " join fold.runs n on n.run_uid = t.run_uid" if moment.has_twins else "",
    }


def _known(writers: tuple[tuple[bytes, bool], ...] | None) -> tuple[str, str]:
    """What decides of runs whose writer is known to live or not, and the join that needs."""
    if writers is None:
        return (
            "\n        when w.is_dead then 'lost'\n        when w.is_dead = false then 'running'",
            " left join raw.writers w on w.writer = t.writer",
        )
    told = ""
    for status, is_dead in (("lost", True), ("running", False)):
        listed = ", ".join(f"unhex('{writer.hex()}')" for writer, dead in writers if dead is is_dead)
        if listed:
            told += f"\n        when t.writer in ({listed}) then '{status}'"
    return told, ""


def unended(runs: str = "state.runs") -> str:
    """A query for the writer of each run without an end, and until when its lease is good."""
    return f"""
        select writer, greatest(coalesce(lease_us, 0), first_us + {LEASE_US}) from {runs} where ended is null"""
