"""What is told of the nodes of a graph beside their names: digests, types, values, statuses; fetched when asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from weft.lineage.sides import External
from weft.lineage.uses import Place

if TYPE_CHECKING:
    from weft.lineage.answers import Answers
    from weft.lineage.uses import Uses

__all__ = ["Details", "Fact"]

Key = tuple[Any, ...]

#: Tasks named one by one in a query; of more, all of their step are fetched.
_TASKS_NAMED_MAX = 200

_ARTIFACTS = """
    select run_uid, flow, run_id, step, task_id, name, arg_max(row(digest, size_bytes, type, value), coalesce(attempt, 0))
    from {} where {} and kind = '{}' and step in ({}) and name in ({}){} group by all
"""


#: How the last attempt of each task ended, by the telling that is believed.
_ENDS = """
    select run_uid, flow, run_id, step, task_id, arg_max(kind, row(attempt, kind <> 'attempt_started', epoch, -time_us, writer, seq))
    from told.task_events where {} and step in ({}) and attempt is not null and kind <> 'retry_scheduled' group by all
"""
_DONE = {"attempt_succeeded": "succeeded", "attempt_caught": "caught"}


class Fact(NamedTuple):
    """Of an artifact all but `status`, of a task `status` only. Digests as views show them."""

    digest: str | None = None
    size_bytes: int | None = None
    type: str | None = None
    value: str | None = None
    status: str | None = None


class Details:
    """Facts of the nodes of one graph. What was fetched is kept."""

    def __init__(self, store: Answers, uses: Uses) -> None:
        self.store = store
        self.uses = uses
        self._facts: dict[Key, Fact] = {}

    def facts(self, keys: Iterable[Key]) -> dict[Key, Fact]:
        """The facts of tasks and artifacts, by key; what is not recorded is left out."""
        keys = list(keys)
        unknown = [key for key in keys if key not in self._facts and not isinstance(key, External)]
        self._fetch_artifacts([key for key in unknown if len(key) == 3])
        self._fetch_statuses([key for key in unknown if len(key) == 2])
        return {key: self._facts[key] for key in keys if key in self._facts}

    def _fetch_artifacts(self, keys: list[Key]) -> None:
        """One query for each table and all runs of the keys."""
        for table, kind, chosen in (
            ("told.artifact_events", "artifact_saved", [key for key in keys if key[0].step != "_parameters"]),
            ("told.run_events", "parameter_set", [key for key in keys if key[0].step == "_parameters"]),
        ):
            if not chosen:
                continue
            wanted = set(chosen)
            about = {(key[0].flow, key[0].run_id) for key in chosen}
            condition, params = self.uses.condition(about)
            steps, names = {key[0].step for key in chosen}, {key[2] for key in chosen}
            tasks = sorted({key[1] for key in chosen})
            only = ""
            if len(tasks) <= _TASKS_NAMED_MAX:
                only = f" and task_id in ({_marks(tasks)})"
                params = [*params, *sorted(steps), *sorted(names), *tasks]
            else:
                params = [*params, *sorted(steps), *sorted(names)]
            query = _ARTIFACTS.format(table, condition, kind, _marks(steps), _marks(names), only)
            for uid, flow, run_id, step, task_id, name, told in self.store.rows(query, params, about=about):
                place = Place(flow, self.uses.shown(uid, flow, run_id), step)
                key = (place, task_id, name)
                if key in wanted:
                    digest, size_bytes, type_name, value = told.values() if isinstance(told, dict) else told
                    text = None if digest is None else "sha256:" + bytes(digest).hex()
                    self._facts[key] = Fact(text, size_bytes, type_name, value)

    def _fetch_statuses(self, keys: list[Key]) -> None:
        """What is done for good is said by the events of the run alone; the rest depends on the clock."""
        if not keys:
            return
        about = {(key[0].flow, key[0].run_id) for key in keys}
        condition, params = self.uses.condition(about)
        steps = {key[0].step for key in keys}
        query = _ENDS.format(condition, _marks(steps))
        rows = self.store.rows(query, [*params, *sorted(steps)], about=about)
        for uid, flow, run_id, step, task_id, kind in rows:
            place = Place(flow, self.uses.shown(uid, flow, run_id), step)
            if kind in _DONE:
                self._facts[place, task_id] = Fact(status=_DONE[kind])
        places = {key[0] for key in keys if key not in self._facts}
        for place in places:
            query = "select task_id, status from tasks where flow = ? and run_id = ? and step = ?"
            for task_id, status in self.store.rows(query, list(place)):
                self._facts.setdefault((place, task_id), Fact(status=status))


def _marks(values: Iterable[object]) -> str:
    return ", ".join("?" for _ in values)
