"""What tasks read is recorded as they read it: lazily, by item, through inputs and merges, and through the client."""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from weft.lineage.store import open_store

if TYPE_CHECKING:
    from tests.conftest import Project, Run

#: step, name, item, producing step; None where it was absent.
Read = tuple[str, str, int | None, str | None]


def _reads(run: Run) -> set[Read]:
    found = set()
    for event in run.events("artifact_used"):
        assert event.is_absent == (event.digest is None)
        found.add((event.step or "", event.name or "", event.item_index, event.producer_step))
    return found


_READING = """
    class Reading(FlowSpec):
        alpha = Parameter("alpha", default=3)
        limit = 5

        @step
        def start(self):
            self.xs = [10, 20]
            self.kept = "kept"
            self.unread = "unread"
            self.next(self.fit, foreach="xs")

        @step
        def fit(self):
            self.y = self.input + self.alpha
            assert self.index in (0, 1)
            self.next(self.join)

        @step
        def join(self, inputs):
            self.first = inputs[0].y
            assert len(inputs) == 2
            self.merge_artifacts(inputs, include=["kept"])
            self.next(self.end)

        @step
        def end(self):
            self.text = self.kept * 2
            self.text += self.kept
            getattr(self, "nothing", None)
            assert self.limit == 5

    if __name__ == "__main__":
        Reading()
"""


@pytest.mark.parametrize("isolation", ["inline", "fork"])
def test_reads_are_recorded_where_they_happen_and_nowhere_else(project: Project, isolation: str) -> None:
    project.write(_READING)
    run = project.run("--isolation", isolation)
    assert _reads(run) == {
        ("fit", "xs", 0, "start"),
        ("fit", "xs", 1, "start"),
        ("fit", "alpha", None, "_parameters"),
        ("join", "y", None, "fit"),
        # What a merge passes on leads to the task that saved it.
        ("end", "kept", None, "start"),
        # A constant of the class is part of the code: Python finds it without asking.
        ("end", "nothing", None, None),
    }
    assert len(run.events("artifact_used")) == 7  # Two tasks read alpha.


_CLIENT = """
    import os
    import pickle
    from weft import Flow, Run, Task, namespace, open_store

    class Model(FlowSpec):
        @step
        def start(self):
            self.weights = list(range(100))
            self.bias = 0.5
            self.next(self.end)

        @step
        def end(self):
            pass

    class Using(FlowSpec):
        @step
        def start(self):
            namespace(None)
            run = Flow("Model").latest_successful_run
            self.total = sum(run.data.weights)
            self.again = sum(Run(run.pathspec)["start"].task["weights"].data)
            if "OTHER" in os.environ:
                with open_store(os.environ["OTHER"]) as store:
                    self.other = store.run(os.environ["OTHER_RUN"]).data.bias
            self.next(self.end)

        @step
        def end(self):
            assert Task(f"Using/{current.run_id}/start/1").data.total == 4950

    if __name__ == "__main__":
        globals()[os.environ["FLOW"]]()
"""


def test_client_reads_inside_a_task_are_reads_of_the_task(project: Project) -> None:
    project.write(_CLIENT)
    model = project.run(FLOW="Model", WEFT_USER="ada")
    using = project.run(FLOW="Using", WEFT_USER="bob")
    weights = model.saved("start")["weights"]
    assert weights == list(range(100))
    found = [
        (event.step, event.name, event.producer_flow, event.producer_run_id, event.producer_step)
        for event in using.events("artifact_used")
    ]
    assert found == [
        ("start", "weights", "Model", model.run_id, "start"),
        ("end", "total", "Using", using.run_id, "start"),
    ]


def test_client_reads_from_another_store_are_external(project: Project, tmp_path: Any) -> None:
    project.write(_CLIENT)
    model = project.run(FLOW="Model")
    there = project.folder / "there"
    project.store.rename(there)
    other = {"OTHER": str(there), "OTHER_RUN": f"Model/{model.run_id}"}
    project.run(FLOW="Model")
    using = project.run(FLOW="Using", **other)
    (event,) = using.events("external_used")
    assert event.name == f"{there}#Model/{model.run_id}/start/1/bias"
    assert event.payload == {"direction": "read"}
    (saved,) = [event for event in model_events(project, str(there)) if event.name == "bias"]
    assert event.digest == saved.digest


def model_events(project: Project, url: str) -> list[Any]:
    from weft.lineage.local import LocalStorage
    from weft.lineage.log import EventLog

    return [event for event in EventLog(LocalStorage(url)).events() if event.kind == "artifact_saved"]


_TRACKING = """
    import pathlib
    import weft

    class Tracking(FlowSpec):
        table = Parameter("table", type=pathlib.Path, default="data/in.csv")
        missing = Parameter("missing", type=pathlib.Path, default="data/none.csv")
        text = Parameter("text", default="data/in.csv")

        @step
        def start(self):
            with open(weft.track("data/in.csv")) as file:
                self.rows = file.read().splitlines()
            weft.track("data", "read")
            out = weft.track(pathlib.Path("out.txt"), "write")
            out.write_text("first")
            out.write_text("last")
            weft.track("s3://me:secret@bucket/key?X-Amz-Signature=abc", "write")
            if "FAIL" in __import__("os").environ:
                raise ValueError("after it read")
            self.next(self.end)

        @step
        def end(self):
            weft.track("gone.txt", "write")

    weft.track("outside.txt")
    if __name__ == "__main__":
        Tracking()
"""


def _external(run: Run) -> list[tuple[str, str, str, bytes | None, int | None]]:
    return [
        (
            event.step or "",
            (event.payload or {})["direction"],
            event.name or "",
            event.digest,
            event.size_bytes,
        )
        for event in run.events("external_used")
    ]


def _sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_tracked_files_are_recorded_with_what_was_in_them(project: Project) -> None:
    project.write(_TRACKING)
    data = project.folder / "data"
    data.mkdir()
    (data / "in.csv").write_bytes(b"a\nb\n")
    (data / "b.csv").write_bytes(b"b")
    listed = f"{_sha(b'b').hex()}  ./b.csv\n{_sha(b'a' + bytes([10]) + b'b' + bytes([10])).hex()}  ./in.csv\n"
    expected = [
        ("_parameters", "read", f"{data}/in.csv", _sha(b"a\nb\n"), 4),
        ("start", "read", f"{data}/in.csv", _sha(b"a\nb\n"), 4),
        ("start", "read", str(data), _sha(listed.encode()), 5),
        ("start", "write", f"{project.folder}/out.txt", _sha(b"last"), 4),
        ("start", "write", "s3://bucket/key", None, None),
    ]
    run = project.run()
    assert _external(run) == [*expected, ("end", "write", f"{project.folder}/gone.txt", None, None)]
    (of_parameter, *_) = run.events("external_used")
    assert of_parameter.payload == {"direction": "read", "parameter": "table"}
    assert _external(project.fail(FAIL="1")) == expected


def test_resumed_runs_record_the_files_of_their_parameters(project: Project) -> None:
    project.write(_TRACKING)
    (project.folder / "data").mkdir()
    (project.folder / "data" / "in.csv").write_bytes(b"old")
    project.fail(FAIL="1")
    (project.folder / "data" / "in.csv").write_bytes(b"new")
    resumed = project.resume()
    assert _external(resumed)[0] == ("_parameters", "read", f"{project.folder}/data/in.csv", _sha(b"new"), 3)


_WATCHED = """
    import pyarrow as pa
    import pyarrow.csv as csv
    import weft

    class Watched(FlowSpec):
        @step
        def start(self):
            self.table = csv.read_csv("in.csv")
            self.next(self.end)

        @step
        def end(self):
            csv.write_csv(self.table, "out.csv")
            assert weft.sql("select count(*) from artifacts").fetchall()[0][0] > 0

    if __name__ == "__main__":
        Watched()
"""


@pytest.mark.parametrize("isolation", ["fork", "spawn"])
def test_readers_of_libraries_are_recorded_where_that_is_asked_for(project: Project, isolation: str) -> None:
    project.write(_WATCHED)
    (project.folder / "in.csv").write_text("a,b\n1,2\n")
    run = project.run("--isolation", isolation, WEFT_TRACK="auto")
    written = (project.folder / "out.csv").read_bytes()
    # What weft reads in the store for the step's query is not the step's.
    assert _external(run) == [
        ("start", "read", f"{project.folder}/in.csv", _sha(b"a,b\n1,2\n"), 8),
        ("end", "write", f"{project.folder}/out.csv", _sha(written), len(written)),
    ]


_INCLUDING = """
    import json
    from weft import IncludeFile

    class Including(FlowSpec):
        rules = IncludeFile("rules", default="rules.json", parser=json.loads)
        raw = IncludeFile("raw", is_text=False, parser="zlib.crc32")
        note = IncludeFile("note", help="Not needed.")

        @step
        def start(self):
            self.limit = self.rules["limit"]
            self.next(self.end)

        @step
        def end(self):
            print("limit", self.limit, self.raw, self.note)

    if __name__ == "__main__":
        Including()
"""


def test_included_file_is_a_parameter_and_what_it_held_is_recorded(project: Project) -> None:
    project.write(_INCLUDING)
    rules = project.folder / "rules.json"
    rules.write_text('{"limit": 3}')
    (project.folder / "raw.bin").write_bytes(b"\xff\x00")
    run = project.run("--raw", "raw.bin")
    crc = zlib.crc32(b"\xff\x00")
    assert run.console("end") == [f"limit 3 {crc} None"]
    assert _external(run) == [
        ("_parameters", "read", str(rules), _sha(b'{"limit": 3}'), 12),
        ("_parameters", "read", f"{project.folder}/raw.bin", _sha(b"\xff\x00"), 2),
    ]
    with open_store(str(project.folder / ".weft")) as store:
        tree = store.lineage(str(rules), "down").tree()
    assert "limit" in tree.partition("rules")[2]
    assert "raw" not in tree
    # What a resume is not given anew it takes as it was.
    rules.write_text('{"limit": 4}')
    assert list(project.resume("--changed").statuses.values()) == ["reused", "reused"]
    again = project.resume("--changed", "--rules", "rules.json")
    assert again.console("end") == [f"limit 4 {crc} None"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            None,
            "'rules.json' is not of type path (No such file or directory). Give --rules a value of type path.",
        ),
        (b"\xff", "'rules.json' is not of type path (it is no utf-8 text; is_text=False takes bytes)."),
        (b"{", "'rules.json' is not of type path (its parser failed with JSONDecodeError:"),
    ],
)
def test_file_that_cannot_be_included_says_why(project: Project, content: bytes | None, message: str) -> None:
    project.write(_INCLUDING)
    if content is not None:
        (project.folder / "rules.json").write_bytes(content)
    done = project.call("run")
    assert done.code == 2
    assert f"error: Parameter rules: {message}" in done.err
