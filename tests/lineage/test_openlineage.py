"""The log as OpenLineage events: valid by the schemas of the specification, and the same from the same log."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

import pyarrow as pa
import pytest

from tests.lineage.conftest import Story
from tests.openlineage import check_event
from weft.lineage import events as kinds
from weft.lineage.events import RunRef
from weft.lineage.ids import Pathspec
from weft.lineage.openlineage import Document, key_of, run_id_of, translate
from weft.lineage.openlineage_sinks import FileSink, MissedNote, documents_of, lookup_in, text_of
from weft.lineage.serializers import dump
from weft.lineage.table_columns import columns_of_footer

SOURCE = 'class F:\n    """A flow."""\n\n    def start(self):\n        return 1\n'
GRAPH = {"doc": "A flow.", "start": "start", "steps": [{"name": "start", "doc": "The first.", "next": []}]}


def begin(story: Story, run_id: str = "1") -> RunRef:
    file = story.objects.put([SOURCE.encode()])
    manifest = json.dumps({"entry": "f.py", "files": {"f.py": file.hex()}}).encode()
    code = story.objects.put([manifest], hashlib.sha256(manifest).digest())
    run = RunRef(f"F/{run_id}".encode().rjust(16, b"."), "F", run_id)
    git = {"commit": "abc", "branch": "main", "is_dirty": False}
    payload = {"user": "me", "weft": "0.2", "graph": GRAPH, "script": "/home/me/my flow.py", "git": git}
    story.tell(
        kinds.run_started(run, code, payload),
        kinds.tag_added(run, "user:me", "system"),
        kinds.tag_added(run, "nightly", "user"),
    )
    story.parameter(run, "alpha", 0.5)
    return run


def told(story: Story) -> list[Document]:
    documents = list(translate(story.store().events(), lookup_in(story.objects)))
    for document in documents:
        assert check_event(document) > 0
    return documents


def shape(documents: list[Document]) -> list[tuple[str, str]]:
    return [(document["eventType"], document["job"]["name"]) for document in documents]


def test_a_run_and_its_tasks_are_runs_with_a_parent(story: Story) -> None:
    run = begin(story)
    first = story.task(run, "start", "1", x=1)
    story.task(run, "end", "2", (first,), reads=(("x", first), ("alpha", run.task("_parameters", "0"))), y=2)
    story.end(run)
    documents = told(story)
    assert shape(documents) == [
        ("START", "F"),
        ("START", "F.start"),
        ("COMPLETE", "F.start"),
        ("START", "F.end"),
        ("COMPLETE", "F.end"),
        ("COMPLETE", "F"),
    ]
    begun, ended = documents[0], documents[4]
    assert ended["run"]["facets"]["parent"]["run"]["runId"] == begun["run"]["runId"]
    assert uuid.UUID(begun["run"]["runId"]).version == 8
    (read,), (saved,) = ended["inputs"], ended["outputs"]
    assert (read["namespace"], read["name"], saved["name"]) == ("weft", "F/start/x", "F/end/y")
    assert read["facets"]["version"]["datasetVersion"] == "sha256:" + (b"d" * 32).hex()
    assert saved["outputFacets"]["outputStatistics"]["size"] == 1


def test_the_start_tells_code_parameters_tags_and_git(story: Story) -> None:
    run = begin(story)
    story.task(run, "start", "1")
    story.end(run)
    flow, step = told(story)[:2]
    facets = flow["run"]["facets"]
    assert facets["executionParameters"]["parameters"] == [{"key": "alpha", "value": "0.5"}]
    assert [(tag["key"], tag["value"], tag["source"]) for tag in facets["tags"]["tags"]] == [
        ("user", "me", "WEFT"),
        ("nightly", "true", "USER"),
    ]
    assert flow["job"]["facets"]["sourceCode"]["sourceCode"] == SOURCE
    assert flow["job"]["facets"]["documentation"]["description"] == "A flow."
    assert flow["job"]["facets"]["sourceCodeLocation"]["url"] == "file:///home/me/my%20flow.py"
    assert step["job"]["facets"]["sourceCode"]["sourceCode"].strip().startswith("def start")
    assert step["job"]["facets"]["documentation"]["description"] == "The first."


@pytest.mark.parametrize("is_inline", [True, False])
def test_a_table_has_its_schema_and_rows(story: Story, is_inline: bool) -> None:
    run = begin(story)
    table = pa.table({"x": [1, 2, 3], "label": ["a", "b", None]})
    start = story.task(run, "start", "1", is_done=False)
    story.tell(
        kinds.artifact_saved(start, 0, "table", story.content(table, is_inline)),
        kinds.attempt_succeeded(start, 0, {"next": ["end"]}, {}),
    )
    end = story.task(run, "end", "2", (start,), is_done=False)
    origin = Pathspec("F", "1", "start", "1")
    story.tell(
        kinds.artifact_used(end, 0, "table", story.content(table).digest, origin),
        kinds.attempt_succeeded(end, 0, {"next": []}, {}),
    )
    story.end(run)
    documents = told(story)
    (output,) = documents[2]["outputs"]
    fields = [{"name": "x", "type": "int64"}, {"name": "label", "type": "string"}]
    assert output["facets"]["schema"]["fields"] == fields
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 3
    (read,) = documents[4]["inputs"]
    assert read["facets"]["schema"]["fields"] == fields
    assert read["facets"]["version"] == output["facets"]["version"]


def test_failures_are_told_with_their_errors(story: Story) -> None:
    run = begin(story)
    task = story.task(run, "start", "1", is_done=False)
    failure = {"message": "too small", "traceback": "Traceback …"}
    story.tell(
        kinds.attempt_failed(task, 0, "ValueError", failure),
        kinds.retry_scheduled(task, 1, 0.0),
        kinds.attempt_started(task, 1, 7, "box"),
        kinds.attempt_caught(task, 1, "ValueError", failure, {"next": []}),
    )
    other = story.task(run, "other", "2", is_done=False)
    story.tell(kinds.attempt_cancelled(other, 0, "somebody said so"))
    story.task(run, "lost", "3", is_done=False)
    story.end(run, "failed", error_type="ValueError", error_message="too small")
    documents = told(story)
    assert shape(documents) == [
        ("START", "F"),
        ("START", "F.start"),
        ("FAIL", "F.start"),
        ("START", "F.start"),
        ("COMPLETE", "F.start"),
        ("START", "F.other"),
        ("ABORT", "F.other"),
        ("START", "F.lost"),
        ("ABORT", "F.lost"),
        ("FAIL", "F"),
    ]
    error = documents[2]["run"]["facets"]["errorMessage"]
    assert (error["message"], error["stackTrace"]) == ("ValueError: too small", "Traceback …")
    assert "errorMessage" in documents[4]["run"]["facets"]
    assert documents[9]["run"]["facets"]["errorMessage"]["message"] == "ValueError: too small"
    assert len({key_of(document) for document in documents}) == len(documents)


def test_branches_and_files_are_datasets(story: Story) -> None:
    run = begin(story)
    branches = [story.task(run, "fit", str(number), score=number) for number in range(3)]
    join = story.task(run, "join", "9", tuple(branches), is_done=False)
    for number, branch in enumerate(branches):
        origin = Pathspec(branch.flow, branch.run_id, branch.step, branch.task_id)
        story.tell(kinds.artifact_used(join, 0, "score", bytes([number]) * 32, origin))
    story.tell(
        kinds.external_used(join, 0, "/data/in.csv", "read", b"i" * 32, 12),
        kinds.external_used(join, 0, "s3://bucket/key/out.csv", "write", None, None),
        kinds.attempt_succeeded(join, 0, {"next": []}, {}),
    )
    story.end(run)
    ended = told(story)[-2]
    scores, file = ended["inputs"]
    assert (scores["name"], scores["inputFacets"]["inputStatistics"]["fileCount"]) == ("F/fit/score", 3)
    assert (file["namespace"], file["name"]) == ("file", "/data/in.csv")
    assert file["inputFacets"]["inputStatistics"]["size"] == 12
    (written,) = ended["outputs"]
    assert (written["namespace"], written["name"]) == ("s3://bucket", "key/out.csv")


def test_a_reused_task_and_a_scheduler_that_was_declared_lost_tell_nothing(story: Story) -> None:
    first = begin(story)
    done = story.task(first, "start", "1", x=1)
    writer, last_seq = story.journal.writer, story.journal.next_seq - 1
    story.tell(kinds.attempt_started(done, 5, 1, "box"))  # told by a zombie
    story.tell(kinds.run_lost(first, writer, last_seq))
    story.next_journal()
    second = begin(story, "2")
    story.reuse(second, done)
    story.end(second)
    assert shape(told(story)) == [
        ("START", "F"),
        ("START", "F.start"),
        ("COMPLETE", "F.start"),
        ("START", "F"),
        ("COMPLETE", "F"),
    ]


def test_the_same_log_gives_the_same_events(story: Story) -> None:
    run = begin(story)
    story.task(run, "start", "1", x=1)
    story.end(run)
    hot = [text_of(document) for document in told(story)]
    story.next_journal()
    story.store()._log.seal(force=True)
    with story.store() as store:
        assert [text_of(d) for d in documents_of(store, "weft")] == hot


def test_only_later_events_are_exported_when_asked(story: Story) -> None:
    story.end(begin(story, "1"))
    between_us = story.store().events()[-1].time_us
    second = begin(story, "2")
    story.task(second, "start", "1")
    with story.store() as store:
        found = list(documents_of(store, "mine", between_us))
    assert shape(found) == [("START", "F"), ("START", "F.start"), ("COMPLETE", "F.start")]
    assert found[0]["job"]["namespace"] == "mine"


def test_code_and_tables_that_are_gone_are_left_out(story: Story) -> None:
    run = RunRef(b"gone".rjust(16, b"."), "F", "1")
    story.tell(kinds.run_started(run, b"x" * 32, {}))
    task = story.task(run, "start", "1", is_done=False)
    content = story.content(pa.table({"x": [1]}))._replace(blob=None, digest=b"y" * 32)
    story.tell(
        kinds.artifact_saved(task, 0, "table", content), kinds.attempt_succeeded(task, 0, {"next": []}, {})
    )
    story.end(run)
    documents = told(story)
    assert "sourceCode" not in documents[0]["job"]["facets"]
    assert "schema" not in documents[2]["outputs"][0]["facets"]


def test_ids_of_runs_are_uuids_that_differ(story: Story) -> None:
    identities = {run_id_of(b"a" * 16), run_id_of(b"b" * 16), run_id_of(b"a" * 16, "s/1/0"), run_id_of(b"a")}
    assert len(identities) == 4
    assert {uuid.UUID(identity).variant for identity in identities} == {uuid.RFC_4122}


# Sinks


def test_a_sink_is_given_what_it_lacks(story: Story, tmp_path: Any) -> None:
    run = begin(story)
    story.task(run, "start", "1")
    story.end(run)
    documents = told(story)
    sink = FileSink(str(tmp_path / "sink"))
    assert sink.known() == set()
    sink.write([text_of(document) for document in documents[1:3]])
    assert sink.add_missing(documents) == len(documents) - 2
    assert sink.add_missing(documents) == 0
    assert sink.known() == {key_of(document) for document in documents}


def test_a_line_that_was_cut_off_is_written_again(story: Story, tmp_path: Any) -> None:
    run = begin(story)
    story.end(run)
    documents = told(story)
    path = tmp_path / "sink"
    path.write_text(text_of(documents[0])[:50])
    assert FileSink(str(path)).add_missing(documents) == 2
    assert [json.loads(line)["eventType"] for line in path.read_text().splitlines()[1:]] == [
        "START",
        "COMPLETE",
    ]


def test_a_note_keeps_the_first_moment_that_was_missed(story: Story, tmp_path: Any) -> None:
    note = MissedNote(story.storage, str(tmp_path / "sink"))
    assert note.read() is None
    for since_us in (20, 10, 30):
        note.write(since_us)
    assert note.read() == 10
    assert MissedNote(story.storage, str(tmp_path / "other")).read() is None
    note.clear()
    assert note.read() is None


# Footers


def test_columns_of_a_footer_are_those_that_arrow_reads() -> None:
    import datetime
    import decimal

    table = pa.table(
        {
            "small": pa.array([1], pa.int8()),
            "unsigned": pa.array([1], pa.uint64()),
            "number": [1.5],
            "single": pa.array([1], pa.float32()),
            "text": ["a"],
            "bytes": [b"a"],
            "truth": [True],
            "time": pa.array([datetime.datetime(2020, 1, 1)], pa.timestamp("us")),
            "zoned": pa.array([datetime.datetime(2020, 1, 1)], pa.timestamp("ns", "UTC")),
            "day": [datetime.date(2020, 1, 1)],
            "clock": pa.array([datetime.time(1)], pa.time64("us")),
            "money": pa.array([decimal.Decimal("1.50")], pa.decimal128(3, 2)),
            "many": [[1, 2]],
            "nested": [{"a": 1, "b": [{"c": 2}]}],
            "last": [7],
        }
    )
    data = b"".join(bytes(part) for part in dump(table).parts)
    length = int.from_bytes(data[-8:-4], "little")
    rows, columns = columns_of_footer(data[-8 - length : -8])
    assert rows == 1
    expected = {name: str(table.schema.field(name).type) for name in table.column_names}
    expected |= {"day": "date32", "many": "list", "nested": "struct"}
    assert dict(columns) == expected
