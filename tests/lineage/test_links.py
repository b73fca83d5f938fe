"""What joins runs, flows and stores: files by content, and equal contents, which stand apart."""

from __future__ import annotations

import json
from typing import Any

import pytest

from weft.lineage import events as kinds
from weft.lineage.edges import Edge, Graph
from weft.lineage.errors import NotFound, UsageError
from weft.lineage.events import Level

BIG = "x" * 100
A, B = b"a" * 32, b"b" * 32


def ids(graph: Graph) -> set[str]:
    return {node.id for _, node in graph.with_depth()}


def touch(story: Any, task: Any, direction: str, uri: str, digest: bytes | None, **facts: Any) -> None:
    attempt = None if task.step == "_parameters" else 0
    story.tell(kinds.external_used(task, attempt, uri, direction, digest, 10, facts))


def two_flows(story: Any, written: bytes | None, read: bytes | None) -> None:
    """Making/1 writes /data/x.csv, Using/1 reads it."""
    making = story.run("Making", "1")
    start = story.task(making, "start", "1", raw=1)
    make = story.task(making, "end", "2", (start,), reads=(("raw", start),))
    touch(story, make, "write", "/data/x.csv", written)
    using = story.run("Using", "1")
    use = story.task(using, "start", "1", model=2)
    touch(story, use, "read", "/data/x.csv", read)


@pytest.mark.parametrize(("written", "read"), [(A, A), (None, None), (A, None), (None, A)])
def test_a_file_leads_from_its_reader_to_the_task_that_wrote_it(
    story: Any, written: bytes | None, read: bytes | None
) -> None:
    two_flows(story, written, read)
    store = story.store()
    assert "Making/1/start/1/raw" in ids(store.lineage("Using/1/start/1/model"))
    assert "Using/1/start/1/model" in ids(store.lineage("Making/1/start/1/raw", "down"))
    assert store.lineage("/data/x.csv", "both").direction == "both"


def test_a_file_that_had_another_content_leads_nowhere(story: Any) -> None:
    two_flows(story, A, B)
    store = story.store()
    assert ids(store.lineage("Using/1/start/1/model")) == {
        "Using/1/start/1/model",
        "Using/1/start/1",
        f"/data/x.csv@sha256:{B.hex()[:12]}",
    }
    assert "Using/1/start/1/model" not in ids(store.lineage("Making/1/start/1/raw", "down"))
    # Both contents are the file; one of them is named by the beginning of its digest, or by that alone.
    assert len(store.lineage("/data/x.csv").roots) == 2
    for target in (f"/data/x.csv@sha256:{A.hex()[:8]}", f"/data/x.csv@{A.hex()[:8]}", A.hex()[:12]):
        assert store.lineage(target).roots == [f"/data/x.csv@sha256:{A.hex()[:12]}"]


def test_a_path_in_a_parameter_reaches_who_read_that_parameter(story: Any) -> None:
    run = story.run("Hello", "1")
    story.parameter(run, "table", "/data/x.csv")
    story.parameter(run, "alpha", 3)
    parameters = run.task("_parameters", "0")
    touch(story, parameters, "read", "/data/x.csv", A, parameter="table")
    first = story.task(run, "start", "1", is_done=False)
    story.read(first, "table", parameters)
    story.tell(kinds.artifact_saved(first, 0, "x", story.content(1)))
    second = story.task(run, "other", "2", (first,), is_done=False)
    story.read(second, "alpha", parameters)
    story.tell(kinds.artifact_saved(second, 0, "y", story.content(2)))
    store = story.store()
    file = f"/data/x.csv@sha256:{A.hex()[:12]}"
    up = store.lineage("Hello/1/start/1/x")
    assert Edge("used", "Hello/1/_parameters/0/table", file) in up.links()
    assert up.tree() == (
        f'x  int = 1  Hello/1/start/1\n└─ table  str = "/data/x.csv"  _parameters/0\n   └─ {file}  10 bytes'
    )
    assert file not in ids(store.lineage("Hello/1/other/2/y"))
    down = store.lineage("/data/x.csv", "down")
    assert "Hello/1/start/1/x" in ids(down)
    assert "Hello/1/other/2/y" not in ids(down)
    assert down.radius() == {
        "artifacts": 2,
        "tasks": 1,
        "externals": 0,
        "runs": 1,
        "flows": 1,
        "reusing_runs": 0,
    }


def test_flows_that_share_only_small_values_are_not_linked(story: Any) -> None:
    small: dict[str, object] = {"nothing": None, "zero": 0, "yes": True, "empty": [], "ok": "ok"}
    for flow in ("First", "Second"):
        run = story.run(flow, "1")
        story.task(run, "start", "1", **small)
    store = story.store()
    for name in small:
        for follow in (False, True):
            graph = store.lineage(f"First/1/start/1/{name}", "both", same_content=follow)
            assert graph.same == []
            assert not any(node.flow == "Second" for _, node in graph.with_depth())


def test_equal_contents_stand_apart_and_are_followed_when_asked(story: Any) -> None:
    first = story.run("First", "1")
    made = story.task(first, "start", "1", table=BIG)
    story.task(first, "end", "2", (made,), reads=(("table", made),), out=1)
    second = story.run("Second", "1")
    again = story.task(second, "start", "1", copy=BIG)
    story.task(second, "end", "2", (again,), reads=(("copy", again),), out=2)
    store = story.store()
    graph = store.lineage("First/1/start/1/table", "down")
    assert Edge("same_content", "First/1/start/1/table", "Second/1/start/1/copy") in graph.links()
    assert "Second/1/end/2/out" not in ids(graph)
    assert {node.id: depth for depth, node in graph.with_depth()}["Second/1/start/1/copy"] is None
    assert graph.tree().endswith(
        "same content, recorded apart:\n  First/1/start/1/table = Second/1/start/1/copy"
    )
    followed = store.lineage("First/1/start/1/table", "down", same_content=True)
    assert "Second/1/end/2/out" in ids(followed)
    assert followed.radius()["flows"] == 2
    up = store.lineage("Second/1/end/2/out", "up", same_content=True)
    assert "First/1/start/1" in ids(up)
    assert "First/1/start/1" not in ids(store.lineage("Second/1/end/2/out", "up"))


def test_equal_files_of_other_names_are_the_same_content(story: Any) -> None:
    run = story.run("Hello", "1")
    start = story.task(run, "start", "1", x=1)
    touch(story, start, "write", "/here/a", A)
    other = story.run("Other", "1")
    end = story.task(other, "start", "1", y=1)
    touch(story, end, "read", "/there/b", A)
    store = story.store()
    name = f"/there/b@sha256:{A.hex()[:12]}"
    graph = store.lineage("/here/a", "down")
    assert Edge("same_content", f"/here/a@sha256:{A.hex()[:12]}", name) in graph.links()
    assert "Other/1/start/1/y" not in ids(graph)
    assert "Other/1/start/1/y" in ids(store.lineage("/here/a", "down", same_content=True))


def test_first_digits_of_several_digests_list_the_candidates(story: Any) -> None:
    run = story.run("Hello", "1")
    start = story.task(run, "start", "1", x=1)
    touch(story, start, "read", "/a", b"\xab" * 31 + b"\x01")
    touch(story, start, "read", "/b", b"\xab" * 31 + b"\x02")
    with pytest.raises(
        UsageError, match=r"2 digests begin with abababab: .*\(/a\), .*\(/b\)\. Give more digits"
    ):
        story.store().lineage("abababab")
    assert story.store().lineage("ab" * 31 + "02").roots == [f"/b@sha256:{'ab' * 6}"]


def test_unknown_digests_list_those_that_begin_alike(story: Any) -> None:
    run = story.run("Hello", "1")
    touch(story, story.task(run, "start", "1", x=1), "read", "/a", b"\xab" * 32)
    store = story.store()
    for wanted in ("ab" * 31 + "00", "sha256:ababac", "ababababcd"):
        with pytest.raises(NotFound, match=r"no digest .* Near digests: sha256:abababababab \(/a\)"):
            store.lineage(wanted)
    with pytest.raises(NotFound, match=r"There is no digest sha256:123456 in this store\. `weft sql` finds"):
        store.lineage("sha256:123456")
    with pytest.raises(NotFound, match="Near names: Hello"):
        store.lineage("facade")


def test_unknown_files_list_near_names(story: Any) -> None:
    two_flows(story, A, A)
    with pytest.raises(NotFound, match=r"Near names: /data/x\.csv"):
        story.store().lineage("/data/y.csv")


def test_only_the_last_attempt_made_what_a_task_left_behind(story: Any) -> None:
    run = story.run("Hello", "1")
    start = story.task(run, "start", "1", x=1, y=2)
    end = story.task(run, "end", "2", (start,), is_done=False)
    story.read(end, "x", start)
    touch(story, end, "read", "/first", A)
    story.tell(kinds.artifact_saved(end, 0, "half", story.content(1)))
    story.tell(kinds.attempt_failed(end, 0, "ValueError", {}), kinds.retry_scheduled(end, 1, 0))
    story.tell(kinds.attempt_started(end, 1, 1, "h"))
    again = kinds.artifact_used(end, 1, "y", B, start_of(start))
    story.tell(again, kinds.artifact_saved(end, 1, "out", story.content(3)))
    story.tell(kinds.attempt_succeeded(end, 1, {"next": []}, {}))
    store = story.store()
    assert ids(store.lineage("Hello/1/end/2/out")) == {
        "Hello/1/end/2/out",
        "Hello/1/end/2",
        "Hello/1/start/1/y",
        "Hello/1/start/1",
    }
    assert ids(store.lineage("Hello/1/start/1/x", "down")) == {"Hello/1/start/1/x"}
    assert "Hello/1/end/2/half" not in ids(store.lineage("Hello/1/start/1/y", "down"))


def start_of(task: Any) -> Any:
    from weft.lineage.ids import Pathspec

    return Pathspec(task.flow, task.run_id, task.step, task.task_id)


def test_a_circle_of_damaged_records_is_reported_and_not_followed_for_ever(story: Any) -> None:
    one, two = story.run("One", "1"), story.run("Two", "1")
    first, second = one.task("start", "1"), two.task("start", "1")
    story.task(one, "start", "1", reads=(("b", second),), a=1)
    story.task(two, "start", "1", reads=(("a", first),), b=2)
    store = story.store()
    for direction in ("up", "down", "both"):
        graph = store.lineage("One/1/start/1/a", direction)
        assert graph.cycle() == ["One/1/start/1", "Two/1/start/1"]
        assert "recorded as made from each other" in graph.tree()
        assert json.loads(graph.json())["cycle"]


def test_runs_that_share_a_pathspec_are_told_apart(story: Any) -> None:
    for uid, value in ((b"1" * 16, 1), (b"2" * 16, 2)):
        run = story.run("Hello", "1", uid)
        start = story.task(run, "start", "1", **{f"x{value}": value})
        story.task(run, "end", "2", (start,), reads=((f"x{value}", start),), out=value)
    store = story.store()
    assert ids(store.lineage("Hello/1~2/end/2/out")) == {
        "Hello/1~2/end/2/out",
        "Hello/1~2/end/2",
        "Hello/1~2/start/1/x2",
        "Hello/1~2/start/1",
    }
    assert ids(store.lineage("Hello/1/start/1/x1", "down")) == {
        "Hello/1/start/1/x1",
        "Hello/1/end/2",
        "Hello/1/end/2/out",
    }
    assert store.lineage("Hello/1~2").roots == ["Hello/1~2/end/2"]


def wide(story: Any, width: int) -> None:
    run = story.run("Wide", "1")
    start = story.task(run, "start", "1", xs=list(range(width)))
    fits = []
    for index in range(width):
        levels = (Level("fit", "xs", index, width, str(index)),)
        fit = story.task(run, "fit", str(index + 2), (start,), levels, is_done=False, y=index)
        story.read(fit, "xs", start, index)
        fits.append(fit)
    reads = tuple(("y", fit) for fit in fits)
    story.task(run, "join", str(width + 2), tuple(fits), reads=reads, total=1)


def test_a_wide_foreach_is_one_line_one_node_and_one_group(story: Any) -> None:
    wide(story, 300)
    store = story.store()
    graph = store.lineage("Wide/1/join/302/total")
    times = "\N{MULTIPLICATION SIGN}"
    assert graph.tree() == (
        f"total  int = 1  Wide/1/join/302\n└─ y {times}300  fit/2,3,4,…\n   └─ xs  list  start/1"
    )
    assert graph.dot().count("\n") == 13
    assert f'"Wide/1/fit/*/y" -> "Wide/1/join/302" [label="{times}300"];' in graph.dot()
    assert f'(["y<br>fit {times}300"])' in graph.mermaid()
    document = graph.document()
    assert {"kind": "artifact", "flow": "Wide", "run_id": "1", "step": "fit", "name": "y", "count": 300,
            "task_ids": ["2", "3", "4"]} in document["groups"]  # fmt: skip
    assert len(document["nodes"]) == 604
    # In whatever order DuckDB told of them.
    used = [link[1:3] for link in graph.links() if link.kind == "used"]
    assert len(used) == 600
    assert used == sorted(used)
    # One of them alone is made from one of the items.
    assert store.lineage("Wide/1/fit/7/y").links() == [
        Edge("used", "Wide/1/fit/7", "Wide/1/start/1/xs", 5),
        Edge("generated_by", "Wide/1/fit/7/y", "Wide/1/fit/7"),
        Edge("generated_by", "Wide/1/start/1/xs", "Wide/1/start/1"),
    ]


def test_nodes_and_edges_are_arrow_tables(story: Any) -> None:
    wide(story, 3)
    graph = story.store().lineage("Wide/1/join/5/total")
    assert graph.nodes.num_rows == len(ids(graph)) == 10
    assert graph.edges.num_rows == len(graph.links()) == 11
    assert graph.nodes.column_names[:3] == ["depth", "id", "kind"]
    assert graph.edges.column_names == ["kind", "source", "target", "item_index"]
    empty = story.store().lineage("Wide/1/start/1/xs", depth=0)
    assert empty.edges.num_rows == 0
    bundle = graph._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "text/vnd.mermaid"}


def test_runs_that_only_reuse_a_task_are_counted(story: Any) -> None:
    first = story.run("Hello", "1")
    start = story.task(first, "start", "1", x=1)
    touch(story, start, "read", "/bad", A)
    second = story.run("Hello", "2", origin_run_id="1", origin_run_uid=first.run_uid.hex())
    story.reuse(second, start)
    graph = story.store().lineage("/bad", "down")
    assert graph.radius()["reusing_runs"] == 1
    assert graph.tree().endswith(
        "reaches 1 artifact of 1 task in 1 run of 1 flow; 1 further run reuses tasks of these"
    )
