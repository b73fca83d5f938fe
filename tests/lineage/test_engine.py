"""The connection that a command has made while it imports."""

from __future__ import annotations

import pytest

from weft.lineage import engine


def test_what_fails_beforehand_is_said_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(engine, "_connect", fail)
    engine.prepare()
    engine.wait_for_prepared()
    assert capfd.readouterr().err == ""
    with pytest.raises(MemoryError, match="no room"):
        engine.connect("")


def test_a_prepared_connection_is_the_one_that_is_used() -> None:
    engine.prepare()
    engine.wait_for_prepared()
    assert engine._prepared is not None
    (made,) = engine._prepared[1]
    assert engine.connect("") is made
    engine.let_go()
