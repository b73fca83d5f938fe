from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import weft
from weft.lineage import events as kinds
from weft.lineage.errors import NotFound, QueryError, StoreDamaged, UsageError
from weft.lineage.journal import Journal
from weft.lineage.store import Store, open_store


def test_open_store_never_creates_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEFT_STORE", raising=False)
    with pytest.raises(NotFound, match="--store"):
        open_store()
    with pytest.raises(NotFound, match="--store"):
        open_store(str(tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []


def test_sql_asks_the_default_store(story: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story.run("Hello", "1")
    monkeypatch.setenv("WEFT_STORE", str(tmp_path / "store"))
    assert weft.sql("select run_id from runs where flow = $flow", flow="Hello").rows == [("1",)]


def test_results_come_in_every_form_and_outlive_the_store(story: Any) -> None:
    story.end(story.run("Hello", "1"))
    with story.store() as store:
        result = store.sql("select flow, started_at, tasks, null::json as v from runs")
    assert result.columns == ["flow", "started_at", "tasks", "v"]
    (row,) = result.fetchall()
    assert row[0] == "Hello"
    assert row[2:] == (0, None)
    assert result.dicts()[0]["tasks"] == 0
    assert result.df().shape == (1, 4)
    assert result.arrow().column_names == result.columns
    assert isinstance(result.arrow(), pa.Table)
    assert result.pl()["flow"].to_list() == ["Hello"]
    assert "<td>Hello</td>" in result._repr_html_()
    assert len(result) == 1
    with pytest.raises(UsageError, match="closed"):
        store.sql("select 1")


def test_results_stay_what_they_are_while_the_log_goes_on(story: Any) -> None:
    story.run("Hello", "1")
    store = story.store()
    result = store.sql("select run_id from runs order by run_id")
    story.run("Hello", "2")
    assert store.sql("select run_id from runs order by run_id").rows == [("1",), ("2",)]
    assert result.rows == [("1",)]
    assert result.df()["run_id"].tolist() == ["1"]


def test_store_sees_journals_and_segments_as_one(story: Any) -> None:
    store = story.store()
    for number in range(3):
        run = story.run("Hello", str(number))
        story.task(run, "start", "1", x=number)
        story.end(run)
        assert store.sql("select count(*) from runs").rows == [(number + 1,)]
        story.next_journal()
        if number < 2:
            store._log.seal(force=True, grace_s=0)
        assert store.sql("select run_id, value_number from artifacts order by 1").rows == [
            (str(n), float(n)) for n in range(number + 1)
        ]
    assert store.sql("select count(*) from events where kind <> 'journal_closed'").rows == [(18,)]


def test_big_segments_are_read_where_they_lie(story: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.lineage.event_tables.COPIED_BYTES_MAX", 0)
    run = story.run("Hello", "1")
    story.task(run, "start", "1", x=1)
    story.end(run)
    story.next_journal()
    store = story.store()
    store._log.seal(force=True, grace_s=0)
    later = story.run("Hello", "2")
    story.reuse(later, run.task("start", "1"))
    assert store.sql("select run_id, status from runs order by 1").rows == [
        ("1", "succeeded"),
        ("2", "running"),
    ]
    assert store.sql("select run_id, value from artifacts order by 1").rows == [("1", "1"), ("2", "1")]
    story.end(later)
    assert store.sql("select status from runs order by run_id").rows == [("succeeded",)] * 2


@pytest.mark.parametrize("copied_bytes", [0, 1 << 20])
def test_a_damaged_segment_is_named_each_time_it_is_asked_for(
    story: Any, monkeypatch: pytest.MonkeyPatch, copied_bytes: int
) -> None:
    monkeypatch.setattr("weft.lineage.event_tables.COPIED_BYTES_MAX", copied_bytes)
    run = story.run("Hello", "1")
    story.task(run, "start", "1", x=1)
    story.end(run)
    story.next_journal()
    store = story.store()
    store._log.seal(force=True, grace_s=0)
    (file,) = Path(story.storage.root, "log", "run").iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    for query in (
        "from tasks",
        "from tasks",
        "from runs",
        "from parameters where flow = 'Hello' and run_id = '1'",
    ):
        with pytest.raises(StoreDamaged):
            store.sql(query)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("select count(*) from runs using sample 100%", 1),
        (f"select {'+'.join('1' * 900)} from runs", 900),
        ("select count(*) from (select name, value::double v from artifacts) where name = 'x'", 1),
        ("select count(*) from (select task_id::date d from tasks)", 1),
        ("select exists(select name::int from artifacts)", True),
    ],
)
def test_queries_of_users_are_not_said_to_be_plain(story: Any, query: str, expected: object) -> None:
    run = story.run("Hello", "1")
    story.task(run, "start", "1", x=1, y="text")
    assert story.store().sql(query).rows == [(expected,)]


def test_frames_of_the_caller_join(story: Any) -> None:
    story.run("Hello", "1")
    store = story.store()
    for frame in (
        pd.DataFrame({"run_id": ["1"]}),
        pl.DataFrame({"run_id": ["1"]}),
        pa.table({"run_id": ["1"]}),
    ):
        query = "select flow from mine join runs using (run_id)"
        assert store.sql(query, frames={"mine": frame}).rows == [("Hello",)]
    with pytest.raises(QueryError):
        store.sql("from mine")
    with pytest.raises(UsageError, match="view"):
        store.sql("from runs", frames={"runs": pd.DataFrame({"a": [1]})})


def test_store_as_of_a_time_an_event_and_a_datetime(story: Any) -> None:
    story.run("Hello", "1")
    store = story.store()
    (writer, seq, at) = store.sql("select writer, seq, occurred_at from events").rows[0]
    early = at - timedelta(microseconds=1)
    story.journal.observe(int(at.replace(tzinfo=UTC).timestamp() * 1e6) + 1_000_000)
    story.run("Hello", "2")
    for moment in (f"{writer}:{seq}", f"{at.isoformat()}+00:00", at.replace(tzinfo=UTC)):
        assert story.store(as_of=moment).sql("select run_id from runs").rows == [("1",)]
    with pytest.raises(NotFound, match="it began at"):
        story.store(as_of=early.replace(tzinfo=UTC))
    assert [event.run_id for event in store.events(since=f"{writer}:{seq}")] == ["2"]
    assert [event.run_id for event in store.events(since=at.replace(tzinfo=UTC))] == ["2"]
    with pytest.raises(UsageError, match="ISO 8601"):
        story.store(as_of="yesterday")
    with pytest.raises(NotFound, match="weft log"):
        story.store(as_of="ab" * 16 + ":7")


def test_a_run_is_lost_once_its_writer_is_gone(story: Any) -> None:
    run = story.run("Hello", "1")
    story.task(run, "start", "1", is_done=False)
    assert story.store().sql("select status from runs").rows == [("running",)]
    # A process that dies lets go of the lock and leaves the journal without its end.
    story.journal._current.close()
    story.journal = Journal.create(story.storage)
    store = story.store()
    assert store.sql("select r.status, t.status from runs r join tasks t using (run_id)").rows == [
        ("lost", "lost")
    ]
    store._log.seal(force=True, grace_s=0)
    assert store.sql("select status from runs").rows == [("lost",)]
    assert story.store().sql("select status from runs").rows == [("lost",)]


def test_reused_tasks_have_the_rows_of_their_origin(story: Any) -> None:
    first = story.run("Hello", "1")
    story.parameter(first, "alpha", 3)
    start = story.task(first, "start", "1", x=1)
    fit = story.task(first, "fit", "2", (start,), reads=(("x", start),), y=2)
    story.end(first, "failed", root_cause="Hello/1/end/3")
    second = story.run("Hello", "2", origin_run_id="1", origin_run_uid=first.run_uid.hex())
    again = story.reuse(second, start)
    story.reuse(second, fit, (again,), task_id="7")
    store = story.store()
    query = (
        "select step, task_id, status, attempts, origin_pathspec, reuse_reason from tasks where run_id = '2'"
    )
    assert store.sql(query + " order by task_id").rows == [
        ("start", "1", "reused", 1, "Hello/1/start/1", "succeeded before"),
        ("fit", "7", "reused", 1, "Hello/1/fit/2", "succeeded before"),
    ]
    query = "select pathspec, value, producer_pathspec, origin_pathspec from artifacts where run_id = '2'"
    assert store.sql(query + " order by 1").rows == [
        ("Hello/2/fit/7/y", "2", "Hello/1/fit/2", "Hello/1/fit/2"),
        ("Hello/2/start/1/x", "1", "Hello/1/start/1", "Hello/1/start/1"),
    ]
    query = "select task_id, name, producer_pathspec from artifact_uses where run_id = '2'"
    assert store.sql(query).rows == [("7", "x", "Hello/1/start/1")]
    query = "select task_id, host, status, origin_pathspec from attempts where run_id = '2' order by 1"
    assert store.sql(query).rows == [
        ("1", "box", "succeeded", "Hello/1/start/1"),
        ("7", "box", "succeeded", "Hello/1/fit/2"),
    ]
    assert (
        store.sql("select tasks_done, tasks_reused, status from steps where run_id = '2'").rows
        == [(1, 1, "reused")] * 2
    )


def test_parameters_are_a_view_and_artifacts(story: Any) -> None:
    run = story.run("Hello", "1")
    story.parameter(run, "alpha", 0.5)
    story.tell(kinds.parameter_set(run, "LIMIT", story.content(9), "constant"))
    store = story.store()
    assert store.sql("select name, value, value_number from parameters").rows == [("alpha", "0.5", 0.5)]
    assert store.sql("select pathspec from artifacts order by 1").rows == [
        ("Hello/1/_parameters/0/LIMIT",),
        ("Hello/1/_parameters/0/alpha",),
    ]


def test_artifact_gives_the_rows_of_every_table_of_a_name(story: Any) -> None:
    frames = [pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [3], "run_id": ["mine"]})]
    for number, frame in enumerate(frames):
        run = story.run("Hello", str(number))
        task = story.task(run, "fit", "1", is_done=False, score=number)
        is_inline = number == 0
        story.tell(kinds.artifact_saved(task, 0, "table", story.content(frame, is_inline)))
        story.end(run)
    store = story.store()
    result = store.sql("select * from artifact('Hello/fit/table') order by run_id, a")
    assert result.columns == ["flow", "run_id", "task_id", "a", "run_id_1"]
    assert result.rows == [
        ("Hello", "0", "1", 1, None),
        ("Hello", "0", "1", 2, None),
        ("Hello", "1", "1", 3, "mine"),
    ]
    joined = (
        "select r.status, t.a from artifact('Hello/fit/table') t join runs r using (run_id) where a > $least"
    )
    assert store.sql(joined, least=2).rows == [("succeeded", 3)]
    with pytest.raises(QueryError, match="not as a table"):
        store.sql("from artifact('Hello/fit/score')")
    with pytest.raises(QueryError, match="Near names: Hello/fit/table"):
        store.sql("from artifact('Hello/fit/tabel')")
    with pytest.raises(QueryError, match="Flow/step/name"):
        store.sql("from artifact('Hello')")


def test_upstream_and_downstream_are_tables(story: Any) -> None:
    run = story.run("Hello", "1")
    start = story.task(run, "start", "1", x=1)
    story.task(run, "end", "2", (start,), reads=(("x", start),), y=2)
    store = story.store()
    assert store.sql("select depth, kind, pathspec from upstream('Hello/1/end/2/y') order by 1, 2").rows == [
        (1, "artifact", "Hello/1/start/1/x"),
        (1, "task", "Hello/1/end/2"),
        (2, "task", "Hello/1/start/1"),
    ]
    query = "select name from downstream('Hello/1/start/1/x') where kind = 'artifact'"
    assert store.sql(query).rows == [("y",)]


def test_ddl_works_in_any_duckdb(story: Any) -> None:
    import duckdb

    story.end(story.run("Hello", "1"))
    story.next_journal()
    store = story.store()
    store._log.seal(force=True, grace_s=0)
    with duckdb.connect() as connection:
        connection.execute(store.ddl())
        assert connection.execute("select run_id, status from runs").fetchall() == [("1", "succeeded")]


def test_store_is_safe_to_use_from_several_threads(story: Any) -> None:
    for number in range(5):
        story.end(story.run("Hello", str(number)))
    store: Store = story.store()
    found: list[object] = []

    def ask() -> None:
        for _ in range(10):
            result = store.sql("select count(*) from runs")
            found.append(result.arrow().to_pylist()[0]["count_star()"])

    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [5] * 40


def test_lines_are_those_of_the_origin_for_a_reused_task(story: Any) -> None:
    import zlib

    import msgpack

    run = story.run("Hello", "1")
    task = story.task(run, "start", "1")
    chunk = zlib.compress(msgpack.packb([[5, "one"], [7, "two"]]))
    story.tell(kinds.console_written(task, 0, "stdout", 2, 8, chunk, None))
    digest = story.objects.put([zlib.compress(msgpack.packb([[6, "oops"]]))])
    story.tell(kinds.console_written(task, 0, "stderr", 1, 5, None, digest))
    second = story.run("Hello", "2")
    story.reuse(second, task)
    store = story.store()
    assert [(line.time_us, line.stream, line.text) for line in store.lines("Hello/1")] == [
        (5, "stdout", "one"),
        (6, "stderr", "oops"),
        (7, "stdout", "two"),
    ]
    (line,) = store.lines("Hello/2/start/1", "stderr")
    assert (line.text, line.pathspec) == ("oops", "Hello/2/start/1")


def test_query_of_a_pickle_says_as_what_it_could_be_queried(story: Any) -> None:
    run = story.run("Hello", "1")
    for name, type_name in (("frame", "pandas.DataFrame"), ("other", "model.Tree")):
        content = kinds.Content(name[0].encode() * 32, 1, type_name, "pickle/5", blob=b"x")
        story.tell(kinds.artifact_saved(run.task("fit", "1"), 0, name, content))
    story.end(run)
    with pytest.raises(QueryError, match=r"pickle/5, a pandas\.DataFrame.*parquet-pandas/1"):
        story.store().sql("from artifact('Hello/fit/frame')")
    with pytest.raises(QueryError, match=r"a model\.Tree.*parquet-arrow/1"):
        story.store().sql("from artifact('Hello/fit/other')")


def test_store_shows_itself(story: Any) -> None:
    story.run("Hello", "1")
    assert "Hello" in story.store()._repr_html_()
    assert repr(story.store()).startswith("<Store ")
    assert story.store().run("Hello/1").status == "running"
    assert story.store().flow("Hello").latest_run.id == "1"
    assert story.store().verify().is_sound
    assert datetime.now() > story.store().run("Hello/1").created_at - timedelta(days=2)


def test_who_has_a_digest_is_found_by_its_bytes(story: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weft.lineage.event_tables.COPIED_BYTES_MAX", 0)
    first = story.run("Hello", "1")
    start = story.task(first, "start", "1", x="wanted", y="other")
    story.end(first)
    story.reuse(story.run("Hello", "2"), start)
    store = story.store()
    ((digest,),) = store.sql("select distinct digest from artifacts where name = 'x'").rows
    plain = "select pathspec, origin_pathspec from artifacts where digest = $d order by 1"
    expected = [("Hello/1/start/1/x", None), ("Hello/2/start/1/x", "Hello/1/start/1")]
    assert store.sql(plain, d=digest).rows == expected
    assert store.sql(plain.replace("digest = $d", "(digest = $d)"), d=digest).rows == expected
    assert len(store.sql("from artifacts").rows) == 4
