"""Which queries are so plain that nothing is lost without the optimizer."""

from __future__ import annotations

import json

import duckdb
import pytest

from weft.lineage.parse_trees import is_plain_question


def is_plain(query: str) -> bool:
    row = duckdb.execute("select json_serialize_sql(?)", [query]).fetchone()
    assert row is not None
    return is_plain_question(json.loads(row[0]), ("runs", "tasks"))


@pytest.mark.parametrize(
    "query",
    [
        "from runs",
        "select * from runs where flow = $f and run_id in ('1', '2') order by started_at desc limit 3",
        "select status, count(*), max(tasks) from Runs r where not (r.tasks between 1 and 2) group by all",
        "select distinct lower(flow) from runs where started_at is not null",
    ],
)
def test_one_select_of_one_view_is_plain(query: str) -> None:
    assert is_plain(query)


@pytest.mark.parametrize(
    "query",
    [
        "select 1",
        "select * from others",
        "select * from raw.runs",
        "select * from runs, tasks",
        "select * from runs join tasks using (run_id)",
        "select * from runs, unnest([1, 2])",
        "select * from runs tablesample 10%",
        "select * from (select * from runs)",
        "with a as (select * from runs) select * from a",
        "select * from runs union all from runs",
        "select (select 1) from runs",
        "select run_id::int from runs",
        "select strptime(flow, '%d') from runs",
        "select 1 // tasks from runs",
        "select * from runs where error(flow) is null",
        "pivot runs on flow using count(*)",
        "not sql",
    ],
)
def test_what_may_fail_or_joins_is_not(query: str) -> None:
    assert not is_plain(query)
