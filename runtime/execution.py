"""A run from its first event to its last: the record is opened, a scheduler carries it, the end is recorded."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage import clock, events
from weft.lineage.collector import CollectorPause
from weft.lineage.errors import NotSerializable, StoreError, UsageError
from weft.lineage.events import Content, RunRef
from weft.lineage.journal import Journal, fence
from weft.lineage.objects import Objects
from weft.lineage.schema import Event, Payload
from weft.lineage.serializers import dump, is_pickle
from weft.lineage.storage import Storage
from weft.lineage.stores import open_spool
from weft.lineage.version import VERSION
from weft.runtime.code import CodeSnapshot, GitQuestion, save_code
from weft.runtime.config import Config, Document, parts_of
from weft.runtime.decorators import Catch, Retry, decorators_of
from weft.runtime.flow import FlowSpec
from weft.runtime.graph import Graph
from weft.runtime.include import IncludeFile
from weft.runtime.inline import InlineRunner
from weft.runtime.launcher import ForkLauncher, Launcher, SpawnLauncher, make_room_for
from weft.runtime.ledger import Ledger
from weft.runtime.machine import Machine, Policy
from weft.runtime.orders import RunContext
from weft.runtime.packages import imported_packages
from weft.runtime.parameters import parameters_of
from weft.runtime.processes import this_process
from weft.runtime.refs import content_from
from weft.runtime.scheduler import Limits, Scheduler, Watcher, lease_of
from weft.runtime.template import Template
from weft.runtime.track import included_use, is_path, parameter_uses

if TYPE_CHECKING:
    from weft.runtime.keys import FlowCode
    from weft.runtime.resume import Planner
    from weft.runtime.reuse import Reuse

__all__ = ["KEPT", "RunResult", "RunSettings", "execute", "new_run_id", "policies_of", "value_events"]

#: Stands for the value that the origin of a resume has recorded.
KEPT: Any = object()


class RunSettings(NamedTuple):
    """How a run is to be made. `script` is the flow's file, `decorators` are those of `--with`."""

    script: str
    user: str
    store_id: str
    max_workers: int
    max_num_splits: int
    max_log_bytes: int
    isolation: str
    tags: tuple[str, ...] = ()
    is_keeping_going: bool = False
    namespace: str | None = None
    decorators: tuple[str, ...] = ()


class RunResult(NamedTuple):
    """How a run ended; `status` is that of its last event, `payload` too."""

    run: RunRef
    status: str
    payload: Payload


def execute(
    flow_class: type[FlowSpec],
    graph: Graph,
    settings: RunSettings,
    values: tuple[Mapping[str, Any], Mapping[str, Any]],
    storage: Storage,
    watcher: Watcher,
    template: Template | None,
    planner: Planner | None = None,
    git: GitQuestion | None = None,
    distrusted: tuple[tuple[str, str], ...] = (),
    reuse: Reuse | None = None,
) -> RunResult:
    """Make a run in the store `storage`. `values` are parameters and class constants.

    With `template` attempts are forked from it, otherwise they are made as `settings.isolation` says.
    With `planner` the run resumes an earlier one; parameters that `values` gives as `KEPT` are those of the origin.
    Pickles that the runs `distrusted` (flow, run id) wrote are not loaded. With `reuse` finished tasks of any earlier
    run may stand in.

    Raises: StoreError when the record cannot be kept; what was acknowledged before stays.
    """
    launcher = _launcher(settings, template)
    spool = open_spool(storage)
    objects = Objects(storage, None if spool is None else spool.storage)
    run = RunRef(clock.random_bytes(16), graph.name, new_run_id(clock.now_us(), os.getpid()))
    facts, ignored = (None, frozenset[str]()) if git is None else git.answer()
    snapshot = save_code(settings.script, objects, ignored)
    contents = value_events(run, values, {} if planner is None else planner.parameters, objects)
    contents += _path_events(flow_class, run, contents)
    started = events.run_started(run, snapshot.digest, _start_payload(graph, settings, facts, planner, reuse))
    head = [started, _code_event(run, snapshot), lease_of(run), *_tag_events(run, settings), *contents]
    machine = Machine(graph, policies_of(flow_class), settings.is_keeping_going)
    journal = Journal.create(storage, spool=spool)
    ledger = Ledger(run, graph, machine, journal, watcher.on_event, planner or reuse)
    if planner is not None or reuse is not None:
        # Whether a task is reused depends on the parameters: they come before the start of all tasks.
        head = [*head[1:], started]
    if planner is not None:
        journal.observe(planner.origin.last_time_us)
        head = [*([] if planner.lost is None else [_taken_over(storage, planner.lost)]), *head]
    elif reuse is not None:
        journal.observe(reuse.last_time_us)
    with CollectorPause(is_final=ledger.is_reusing):  # Thousands of tasks may be reused at once.
        ledger.record(head)
    names = [name for name, value in values[0].items() if not isinstance(value, Document)]
    context = _context(run, objects, settings, names, ledger, planner)._replace(distrusted=distrusted)
    try:
        runner = _scheduler(flow_class, ledger, context, objects, watcher, settings, launcher)
        known = planner.code if planner is not None else None if reuse is None else reuse.code
        end = runner.run(lambda: _learn_code(flow_class, ledger, known))
        ledger.record([events.run_ended(run, end.status, end.payload)])
    except BaseException:
        _close_quietly(journal)
        raise
    journal.close()
    return RunResult(run, end.status, end.payload or {})


def new_run_id(now_us: int, pid: int) -> str:
    """The moment in µs, in whose last three digits runs that begin at once differ by their processes."""
    return str(now_us - now_us % 1000 + pid % 1000)


def _taken_over(storage: Storage, lost: Event) -> Event:
    """The fact that a run is lost, told once its writer cannot go on any more. Raises: StoreConflict if it has."""
    payload = lost.payload or {}
    fence(storage, bytes.fromhex(payload["writer"]), payload["last_seq"] + 1)
    return lost


def policies_of(flow_class: type[FlowSpec]) -> dict[str, Policy]:
    """What the decorators of each step say about failures."""
    policies = {}
    for step, decorators in decorators_of(flow_class).items():
        retry = next((d for d in decorators if isinstance(d, Retry)), None)
        is_catching = any(isinstance(d, Catch) for d in decorators)
        if retry is not None or is_catching:
            times, delay_s = (retry.times, retry.delay_s) if retry is not None else (0, 0.0)
            policies[step] = Policy(times, delay_s, is_catching)
    return policies


def _learn_code(flow_class: type[FlowSpec], ledger: Ledger, known: FlowCode | None) -> None:
    """Find out what of the code each step depends on, unless it is known, while the first task is at work."""
    from weft.runtime.survey import survey

    try:
        code = survey(flow_class) if known is None else known
    except Exception as error:  # noqa: BLE001  # a run does not fail for what a later one could have reused
        problem = f"{type(error).__name__}: {error}"
        ledger.record([events.code_reached(ledger.run, {"problem": problem})])
    else:
        ledger.know_code(code)


def _launcher(settings: RunSettings, template: Template | None) -> Launcher | None:
    """What starts attempts, getting ready while the record is opened; None where they need no process."""
    if settings.isolation == "inline":
        return None
    launcher: Launcher = SpawnLauncher() if template is None else ForkLauncher(template)
    launcher.prepare()
    return launcher


def _scheduler(
    flow_class: type[FlowSpec],
    ledger: Ledger,
    context: RunContext,
    objects: Objects,
    watcher: Watcher,
    settings: RunSettings,
    launcher: Launcher | None,
) -> Any:
    if launcher is None:
        return InlineRunner(ledger, flow_class, context, objects, watcher, settings.max_log_bytes)
    limits = Limits(make_room_for(settings.max_workers), settings.max_log_bytes)
    return Scheduler(ledger, launcher, context, objects, watcher, limits)


def _context(
    run: RunRef,
    objects: Objects,
    settings: RunSettings,
    parameter_names: list[str],
    ledger: Ledger,
    planner: Planner | None,
) -> RunContext:
    facts = {
        "namespace": settings.namespace,
        "origin_run_id": None if planner is None else planner.run_id,
        "parameter_names": parameter_names,
        "store": objects.storage.url,
        "tags": sorted(settings.tags),
        "tempdir": None,
        "username": settings.user,
    }
    return RunContext(
        run,
        objects.storage.url,
        ledger.parameters,
        facts,
        settings.max_num_splits,
        settings.decorators,
        None if objects.spool is None else objects.spool.url,
    )


def _start_payload(
    graph: Graph,
    settings: RunSettings,
    git: dict[str, Any] | None,
    planner: Planner | None,
    reuse: Reuse | None,
) -> Payload:
    system = os.uname()
    payload: Payload = {
        "user": settings.user,
        "store_id": settings.store_id,
        "host": system.nodename,
        **this_process(),
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "platform": f"{system.sysname}-{system.release}-{system.machine}",
        "weft": VERSION,
        "command": list(sys.orig_argv),
        "script": os.path.abspath(settings.script),
        "isolation": settings.isolation,
        "max_workers": settings.max_workers,
        "packages": imported_packages(),
        "graph": graph.to_payload(),
    }
    if git is not None:
        payload["git"] = git
    if planner is not None:
        payload |= {
            "origin_run_id": planner.run_id,
            "origin_run_uid": planner.origin.run.run_uid.hex(),
            "resume_step": planner.request.step,
        }
    if reuse is not None:
        payload["reuse_steps"] = sorted(reuse.steps)
    return payload


def value_events(
    run: RunRef,
    values: tuple[Mapping[str, Any], Mapping[str, Any]],
    kept: Mapping[str, Content],
    objects: Objects,
) -> list[Event]:
    """Parameters and constants as events; `kept` are those of an origin, taken where a value is `KEPT`.

    Raises: UsageError naming a value that cannot be saved.
    """
    made = []
    for role, group in _by_role(values):
        for name, value in group.items():
            try:
                content = kept[name] if value is KEPT else _content_of(value, role, objects)
            except NotSerializable as error:
                fixes = {
                    "constant": f"Name it _{name} to keep it out of the record.",
                    "config": "Let its parser return dicts, lists, texts and numbers.",
                }
                raise UsageError(
                    f"The {role} {name!r} of {run.flow} cannot be saved: {error} {fixes.get(role, 'Change its type.')}"
                ) from error
            made.append(events.parameter_set(run, name, content, role))
    return made


def _content_of(value: Any, role: str, objects: Objects) -> Content:
    dumped = dump(value)
    if role == "config" and is_pickle(dumped.serializer):
        # Resumes load configs before they ask whom to trust.
        raise NotSerializable("it holds more than plain values.", dumped.type)
    content = content_from(dumped, objects)
    if isinstance(value, os.PathLike):
        import json

        content = content._replace(value=json.dumps(os.fspath(value)))
    return content


def _by_role(values: tuple[Mapping[str, Any], Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Values by role; each key of a config is one of its own."""
    parameters, constants = values
    yield "parameter", {n: v for n, v in parameters.items() if not isinstance(v, Document)}
    for name, value in parameters.items():
        if isinstance(value, Document):
            yield "config", parts_of(name, value.content)
    yield "constant", constants


def _path_events(flow_class: type[FlowSpec], run: RunRef, told: list[Event]) -> list[Event]:
    """What the parameters of type Path name, where it exists now, and files that were included; `told` are the values."""
    import json

    values = {event.name or "": event.value for event in told}
    parameters = parameters_of(flow_class)
    included = [
        included_use(run, name, *parameter.content.read)
        for name, parameter in parameters.items()
        if isinstance(parameter, IncludeFile) and parameter.content.read is not None
    ]
    # Each key is read by itself, and was in the file.
    included += [
        included_use(run, event.name or "", *parameter.content.read)
        for name, parameter in parameters.items()
        if isinstance(parameter, Config) and parameter.content.read is not None
        for event in told
        if event.name == name or (event.name or "").startswith(f"{name}.")
    ]
    paths = {
        name: path
        for name, parameter in parameters.items()
        if is_path(parameter) and isinstance(path := json.loads(values.get(name) or "null"), str)
    }
    return [*included, *parameter_uses(run, paths)]


def _code_event(run: RunRef, snapshot: CodeSnapshot) -> Event:
    payload: Payload = {"entry": snapshot.entry, "files": snapshot.file_count}
    if snapshot.skipped:
        payload["skipped"] = snapshot.skipped
    return events.code_saved(run, snapshot.digest, snapshot.size_bytes, payload)


def _tag_events(run: RunRef, settings: RunSettings) -> list[Event]:
    version = sys.version_info
    system = [
        f"user:{settings.user}",
        "runtime:dev",
        f"python_version:{version[0]}.{version[1]}.{version[2]}",
        f"weft_version:{VERSION}",
    ]
    user_tags: Sequence[str] = settings.tags
    return [events.tag_added(run, tag, "system") for tag in system] + [
        events.tag_added(run, tag, "user") for tag in dict.fromkeys(user_tags)
    ]


def _close_quietly(journal: Journal) -> None:
    """Let go of the journal after something worse has happened; that is what has to be told."""
    try:
        journal.close()
    except StoreError:
        return
