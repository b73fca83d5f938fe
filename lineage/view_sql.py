"""The SQL text of the views, as folds over the events of a store. Pure.

Three schemas of one in-memory database: `raw` holds the events (a table or view for each family, with
the columns of `events.COLUMNS`), `fold` what became of runs, tasks and attempts by run_uid, and `main`
the views that users ask. A fold never depends on the order of events: `_KEY` picks the told fact that
is believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from weft.lineage.events import COLUMNS, FAMILIES, KINDS
from weft.lineage.projections import LEASE_US
from weft.lineage.ranges import Spans

__all__ = ["FOLDS", "VIEWS", "ddl", "fold_sql", "read_events", "twins", "unended", "view_sql", "within"]

#: The highest epoch is believed, then the first.
_KEY = "row(-epoch, time_us, writer, seq)"


def _kinds(fact: str) -> str:
    return ", ".join(f"'{name}'" for name, kind in KINDS.items() if kind.fact == fact)


_RUNS = f"""
with told as (
    select run_uid, min(flow) as flow, min(run_id) as raw_run_id, min(time_us) as first_us,
        arg_min(writer, row(time_us, writer, seq)) as first_writer,
        arg_min({{'time_us': time_us, 'writer': writer, 'digest': digest, 'payload': payload}}, {_KEY})
            filter (where kind = 'run_started') as started,
        arg_min({{'time_us': time_us, 'kind': kind, 'payload': payload}}, {_KEY})
            filter (where kind in ({_kinds("run_end")})) as ended,
        arg_min(digest, {_KEY}) filter (where kind = 'code_saved') as code_digest,
        max(case when kind = 'lease_renewed' then (payload ->> '$.expires_us')::bigint end) as lease_us
    from raw.run_events where run_uid is not null and flow is not null and run_id is not null group by run_uid
)
select t.run_uid, t.flow, t.raw_run_id, %(shown)s as run_id, t.first_us, t.started.time_us as started_us,
    case
        when t.ended is not null then substr(t.ended.kind, 5)
        when w.is_dead then 'lost'
        when w.is_dead = false or (select now_us from raw.clock) is null then 'running'
        when greatest(coalesce(t.lease_us, 0), t.first_us + {LEASE_US}) < (select now_us from raw.clock) then 'lost'
        else 'running'
    end as status,
    case when t.ended.kind <> 'run_lost' then t.ended.time_us end as ended_us,
    t.ended.payload as end_payload, t.started.payload as start_payload,
    coalesce(t.started.digest, t.code_digest) as code_digest,
    t.started.payload ->> '$.origin_run_id' as origin_run_id,
    t.started.payload ->> '$.origin_run_uid' as origin_run_uid
from told t left join raw.writers w on w.writer = coalesce(t.started.writer, t.first_writer)
"""

_ONE = "t.raw_run_id"
_TWIN = """t.raw_run_id || case row_number() over (partition by t.flow, t.raw_run_id order by t.first_us, t.run_uid)
    when 1 then '' else '~' || row_number() over (partition by t.flow, t.raw_run_id order by t.first_us, t.run_uid) end"""

_ATTEMPTS = f"""
with told as (
    select run_uid, step, task_id, attempt,
        arg_min({{'time_us': time_us, 'payload': payload}}, {_KEY})
            filter (where kind = 'attempt_started') as started,
        arg_min({{'time_us': time_us, 'kind': kind, 'type': type, 'payload': payload}}, {_KEY})
            filter (where kind <> 'attempt_started') as ended
    from raw.task_events
    where kind in ('attempt_started', {_kinds("attempt_end")}) and attempt is not null
    group by run_uid, step, task_id, attempt
)
select t.run_uid, t.step, t.task_id, t.attempt,
    -- Start and end are often committed together; how long it took in between the worker knows.
    coalesce(least(t.started.time_us, t.ended.time_us - (1e6 * (t.ended.payload ->> '$.duration_s')::double)::bigint),
        t.started.time_us) as started_us,
    t.ended.time_us as ended_us,
    case
        when t.ended is not null then substr(t.ended.kind, 9)
        when t.attempt <> max(t.attempt) over (partition by t.run_uid, t.step, t.task_id) then 'lost'
        when r.status in ('running', 'cancelled') then r.status
        else 'lost'
    end as status,
    t.ended.type as error_type, t.ended.payload as end_payload, t.started.payload as start_payload
from told t left join fold.runs r using (run_uid)
"""

_TASKS = f"""
with told as (
    select run_uid, step, task_id, min(time_us) as first_us,
        arg_min({{'kind': kind, 'time_us': time_us, 'payload': payload, 'foreach_path': foreach_path,
            'flow': producer_flow, 'run_id': producer_run_id, 'step': producer_step,
            'task_id': producer_task_id}}, {_KEY})
            filter (where kind in ('task_created', 'task_reused')) as placed,
        max(attempt) filter (where kind = 'retry_scheduled') as retry
    from raw.task_events where step is not null and task_id is not null group by run_uid, step, task_id
), last as (
    select run_uid, step, task_id, count(*) as attempts, min(started_us) as started_us, max(attempt) as attempt,
        arg_max({{'status': status, 'ended_us': ended_us, 'payload': end_payload}}, attempt) as final
    from fold.attempts group by run_uid, step, task_id
)
select t.run_uid, r.flow, r.raw_run_id, r.run_id, t.step, t.task_id, t.placed, t.first_us,
    case
        when t.placed.kind = 'task_reused' then 'reused'
        when l.final is null then
            case r.status when 'running' then 'pending' when 'lost' then 'lost' else 'cancelled' end
        when l.final.status = 'failed' and t.retry > l.attempt then
            case r.status when 'running' then 'retrying' when 'lost' then 'lost' else 'failed' end
        else l.final.status
    end as status,
    coalesce(l.attempts, 0) as attempts, l.attempt as final_attempt, l.started_us, l.final.ended_us as ended_us,
    coalesce(l.final.payload ->> '$.task_key', t.placed.payload ->> '$.task_key') as task_key
from told t join fold.runs r using (run_uid) left join last l using (run_uid, step, task_id)
"""

_REUSES = """
select t.run_uid, t.flow, t.run_id, t.step, t.task_id,
    t.placed.step as origin_step, t.placed.task_id as origin_task_id,
    t.placed.flow || '/' || t.placed.run_id || '/' || t.placed.step || '/' || t.placed.task_id as origin_pathspec,
    arg_min(o.run_uid, row(lower(hex(o.run_uid)) is distinct from r.origin_run_uid, o.first_us, o.run_uid))
        as origin_uid
from fold.tasks t join fold.runs r on r.run_uid = t.run_uid
    left join fold.runs o on o.flow = t.placed.flow and o.raw_run_id = t.placed.run_id
where t.status = 'reused' group by all
"""

#: Attempts whose saves no longer show, because a later one of the task was begun.
_RETRIED = """
select run_uid, step, task_id, max(attempt) as final_attempt
from raw.task_events where attempt > 0 and kind <> 'retry_scheduled' group by run_uid, step, task_id
"""

FOLDS = ("runs", "attempts", "tasks", "reuses", "retried")


def fold_sql(name: str, has_twins: bool) -> str:
    """The SELECT of one relation of the schema `fold`; `has_twins` as `twins` found it."""
    if name == "runs":
        return _RUNS % {"shown": _TWIN if has_twins else _ONE}
    return {"attempts": _ATTEMPTS, "tasks": _TASKS, "reuses": _REUSES, "retried": _RETRIED}[name]


def twins() -> str:
    """A query that gives a row when two runs share a pathspec."""
    return (
        "select 1 from raw.run_events where run_uid is not null group by flow, run_id "
        "having min(run_uid) <> max(run_uid) limit 1"
    )


def unended() -> str:
    """A query for the writer of each run without an end, and until when its lease is good."""
    return f"""
        select coalesce(arg_min(writer, {_KEY}) filter (where kind = 'run_started'),
                arg_min(writer, row(time_us, writer, seq))),
            greatest(coalesce(max(case when kind = 'lease_renewed' then (payload ->> '$.expires_us')::bigint end), 0),
                min(time_us) + {LEASE_US})
        from raw.run_events where run_uid is not null group by run_uid
        having count(*) filter (where kind in ({_kinds("run_end")})) = 0"""


def _at(column: str) -> str:
    return f"make_timestamp({column})"


def _seconds(start: str, end: str) -> str:
    return f"({end} - {start}) / 1e6"


def _digest(column: str) -> str:
    return f"'sha256:' || lower(hex({column}))"


_V_RUNS = f"""
select r.flow, r.run_id, r.status, {_at("r.started_us")} as started_at, {_at("r.ended_us")} as finished_at,
    {_seconds("r.started_us", "r.ended_us")} as duration_s, r.start_payload ->> '$.user' as user_name,
    r.origin_run_id, {_digest("r.code_digest")} as code_digest,
    coalesce(t.tasks, 0) as tasks, coalesce(t.tasks_failed, 0) as tasks_failed,
    r.end_payload ->> '$.root_cause' as root_cause, r.end_payload ->> '$.error_type' as error_type,
    r.end_payload ->> '$.error_message' as error_message, lower(hex(r.run_uid)) as run_uid
from fold.runs r left join (
    select run_uid, count(*) as tasks, count(*) filter (where status = 'failed') as tasks_failed
    from fold.tasks group by run_uid
) t using (run_uid)
"""

_V_STEPS = f"""
with placed as (
    select run_uid, step, count(*) as tasks, min(first_us) as first_us,
        max(case status when 'reused' then first_us when 'lost' then null else ended_us end) as settled_us,
        count(*) filter (where status in ('succeeded', 'caught', 'reused')) as done,
        count(*) filter (where status = 'failed') as failed, count(*) filter (where status = 'reused') as reused,
        count(*) filter (where status in ('running', 'retrying')) as running,
        count(*) filter (where status = 'pending') as pending, count(*) filter (where status = 'lost') as lost,
        count(*) filter (where status = 'cancelled') as cancelled
    from fold.tasks group by run_uid, step
), begun as (
    select run_uid, step, min(time_us) as first_us from raw.task_events where step is not null group by run_uid, step
)
select r.flow, r.run_id, b.step,
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
from begun b join fold.runs r using (run_uid) left join placed p using (run_uid, step)
"""

_V_TASKS = f"""
select t.flow, t.run_id, t.step, t.task_id, t.flow || '/' || t.run_id || '/' || t.step || '/' || t.task_id as pathspec,
    t.placed.foreach_path as foreach_path, t.status, coalesce(o.attempts, t.attempts) as attempts,
    {_at("coalesce(o.started_us, t.started_us)")} as started_at,
    case when t.status not in ('retrying', 'lost') then {_at("coalesce(o.ended_us, t.ended_us)")} end as finished_at,
    case when t.status not in ('retrying', 'lost') then
        {_seconds("coalesce(o.started_us, t.started_us)", "coalesce(o.ended_us, t.ended_us)")} end as duration_s,
    u.origin_pathspec,
    case when t.status = 'reused' then t.placed.payload ->> '$.reason' end as reuse_reason,
    coalesce(t.task_key, o.task_key) as task_key, {_at("t.first_us")} as created_at
from fold.tasks t left join fold.reuses u using (run_uid, step, task_id)
    left join fold.tasks o on o.run_uid = u.origin_uid and o.step = u.origin_step and o.task_id = u.origin_task_id
"""

_V_ATTEMPTS = f"""
with own as (
    select r.flow, r.run_id, a.*, null::varchar as origin_pathspec from fold.attempts a join fold.runs r using (run_uid)
), every as (
    select flow, run_id, step, task_id, * exclude (flow, run_id, step, task_id, run_uid) from own
    union all by name
    select u.flow, u.run_id, u.step, u.task_id, a.* exclude (run_uid, step, task_id), u.origin_pathspec
    from fold.reuses u join fold.attempts a
        on a.run_uid = u.origin_uid and a.step = u.origin_step and a.task_id = u.origin_task_id
)
select flow, run_id, step, task_id, attempt::bigint as attempt, status, {_at("started_us")} as started_at,
    {_at("ended_us")} as finished_at, {_seconds("started_us", "ended_us")} as duration_s, error_type,
    end_payload ->> '$.message' as error_message, end_payload ->> '$.exit_signal' as exit_signal,
    start_payload ->> '$.host' as host, (start_payload ->> '$.pid')::bigint as pid,
    (end_payload ->> '$.max_rss_bytes')::bigint as max_rss_bytes, (end_payload ->> '$.cpu_s')::double as cpu_s,
    (end_payload ->> '$.exit_code')::bigint as exit_code, end_payload ->> '$.traceback' as traceback, origin_pathspec
from every
"""

_V_ARTIFACTS = f"""
with own as (
    select %(run_id)s as run_id, e.* exclude (run_id) from (
        select * from raw.artifact_events where kind = 'artifact_saved'
        union all
        select * from raw.run_events where kind = 'parameter_set'
    ) e %(names)s anti join fold.retried x
        on x.run_uid = e.run_uid and x.step = e.step and x.task_id = e.task_id and e.attempt < x.final_attempt
), every as (
    select e.flow, e.run_id, e.step, e.task_id, e.* exclude (flow, run_id, step, task_id),
        e.flow || '/' || e.run_id || '/' || e.step || '/' || e.task_id as producer,
        null::varchar as origin_pathspec
    from own e
    union all
    select u.flow, u.run_id, u.step, u.task_id, e.* exclude (flow, run_id, step, task_id),
        u.origin_pathspec as producer, u.origin_pathspec
    from fold.reuses u join own e on e.run_uid = u.origin_uid and e.step = u.origin_step and e.task_id = u.origin_task_id
)
select flow, run_id, step, task_id, coalesce(attempt, 0)::bigint as attempt, name,
    flow || '/' || run_id || '/' || step || '/' || task_id || '/' || name as pathspec, {_digest("digest")} as digest,
    size_bytes, type, serializer, value::json as value, value_number, {_at("time_us")} as created_at,
    producer as producer_pathspec, origin_pathspec
from every
"""

_V_USES = f"""
with own as (
    select %(run_id)s as run_id, e.* exclude (run_id) from raw.use_events e %(names)s where e.kind = 'artifact_used'
), every as (
    select flow, run_id, step, task_id, * exclude (flow, run_id, step, task_id), run_id as own_run_id,
        flow as own_flow, null::varchar as origin_pathspec from own
    union all
    select u.flow, u.run_id, u.step, u.task_id, e.* exclude (flow, run_id, step, task_id), e.run_id, e.flow,
        u.origin_pathspec
    from fold.reuses u join own e on e.run_uid = u.origin_uid and e.step = u.origin_step and e.task_id = u.origin_task_id
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
with own as (
    select %(run_id)s as run_id, e.* exclude (run_id) from raw.use_events e %(names)s where e.kind = 'external_used'
), every as (
    select flow, run_id, step, task_id, * exclude (flow, run_id, step, task_id), null::varchar as origin_pathspec from own
    union all
    select u.flow, u.run_id, u.step, u.task_id, e.* exclude (flow, run_id, step, task_id), u.origin_pathspec
    from fold.reuses u join own e on e.run_uid = u.origin_uid and e.step = u.origin_step and e.task_id = u.origin_task_id
)
select flow, run_id, step, task_id, attempt::bigint as attempt, name as uri, {_digest("digest")} as digest,
    payload ->> '$.direction' as direction, size_bytes, {_at("time_us")} as occurred_at, origin_pathspec,
    payload ->> '$.state' as state, payload ->> '$.parameter' as parameter
from every
"""

_V_PARAMETERS = f"""
select min(e.flow) as flow, min(%(run_id)s) as run_id, e.name as name, arg_min(e.value, {_KEY})::json as value,
    arg_min(e.value_number, {_KEY}) as value_number, arg_min(e.type, {_KEY}) as type,
    {_digest(f"arg_min(e.digest, {_KEY})")} as digest
from raw.run_events e %(names)s
where e.kind = 'parameter_set' and e.payload ->> '$.role' = 'parameter' group by e.run_uid, e.name
"""

_V_TAGS = f"""
with told as (
    select e.run_uid, min(e.flow) as flow, min(%(run_id)s) as run_id, e.name as tag,
        arg_max({{'kind': e.kind, 'payload': e.payload, 'time_us': e.time_us}}, row(time_us, writer, seq)) as latest
    from raw.run_events e %(names)s where e.kind in ('tag_added', 'tag_removed') group by e.run_uid, e.name
)
select flow, run_id, tag, latest.payload ->> '$.kind' as kind, {_at("latest.time_us")} as added_at
from told where latest.kind = 'tag_added'
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


def view_sql(name: str, has_twins: bool) -> str:
    """The SELECT of one view; runs that share a pathspec are told apart where there are any."""
    sql = VIEWS[name]
    if "%(" not in sql:
        return sql
    if has_twins:
        return sql % {
            "run_id": "coalesce(n.run_id, e.run_id)",
            "names": "left join fold.runs n on n.run_uid = e.run_uid",
        }
    return sql % {"run_id": "e.run_id", "names": ""}


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
        "-- Not here: journals that are not sealed yet, checks of the files, and artifact().",
        "create schema if not exists raw; create schema if not exists fold;",
        "create or replace table raw.writers (writer BLOB, is_dead BOOLEAN);",
        f"create or replace view raw.clock as select {as_of_us or 'epoch_us(now()::timestamp)'} as now_us;",
    ]
    until = "" if as_of_us is None else f" where time_us <= {as_of_us}"
    lines += [
        f"create or replace view raw.{family}_events as select * from ({sealed.get(family, empty)}){until};"
        for family in FAMILIES
    ]
    lines += [f"create or replace view fold.{name} as {fold_sql(name, True).strip()};" for name in FOLDS]
    lines += [f"create or replace view {name} as {view_sql(name, True).strip()};" for name in VIEWS]
    return "\n".join(lines) + "\n"
