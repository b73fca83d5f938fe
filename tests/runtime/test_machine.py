"""The machine as tables: what is told to it, and the commands that follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from weft.lineage import events
from weft.lineage.events import RunRef
from weft.lineage.ids import Pathspec
from weft.lineage.schema import Event
from weft.runtime.graph import Graph
from weft.runtime.machine import (
    CancelAttempts,
    Command,
    CreateTask,
    DelayRetry,
    EndRun,
    LaunchAttempt,
    Machine,
    Policy,
    TaskPlace,
)
from weft.runtime.source import parse_flow

RUN = RunRef(b"\x07" * 16, "F", "1")
FlowOf = Callable[..., type]

LINEAR = {"start": "self.a", "a": "self.end", "end": ""}
SPLIT = {
    "start": "self.b, self.a",
    "a": "self.join",
    "b": "self.join",
    "join": "inputs: self.end",
    "end": "",
}
FOREACH = {"start": "self.a, foreach='xs'", "a": "self.join", "join": "inputs: self.end", "end": ""}
NESTED = {
    "start": "self.outer, foreach='xs'",
    "outer": "self.inner, foreach='ys'",
    "inner": "self.close",
    "close": "inputs: self.join",
    "join": "inputs: self.end",
    "end": "",
}
LOOP = {
    "start": "self.again",
    "again": "{'more': self.again, 'done': self.end}, condition='state'",
    "end": "",
}
SWITCH_IN_SPLIT = {
    "start": "self.pick, self.other",
    "pick": "{'x': self.x, 'y': self.y}, condition='way'",
    "x": "self.join",
    "y": "self.join",
    "other": "self.join",
    "join": "inputs: self.end",
    "end": "",
}


class Play:
    """A machine with a scribe: what it creates is recorded at once, all else is written down in short."""

    def __init__(
        self,
        graph: Graph,
        policies: dict[str, Policy] | None = None,
        reused: Mapping[TaskPlace, dict[str, Any]] | None = None,
        is_keeping_going: bool = False,
    ) -> None:
        self.graph = graph
        self.machine = Machine(graph, policies, is_keeping_going)
        self.reused = reused or {}
        self.told: list[tuple[Event, list[Command]]] = []
        self.created: dict[str, CreateTask] = {}

    def tell(self, *told: Event) -> list[str]:
        said: list[str] = []
        batch = list(told)
        while batch:
            following = []
            for event in batch:
                commands = self.machine.advance(event)
                self.told.append((event, commands))
                for command in commands:
                    said.append(self.short(command))
                    if isinstance(command, CreateTask):
                        self.created[command.task_id] = command
                        task = RUN.task(command.place.step, command.task_id)
                        placed = command.parents, command.levels, None
                        if command.place in self.reused:
                            origin, transition = Pathspec("F", "0", *task[3:]), self.reused[command.place]
                            following.append(events.task_reused(task, origin, *placed, transition))
                        else:
                            following.append(events.task_created(task, *placed))
            batch = following
        return said

    def say(self, text: str) -> list[str]:
        """`a/2 ok [width]`, `a/2#1 fails`, `a/2 dies`, `a/2 is cancelled`, `a/2 starts`, `… -> step`."""
        place, verb, *rest = text.split()
        step, _, task_id = place.partition("/")
        task_id, _, number = task_id.partition("#")
        task, attempt = RUN.task(step, task_id), int(number or 0)
        if verb == "starts":
            return self.tell(events.attempt_started(task, attempt, 1, "h"))
        begun = [] if verb.startswith("again") else [events.attempt_started(task, attempt, 1, "h")]
        return self.tell(*begun, self._end(verb.removeprefix("again-"), task, attempt, rest))

    def _end(self, verb: str, task: Any, attempt: int, rest: list[str]) -> Event:
        transition = self._transition(task.step, rest)
        if verb == "ok":
            return events.attempt_succeeded(task, attempt, transition, {})
        if verb == "catches":
            return events.attempt_caught(task, attempt, "E", {"message": "m"}, transition)
        if verb == "is":
            return events.attempt_cancelled(task, attempt, "stop")
        cause = {"fails": "exception", "dies": "signal"}[verb]
        return events.attempt_failed(task, attempt, "E", {"message": "m", "cause": cause})

    def _transition(self, step: str, rest: list[str]) -> dict[str, Any]:
        node = self.graph.steps[step]
        if node.foreach is not None and rest:
            return {"next": list(node.out_steps), "foreach": node.foreach, "num_splits": int(rest[0])}
        return {"next": rest[1:] if rest[:1] == ["->"] else list(node.out_steps)}

    def short(self, command: Command) -> str:
        if isinstance(command, CreateTask):
            parents = "+".join(task_id for _, task_id in command.parents)
            positions = ".".join(str(position) for position in command.place.positions)
            item = f" item of {command.item_of}" if command.item_of else ""
            visit = f" visit {command.place.visit}" if command.place.visit else ""
            return f"create {command.place.step}/{command.task_id}[{positions}] <- {parents}{item}{visit}"
        if isinstance(command, LaunchAttempt):
            last = " last" if command.is_last else ""
            fallback = " fallback" if command.is_fallback else ""
            return f"launch {command.task_id}#{command.attempt}{last}{fallback}"
        if isinstance(command, DelayRetry):
            return f"in {command.delay_s:g} s {self.short(command.launch)}"
        if isinstance(command, CancelAttempts):
            return f"cancel: {command.reason}"
        assert isinstance(command, EndRun)
        return f"end {command.status}"


@pytest.fixture
def play(flow_of: FlowOf) -> Callable[..., Play]:
    def make(steps: dict[str, str], **options: Any) -> Play:
        return Play(parse_flow(flow_of(**steps)), **options)

    return make


def _began(play: Play) -> list[str]:
    return play.tell(events.run_started(RUN, None, {}))


BEGIN = ["create start/1[] <- ", "launch 1#0 last"]

TABLES: dict[str, tuple[dict[str, str], dict[str, Any], list[tuple[str, list[str]]]]] = {
    "linear": (
        LINEAR,
        {},
        [
            ("start/1 ok", ["create a/2[] <- 1", "launch 2#0 last"]),
            ("a/2 ok", ["create end/3[] <- 2", "launch 3#0 last"]),
            ("end/3 ok", ["end succeeded"]),
        ],
    ),
    "a static join has its inputs in the order of the split": (
        SPLIT,
        {},
        [
            ("start/1 ok", ["create b/2[] <- 1", "create a/3[] <- 1", "launch 2#0 last", "launch 3#0 last"]),
            ("a/3 ok", []),
            ("b/2 ok", ["create join/4[] <- 2+3", "launch 4#0 last"]),
            ("join/4 ok", ["create end/5[] <- 4", "launch 5#0 last"]),
            ("end/5 ok", ["end succeeded"]),
        ],
    ),
    "a branch that went through a switch arrives at the join": (
        SWITCH_IN_SPLIT,
        {},
        [
            (
                "start/1 ok",
                ["create pick/2[] <- 1", "create other/3[] <- 1", "launch 2#0 last", "launch 3#0 last"],
            ),
            ("other/3 ok", []),
            ("pick/2 ok -> y", ["create y/4[] <- 2", "launch 4#0 last"]),
            ("y/4 ok", ["create join/5[] <- 4+3", "launch 5#0 last"]),
        ],
    ),
    "foreach joins in the order of the items": (
        FOREACH,
        {},
        [
            (
                "start/1 ok 3",
                [
                    "create a/2[0] <- 1 item of 1",
                    "create a/3[1] <- 1 item of 1",
                    "create a/4[2] <- 1 item of 1",
                    "launch 2#0 last",
                    "launch 3#0 last",
                    "launch 4#0 last",
                ],
            ),
            ("a/4 ok", []),
            ("a/2 ok", []),
            ("a/3 ok", ["create join/5[] <- 2+3+4", "launch 5#0 last"]),
        ],
    ),
    "foreach in foreach": (
        NESTED,
        {},
        [
            (
                "start/1 ok 2",
                [
                    "create outer/2[0] <- 1 item of 1",
                    "create outer/3[1] <- 1 item of 1",
                    "launch 2#0 last",
                    "launch 3#0 last",
                ],
            ),
            ("outer/3 ok 1", ["create inner/4[1.0] <- 3 item of 3", "launch 4#0 last"]),
            (
                "outer/2 ok 2",
                [
                    "create inner/5[0.0] <- 2 item of 2",
                    "create inner/6[0.1] <- 2 item of 2",
                    "launch 5#0 last",
                    "launch 6#0 last",
                ],
            ),
            ("inner/6 ok", []),
            ("inner/4 ok", ["create close/7[1] <- 4", "launch 7#0 last"]),
            ("inner/5 ok", ["create close/8[0] <- 5+6", "launch 8#0 last"]),
            ("close/7 ok", []),
            ("close/8 ok", ["create join/9[] <- 8+7", "launch 9#0 last"]),
        ],
    ),
    "a switch may come back to its own step": (
        LOOP,
        {},
        [
            ("start/1 ok", ["create again/2[] <- 1", "launch 2#0 last"]),
            ("again/2 ok -> again", ["create again/3[] <- 2 visit 1", "launch 3#0 last"]),
            ("again/3 ok -> again", ["create again/4[] <- 3 visit 2", "launch 4#0 last"]),
            ("again/4 ok -> end", ["create end/5[] <- 4", "launch 5#0 last"]),
            ("end/5 ok", ["end succeeded"]),
        ],
    ),
    "a retry waits, and only the last attempt is said to be": (
        LINEAR,
        {"policies": {"start": Policy(2, 60.0)}},
        [
            ("start/1 fails", ["in 60 s launch 1#1"]),
            ("start/1#1 dies", ["in 60 s launch 1#2 last"]),
            ("start/1#2 ok", ["create a/2[] <- 1", "launch 2#0 last"]),
        ],
    ),
    "retries that are used up end the run": (
        LINEAR,
        {"policies": {"start": Policy(1)}},
        [
            ("start/1 fails", ["in 0 s launch 1#1 last"]),
            ("start/1#1 fails", ["cancel: task start/1 failed", "end failed"]),
        ],
    ),
    "what catches an exception goes on": (
        LINEAR,
        {"policies": {"a": Policy(1, 0.0, True)}},
        [
            ("start/1 ok", ["create a/2[] <- 1", "launch 2#0"]),
            ("a/2 fails", ["in 0 s launch 2#1 last"]),
            ("a/2#1 catches", ["create end/3[] <- 2", "launch 3#0 last"]),
            ("end/3 ok", ["end succeeded"]),
        ],
    ),
    "a death that could not be caught is caught by one attempt more": (
        LINEAR,
        {"policies": {"a": Policy(1, 0.0, True)}},
        [
            ("start/1 ok", ["create a/2[] <- 1", "launch 2#0"]),
            ("a/2 dies", ["in 0 s launch 2#1 last"]),
            ("a/2#1 dies", ["in 0 s launch 2#2 last fallback"]),
            ("a/2#2 catches", ["create end/3[] <- 2", "launch 3#0 last"]),
        ],
    ),
    "a fallback that dies, too, fails the run": (
        LINEAR,
        {"policies": {"start": Policy(0, 0.0, True)}},
        [
            ("start/1 dies", ["in 0 s launch 1#1 last fallback"]),
            ("start/1#1 dies", ["cancel: task start/1 failed", "end failed"]),
        ],
    ),
    "the first failure stops its siblings, and the run ends when they have": (
        FOREACH,
        {"policies": {"a": Policy(3)}},
        [
            ("a/3 starts", []),
            ("a/4 starts", []),
            ("a/2 fails", ["in 0 s launch 2#1"]),
            ("a/2#1 fails", ["in 0 s launch 2#2"]),
            ("a/2#2 fails", ["in 0 s launch 2#3 last"]),
            ("a/2#3 fails", ["cancel: task a/2 failed"]),
            ("a/3 again-fails", []),
            ("a/4 is cancelled", ["end failed"]),
        ],
    ),
    "a sibling that succeeds while the run stops is followed by nothing": (
        SPLIT,
        {},
        [
            ("start/1 ok", ["create b/2[] <- 1", "create a/3[] <- 1", "launch 2#0 last", "launch 3#0 last"]),
            ("a/3 starts", []),
            ("b/2 fails", ["cancel: task b/2 failed"]),
            ("a/3 ok", ["end failed"]),
        ],
    ),
    "keep going runs all that does not depend on the failure": (
        SPLIT,
        {"is_keeping_going": True},
        [
            ("start/1 ok", ["create b/2[] <- 1", "create a/3[] <- 1", "launch 2#0 last", "launch 3#0 last"]),
            ("b/2 fails", []),
            ("a/3 ok", ["end failed"]),
        ],
    ),
    "ends that are told twice, and words of an attempt that is over, change nothing": (
        LINEAR,
        {"policies": {"start": Policy(1)}},
        [
            ("start/1 fails", ["in 0 s launch 1#1 last"]),
            ("start/1 again-fails", []),
            ("start/1 again-ok", []),
            ("start/1#1 starts", []),
            ("start/1 again-fails", []),
            ("start/1#1 ok", ["create a/2[] <- 1", "launch 2#0 last"]),
            ("start/1#1 again-ok", []),
            ("start/1#1 again-fails", []),
            ("start/1 starts", []),
            ("a/2 ok", ["create end/3[] <- 2", "launch 3#0 last"]),
            ("end/3 ok", ["end succeeded"]),
            ("end/3 again-fails", []),
        ],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_machine_follows_the_table(name: str, play: Callable[..., Play]) -> None:
    steps, options, table = TABLES[name]
    played = play(steps, **options)
    _began(played)
    if table[0][0].startswith("a/"):
        played.say("start/1 ok 3")
    for told, expected in table:
        assert played.say(told) == expected, told
    _replay(played, options)


def _replay(played: Play, options: dict[str, Any]) -> None:
    again = Machine(played.graph, **options)
    for event, commands in played.told:
        assert again.advance(event) == commands


def test_machine_begins_with_the_start_step(play: Callable[..., Play]) -> None:
    assert _began(play(LINEAR)) == BEGIN


def test_failure_names_the_first_cause_and_not_the_last(play: Callable[..., Play]) -> None:
    played = play(FOREACH)
    _began(played)
    played.say("start/1 ok 3")
    for text in ("a/3 starts", "a/4 starts", "a/2 fails", "a/3 again-dies"):
        played.say(text)
    task = RUN.task("a", "4")
    (end,) = played.machine.advance(events.attempt_cancelled(task, 0, "stop"))
    assert end == EndRun("failed", {"root_cause": "F/1/a/2", "error_type": "E", "error_message": "m"})


def test_cancelled_run_ends_once_nothing_runs(play: Callable[..., Play]) -> None:
    played = play(FOREACH)
    _began(played)
    played.say("start/1 ok 3")
    played.say("a/2 starts")
    assert played.machine.cancel("stop") == [CancelAttempts("stop")]
    assert played.machine.cancel("again") == []
    assert played.say("a/2 is cancelled") == ["end cancelled"]
    assert played.machine.cancel("stop") == []
    assert played.say("a/3 ok") == []


def test_cancel_of_a_run_that_only_waits_ends_it_at_once(play: Callable[..., Play]) -> None:
    played = play(LINEAR, policies={"start": Policy(1, 60.0)})
    _began(played)
    played.say("start/1 fails")
    assert played.machine.cancel("stop") == [CancelAttempts("stop"), EndRun("cancelled")]


def test_end_that_was_reached_before_a_cancel_counts(play: Callable[..., Play]) -> None:
    played = play(LINEAR)
    _began(played)
    for text in ("start/1 ok", "a/2 ok", "end/3 starts"):
        played.say(text)
    played.machine.cancel("stop")
    assert played.say("end/3 again-ok") == ["end succeeded"]


def test_keep_going_ends_only_when_all_that_can_run_has(play: Callable[..., Play]) -> None:
    played = play(NESTED, is_keeping_going=True)
    _began(played)
    played.say("start/1 ok 2")
    assert played.say("outer/2 fails") == []
    played.say("outer/3 ok 1")
    assert played.say("inner/4 ok") == ["create close/5[1] <- 4", "launch 5#0 last"]
    assert played.say("close/5 ok") == ["end failed"]


def test_reused_tasks_stand_in_and_only_the_rest_is_launched(play: Callable[..., Play]) -> None:
    start = {"next": ["a"], "foreach": "xs", "num_splits": 3}
    through = {"next": ["join"]}
    reused = {TaskPlace("start"): start, TaskPlace("a", (0,)): through, TaskPlace("a", (2,)): through}
    played = play(FOREACH, reused=reused)
    assert _began(played) == [
        "create start/1[] <- ",
        "create a/2[0] <- 1 item of 1",
        "create a/3[1] <- 1 item of 1",
        "create a/4[2] <- 1 item of 1",
        "launch 3#0 last",
    ]
    assert played.say("a/3 ok") == ["create join/5[] <- 2+3+4", "launch 5#0 last"]
    _replay(played, {})


def test_run_of_which_all_is_reused_ends_at_once(play: Callable[..., Play]) -> None:
    reused = {
        TaskPlace("start"): {"next": ["a"]},
        TaskPlace("a"): {"next": ["end"]},
        TaskPlace("end"): {"next": []},
    }
    assert _began(play(LINEAR, reused=reused))[-1] == "end succeeded"


def test_task_is_reused_after_one_that_ran(play: Callable[..., Play]) -> None:
    played = play(LINEAR, reused={TaskPlace("a"): {"next": ["end"]}})
    _began(played)
    assert played.say("start/1 ok") == ["create a/2[] <- 1", "create end/3[] <- 2", "launch 3#0 last"]
    assert played.say("end/3 ok") == ["end succeeded"]


def test_reused_visits_of_a_loop_are_followed_by_the_next(play: Callable[..., Play]) -> None:
    again = {"next": ["again"]}
    reused = {TaskPlace("start"): again, TaskPlace("again"): again, TaskPlace("again", (), 1): again}
    played = play(LOOP, reused=reused)
    assert _began(played)[-2:] == ["create again/4[] <- 3 visit 2", "launch 4#0 last"]
