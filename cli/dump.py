"""`python flow.py dump`: the artifacts of tasks, as text or as one pickle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from weft.cli.format import escape_controls
from weft.cli.output import Output
from weft.lineage.errors import NotFound, UsageError
from weft.lineage.ids import Pathspec

if TYPE_CHECKING:
    from weft.lineage.client import Task
    from weft.lineage.store import Store

__all__ = ["dump_artifacts"]


def dump_artifacts(
    store: Store,
    spec: Pathspec,
    is_private: bool,
    text_characters_max: int,
    names: frozenset[str],
    file_name: str | None,
) -> None:
    """Show what the tasks below `spec` have, or write `{"run/step/task": {name: value}}` to a file.

    Raises: NotFound; UsageError when the file cannot be written.
    """
    out = Output()
    values: dict[str, dict[str, Any]] = {}
    for task in _tasks(store, spec):
        place = task.pathspec.partition("/")[2]
        shown = [a for a in task if (is_private or not a.id.startswith("_")) and (not names or a.id in names)]
        values[place] = {artifact.id: artifact.data for artifact in sorted(shown, key=lambda a: a.id)}
    if file_name is not None:
        _write(values, file_name)
        out.line(f"Artifacts of {len(values)} tasks are in {file_name}.")
        return
    for place, artifacts in values.items():
        out.line(place, "bold")
        for name, value in artifacts.items():
            text = escape_controls(repr(value))
            if len(text) > text_characters_max:
                text = f"<{type(value).__name__}, {len(text):,} characters; --max-value-size shows it>"
            out.line(f"  {name} = {text}")


def _tasks(store: Store, spec: Pathspec) -> Iterator[Task]:
    """The tasks that `spec` names, in the order they came about."""
    from weft.lineage.client import Run, Step, Task

    if spec.run_id is None or spec.name is not None:
        raise NotFound(f"{spec} names no task. Write RUN, RUN/STEP or RUN/STEP/TASK.")
    if spec.task_id is not None:
        yield Task(str(spec), store=store)
        return
    steps = (
        [Step(str(spec), store=store)] if spec.step is not None else list(Run(str(spec), store=store))[::-1]
    )
    for step in steps:
        yield from list(step)[::-1]


def _write(values: dict[str, dict[str, Any]], file_name: str) -> None:
    from weft.lineage.pickles import plain_pickle

    try:
        with open(file_name, "wb") as file:
            file.write(plain_pickle(values))
    except OSError as error:
        raise UsageError(
            f"{file_name} cannot be written ({error.strerror}). Name another file with --file."
        ) from error
