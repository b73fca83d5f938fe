from __future__ import annotations

import json
from typing import Any

import duckdb
import pytest

from weft.lineage.run_demands import RunKey, runs_demanded


def demanded(query: str, params: Any = None) -> frozenset[RunKey] | None:
    row = duckdb.execute("select json_serialize_sql(?)", [query]).fetchone()
    assert row is not None
    return runs_demanded(json.loads(row[0]), params)


ONE = "flow = 'F' and run_id = '1'"


@pytest.mark.parametrize(
    "query",
    [
        f"select * from artifacts where {ONE}",
        f"FROM artifacts WHERE name = 'x' AND ({ONE}) ORDER BY name LIMIT 3",
        "select count(*) from artifacts a where a.flow = $f and '1' = A.Run_Id",
        "select 1 from tasks where run_id in ('1') and flow in ($f)",
        f"select * from (select 0 as side, * from artifacts where {ONE} union all select 1, * from tasks where {ONE}) v",
        f"with a as (select * from attempts where {ONE}) select count(*) from a where status = 'x' or true",
        "select e.payload from raw.use_events e join fold.runs r using (run_uid) where r.flow = 'F' and r.run_id = '1'",
        (
            "select 1 from told.artifact_events e join fold.runs r on r.flow = e.flow and r.raw_run_id = e.run_id "
            "and r.run_uid = e.run_uid where r.flow = 'F' and r.run_id = '1' and e.step = 's'"
        ),
        "select 1 from artifacts a left join tasks t on a.run_id = t.run_id and t.flow = a.flow where a.flow = 'F' and a.run_id = '1'",
        "select 1 from tasks t, artifacts a where t.flow = 'F' and t.run_id = '1' and a.flow = 'F' and a.run_id = '1'",
        "select status from tasks where pathspec = 'F/1/start/7'",
        "select status from artifacts where pathspec = 'F/1/start/7/x'",
        f"select 1 from tasks where {ONE} and exists (from artifacts where {ONE})",
        f"select * from step_costs where {ONE}",
        f"select unnest([1, 2]), * from tasks where {ONE}",
    ],
)
def test_a_run_that_is_plainly_demanded_is_found(query: str) -> None:
    assert demanded(query, {"f": "F"}) == frozenset({("F", "1")})


def test_parameters_may_stand_in_order_and_runs_in_lists() -> None:
    query = "select 1 from told.use_events where flow in (?, ?) and run_id in (?, ?) and step = ?"
    found = demanded(query, ["F", "G", "1", "2", "start"])
    assert found == frozenset({("F", "1"), ("F", "2"), ("G", "1"), ("G", "2")})


@pytest.mark.parametrize(
    "query",
    [
        "select 1",
        "select * from artifacts",
        "select * from artifacts where flow = 'F'",
        "select * from artifacts where run_id = '1'",
        "select * from artifacts where flow = 'F' and run_id = 1",
        "select * from artifacts where flow = 'F' and run_id = $other",
        "select * from artifacts where flow = 'F' and run_id = null",
        "select * from artifacts where flow = 'F' and run_id in ('1', run_id)",
        "select * from artifacts where flow = 'F' and run_id >= '1'",
        "select * from artifacts where flow = 'F' or run_id = '1'",
        f"select * from artifacts where not ({ONE})",
        f"select * from artifacts where {ONE} union all from artifacts",
        f"select * from artifacts where {ONE} and exists (from tasks)",
        f"select * from tasks, artifacts where {ONE}",
        "select * from tasks t, artifacts a where t.flow = 'F' and t.run_id = '1'",
        "select * from tasks t join artifacts a on a.flow = t.flow where t.flow = 'F' and t.run_id = '1'",
        "select * from tasks t join artifacts a using (step) where t.flow = 'F' and t.run_id = '1'",
        "select * from tasks t join artifacts a on a.run_id > t.run_id and a.flow = t.flow where t.flow = 'F' and t.run_id = '1'",
        "select * from tasks t full join artifacts a using (flow, run_id) where t.flow = 'F' and t.run_id = '1'",
        "select * from tasks t right join artifacts a using (flow, run_id) where t.flow = 'F' and t.run_id = '1'",
        "select * from tasks t anti join artifacts a using (flow, run_id) where t.flow = 'F' and t.run_id = '1'",
        "select * from tasks t positional join artifacts a where t.flow = 'F' and t.run_id = '1' and a.flow = 'F' and a.run_id = '1'",
        f"select * from artifacts tablesample 10% where {ONE}",
        f"with artifacts as (select * from tasks) select * from artifacts where {ONE}",
        f"with a as (select * from artifacts) select * from a where {ONE}",
        "select 'F' as flow, '1' as run_id from artifacts where flow = 'F' and run_id = '1'",
        f"select * from frame where {ONE}",
        f"select * from frame f join tasks t on true where {ONE}",
        "select * from artifacts x(flow, run_id) where flow = 'F' and run_id = '1'",
        f"select * from failures where {ONE}",
        "select status from tasks where pathspec = 'F/1/start'",
        "select status from tasks where pathspec = 'F/1/a/b/start'",
        "select status from attempts where pathspec = 'F/1/start/7'",
        f"select * from artifacts where true qualify {ONE}",
        f"select flow, run_id from artifacts group by all having {ONE}",
        f"select * from artifacts where {ONE}; select * from artifacts",
        f"explain select * from artifacts where {ONE}",
        f"pivot (select * from artifacts where {ONE}) on name using count(*)",
        "not sql",
    ],
)
def test_anything_less_plain_is_left_as_it_is(query: str) -> None:
    assert demanded(query, {"other": None}) is None


def test_more_runs_than_a_few_are_not_listed() -> None:
    ids = ", ".join(f"'{number}'" for number in range(65))
    assert demanded(f"select 1 from tasks where flow = 'F' and run_id in ({ids})") is None
