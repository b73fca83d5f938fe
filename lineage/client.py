"""Runs and what they made as Python objects, with the names that Metaflow's client has.

    Flow("MyFlow").latest_successful_run.data.model

Times are datetimes without zone, in UTC. Children come newest first. All runs of the store are seen;
after `namespace("user:me")` only those with that tag.
"""

from __future__ import annotations

import weft.lineage.store  # noqa: F401  it says how the default store is opened
from weft.lineage.flows import Code, Flow, Metaflow, Run, Step
from weft.lineage.recorded import get_namespace, namespace
from weft.lineage.tasks import DataArtifact, Task, TaskData, TaskError

__all__ = [
    "Code",
    "DataArtifact",
    "Flow",
    "Metaflow",
    "Run",
    "Step",
    "Task",
    "TaskData",
    "TaskError",
    "get_namespace",
    "namespace",
]
