"""Views that answer what teams ask most, as SQL over the views below them. Pure.

Each stands on views that are there already, so what holds for those (as-of, reuse, twins) holds here.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SUMMARIES", "Summary"]


class Summary(NamedTuple):
    """A view made of other views: which, and the SELECT."""

    bases: tuple[str, ...]
    sql: str


_STEP_TIMES = """
with by_day as (
    select flow, step, started_at::date as day, count(*) as tasks, sum(duration_s) as total_s,
        median(duration_s) as median_s, quantile_cont(duration_s, 0.95) as p95_s, max(duration_s) as max_s
    from tasks where status in ('succeeded', 'caught', 'failed') and duration_s is not null group by all
)
select *, avg(median_s) over recently as usual_s, median_s / nullif(avg(median_s) over recently, 0) as trend
from by_day window recently as (
    partition by flow, step order by day range between interval 28 day preceding and interval 1 day preceding)
"""

_STEP_COSTS = """
select flow, run_id, step, count(distinct task_id) as tasks, count(*) as attempts, sum(cpu_s) as cpu_s,
    sum(duration_s) as duration_s, max(max_rss_bytes) as max_rss_bytes,
    coalesce(sum(duration_s) filter (status in ('failed', 'lost', 'cancelled')), 0) as wasted_s
from attempts where origin_pathspec is null group by all
"""

_FLAKY_TASKS = """
with tried as (
    select flow, run_id, step, task_id, count(*) filter (status in ('failed', 'lost')) as failed,
        arg_max(status, attempt) as final, arg_max(error_type, attempt) filter (status = 'failed') as error_type,
        max(finished_at) as last_at
    from attempts where origin_pathspec is null group by all
)
select t.flow, t.step, t.foreach_path, count(*) as tasks, count(*) filter (a.failed > 0) as tasks_retried,
    sum(a.failed)::bigint as attempts_failed,
    arg_max(a.error_type, a.last_at) filter (a.failed > 0) as last_error_type,
    max(a.last_at) filter (a.failed > 0) as last_failed_at
from tried a join tasks t on t.flow = a.flow and t.run_id = a.run_id and t.step = a.step and t.task_id = a.task_id
where a.final in ('succeeded', 'caught') group by all having count(*) filter (a.failed > 0) > 0
"""

_REUSE = """
select flow, run_id, count(*) as tasks, count(*) filter (status = 'reused') as tasks_reused,
    count(*) filter (status = 'reused') / count(*) as rate,
    coalesce(sum(duration_s) filter (status = 'reused'), 0) as saved_s
from tasks group by all
"""

_STORE_GROWTH = """
with kept as (
    select digest, min(created_at)::date as day, any_value(size_bytes) as size_bytes
    from artifacts where digest is not null group by digest
), bytes as (
    select day, count(*) as values_new, sum(size_bytes)::bigint as bytes_new from kept group by day
), told as (
    select occurred_at::date as day, count(*) as events, count(*) filter (kind = 'run_started') as runs
    from events group by all
)
select t.day, t.runs, t.events, coalesce(b.values_new, 0) as values_new, coalesce(b.bytes_new, 0) as bytes_new,
    (sum(t.events) over so_far)::bigint as events_total, (sum(coalesce(b.bytes_new, 0)) over so_far)::bigint as bytes_total
from told t left join bytes b using (day) window so_far as (order by t.day)
"""

_FAILURES = """
select flow, coalesce(split_part(root_cause, '/', 3), '') as step, coalesce(error_type, status) as error_type,
    arg_max(error_message, started_at) as last_message, count(*) as runs, min(started_at) as first_at,
    max(started_at) as last_at, arg_max(run_id, started_at) as last_run_id, arg_max(root_cause, started_at) as last_cause
from runs where status in ('failed', 'lost') group by flow, step, coalesce(error_type, status)
"""

SUMMARIES = {
    "step_times": Summary(("tasks",), _STEP_TIMES),
    "step_costs": Summary(("attempts",), _STEP_COSTS),
    "flaky_tasks": Summary(("attempts", "tasks"), _FLAKY_TASKS),
    "reuse": Summary(("tasks",), _REUSE),
    "store_growth": Summary(("artifacts", "events"), _STORE_GROWTH),
    "failures": Summary(("runs",), _FAILURES),
}
