from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Ask

QUERY = "SELECT run_id, status, tasks FROM runs ORDER BY run_id"


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("table", "run_id  status     tasks\n1       failed         3\n2       succeeded      4\n"),
        ("csv", "run_id,status,tasks\n1,failed,3\n2,succeeded,4\n"),
        (
            "markdown",
            "| run_id | status | tasks |\n| --- | --- | --- |\n| 1 | failed | 3 |\n| 2 | succeeded | 4 |\n",
        ),
    ],
)
def test_sql_answers_in_the_format_asked_for(form: str, expected: str, weft: Ask) -> None:
    assert weft("sql", QUERY, "--format", form).out == expected


def test_sql_gives_one_json_document(weft: Ask) -> None:
    rows = weft("sql", QUERY, "--json").json
    assert rows == [
        {"run_id": "1", "status": "failed", "tasks": 3},
        {"run_id": "2", "status": "succeeded", "tasks": 4},
    ]


@pytest.mark.parametrize("ending", ["csv", "json", "parquet", "md"])
def test_sql_writes_the_format_that_the_file_names(ending: str, tmp_path: Path, weft: Ask) -> None:
    path = tmp_path / f"answer.{ending}"
    answer = weft("sql", QUERY, "--output", str(path))
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    if ending == "parquet":
        import pyarrow.parquet as pq

        assert pq.read_table(path).column("run_id").to_pylist() == ["1", "2"]
    elif ending == "json":
        assert [row["run_id"] for row in json.loads(path.read_text())] == ["1", "2"]
    else:
        assert "succeeded" in path.read_text()


def test_sql_reads_the_query_from_stdin(weft: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT count(*) AS n FROM runs"))
    assert weft("sql", "--json").json == [{"n": 2}]


def test_sql_prompt_goes_on_after_an_error(weft: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    class Typed(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Typed("SELECT nonsense;\nSELECT count(*) AS n\nFROM runs;\n"))
    answer = weft("sql")
    assert answer.code == 0
    assert "nonsense" in answer.err
    assert "n\nweft>" not in answer.out
    assert "2\n" in answer.out


@pytest.mark.parametrize(
    "query",
    [
        "SELECT nonsense FROM runs",
        "SELEC 1",
        "CREATE TABLE t (i INT)",
        "COPY (SELECT 1) TO 'x.csv'",
        "ATTACH 'x.duckdb'",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT 1; SELECT 2",
        "",
    ],
)
def test_sql_that_fails_or_writes_is_refused(query: str, tmp_path: Path, weft: Ask) -> None:
    before = sorted(path.name for path in tmp_path.rglob("*"))
    answer = weft("sql", query)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_sql_output_that_cannot_be_written_is_named(tmp_path: Path, weft: Ask) -> None:
    answer = weft("sql", QUERY, "--output", str(tmp_path / "no" / "answer.csv"))
    assert answer.code == 2
    assert "--output" in answer.err


def test_sql_json_and_another_format_contradict(weft: Ask) -> None:
    assert weft("sql", QUERY, "--json", "--format", "csv").code == 2


def test_ddl_names_every_view(weft: Ask) -> None:
    text = weft("sql", "--ddl").out.lower()
    for view in (
        "runs",
        "steps",
        "tasks",
        "attempts",
        "artifacts",
        "artifact_uses",
        "parameters",
        "tags",
        "events",
    ):
        assert view in text


def test_sql_has_a_limit_of_time_and_of_rows_that_can_be_raised(weft: Ask) -> None:
    endless = "select sum(a.range * b.range) from range(10000000) a, range(10000000) b"
    answer = weft("sql", endless, "--max-seconds", "0.2")
    assert (answer.code, answer.out) == (2, "")
    assert "--max-seconds" in answer.err
    answer = weft("sql", "from range(11)", "--max-rows", "10")
    assert (answer.code, answer.out) == (2, "")
    assert "--max-rows" in answer.err
    assert len(weft("sql", "from range(11)", "--max-rows", "11", "--json").json) == 11
    assert len(weft("sql", "from range(11)", "--max-rows", "0", "--json").json) == 11
    assert weft("sql", "pivot runs on status using count(*)", "--json").json
