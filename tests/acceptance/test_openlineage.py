"""A run writes OpenLineage events as they happen; what its sink missed comes from the log later."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Project
from tests.openlineage import check_event
from weft.lineage.local import LocalStorage
from weft.lineage.openlineage_sinks import documents_of, text_of
from weft.lineage.store import Store

FLOW = """
import pyarrow as pa


class Made(FlowSpec):
    \"\"\"Makes a table.\"\"\"

    factor = Parameter("factor", default=2)

    @step
    def start(self):
        self.numbers = [1, 2, 3]
        self.next(self.each, foreach="numbers")

    @step
    def each(self):
        self.product = self.input * self.factor
        self.next(self.join)

    @step
    def join(self, inputs):
        self.table = pa.table({"product": [branch.product for branch in inputs]})
        self.next(self.end)

    @step
    def end(self):
        if self.factor == 0:
            raise ValueError("nothing is left")


if __name__ == "__main__":
    Made()
"""


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def _exported(project: Project) -> list[str]:
    with Store(LocalStorage(str(project.store))) as store:
        return [text_of(d) for d in documents_of(store, "weft")]


def test_what_is_written_live_is_what_the_log_gives(project: Project) -> None:
    project.write(FLOW)
    sink = project.folder / "sink.ndjson"
    project.run(WEFT_OPENLINEAGE=str(sink))
    project.fail("--factor", "0", "--openlineage", "sink.ndjson")
    lines = _lines(sink)
    assert sorted(lines) == sorted(_exported(project))
    documents: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for document in documents:
        check_event(document)
    types = [d["eventType"] for d in documents if d["job"]["name"] == "Made"]
    assert types == ["START", "COMPLETE", "START", "FAIL"]
    (table,) = [
        output
        for d in documents
        for output in d["outputs"]
        if output["name"] == "Made/join/table" and d["run"]["runId"]
    ][:1]
    assert table["facets"]["schema"]["fields"] == [{"name": "product", "type": "int64"}]


@pytest.mark.parametrize("sink", ["/dev/full", "missing/sink.ndjson", "."])
def test_a_failing_sink_fails_nothing(project: Project, sink: str) -> None:
    project.write(FLOW)
    done = project.call("run", "--openlineage", sink)
    assert done.code == 0
    assert "OpenLineage events are missing in" in done.err
    assert "weft export openlineage --append --output" in done.err
    assert project.newest().status == "succeeded"


def test_what_a_sink_missed_the_next_run_adds(project: Project) -> None:
    project.write(FLOW)
    folder = project.folder / "later"
    sink = str(folder / "sink.ndjson")
    project.run("--openlineage", sink)
    project.run()  # It asks for no export.
    folder.mkdir()
    project.run("--openlineage", sink)
    lines = _lines(folder / "sink.ndjson")
    assert len(lines) == len(set(lines))
    assert sorted(lines) == sorted(_exported(project))
    notes = project.store / "cache" / "openlineage"
    assert list(notes.iterdir()) == []


def test_a_run_that_was_killed_is_exported_from_the_log(project: Project) -> None:
    """Its sink has what was told; the export adds what is missing, once."""
    project.write(FLOW)
    sink = project.folder / "sink.ndjson"
    project.run(WEFT_OPENLINEAGE=str(sink))
    lines = _lines(sink)
    sink.write_text("\n".join(lines[:4]) + "\n" + lines[4][:30])
    export = [sys.executable, "-m", "weft", "export", "openlineage", "--append", "--output", str(sink)]
    done = project.call_in(project.folder, export)
    assert done.code == 0, done.err
    assert f"{len(lines) - 4} events written" in done.err
    whole = [line for line in _lines(sink) if line.endswith("}")]
    assert sorted(whole) == sorted(lines)
