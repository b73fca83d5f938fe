"""One attempt of one task, in the process that makes it: reads, the body, what is saved, how it ends."""

from __future__ import annotations

import os
import sys
import types
from typing import Any, NamedTuple

from weft.lineage import clock, events
from weft.lineage.errors import NotFound, NotSerializable, StoreError, UsageError
from weft.lineage.events import Content
from weft.lineage.ids import Pathspec, digest_from_text, parse_pathspec
from weft.lineage.objects import Objects
from weft.lineage.reads import ClientRead
from weft.lineage.schema import Event, Payload
from weft.lineage.serializers import Dumped, dump, is_pickle, load
from weft.runtime.config import Config, view_of
from weft.runtime.current import Running
from weft.runtime.decorators import Catch, Decorator, Environment
from weft.runtime.failures import (
    ExceptionWrapper,
    FailureHandledByCatch,
    message_of,
    shortened,
    traceback_of,
    type_name_of,
)
from weft.runtime.flow import FlowSpec, bind, binding_of
from weft.runtime.inputs import Inputs, InputView, View
from weft.runtime.items import Item, dump_items
from weft.runtime.merging import MergeRefused, merge_tables
from weft.runtime.orders import RunContext, TaskOrder
from weft.runtime.refs import Ref, content_from, load_ref, read_ref
from weft.runtime.surroundings import surroundings
from weft.runtime.track import ExternalUses, Tracking, foreign_use
from weft.runtime.transition import InvalidNextException

__all__ = ["Attempt", "Outcome"]


class Outcome(NamedTuple):
    """What an attempt has to tell: its events in order, the last of which ends it, and the items of its foreach."""

    events: list[Event]
    items: list[Item]


class _Loaded(NamedTuple):
    value: Any
    digest: bytes | None  # None for values that cannot change


class Attempt(View):
    """The running attempt: the binding of `self` in the step's body."""

    def __init__(
        self, flow_class: type[FlowSpec], context: RunContext, order: TaskOrder, objects: Objects
    ) -> None:
        super().__init__(self, order.levels, order.items, order.table, f"step {order.task.step}")
        self.context = context
        self.order = order
        self._class = flow_class
        self._step = order.task.step
        self._began_s = clock.monotonic_s()
        self._cpu_s_before = _cpu_s()
        self._objects = objects
        self._reads: dict[tuple[Pathspec | None, str, int | None], Event] = {}
        self._external = ExternalUses(context.store_url)
        self._loaded: dict[str, _Loaded] = {}
        self._merged: dict[str, Ref] = {}
        self._decorators: tuple[Decorator, ...] = tuple(getattr(flow_class, order.task.step).decorators)
        self._flow = self.new_flow()
        bind(self._flow, self)

    def new_flow(self) -> FlowSpec:
        flow: FlowSpec = self._class.__new__(self._class)
        return flow

    def run(self) -> Outcome:
        """Make the attempt. Never raises but for what ends the process itself."""
        try:
            return self._make()
        except StoreError as error:  # What the body made could not be stored.
            _print_traceback(error)
            return Outcome([*self._seen(), self._failed(error)], [])

    def _make(self) -> Outcome:
        catching = next((d for d in self._decorators if isinstance(d, Catch)), None)
        if self.order.is_fallback:
            assert catching is not None, "only catching steps fall back"
            error: BaseException = FailureHandledByCatch(self.order.attempt - 1)
            return self._caught(catching, error, [])
        for decorator in self._decorators:
            # The others say how often and how long a step is tried, not what comes of it.
            for name, key in decorator.config_keys if isinstance(decorator, Catch | Environment) else ():
                self._note_config(name, key)
        try:
            with Running(self._facts()), Tracking(self._external, self._note_client_read):
                self._run_body()
                if catching is not None and catching.var is not None:
                    self._flow.__dict__.setdefault(catching.var, None)
        except SystemExit as stop:
            return Outcome([*self._seen(), *self._save()[0], self._exited(stop)], [])
        except KeyboardInterrupt:
            raise
        except BaseException as failure:  # noqa: BLE001  # the user's code may raise anything
            _print_traceback(failure)
            if catching is not None and self.order.is_last and isinstance(failure, Exception):
                return self._caught(catching, failure, self._save()[0])
            return Outcome([*self._seen(), *self._save()[0], self._failed(failure)], [])
        return self._succeed(catching)

    def read(self, name: str, ref: Ref, item_index: int | None = None) -> Any:
        """Load a value and record that this attempt did."""
        value, named = self._load(name, ref)
        self._note_read(name, ref, item_index, named)
        return value

    def is_config(self, name: str) -> bool:
        return isinstance(getattr(self._class, name, None), Config)

    def read_config(self, name: str, ref: Ref) -> Any:
        """A config as a step sees it, of which each key that is read is recorded."""
        document = self._load(name, ref)[0]
        return view_of(getattr(self._class, name), document, lambda key: self._note_config(name, key))

    def _note_config(self, name: str, key: str | None) -> None:
        """A key of a config was read; None: all of it."""
        parameters = self.context.parameters
        part = f"{name}.{key}"
        read = part if key is not None and part in parameters else name
        self._note_read(read, parameters[read])

    def _load(self, name: str, ref: Ref) -> tuple[Any, list[str] | None]:
        """A value, and of a pickle the local modules whose code came along with it."""
        try:
            if is_pickle(ref.serializer):
                return self._read_pickle(ref)
            return load_ref(ref, self._objects), None
        except NotFound as error:
            raise NotFound(
                f"Artifact {ref.producer}/{name} cannot be loaded: {error} Or run step {ref.producer.step} again: "
                f"`resume {ref.producer.step}`."
            ) from None

    def _note_read(
        self, name: str, ref: Ref, item_index: int | None = None, named: list[str] | None = None
    ) -> None:
        key = (ref.producer, name, item_index)
        if key not in self._reads:
            self._reads[key] = events.artifact_used(
                self.order.task, self.order.attempt, name, ref.digest, ref.producer, item_index, named
            )

    def _read_pickle(self, ref: Ref) -> tuple[Any, list[str]]:
        from weft.runtime.survey import local_names

        if (ref.producer.flow, ref.producer.run_id) in self.context.distrusted:
            raise UsageError(
                f"An artifact of {ref.producer} is a pickle that another user wrote, or that was written in "
                "another store, and loading a pickle can run any code. Give --trust if you trust who wrote it."
            )
        data, path = read_ref(ref, self._objects)
        value = load(ref.serializer, data, path)
        return value, [name for name in local_names() if name.encode() in data]

    def record_absence(self, name: str) -> None:
        self._reads.setdefault(
            (None, name, None), events.artifact_used(self.order.task, self.order.attempt, name, None, None)
        )

    def _note_client_read(self, read: ClientRead) -> None:
        """The body loaded a recorded value through the client."""
        if os.path.realpath(read.url) != os.path.realpath(self.context.store_url):
            self._external.note_content(*foreign_use(read))
            return
        producer = parse_pathspec(read.producer)
        digest = digest_from_text(read.digest)
        event = events.artifact_used(self.order.task, self.order.attempt, read.name, digest, producer)
        self._reads.setdefault((producer, read.name, None), event)

    def _seen(self) -> list[Event]:
        """What the attempt read, and what it read and wrote outside the store."""
        return [*self._reads.values(), *self._external.events(self.order.task, self.order.attempt)]

    # The binding of self

    def load(self, name: str) -> Any:
        value = super().load(name)
        ref = self.table.get(name) or self.context.parameters[name]
        if name in self.table:
            self._loaded[name] = self._note_loaded(value, ref)
        self._flow.__dict__[name] = value
        return value

    def _note_loaded(self, value: Any, ref: Ref) -> _Loaded:
        if type(value) in _IMMUTABLE:
            return _Loaded(value, None)
        if is_pickle(ref.serializer):
            # A pickle of equal values need not be equal bytes: compare with one made now.
            return _Loaded(value, dump(value).digest)
        return _Loaded(value, ref.digest)

    def merge(self, flow: FlowSpec, inputs: Any, include: list[str], exclude: list[str]) -> None:
        if self.order.inputs is None:
            raise MergeRefused("merge_artifacts belongs to a join. Give the step a second argument: inputs.")
        already_set = {name for name in self._flow.__dict__ if not name.startswith("_weft")}
        tables = []
        for branch in inputs:
            view = binding_of(branch) if isinstance(branch, FlowSpec) else None
            if not isinstance(view, InputView):
                raise MergeRefused(
                    f"merge_artifacts takes the inputs of its join, not {branch!r}. Pass inputs."
                )
            tables.append(view.table)
        merged = merge_tables(tables, already_set, include, exclude)
        self._merged.update(merged)
        self.table.update(merged)

    def refuse_set(self, name: str) -> str | None:
        if name in self.context.parameters:
            return (
                f"{name!r} is a parameter or constant of {self.context.run.flow} and cannot be set in a step. "
                "Use another name."
            )
        return None

    # The body

    def _run_body(self) -> None:
        function = getattr(self._flow, self._step)
        arguments = () if self.order.inputs is None else (Inputs(self, self.order.inputs),)
        # Code that is not run is not copied: in a fresh fork each page it lies on costs microseconds.
        if self._decorators:
            with surroundings(self._decorators, self._step):
                function(*arguments)
        else:
            function(*arguments)
        self._check_transition()

    def _check_transition(self) -> None:
        expected, transition = self.order.expected, self.transition
        if expected.is_end:
            return
        if transition is None:
            raise InvalidNextException(
                f"Step {self._step} ended without self.next(…). Call it on every way through the step."
            )
        is_allowed = (
            len(transition.steps) == 1 and transition.steps[0] in expected.steps
            if expected.is_switch
            else transition.steps == expected.steps and transition.foreach == expected.foreach
        )
        if not is_allowed:
            raise InvalidNextException(
                f"Step {self._step} went to {', '.join(transition.steps)}, which its source does not say. "
                "Write self.next(…) as the last statement, with the same steps."
            )

    def _succeed(self, catching: Catch | None) -> Outcome:
        saved, problem = self._save()
        if problem is not None:
            _print_traceback(problem)
            if catching is not None and self.order.is_last:
                return self._caught(catching, problem, saved)
            return Outcome([*self._seen(), *saved, self._failed(problem)], [])
        transition: Payload = {"next": list(self.transition.steps) if self.transition else []}
        items: list[Item] = []
        if self.transition is not None and self.transition.foreach is not None:
            try:
                items = self._split(self.transition.foreach)
            except Exception as failure:  # noqa: BLE001  # the user's code may raise anything
                _print_traceback(failure)
                return Outcome([*self._seen(), *saved, self._failed(failure)], [])
            transition |= {"foreach": self.transition.foreach, "num_splits": len(items)}
        end = events.attempt_succeeded(self.order.task, self.order.attempt, transition, self._usage())
        return Outcome([*self._seen(), *saved, end], items)

    def _split(self, var: str) -> list[Item]:
        try:
            iterable = getattr(self._flow, var)
        except AttributeError:
            raise InvalidNextException(
                f"foreach={var!r} in step {self._step}: self.{var} does not exist. Set it before self.next(…)."
            ) from None
        return dump_items(iterable, var, self._step, self.context.max_num_splits, self._objects)

    def _caught(self, catching: Catch, error: BaseException, saved: list[Event]) -> Outcome:
        if catching.var is not None:
            content = content_from(dump(ExceptionWrapper.of(error)), self._objects)
            task, attempt = self.order.task, self.order.attempt
            saved = [event for event in saved if event.name != catching.var]
            saved.append(events.artifact_saved(task, attempt, catching.var, content))
        end = events.attempt_caught(
            self.order.task,
            self.order.attempt,
            _shown_type(error),
            _failure_payload(error) | self._usage(),
            {"next": list(self.order.expected.steps)},
        )
        return Outcome([*self._seen(), *saved, end], [])

    def _failed(self, error: BaseException) -> Event:
        return events.attempt_failed(
            self.order.task, self.order.attempt, _shown_type(error), _failure_payload(error) | self._usage()
        )

    def _exited(self, stop: SystemExit) -> Event:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        message = (
            f"The step called sys.exit({stop.code!r}). Return from the step instead, or raise an exception."
        )
        payload = {"message": message, "cause": "exit", "exit_code": code}
        return events.attempt_failed(
            self.order.task, self.order.attempt, "SystemExit", payload | self._usage()
        )

    # What is saved

    def _save(self) -> tuple[list[Event], NotSerializable | None]:
        """Events of all artifacts that are new or changed, and the first that could not be written."""
        saved: list[Event] = []
        problem: NotSerializable | None = None
        task, attempt = self.order.task, self.order.attempt
        for name, value in list(self._flow.__dict__.items()):
            if not self._is_artifact(name, value):
                continue
            try:
                content = self._content_if_changed(name, value)
            except NotSerializable as error:
                problem = problem or NotSerializable(
                    f"Artifact {name!r} of step {self._step} is a {error.type_name} and cannot be saved: {error}",
                    error.type_name,
                )
                continue
            if content is not None:
                saved.append(events.artifact_saved(task, attempt, name, content))
                self._merged.pop(name, None)
        for name, ref in self._merged.items():
            saved.append(events.artifact_merged(task, attempt, name, ref.digest, ref.producer))
        return saved, problem

    def _is_artifact(self, name: str, value: Any) -> bool:
        if name.startswith(("__", "_weft")) or name in self.context.parameters:
            return False
        return not isinstance(value, types.FunctionType | types.MethodType)

    def _content_if_changed(self, name: str, value: Any) -> Content | None:
        loaded = self._loaded.get(name)
        if loaded is None or loaded.value is not value:
            return content_from(dump(value), self._objects)
        if loaded.digest is None:
            return None
        dumped: Dumped = dump(value)
        return None if dumped.digest == loaded.digest else content_from(dumped, self._objects)

    def _usage(self) -> Payload:
        """How long the attempt took, its CPU seconds, and the peak of its process's memory."""
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        max_rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {
            "duration_s": round(clock.monotonic_s() - self._began_s, 6),
            "cpu_s": round(_cpu_s() - self._cpu_s_before, 6),
            "max_rss_bytes": max_rss_bytes,
        }

    def _facts(self) -> dict[str, Any]:
        task = self.order.task
        return {
            **self.context.facts,
            "flow_name": task.flow,
            "run_id": task.run_id,
            "step_name": task.step,
            "task_id": task.task_id,
            "pathspec": task.pathspec,
            "retry_count": self.order.attempt,
        }


#: How much of an error's text its event holds; the task's console has all of it.
_MESSAGE_CHARS_MAX = 16 << 10
_TRACEBACK_CHARS_MAX = 64 << 10
_IMMUTABLE = frozenset({type(None), bool, int, float, str, bytes})


def _shown_type(error: BaseException) -> str:
    """The error's type as a traceback names it."""
    return type_name_of(error).removeprefix("builtins.")


def _failure_payload(error: BaseException) -> Payload:
    return {
        "message": shortened(message_of(error), _MESSAGE_CHARS_MAX),
        "traceback": shortened(traceback_of(error), _TRACEBACK_CHARS_MAX),
        "cause": "exception",
    }


def _print_traceback(error: BaseException) -> None:
    sys.stderr.write(traceback_of(error))
    sys.stderr.flush()


def _cpu_s() -> float:
    """CPU seconds of this process and the children it has waited for."""
    import resource

    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
