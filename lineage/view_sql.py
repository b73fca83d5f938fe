"""The SQL text of the views that users ask, over events and folds. Pure.

Schemas of one in-memory database: `raw` holds the events (a table or view for each family, with the columns of
`schema.COLUMNS`), `told` those of them that folds believe, `state` and `fold` what became of runs and tasks (see
`fold_sql`), and `main` the views. Every part of a view carries flow and run_id as recorded, so that a condition on them reaches the
statistics of the segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from weft.lineage.fold_sql import ATTEMPT_ENDS, FOLDS, PACKED, STATES, Moment, fold_sql, state_sql, told_sql
from weft.lineage.ranges import Spans
from weft.lineage.schema import COLUMNS, FAMILIES
from weft.lineage.summaries import SUMMARIES

__all__ = [
    "REUSING",
    "VIEWS",
    "VIEW_NAMES",
    "Sought",
    "Traits",
    "ddl",
    "folds_of",
    "read_events",
    "runs_sql",
    "states_of",
    "view_sql",
    "within",
]


class Sought(NamedTuple):
    """A digest, and by family the relations that have at least those believed events that are of it."""

    digest: bytes
    told: Mapping[str, str]


class Traits(NamedTuple):
    """What may be true of the events at hand; where it is not, a view leaves out what it would take."""

    #: Two runs share a pathspec.
    has_twins: bool = True
    #: A task is reused.
    has_reuses: bool = True
    #: An attempt has begun and has no end.
    has_open_attempts: bool = True


#: The folds, and the states beside those, that each view is made from, whatever the events are like.
_FOLDS_OF: dict[str, tuple[str, ...]] = {
    "runs": ("counted",),
    "steps": ("runs", "tasks"),
    "tasks": ("runs", "tasks"),
}
_STATES_OF: dict[str, tuple[str, ...]] = {
    "steps": ("steps",),
    "artifacts": ("retried",),
    "parameters": ("parameters",),
    "tags": ("tags",),
}
#: The views that show reused tasks as what they stand for.
REUSING = frozenset(("tasks", "attempts", "artifacts", "artifact_uses", "external_uses"))


def _at(column: str) -> str:
    return f"make_timestamp({column})"


def _seconds(start: str, end: str) -> str:
    return f"({end} - {start}) / 1e6"


def _digest(column: str) -> str:
    return f"'sha256:' || lower(hex({column}))"


_V_RUNS = f"""
select flow, run_id, status, started_at, finished_at,
    {_seconds("epoch_us(started_at)", "epoch_us(finished_at)")} as duration_s, user_name, origin_run_id, {_digest("code_digest")} as code_digest,
    tasks, tasks_failed + case when status in ('running', 'lost') then 0 else tasks_waiting end as tasks_failed,
    root_cause, error_type, error_message, lower(hex(run_uid)) as run_uid
from %(counted)s
"""

_V_STEPS = f"""
with placed as (
    select run_uid, flow, raw_run_id, step, count(*) as tasks, min(first_us) as first_us,
        max(case status when 'reused' then first_us when 'lost' then null else ended_us end) as settled_us,
        count(*) filter (where status in ('succeeded', 'caught', 'reused')) as done,
        count(*) filter (where status = 'failed') as failed, count(*) filter (where status = 'reused') as reused,
        count(*) filter (where status in ('running', 'retrying')) as running,
        count(*) filter (where status = 'pending') as pending, count(*) filter (where status = 'lost') as lost,
        count(*) filter (where status = 'cancelled') as cancelled
    from fold.tasks group by all
)
select b.flow, %(run_id)s as run_id, b.step,
    case
        when p.tasks is null then
            case r.status when 'running' then 'pending' when 'lost' then 'lost' else 'cancelled' end
        when p.failed > 0 then 'failed'
        when p.running > 0 or (p.pending > 0 and p.done > 0) then 'running'
        when p.lost > 0 then 'lost'
        when p.cancelled > 0 then 'cancelled'
        when p.pending > 0 then 'pending'
        when p.reused = p.tasks then 'reused'
        else 'succeeded'
    end as status,
    {_at("b.first_us")} as started_at,
    case when p.running + p.pending + p.lost = 0 then {_at("p.settled_us")} end as finished_at,
    coalesce(p.tasks, 0) as tasks, coalesce(p.done, 0) as tasks_done, coalesce(p.failed, 0) as tasks_failed,
    coalesce(p.reused, 0) as tasks_reused
from state.steps b join fold.runs r on r.run_uid = b.run_uid and r.flow = b.flow and r.raw_run_id = b.raw_run_id
    left join placed p
        on p.run_uid = b.run_uid and p.flow = b.flow and p.raw_run_id = b.raw_run_id and p.step = b.step
"""

_V_TASKS = f"""
select t.flow, t.run_id, t.step, t.task_id, t.flow || '/' || t.run_id || '/' || t.step || '/' || t.task_id as pathspec,
    t.foreach_path, t.status, %(attempts)s as attempts, {_at("%(started)s")} as started_at,
    case when t.status not in ('retrying', 'lost') then {_at("%(ended)s")} end as finished_at,
    case when t.status not in ('retrying', 'lost') then {_seconds("%(started)s", "%(ended)s")} end as duration_s,
    %(origin)s as origin_pathspec, case when t.is_reused then t.reuse_reason end as reuse_reason,
    %(task_key)s as task_key, {_at("t.first_us")} as created_at
from fold.tasks t%(stood)s
"""

_ALONE = {
    "attempts": "t.attempts",
    "started": "t.started_us",
    "ended": "t.ended_us",
    "task_key": "t.task_key",
    "origin": "null::varchar",
    "stood": "",
}

#: The right sides of both joins are few rows: reused tasks, and the tasks they stand for.
_STANDING = {
    "attempts": "coalesce(o.attempts, t.attempts)",
    "started": "coalesce(o.started_us, t.started_us)",
    "ended": "coalesce(o.ended_us, t.ended_us)",
    "task_key": "coalesce(t.task_key, o.task_key)",
    "origin": "u.origin_pathspec",
    "stood": """
    left join fold.reuses u on u.run_uid = t.run_uid and u.flow = t.flow and u.run_id = t.run_id
        and u.step = t.step and u.task_id = t.task_id
    left join (
        select u.run_uid, u.flow, u.run_id, u.step, u.task_id, o.attempts, o.started_us, o.ended_us, o.task_key
        from fold.reuses u join fold.tasks o on o.flow = u.origin_flow and o.raw_run_id = u.origin_run_id
            and o.run_uid = u.origin_uid and o.step = u.origin_step and o.task_id = u.origin_task_id
    ) o on o.run_uid = t.run_uid and o.flow = t.flow and o.run_id = t.run_id
        and o.step = t.step and o.task_id = t.task_id""",
}

#: Reused tasks take part before attempts are folded: a condition on a run then reaches the events of its origin.
_V_ATTEMPTS = f"""
with every as (
    select e.flow, e.run_id as raw_run_id, e.step, e.task_id, e.* exclude (flow, step, task_id), e.flow as own_flow,
        e.step as own_step, e.task_id as own_task_id, null::varchar as shown, null::varchar as origin_pathspec
    from told.task_events e
    %(reused)s
), folded as (
    select flow, raw_run_id, step, task_id, shown, origin_pathspec, own_flow, run_id as own_run_id, run_uid, own_step,
        own_task_id, attempt,
        arg_min({{'time_us': time_us, 'told': json_extract_string(payload, ['$.host', '$.pid'])}}, packed)
            filter (where kind = 'attempt_started') as started,
        arg_min({{'time_us': time_us, 'kind': kind, 'type': type, 'told': json_extract_string(payload, ['$.duration_s',
            '$.message', '$.exit_signal', '$.max_rss_bytes', '$.cpu_s', '$.exit_code', '$.traceback'])}}, packed)
            filter (where kind <> 'attempt_started') as ended
    from (
        select *, {PACKED} as packed from every
        where kind in ('attempt_started', {", ".join(f"'{kind}'" for kind in ATTEMPT_ENDS)})
            and attempt is not null and run_uid is not null
    ) group by all
), shown as (
    select t.flow, %(run_id)s as run_id, t.step, t.task_id, t.attempt, t.started, t.ended,
        t.origin_pathspec,
        -- Start and end are often committed together; how long it took in between the worker knows.
        coalesce(least(t.started.time_us, t.ended.time_us - (1e6 * (t.ended.told[1])::double)::bigint),
            t.started.time_us) as started_us,
        %(status)s as status
    from folded t%(unended)s%(names)s
)
select flow, run_id, step, task_id, attempt::bigint as attempt, status, {_at("started_us")} as started_at,
    {_at("ended.time_us")} as finished_at, {_seconds("started_us", "ended.time_us")} as duration_s,
    ended.type as error_type, ended.told[2] as error_message, ended.told[3] as exit_signal,
    started.told[1] as host, (started.told[2])::bigint as pid, (ended.told[4])::bigint as max_rss_bytes,
    (ended.told[5])::double as cpu_s, (ended.told[6])::bigint as exit_code, ended.told[7] as traceback, origin_pathspec
from shown
"""

#: What became of attempts that may lack an end, and of those that all have one.
_UNENDED = {
    "status": """case
            when t.ended is not null then substr(t.ended.kind, 9)
            when t.attempt < x.final_attempt then 'lost'
            when r.status in ('running', 'cancelled') then r.status
            else 'lost'
        end""",
    "unended": """ left join (
            select run_uid, status from fold.runs where status in ('running', 'cancelled')
        ) r on r.run_uid = t.run_uid
        left join state.retried x on x.run_uid = t.run_uid and x.flow = t.own_flow and x.raw_run_id = t.own_run_id
            and x.step = t.own_step and x.task_id = t.own_task_id""",
}
_ENDED = {"status": "substr(t.ended.kind, 9)", "unended": ""}

#: How the rows of a task reach the reused tasks that stand for it: what goes into `every` beside its own.
_REUSED = """union all
    select {columns}, u.origin_pathspec
    from fold.reuses u join {own} e on e.flow = u.origin_flow and e.{run_id} = u.origin_run_id
        and e.run_uid = u.origin_uid and e.step = u.origin_step and e.task_id = u.origin_task_id"""

_REUSED_TASK = "u.flow, u.run_id, u.step, u.task_id"
_REUSED_COLUMNS = {
    "attempts": "u.flow, u.raw_run_id, u.step, u.task_id, e.* exclude (flow, step, task_id), e.flow, e.step, e.task_id, "
    "u.run_id",
    "artifacts": "u.run_id, e.run_uid, u.flow, u.raw_run_id, u.step, u.task_id, "
    "e.* exclude (run_uid, flow, raw_run_id, step, task_id), u.origin_pathspec as producer",
    "artifact_uses": f"{_REUSED_TASK}, e.* exclude (flow, run_id, step, task_id), e.run_id, e.flow",
    "external_uses": f"{_REUSED_TASK}, e.* exclude (flow, run_id, step, task_id)",
}

_SAVED = """
    select {columns}
    from ({events}) e anti join state.retried x on x.run_uid = e.run_uid and x.flow = e.flow
        and x.raw_run_id = e.run_id and x.step = e.step and x.task_id = e.task_id and e.attempt < x.final_attempt"""

_SAVED_KINDS = {"artifact": "artifact_saved", "run": "parameter_set"}
_TOLD = {family: f"told.{family}_events" for family in _SAVED_KINDS}

_SAVED_COLUMNS = """e.run_uid, e.flow, e.run_id as raw_run_id, e.step, e.task_id, e.attempt, e.name, {number} as value_number,
        e.value, e.digest, e.size_bytes, e.type, e.serializer, e.time_us"""

_V_ARTIFACTS = f"""
with %(few)severy as (
    select %(run_id)s as run_id, e.*, e.flow || '/' || %(run_id)s || '/' || e.step || '/' || e.task_id as producer,
        null::varchar as origin_pathspec
    from (%(saved)s
    ) e %(names)s
    %(reused)s
)
select flow, run_id, step, task_id, coalesce(attempt, 0)::bigint as attempt, name,
    flow || '/' || run_id || '/' || step || '/' || task_id || '/' || name as pathspec, {_digest("digest")} as digest,
    size_bytes, type, serializer, value::json as value, value_number, {_at("time_us")} as created_at,
    producer as producer_pathspec, origin_pathspec
from every
"""

_V_USES = f"""
with own as not materialized (
    select %(run_id)s as run_id, e.run_id as raw_run_id, e.* exclude (run_id)
    from told.use_events e %(names)s where e.kind = 'artifact_used'
), every as (
    select flow, run_id, step, task_id, * exclude (flow, run_id, step, task_id), run_id as own_run_id,
        flow as own_flow, null::varchar as origin_pathspec from own
    %(reused)s
)
select flow, run_id, step, task_id, attempt::bigint as attempt, name, {_digest("digest")} as digest, item_index,
    coalesce(is_absent, false) as is_absent,
    producer_flow || '/' ||
        case when producer_flow = own_flow and producer_run_id = split_part(own_run_id, '~', 1) then own_run_id
        else producer_run_id end || '/' || producer_step || '/' || producer_task_id as producer_pathspec,
    {_at("time_us")} as used_at, origin_pathspec
from every
"""

_V_EXTERNAL = f"""
with own as not materialized (
    select %(run_id)s as run_id, e.run_id as raw_run_id, e.* exclude (run_id)
    from told.use_events e %(names)s where e.kind = 'external_used'
), every as (
    select flow, run_id, step, task_id, * exclude (flow, run_id, step, task_id), null::varchar as origin_pathspec from own
    %(reused)s
)
select flow, run_id, step, task_id, attempt::bigint as attempt, name as uri, {_digest("digest")} as digest,
    payload ->> '$.direction' as direction, size_bytes, {_at("time_us")} as occurred_at, origin_pathspec,
    payload ->> '$.state' as state, payload ->> '$.parameter' as parameter
from every
"""

_V_PARAMETERS = f"""
select e.flow, %(run_id)s as run_id, e.name, e.value::json as value, e.value_number, e.type,
    {_digest("e.digest")} as digest, e.role
from state.parameters e %(names)s
"""

_V_TAGS = f"""
select e.flow, %(run_id)s as run_id, e.tag, e.kind, {_at("e.added_us")} as added_at from state.tags e %(names)s
"""

_V_EVENTS = f"""
select lower(hex(e.writer)) || ':' || e.seq as id, e.kind, e.version::bigint as version, {_at("e.time_us")} as occurred_at,
    lower(hex(e.writer)) as writer, e.seq, e.flow, %(run_id)s as run_id, e.step, e.task_id,
    e.attempt::bigint as attempt, e.name, {_digest("e.digest")} as digest, e.payload::json as payload
from ({" union all ".join(f"select * from raw.{family}_events" for family in FAMILIES)}) e %(names)s
"""

#: The views that users ask, in the order of the documentation.
VIEWS = {
    "runs": _V_RUNS,
    "steps": _V_STEPS,
    "tasks": _V_TASKS,
    "attempts": _V_ATTEMPTS,
    "artifacts": _V_ARTIFACTS,
    "artifact_uses": _V_USES,
    "external_uses": _V_EXTERNAL,
    "parameters": _V_PARAMETERS,
    "tags": _V_TAGS,
    "events": _V_EVENTS,
}

#: Of all views, those that stand on others included.
VIEW_NAMES = (*VIEWS, *SUMMARIES)

_ANY = Traits()


def view_sql(
    name: str, traits: Traits = _ANY, has_numbers: bool = False, sought: Sought | None = None
) -> str:
    """The SELECT of one view; runs that share a pathspec are told apart, and reused tasks shown as what they
    stand for.

    With `has_numbers` the numbers of `artifacts` come from `state.numbers` (those reused tasks show from `fold.lent`),
    and from the events only the rest. Of a `sought` digest it has the artifacts of that digest alone.
    """
    recorded = "e.raw_run_id" if name in ("artifacts", "parameters", "tags") else "e.run_id"
    twin = f"coalesce(n.run_id, {recorded})"
    source = ("told.task_events", "run_id") if name == "attempts" else ("own", "raw_run_id")
    saved = _saved(has_numbers, _TOLD) if name == "artifacts" else ""
    few = ""
    if sought is not None:
        # Few rows, that are looked for once.
        only = f" and digest = unhex('{sought.digest.hex()}')"
        few = f"saved as materialized ({_saved(False, sought.told, only)}), "
        saved, source = "select * from saved", ("saved", "raw_run_id")
    elif name == "artifacts":
        # No task that is reused is the one of the parameters.
        told = {"artifact": _TOLD["artifact"]}
        source = (f"({_saved(has_numbers, told, has_kept=False)})", "raw_run_id")
    names = " left join fold.runs n on n.run_uid = {}.run_uid".format("t" if name == "attempts" else "e")
    # Without twins what a run is called does not depend on a join, so that a condition on it goes through.
    if name == "attempts":
        recorded, twin = "t.raw_run_id", "coalesce(t.shown, n.run_id, t.raw_run_id)"
    elif name == "steps":
        recorded, twin = "b.raw_run_id", "r.run_id"
    reused = _REUSED.format(columns=_REUSED_COLUMNS.get(name), own=source[0], run_id=source[1])
    if has_numbers and sought is None and name == "artifacts":
        reused = f"union all select * from fold.lent {reused}"
    return VIEWS[name] % {
        **(_STANDING if traits.has_reuses else _ALONE),
        **(_UNENDED if traits.has_open_attempts else _ENDED),
        "run_id": twin if traits.has_twins else recorded,
        "names": names if traits.has_twins else "",
        "reused": reused if traits.has_reuses else "",
        "saved": saved,
        "few": few,
        "counted": "fold.counted",
    }


def folds_of(name: str, traits: Traits = _ANY) -> set[str]:
    """The folds that a view is made from."""
    folds = set(_FOLDS_OF.get(name, ()))
    if (traits.has_twins and name != "runs") or (traits.has_open_attempts and name == "attempts"):
        folds.add("runs")
    if traits.has_reuses and name in REUSING:
        folds.add("reuses")
    return folds


def states_of(name: str, traits: Traits = _ANY) -> tuple[str, ...]:
    """The states that a view is made from beside folds."""
    if traits.has_open_attempts and name == "attempts":
        return ("retried",)
    return _STATES_OF.get(name, ())


def runs_sql(counted: str) -> str:
    """The SELECT of the view `runs` over another relation than `fold.counted`."""
    return _V_RUNS % {"counted": counted}


def _saved(has_numbers: bool, told: Mapping[str, str], only: str = "", has_kept: bool = True) -> str:
    """Artifacts as they were saved, by what `told` reads each family from; `has_kept`: the numbers too, where these
    are not read from the events."""
    only = f"{only} and value_number is null" if has_numbers else only
    union = " union all ".join(
        f"select * from {source} where kind = '{_SAVED_KINDS[family]}'{only}"
        for family, source in told.items()
    )
    # A constant NULL: a condition on the number then rules out the scan of the events as a whole.
    columns = _SAVED_COLUMNS.format(number="null::double" if has_numbers else "e.value_number")
    rest = _SAVED.format(columns=columns, events=union)
    if not has_numbers:
        return rest
    return f"\n    select * from state.numbers union all{rest}" if has_kept else rest


def read_events(files: Iterable[str]) -> str:
    """A SELECT of the events in segment files, bound by field id; a column a file lacks is NULL."""
    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    fields = ", ".join(
        f"{column.field_id}: {{name: '{column.name}', type: '{column.sql_type}', default_value: NULL}}"
        for column in COLUMNS
    )
    names = ", ".join(column.name for column in COLUMNS)
    return f"select {names} from read_parquet([{listed}], schema => MAP {{{fields}}})"


def within(spans: Spans) -> str:
    """What keeps only some spans of a segment, behind `read_events`."""
    return (
        f" e semi join ({spans.sql()}) k on e.writer = k.writer and e.seq between k.first_seq and k.last_seq"
    )


def ddl(sealed: Mapping[str, str], as_of_us: int | None = None) -> str:
    """The views as a script for any DuckDB; `sealed` selects the events of each family, up to `as_of_us` if given."""
    columns = ", ".join(f"null::{column.sql_type} as {column.name}" for column in COLUMNS)
    empty = f"select {columns} where false"
    lines = [
        "-- The views of weft over the sealed segments of one store, for any DuckDB.",
        "-- Not here: journals that are not sealed yet, checks of the files, artifact(), and the current shape of events",
        "-- that an older version wrote.",
        "create schema if not exists raw; create schema if not exists told;",
        "create schema if not exists state; create schema if not exists fold;",
        "create or replace table raw.writers (writer BLOB, is_dead BOOLEAN);",
        f"create or replace view raw.clock as select {as_of_us or 'epoch_us(now()::timestamp)'} as now_us;",
    ]
    until = "" if as_of_us is None else f" where time_us <= {as_of_us}"
    lines += [
        f"create or replace view raw.{family}_events as select * from ({sealed.get(family, empty)}){until};"
        for family in FAMILIES
    ]
    lines += [f"create or replace view state.fences as {state_sql('fences').strip()};"]
    lines += [
        f"create or replace view told.{family}_events as {told_sql(f'raw.{family}_events')};"
        for family in FAMILIES
    ]
    lines += [f"create or replace view state.{name} as {state_sql(name).strip()};" for name in STATES]
    lines += [f"create or replace view fold.{name} as {fold_sql(name, Moment()).strip()};" for name in FOLDS]
    lines += [f"create or replace view {name} as {view_sql(name).strip()};" for name in VIEWS]
    lines += [f"create or replace view {name} as {made.sql.strip()};" for name, made in SUMMARIES.items()]
    return "\n".join(lines) + "\n"
