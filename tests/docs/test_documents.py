"""What README and tutorial say is done as they say it, and prints what they say it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("name", "commands_min"),
    [("README.md", 4), ("docs/tutorial.md", 10), ("docs/running.md", 2), ("docs/questions.md", 20)],
)
def test_document_runs_as_written(session: Any, name: str, commands_min: int) -> None:
    assert session.follow(ROOT / name) >= commands_min


def test_document_that_is_wrong_is_found_out(session: Any, tmp_path: Path) -> None:
    document = tmp_path / "wrong.md"
    document.write_text("```console\n$ echo one\ntwo\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"wrong\.md:2"):
        session.follow(document)
