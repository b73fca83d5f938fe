"""`current`: what a step can ask about the task it runs in."""

from __future__ import annotations

from typing import Any

__all__ = ["Current", "Running", "current"]

_NAMES = (
    "flow_name",
    "namespace",
    "origin_run_id",
    "parameter_names",
    "pathspec",
    "retry_count",
    "run_id",
    "step_name",
    "tags",
    "task_id",
    "tempdir",
    "username",
)


class Current:
    """The running task; outside a task every name is None and `is_running_flow` is False."""

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {}

    @property
    def is_running_flow(self) -> bool:
        return bool(self._facts)

    @property
    def run(self) -> Any:
        """The run as a client object; its values are those of this moment."""
        return self._client_object(2)

    @property
    def task(self) -> Any:
        """The task as a client object; its values are those of this moment."""
        return self._client_object(4)

    @property
    def graph(self) -> Any:
        """The static graph of the flow as plain values, read from the run's first event."""
        if not self._facts:
            return None
        import json

        query = "select payload from events where kind = 'run_started' and flow = ? and run_id = ?"
        rows = self._store().rows(query, [self._facts["flow_name"], self._facts["run_id"]])
        return json.loads(rows[0][0])["graph"]

    def get(self, key: str, default: Any = None) -> Any:
        return self._facts.get(key, default)

    def __contains__(self, key: str) -> bool:
        return self._facts.get(key) is not None

    def __getattr__(self, name: str) -> Any:
        if name in _NAMES or name in self.__dict__.get("_facts", {}):
            return self._facts.get(name)
        raise AttributeError(f"current has no attribute {name!r}. It has {', '.join(_NAMES)}, run and task.")

    def _client_object(self, levels: int) -> Any:
        if not self._facts:
            return None
        from weft.lineage.client import Run, Task

        kind = Run if levels == 2 else Task
        pathspec = "/".join(self._facts["pathspec"].split("/")[:levels])
        return kind(pathspec, store=self._store())

    def _store(self) -> Any:
        """The run's store, opened once in this process."""
        from weft.lineage import store  # noqa: F401  # It says how a store is opened.
        from weft.lineage.recorded import default_store

        return default_store(self._facts["store"])


current = Current()


class Running:
    """Let `current` speak of one task while the block runs."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts

    def __enter__(self) -> None:
        current._facts = self._facts

    def __exit__(self, *_: object) -> None:
        current._facts = {}
