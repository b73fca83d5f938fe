"""`run` of a flow, and what `resume` shares with it: set up, hand over to the runtime, say how it ended."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self

from weft.cli.invocation import Invocation, Opened, checked_graph, configs_given, open_for_writing
from weft.cli.progress import Progress
from weft.lineage.errors import UsageError
from weft.runtime.config import parameters_without_configs, settle
from weft.runtime.decorators import attach
from weft.runtime.parameters import constants_of, resolve
from weft.runtime.template import start_template, take_early

if TYPE_CHECKING:
    from weft.lineage.storage import Storage
    from weft.runtime.graph import Graph
    from weft.runtime.live_export import LiveExport
    from weft.runtime.resume import Planner
    from weft.runtime.reuse import Reuse
    from weft.runtime.template import Template

__all__ = ["Launch", "run_flow", "user_name"]

_MEGABYTE = 1 << 20
_TAG_CHARS_MAX = 500
_SINK_VARIABLE = "WEFT_OPENLINEAGE"
_USER_VARIABLES = ("WEFT_USER", "METAFLOW_USER", "SUDO_USER", "USERNAME", "USER")


def run_flow(call: Invocation, options: dict[str, Any], given: dict[str, Any]) -> int:
    """Run the flow with the parameters that were given; the exit code."""
    flow_class = call.flow_class
    user = user_name()
    configs = settle(flow_class, configs_given(call, options), user)
    with Launch(call, options) as launch:
        parameters = parameters_without_configs(flow_class)
        values = resolve(parameters, given, os.environ, flow_class.__name__, user)
        store = open_for_writing(call)
        reuse = _reuse(call, options, launch.graph, store, user)
        return launch.execute(store, values | configs, user, None, reuse=reuse)


def _reuse(call: Invocation, options: dict[str, Any], graph: Graph, store: Opened, user: str) -> Reuse | None:
    """What looks for tasks of earlier runs that may stand in: for all steps with `--reuse`, else for those that ask.

    None where no step does.
    """
    from weft.runtime.decorators import Cache, decorators_of

    asked = options.get("reuse")
    steps = [
        step
        for step, decorators in decorators_of(call.flow_class).items()
        if asked or any(isinstance(decorator, Cache) for decorator in decorators)
    ]
    if not steps or asked is False:
        return None
    from weft.runtime.origin import Owner, open_reuse
    from weft.runtime.survey import survey

    owner = Owner(user, store.store_id)
    is_trusting = bool(options.get("trust"))
    return open_reuse(store.storage, graph, owner, frozenset(steps), survey(call.flow_class), is_trusting)


class Launch:
    """What `run` and `resume` do alike: the template first, while the process is small, then the checks."""

    graph: Graph

    def __init__(self, call: Invocation, options: dict[str, Any]) -> None:
        self._call = call
        self._options = options
        self._template: Template | None = None
        self.progress = Progress(call.flow_class.__name__, call.is_quiet, options["run_id_file"])

    def __enter__(self) -> Self:
        for spec in (*self._call.decorators, *self._options["decorators"]):
            attach(self._call.flow_class, spec)
        self._isolation = self._start_template()
        try:
            from weft.runtime.code import GitQuestion

            self._git = GitQuestion(os.path.dirname(os.path.abspath(self._call.script)))
            self.graph = checked_graph(self._call)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._template is not None:
            self._template.close()

    def _start_template(self) -> str:
        """Fork the template unless the flow's process must not be forked; the isolation that is used."""
        from weft.runtime.forking import reason_not_to_fork

        early = take_early()
        isolation: str = self._options["isolation"]
        if isolation == "auto":
            reason = reason_not_to_fork()
            if reason is None:
                isolation = "fork"
            else:
                isolation = "spawn"
                self.progress.say(
                    f"tasks get fresh interpreters: {reason}; --isolation fork insists", "yellow"
                )
        if isolation == "fork":
            self._template = early or start_template(self._call.flow_class)
        elif early is not None:
            early.close()
        return isolation

    def execute(
        self,
        store: Opened,
        values: dict[str, Any],
        user: str,
        planner: Planner | None,
        distrusted: tuple[tuple[str, str], ...] = (),
        reuse: Reuse | None = None,
    ) -> int:
        from weft.runtime.execution import RunSettings, execute
        from weft.runtime.flow import FlowSpec

        options, storage = self._options, store.storage
        settings = RunSettings(
            self._call.script,
            user,
            store.store_id,
            options["max_workers"],
            options["max_num_splits"],
            options["max_log_size"] * _MEGABYTE,
            self._isolation,
            _checked_tags(options["tags"]),
            options["keep_going"],
            options["namespace"] or f"user:{user}",
            (*self._call.decorators, *options["decorators"]),
        )
        constants = constants_of(self._call.flow_class, FlowSpec)
        exported = self._live_export(storage)
        try:
            result = execute(
                self._call.flow_class,
                self.graph,
                settings,
                (values, constants),
                storage,
                exported or self.progress,
                self._template,
                planner,
                self._git,
                distrusted,
                reuse,
            )
        finally:
            self.progress.end()
            missed = None if exported is None else exported.finish()
        if missed is not None:
            added = self._call.store_command(f"export openlineage --append --output {missed.path}")
            self.progress.say(
                f"OpenLineage events are missing in {missed.path} ({missed.reason}); `{added}` adds them",
                "yellow",
            )
        return self._tell(result.status, result.payload, storage)

    def _live_export(self, storage: Storage) -> LiveExport | None:
        """What also writes OpenLineage events, where that is asked for."""
        path = self._options["openlineage"] or os.environ.get(_SINK_VARIABLE)
        if not path:
            return None
        from weft.lineage.openlineage_sinks import namespace_of
        from weft.runtime.live_export import LiveExport

        return LiveExport(self.progress, path, storage, namespace_of(None))

    def _tell(self, status: str, payload: dict[str, Any], storage: Storage) -> int:
        progress = self.progress
        pathspec = f"{self._call.flow_class.__name__}/{progress.run_id}"
        if status == "succeeded":
            progress.say(f"{pathspec} succeeded", "green")
            return 0
        if status == "failed":
            cause = payload.get("root_cause") or pathspec
            progress.say(f"{pathspec} failed: {cause}: {payload.get('error_type')}", "red")
            shown, resumed = self._call.store_command(f"show {cause}"), self._call.command("resume")
            progress.say(f"see `{shown}`; mend it, then `{resumed}` goes on from there")
        else:
            resumed = self._call.command("resume")
            progress.say(f"{pathspec} was {status}; `{resumed}` goes on from there", "yellow")
        return 1


def _checked_tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    """Each tag once. Raises: UsageError."""
    for tag in tags:
        if not tag.strip() or len(tag) > _TAG_CHARS_MAX:
            raise UsageError(f"{tag[:40]!r} cannot be a tag. Give 1 to {_TAG_CHARS_MAX} characters.")
    return tuple(dict.fromkeys(tags))


def user_name() -> str:
    """Who runs this: the first of a few variables, else what the system says."""
    for variable in _USER_VARIABLES:
        if os.environ.get(variable):
            return os.environ[variable]
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
