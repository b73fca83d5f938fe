"""`resume` of a flow: what stands in from an earlier run, shown as a plan or carried out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from weft.cli.format import escape_controls, format_duration
from weft.cli.invocation import Invocation, checked_graph, configs_given, open_for_reading
from weft.cli.output import Output
from weft.cli.run import Launch, user_name
from weft.lineage import clock
from weft.lineage.collector import CollectorPause
from weft.lineage.errors import NotFound, UsageError
from weft.lineage.ids import parse_pathspec
from weft.lineage.objects import Objects
from weft.runtime.config import configs_of, parameters_without_configs, settle
from weft.runtime.parameters import constants_of, resolve

if TYPE_CHECKING:
    from weft.lineage.storage import Storage
    from weft.runtime.graph import Graph
    from weft.runtime.history import Origin
    from weft.runtime.machine import TaskPlace
    from weft.runtime.origin import Owner
    from weft.runtime.plan import PlannedTask
    from weft.runtime.resume import Planner

__all__ = ["resume_flow"]

_LISTED_MAX = 12
_INDENTED_MAX = 1000


def resume_flow(call: Invocation, options: dict[str, Any], step: str | None, given: dict[str, Any]) -> int:
    """Resume an earlier run of the flow, or show what that would do; the exit code."""
    from weft.runtime.origin import Owner, choose_origin

    _check_options(options, step)
    configs = configs_given(call, options)
    settle(call.flow_class, configs, is_complete=False)
    if options["is_plan"]:
        with CollectorPause(is_final=True):
            return _show_plan(call, options, step, given, configs)
    with Launch(call, options) as launch:
        store = open_for_reading(call)
        owner = Owner(user_name(), store.store_id)
        run, task = _named_origin(call, options)
        with CollectorPause(is_final=True):
            origin = choose_origin(store.storage, call.flow_class.__name__, owner, run)
            is_given = bool(given or configs)
            configs, documents = _settle(call, origin, store.storage, configs, owner.user)
            planner = _planner(call, launch.graph, store.storage, origin, options, step, task, is_given)
        values = _values(call, planner, given, documents, owner.user) | configs
        distrusted = () if options["trust"] else _runs_of_others(origin, owner)
        _check_kept(planner, values, distrusted)
        return launch.execute(store, values, owner.user, planner, distrusted)


def _show_plan(
    call: Invocation,
    options: dict[str, Any],
    step: str | None,
    given: dict[str, Any],
    configs: dict[str, Any],
) -> int:
    from weft.lineage.events import RunRef
    from weft.lineage.memory import MemoryStorage
    from weft.runtime.decorators import attach
    from weft.runtime.execution import value_events
    from weft.runtime.flow import FlowSpec
    from weft.runtime.origin import Owner, choose_origin
    from weft.runtime.plan import make_plan

    for spec in (*call.decorators, *options["decorators"]):
        attach(call.flow_class, spec)
    graph = checked_graph(call)
    storage, store_id = open_for_reading(call)
    owner = Owner(user_name(), store_id)
    run, task = _named_origin(call, options)
    origin = choose_origin(storage, call.flow_class.__name__, owner, run)
    is_given = bool(given or configs)
    settled, documents = _settle(call, origin, storage, configs, owner.user)
    planner = _planner(call, graph, storage, origin, options, step, task, is_given)
    values = (
        _values(call, planner, given, documents, owner.user) | settled,
        constants_of(call.flow_class, FlowSpec),
    )
    new_run = RunRef(clock.random_bytes(16), graph.name, "plan")
    # Values are dumped to know their digests; nothing is kept of them.
    parameters = value_events(new_run, values, planner.parameters, Objects(MemoryStorage()))
    planned = make_plan(planner, graph, parameters, new_run)
    output = Output(is_json=options["is_json"])
    if output.is_json:
        # Thousands of tasks are for programs: they come without line breaks, which are half of the work.
        show = output.document if len(planned) <= _INDENTED_MAX else output.record
        show(_document(planner, planned))
    else:
        _print_plan(output, planner, planned)
    return 0


def _check_options(options: dict[str, Any], step: str | None) -> None:
    if options["from_task"] is not None and step is not None:
        raise UsageError("STEP and --from-task both say where to begin. Give one of them.")
    if options["from_task"] is not None and options["origin"] is not None:
        raise UsageError("--from-task names its run itself. Leave out --from.")
    if options["is_json"] and not options["is_plan"]:
        raise UsageError("--json shows the plan. Give --plan as well.")


def _named_origin(call: Invocation, options: dict[str, Any]) -> tuple[str | None, tuple[str, str] | None]:
    """The run that was named, if one was, and with `--from-task` step and id of the task."""
    if options["from_task"] is None:
        return options["origin"], None
    flow = call.flow_class.__name__
    text = options["from_task"]
    spec = parse_pathspec(text if text.startswith(f"{flow}/") else f"{flow}/{text}")
    if spec.step is None or spec.task_id is None or spec.name is not None:
        raise UsageError(
            f"--from-task {text} is no task. Write Flow/run/step/task, as `weft show` lists them."
        )
    return spec.run_id, (spec.step, spec.task_id)


def _planner(
    call: Invocation,
    graph: Graph,
    storage: Storage,
    origin: Origin,
    options: dict[str, Any],
    step: str | None,
    task: tuple[str, str] | None,
    has_parameters: bool,
) -> Planner:
    from weft.runtime.resume import Planner, Request
    from weft.runtime.world import outside

    is_changed = options["changed"]
    code = None
    if is_changed:
        from weft.runtime.survey import survey

        code = survey(call.flow_class)
    planner = Planner(
        origin,
        graph,
        Request(step, None, is_changed or has_parameters or task is not None, is_changed),
        outside(Objects(storage)),
        code,
    )
    if task is not None:
        planner.request = planner.request._replace(place=_place_of(planner, task))
    return planner


def _place_of(planner: Planner, task: tuple[str, str]) -> TaskPlace:
    """Raises: NotFound with near names."""
    known = {(state.step, state.task_id): place for place, state in planner.history.places.items()}
    if task not in known:
        from weft.lineage.near_names import near

        run = f"{planner.origin.run.flow}/{planner.run_id}"
        hint = near("/".join(task), ["/".join(key) for key in known])
        raise NotFound(
            f"There is no task {'/'.join(task)} in {run}.{hint} `weft show {run}` lists its steps."
        )
    return known[task]


def _values(
    call: Invocation, planner: Planner, given: dict[str, Any], documents: dict[str, Any], user: str
) -> dict[str, Any]:
    """The parameters of the new run: those given, those the origin has, and defaults of those added since.

    A default that comes from a config follows it: where the origin has just that, it is made anew.
    `documents` are the origin's configs.
    """
    from weft.runtime.config import is_default
    from weft.runtime.execution import KEPT

    parameters = parameters_without_configs(call.flow_class)
    recorded = planner.parameters
    asked = {
        name: p
        for name, p in parameters.items()
        if name not in recorded or p.name in given or is_default(p, recorded[name].digest, documents)
    }
    values = resolve(asked, given, os.environ, call.flow_class.__name__, user)
    return {name: values.get(name, KEPT) for name in parameters}


def _settle(
    call: Invocation, origin: Origin, storage: Storage, given: dict[str, Any], user: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configs of the new run, those given, those the origin has, and defaults of those added since; the origin's."""
    from weft.runtime.origin import configs_of_origin

    if not configs_of(call.flow_class):
        return {}, {}
    documents = configs_of_origin(origin, Objects(storage), configs_of(call.flow_class))
    values = settle(call.flow_class, given, user, documents)
    checked_graph(call)
    return dict[str, Any](values), documents


def _runs_of_others(origin: Origin, owner: Owner) -> tuple[tuple[str, str], ...]:
    """(flow, run id) of the runs that somebody else made, or that were made in another store."""
    return tuple((run.flow, run.run_id) for run in origin.runs.values() if not owner.has_made(run))


def _check_kept(planner: Planner, values: dict[str, Any], distrusted: tuple[tuple[str, str], ...]) -> None:
    """Raises: UsageError for a parameter that is kept, is a pickle, and was written by somebody else."""
    from weft.lineage.serializers import is_pickle
    from weft.runtime.execution import KEPT

    if (planner.origin.run.flow, planner.run_id) not in distrusted:
        return
    for name, content in planner.parameters.items():
        if values.get(name) is KEPT and is_pickle(content.serializer):
            raise UsageError(
                f"Parameter {name} of {planner.origin.run.flow}/{planner.run_id} is a pickle that another user wrote, "
                "or that was written in another store, and loading a pickle can run any code. Give the parameter a "
                "value, or --trust if you trust who wrote it."
            )


# Showing a plan


def _document(planner: Planner, planned: list[PlannedTask]) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for task in planned:
        counts[task.action] = counts.get(task.action, 0) + 1
    return {
        "origin": f"{planner.origin.run.flow}/{planner.run_id}",
        "counts": counts,
        "expected_s": _total_s(planned),
        "tasks": [
            {**task._asdict(), "changes": [change._asdict() for change in task.changes]} for task in planned
        ],
    }


def _total_s(planned: list[PlannedTask]) -> float:
    """How long the tasks take that run, and those that may, one after the other."""
    return round(sum(task.expected_s or 0.0 for task in planned), 3)


def _print_plan(output: Output, planner: Planner, planned: list[PlannedTask]) -> None:
    """One line for the tasks of a step that share their fate and its reason."""
    groups: dict[tuple[str, str, str], list[PlannedTask]] = {}
    for task in planned:
        groups.setdefault((task.step, task.action, task.reason if task.action != "reuse" else ""), []).append(
            task
        )
    rows = []
    for (step, action, _), tasks in groups.items():
        first = tasks[0]
        paths = [task.foreach_path.rpartition(":")[2] for task in tasks if task.foreach_path is not None]
        place = f"{step}[{_ranges(paths)}]" if paths else step
        expected_s = sum(task.expected_s or 0.0 for task in tasks)
        took = "" if action in ("reuse", "not needed") else format_duration(expected_s)
        reason = escape_controls(first.reason) + (
            f" and {len(tasks) - 1:,} like it" if action == "reuse" and len(tasks) > 1 else ""
        )
        rows.append((place, len(tasks), action, took, reason))
    output.line(f"Resume of {planner.origin.run.flow}/{planner.run_id}", "bold")
    output.table(("step", "tasks", "plan", "expected", "why"), rows, right=("tasks", "expected"))
    counts = {action: sum(t.action == action for t in planned) for action in ("reuse", "run", "maybe")}
    expected = format_duration(_total_s(planned))
    output.line(
        f"{counts['reuse']:,} reused, {counts['run']:,} to run, {counts['maybe']:,} that may have to; "
        f"{expected} of work at most. Nothing was run."
    )


def _ranges(paths: list[str]) -> str:
    """Positions as short text: `0-3,7`."""
    numbers = sorted({int(path) for path in paths})
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    shown = [str(a) if a == b else f"{a}-{b}" for a, b in parts[:_LISTED_MAX]]
    return ",".join(shown + ["…"] * (len(parts) > _LISTED_MAX))
