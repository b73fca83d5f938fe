"""docs/sql.md names every view and column with its type, and its questions run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from weft.lineage.store import Store, open_store
from weft.lineage.view_sql import VIEW_NAMES

DOCUMENT = (Path(__file__).parent.parent.parent / "docs" / "sql.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in DOCUMENT.split("\n## ")[1:]}
QUESTIONS = re.findall(r"^```sql\n(.*?)\n```$", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def store(readme_store: Path) -> Store:
    return open_store(str(readme_store))


#: What questions ask for that the flow of the README has not.
_RARE = ("external_uses", "different > 1", "flaky_tasks", "failures")


@pytest.mark.parametrize("view", VIEW_NAMES)
def test_view_is_documented_column_by_column(store: Store, view: str) -> None:
    documented = re.findall(r"^\| `(\w+)` \| (\w+) \| \S", SECTIONS[view], re.MULTILINE)
    real = [(row[0], row[1]) for row in store.sql(f"DESCRIBE {view}").rows]
    assert documented == real


@pytest.mark.parametrize("view", VIEW_NAMES)
def test_view_has_a_question(view: str) -> None:
    assert "```sql" in SECTIONS[view]


@pytest.mark.parametrize("question", QUESTIONS)
def test_question_runs(store: Store, question: str) -> None:
    newest = store.sql("SELECT max(run_id) FROM runs").rows[0][0]
    rows = store.sql(question.replace("/RUN/", f"/{newest}/")).rows
    assert rows or any(rare in question for rare in _RARE)


def test_ddl_makes_the_views_in_any_duckdb(store: Store) -> None:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(store.ddl())
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)
