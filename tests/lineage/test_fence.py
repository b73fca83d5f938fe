from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from weft.lineage import fence
from weft.lineage.errors import QueryError
from weft.lineage.fence import Call


@pytest.mark.parametrize(
    "query",
    [
        "select 1",
        "from runs",
        "with x as (select 1) select * from x",
        "values (1)",
        "describe runs",
        "summarize runs",
        "show tables",
        "explain select * from runs",
        "explain analyze /* note */ select 1",
        "-- note\nselect 1 -- end",
        "select ';' as semicolon;",
        "pivot (select status, tasks from runs) on status using sum(tasks)",
    ],
)
def test_fence_lets_reading_through(story: Any, query: str) -> None:
    story.run("Hello", "1")
    assert story.store().sql(query).fetchall()


@pytest.mark.parametrize(
    "query",
    [
        "copy (select 1) to '{store}/x.csv'",
        "copy (select 1) to '{segment}'",
        "attach '{store}/x.db'",
        "set threads = 1",
        "set variable x = 1",
        "install httpfs",
        "load httpfs",
        "pragma database_list",
        "call pragma_version()",
        "create table t (a int)",
        "create view runs as select 1",
        "drop view runs",
        "insert into raw.run_events select * from raw.run_events",
        "with x as (insert into raw.clock values (1) returning *) select * from x",
        "delete from raw.run_events",
        "update raw.clock set now_us = 1",
        "export database '{store}/x'",
        "explain analyze copy (select 1) to '{store}/x.csv'",
        "explain analyze delete from raw.run_events",
        "explain (format json) copy (select 1) to '{store}/x.csv'",
        "select 1; select 2",
        "select 1; copy (select 1) to '{store}/x.csv'",
        "select 1) as (select 2",
        "",
        "from read_csv('/etc/passwd')",
        "from read_text('/etc/passwd')",
        "from read_blob('{store}/weft.json')",
        "from read_parquet('{store}/other.parquet')",
        "from glob('/etc/*')",
        "from '/etc/passwd.csv'",
        "from 'file.csv'",
        "from sniff_csv('/etc/passwd')",
        "from 'https://localhost/x.parquet'",
        "from enable_logging('file')",
        "from query('copy (select 1) to ''x''')",
        "begin transaction",
        "prepare p as select 1",
    ],
)
def test_fence_refuses_everything_else(story: Any, tmp_path: Path, query: str) -> None:
    story.end(story.run("Hello", "1"))
    story.next_journal()
    store = story.store()
    store._log.seal(force=True)
    segment = next((tmp_path / "store" / "log").rglob("*.parquet"))
    before = sorted(os.walk(tmp_path))
    content = segment.read_bytes()
    text = query.replace("{store}", str(tmp_path / "store")).replace("{segment}", str(segment))
    with pytest.raises(QueryError):
        store.sql(text)
    assert store.sql("select count(*) from events where kind = 'run_started'").rows == [(1,)]
    assert sorted(os.walk(tmp_path)) == before
    assert segment.read_bytes() == content


def test_fence_gives_the_message_and_the_line_of_the_query(story: Any) -> None:
    with pytest.raises(QueryError, match=r'(?s)"foo" not found.*LINE 2:  foo'):
        story.store().sql("select\n foo from runs")


def test_fence_does_not_see_variables_of_the_caller(story: Any) -> None:
    frame = [(1,)]
    with pytest.raises(QueryError, match="frame"):
        story.store().sql("from frame")
    assert frame


def test_calls_are_found_outside_quotes_and_comments() -> None:
    query = "select 'artifact(''x'')', \"upstream('x')\" /* downstream('x') */ from ARTIFACT ( 'A/b/c''d' ) -- artifact('x')"
    (call,) = fence.find_calls(query)
    assert call == Call("artifact", "A/b/c'd", query.index("ARTIFACT"), query.index(" -- "))


@pytest.mark.parametrize("query", ["from artifact(name)", "from artifact($x)", "from upstream('a' || 'b')"])
def test_calls_take_only_literals(query: str) -> None:
    with pytest.raises(QueryError, match="single quotes"):
        fence.find_calls(query)


def test_names_that_end_like_a_function_are_no_calls() -> None:
    assert fence.find_calls("select my_artifact('x'), x.artifact('y')") == []
