from __future__ import annotations

import json
from typing import Any

import pytest

from weft.lineage import events as kinds
from weft.lineage.edges import Edge, Graph
from weft.lineage.errors import NotFound, UsageError
from weft.lineage.events import Level
from weft.lineage.log import EventLog
from weft.lineage.schema import Event


def ids(graph: Graph) -> set[str]:
    return {node.id for _, node in graph.with_depth()}


def diamond(story: Any) -> Any:
    """start -> fit x3 -> join -> end, where the join merges what start saved, and end reads it by reference."""
    run = story.run("Hello", "1")
    story.parameter(run, "alpha", 3)
    start = story.task(run, "start", "1", xs=[1, 2, 3], keep=1)
    fits = []
    for index in range(3):
        levels = (Level("fit", "xs", index, 3, str(index)),)
        fit = story.task(run, "fit", str(index + 2), (start,), levels, is_done=False)
        story.read(fit, "xs", start, index)
        story.read(fit, "alpha", run.task("_parameters", "0"))
        story.tell(kinds.artifact_saved(fit, 0, "y", story.content(index)))
        fits.append(fit)
    join = story.task(run, "join", "5", tuple(fits), reads=tuple(("y", fit) for fit in fits), ys=[0, 1, 2])
    story.merge(join, "keep", start)
    middle = story.task(run, "middle", "6", (join,))
    # What passes an artifact on is never the producer that is recorded: that is the task which saved it.
    story.task(run, "end", "7", (middle,), reads=(("ys", join), ("keep", start)), out=9)
    story.end(run)
    return run


def test_upstream_goes_through_joins_merges_and_inheritance(story: Any) -> None:
    diamond(story)
    graph = story.store().lineage("Hello/1/end/7/out")
    assert graph.roots == ["Hello/1/end/7/out"]
    assert ids(graph) == {
        "Hello/1/end/7/out",
        "Hello/1/end/7",
        "Hello/1/join/5/ys",
        "Hello/1/join/5",
        "Hello/1/start/1/keep",
        "Hello/1/start/1/xs",
        "Hello/1/start/1",
        "Hello/1/_parameters/0/alpha",
        *(f"Hello/1/fit/{n}" for n in (2, 3, 4)),
        *(f"Hello/1/fit/{n}/y" for n in (2, 3, 4)),
    }
    assert Edge("used", "Hello/1/fit/3", "Hello/1/start/1/xs", 1) in graph.links()
    assert Edge("generated_by", "Hello/1/end/7/out", "Hello/1/end/7") in graph.links()


def test_downstream_finds_all_readers(story: Any) -> None:
    diamond(story)
    graph = story.store().lineage("Hello/1/_parameters/0/alpha", "down")
    artifacts = [node.id for _, node in graph.with_depth() if node.kind == "artifact"]
    assert artifacts == [
        "Hello/1/_parameters/0/alpha",
        *(f"Hello/1/fit/{n}/y" for n in (2, 3, 4)),
        "Hello/1/join/5/ys",
        "Hello/1/end/7/out",
    ]


def test_depth_counts_tasks(story: Any) -> None:
    diamond(story)
    store = story.store()
    assert ids(store.lineage("Hello/1/end/7/out", depth=0)) == {"Hello/1/end/7/out"}
    near = store.lineage("Hello/1/end/7/out", depth=1)
    assert {node.name for _, node in near.with_depth()} == {"out", None, "ys", "keep"}
    with pytest.raises(UsageError):
        store.lineage("Hello/1", depth=-1)
    with pytest.raises(UsageError, match="up, down or both"):
        store.lineage("Hello/1", "sideways")


def test_inherited_names_lead_to_the_task_that_saved_them(story: Any) -> None:
    diamond(story)
    store = story.store()
    assert store.lineage("Hello/1/middle/6/ys").roots == ["Hello/1/join/5/ys"]
    assert store.lineage("Hello/1/end/7/keep").roots == ["Hello/1/start/1/keep"]
    assert store.lineage("Hello/1/end/7/alpha").roots == ["Hello/1/_parameters/0/alpha"]
    assert store.lineage("Hello/1/fit/y").roots == [f"Hello/1/fit/{n}/y" for n in (2, 3, 4)]
    # A join sees nothing of its parents but what it merged.
    with pytest.raises(NotFound, match="no artifact Hello/1/join/5/y "):
        store.lineage("Hello/1/join/5/y")


def test_runs_and_steps_are_targets(story: Any) -> None:
    diamond(story)
    store = story.store()
    assert store.lineage("Hello").roots == ["Hello/1/end/7"]
    assert store.lineage("Hello/1").roots == ["Hello/1/end/7"]
    assert store.lineage("Hello/1", "down").roots == ["Hello/1/_parameters/0/alpha", "Hello/1/start/1"]
    assert store.lineage("Hello/1/fit").roots == [f"Hello/1/fit/{n}" for n in (2, 3, 4)]


def test_digests_and_their_first_digits_are_targets(story: Any) -> None:
    run = diamond(story)
    store = story.store()
    ((digest,),) = store.sql("select digest from artifacts where name = 'out'").rows
    for target in (digest, digest.removeprefix("sha256:")[:12]):
        assert store.lineage(target).roots == ["Hello/1/end/7/out"]
    assert run.run_id == "1"


def test_reused_tasks_lead_to_their_origin(story: Any) -> None:
    first = story.run("Hello", "1")
    start = story.task(first, "start", "1", x=1)
    story.end(first, "failed")
    second = story.run("Hello", "2", origin_run_id="1", origin_run_uid=first.run_uid.hex())
    again = story.reuse(second, start)
    # The producer that is recorded is the one that ran.
    story.task(second, "end", "2", (again,), reads=(("x", start),), y=2)
    third = story.run("Other", "3")
    story.task(third, "start", "1", reads=(("x", start),), z=3)
    store = story.store()
    assert ids(store.lineage("Hello/2/end/2/y")) == {
        "Hello/2/end/2/y",
        "Hello/2/end/2",
        "Hello/1/start/1/x",
        "Hello/1/start/1",
    }
    assert store.lineage("Hello/2/start/1/x").roots == ["Hello/1/start/1/x"]
    down = store.lineage("Hello/1/start/1/x", "down")
    assert {"Hello/2/end/2/y", "Other/3/start/1/z"} < ids(down)


def test_external_reads_and_writes_are_leaves(story: Any) -> None:
    run = story.run("Hello", "1")

    def touch(task: Any, uri: str, direction: str) -> Event:
        return Event(
            kind="external_used",
            run_uid=run.run_uid,
            flow=run.flow,
            run_id=run.run_id,
            step=task.step,
            task_id=task.task_id,
            attempt=0,
            name=uri,
            payload={"direction": direction},
        )

    start = story.task(run, "start", "1", x=1)
    story.tell(touch(start, "s3://in/a.csv", "read"))
    end = story.task(run, "end", "2", (start,), reads=(("x", start),))
    story.tell(touch(end, "/out/b.csv", "write"))
    store = story.store()
    assert "s3://in/a.csv" in ids(store.lineage("/out/b.csv"))
    assert "/out/b.csv" in ids(store.lineage("s3://in/a.csv", "down"))
    assert store.lineage("s3://in/a.csv", "down").tree() == (
        "s3://in/a.csv\n└─ x  int = 1  Hello/1/start/1\n   └─ /out/b.csv\n\n"
        "reaches 1 artifact of 2 tasks in 1 run of 1 flow, 1 file or URI outside"
    )


@pytest.mark.parametrize(
    ("target", "near"),
    [
        ("Helo/1", "Hello"),
        ("Hello/2", "1"),
        ("Hello/1/ed", "end"),
        ("Hello/1/end/9", "7"),
        ("Hello/1/end/7/oot", "out"),
        ("Hello/1/end/7/1/2/3", "Write Flow"),
    ],
)
def test_unknown_targets_list_near_names(story: Any, target: str, near: str) -> None:
    diamond(story)
    with pytest.raises((NotFound, UsageError), match=near):
        story.store().lineage(target)


def test_tree_folds_siblings_of_a_foreach(story: Any) -> None:
    diamond(story)
    store = story.store()
    assert store.lineage("Hello/1/end/7/out").tree() == (
        "out  int = 9  Hello/1/end/7\n"
        "├─ keep  int = 1  start/1\n"
        "└─ ys  list = [0,1,2]  join/5\n"
        "   └─ y \N{MULTIPLICATION SIGN}3  int  fit/2,3,4\n"
        "      ├─ alpha  int = 3  _parameters/0\n"
        "      └─ xs  list = [1,2,3]  start/1"
    )
    both = store.lineage("Hello/1/join/5/ys", "both").tree()
    assert both.startswith("made from:\nys")
    assert both.endswith(
        "used for:\nys  list = [0,1,2]  Hello/1/join/5\n└─ out  int = 9  end/7\n\n"
        "reaches 1 artifact of 1 task in 1 run of 1 flow"
    )


def test_graphs_are_json_dot_and_mermaid(story: Any) -> None:
    diamond(story)
    graph = story.store().lineage("Hello/1/end/7/out")
    document = json.loads(graph.json())
    assert document["roots"] == ["Hello/1/end/7/out"]
    assert len(document["nodes"]) == len(ids(graph))
    assert {
        "kind": "used",
        "source": "Hello/1/fit/3",
        "target": "Hello/1/start/1/xs",
        "item_index": 1,
    } in document["edges"]
    assert '"Hello/1/start/1/xs" -> "Hello/1/fit/3" [label="[1]"];' in graph.dot()
    assert graph.mermaid().startswith("flowchart LR\n")
    assert '-- "[1]" -->' in graph.mermaid()
    assert "<pre>out" in graph._repr_html_()


def test_deep_chains_do_not_overflow(story: Any) -> None:
    run = story.run("Deep", "1")
    task = story.task(run, "s0", "0", x=0)
    for number in range(1, 150):
        task = story.task(run, f"s{number}", str(number), (task,), reads=(("x", task),), x=number)
    graph = story.store().lineage(f"{task.pathspec}/x")
    assert len(ids(graph)) == 300
    assert len(graph.tree().splitlines()) == 42


def test_a_tree_says_where_it_goes_deeper_than_it_is_drawn(story: Any) -> None:
    run = story.run("Chain", "1")
    last = story.task(run, "s0", "1", x=0)
    for number in range(1, 100):
        last = story.task(run, f"s{number}", str(number + 1), (last,), reads=(("x", last),), x=number)
    story.end(run)
    graph = story.store().lineage("Chain/1/s99/100/x")
    lines = graph.tree().splitlines()
    assert len(lines) == 42
    assert lines[-1].strip() == "└─ … goes deeper: ask for the lineage of Chain/1/s59/60/x"
    assert "goes deeper" not in story.store().lineage("Chain/1/s40/41/x").tree()


def test_what_a_lost_scheduler_told_later_makes_no_edges(story: Any) -> None:
    run = story.run("Hello", "1")
    start = story.task(run, "start", "1", x=1, y=2)
    end = story.task(run, "end", "2", (start,), reads=(("x", start),), out=3)
    writer, last_seq = story.journal.writer, story.journal.next_seq - 1
    # The zombie goes on: another read, another value, another file, a task of its own.
    story.read(end, "y", start)
    story.tell(
        kinds.artifact_saved(end, 0, "late", story.content("late " * 20)),
        kinds.external_used(end, 0, "/data/late.csv", "write", b"e" * 32, 5),
    )
    story.task(run, "end", "3", (start,), reads=(("x", start),), out=4)
    assert "Hello/1/start/1/y" in ids(story.store().lineage("Hello/1/end/2/out"))
    story.next_journal()
    story.tell(kinds.run_lost(run, writer, last_seq))
    for _ in range(2):
        store = story.store()
        assert ids(store.lineage("Hello/1/end/2/out")) == {
            "Hello/1/end/2/out",
            "Hello/1/end/2",
            "Hello/1/start/1",
            "Hello/1/start/1/x",
        }
        assert ids(store.lineage("Hello/1/start/1/x", "down")) == {
            "Hello/1/start/1/x",
            "Hello/1/end/2",
            "Hello/1/end/2/out",
        }
        for target in (
            "/data/late.csv",
            "sha256:" + (b"e" * 32).hex(),
            "Hello/1/end/2/late",
            "Hello/1/end/3",
        ):
            with pytest.raises(NotFound):
                store.lineage(target)
        assert store.sql("select count(*) from events where name = '/data/late.csv'").rows == [(1,)]
        # Sealed, the same.
        story.next_journal()
        EventLog(story.storage).seal(force=True, grace_s=0)
