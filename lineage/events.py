"""The events of weft: what they are about, and a constructor for each kind. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from weft.lineage.ids import Pathspec, TaskRef
from weft.lineage.schema import KINDS, Event, Payload

__all__ = [
    "Content",
    "Level",
    "RunRef",
    "artifact_merged",
    "artifact_saved",
    "artifact_used",
    "attempt_cancelled",
    "attempt_caught",
    "attempt_failed",
    "attempt_started",
    "attempt_succeeded",
    "code_reached",
    "code_saved",
    "console_written",
    "external_used",
    "format_foreach_path",
    "journal_closed",
    "lease_renewed",
    "parameter_set",
    "retry_scheduled",
    "run_ended",
    "run_lost",
    "run_started",
    "step_started",
    "tag_added",
    "tag_removed",
    "task_created",
    "task_reused",
]


class RunRef(NamedTuple):
    """One run; `run_uid` (16 random bytes) tells runs apart that share a pathspec after a merge."""

    run_uid: bytes
    flow: str
    run_id: str

    def task(self, step: str, task_id: str) -> TaskRef:
        return TaskRef(self.run_uid, self.flow, self.run_id, step, task_id)


class Content(NamedTuple):
    """What an event says of a value: its digest and form, a preview, and its bytes if they are small.

    `value` is JSON of at most 1,024 bytes for small plain values, `value_number` the number for
    scalars. `blob` is None when the bytes are the object `digest`, or when they lie in a pack: bytes
    `pack_offset … pack_offset + size_bytes` of the object `pack`.
    """

    digest: bytes
    size_bytes: int
    type: str
    serializer: str
    value: str | None = None
    value_number: float | None = None
    blob: bytes | None = None
    pack: bytes | None = None
    pack_offset: int = 0


class Level(NamedTuple):
    """One level of foreach: the step that is run for each item, the list's name, and the item's place in it.

    `label` is a short text of the item, for people.
    """

    step: str
    var: str
    position: int
    num_splits: int
    label: str


def format_foreach_path(levels: tuple[Level, ...]) -> str | None:
    """`step:index,…`, outermost first; None outside any foreach.

    >>> format_foreach_path((Level("fit", "carriers", 3, 16, "AA"), Level("tune", "lrs", 0, 2, "0.1")))
    'fit:3,tune:0'
    """
    return ",".join([f"{level.step}:{level.position}" for level in levels]) or None


# Runs


def _of_run(kind: str, run: RunRef, **columns: Any) -> Event:
    version = KINDS[kind].version
    return Event(kind=kind, version=version, run_uid=run.run_uid, flow=run.flow, run_id=run.run_id, **columns)


def run_started(run: RunRef, code_digest: bytes | None, payload: Payload) -> Event:
    """A scheduler took up a run.

    `code_digest` names the code manifest (see `code_saved`). Payload: `user`, `store_id`, `host`,
    `boot_id`, `pid`, `pid_started`, `python`, `platform`, `weft`, `command` (list), `script`, `isolation`,
    `max_workers`, `packages` (versions of imported distributions by name), `graph` (steps with their
    transitions and documentation); `git` (`commit`,
    `branch`, `is_dirty`) where there is one; for a resume `origin_run_id`, `origin_run_uid` (hex) and
    `resume_step` (or None); `reuse_steps`, those whose tasks were looked for in earlier runs.
    """
    return _of_run("run_started", run, digest=code_digest, payload=payload)


def code_saved(run: RunRef, digest: bytes, size_bytes: int, payload: Payload) -> Event:
    """The code of a run was stored: `digest` is its manifest object.

    The manifest is JSON: `{"entry": path, "files": {path: sha256 hex}}`. Payload: `entry`, `files`
    (count), `skipped` (paths left out, with the reason).
    """
    return _of_run("code_saved", run, digest=digest, size_bytes=size_bytes, payload=payload)


def code_reached(run: RunRef, payload: Payload) -> Event:
    """What of the code each step of a run depends on.

    Payload: `python` (major.minor), `modules` (names of the local ones), `parts` (label to digest), `packages`
    (distribution to version), `every` (`digest`, `parts` and `packages` of all local modules together) and
    `steps`: for each `digest`, `rule` ("reached" or "every module"), `reason` of the latter, `parts` (labels;
    with "every module" those beside the parts of `every`) and `packages`. Only `problem` where it could not
    be found out.
    """
    return _of_run("code_reached", run, payload=payload)


def parameter_set(run: RunRef, name: str, content: Content, role: str) -> Event:
    """A value of the pseudo task `_parameters/0`. `role` is "parameter", "constant" or "config".

    A config is a document; each of its keys is a value of its own beside it, named `<config>.<key>`.
    """
    return _of_run(
        "parameter_set",
        run,
        step="_parameters",
        task_id="0",
        name=name,
        **_content_columns(content),
        payload={"role": role},
    )


def tag_added(run: RunRef, tag: str, tag_kind: str) -> Event:
    """`tag_kind` is "user" or "system"."""
    return _of_run("tag_added", run, name=tag, payload={"kind": tag_kind})


def tag_removed(run: RunRef, tag: str) -> Event:
    return _of_run("tag_removed", run, name=tag)


def lease_renewed(run: RunRef, expires_us: int) -> Event:
    """The scheduler says that it lives; good until `expires_us` for readers who cannot see its process."""
    return _of_run("lease_renewed", run, payload={"expires_us": expires_us})


def run_ended(run: RunRef, status: str, payload: Payload | None = None, epoch: int = 0) -> Event:
    """A run came to its end; `status` is "succeeded", "failed", "cancelled" or "lost".

    Payload of a failure: `root_cause` (pathspec of the first task that failed for good), `error_type`,
    `error_message`.
    """
    assert status in ("succeeded", "failed", "cancelled", "lost"), status
    return _of_run(f"run_{status}", run, payload=payload, epoch=epoch)


def run_lost(run: RunRef, writer: bytes, last_seq: int) -> Event:
    """Whoever takes over declares a run lost, whose scheduler `writer` is not heard of any more.

    Its epoch is above that of all the lost scheduler can say. Payload: `writer` (hex) and `last_seq`: what
    that writer committed of the run later is kept, and no fold believes it. Version 1 had neither.
    """
    payload = {
        "error_message": "Its scheduler died without a word.",
        "writer": writer.hex(),
        "last_seq": last_seq,
    }
    return run_ended(run, "lost", payload, epoch=1)


# Tasks and attempts


def _of_task(kind: str, task: TaskRef, **columns: Any) -> Event:
    return Event(
        kind=kind,
        version=KINDS[kind].version,
        run_uid=task.run_uid,
        flow=task.flow,
        run_id=task.run_id,
        step=task.step,
        task_id=task.task_id,
        **columns,
    )


def _content_columns(content: Content) -> dict[str, Any]:
    columns = {
        "digest": content.digest,
        "size_bytes": content.size_bytes,
        "type": content.type,
        "serializer": content.serializer,
        "value": content.value,
        "value_number": content.value_number,
        "blob": content.blob,
    }
    if content.pack is not None:
        columns["payload"] = {"pack": content.pack.hex(), "pack_offset": content.pack_offset}
    return columns


def step_started(run: RunRef, step: str) -> Event:
    """The first task of a step came into being."""
    return _of_run("step_started", run, step=step)


def task_created(
    task: TaskRef,
    parents: tuple[tuple[str, str], ...],
    levels: tuple[Level, ...],
    item: Content | None,
) -> Event:
    """A task is to be run. `parents` are (step, task_id) in the order of `inputs`.

    `item` is the item of the innermost foreach, given to the first task of its body only; its content
    columns (digest, blob …) are the item's. Payload: `parents`, `levels` (lists in the order of
    `Level`), and `pack`, `pack_offset` where the item lies in a pack; in a resume `why` it was not reused:
    `reason` (text), `earlier` (the task it was compared with), `changes` ([kind, name, before, after] …).
    """
    columns = _placed(parents, levels, item)
    return _of_task("task_created", task, **columns)


def task_reused(
    task: TaskRef,
    origin: Pathspec,
    parents: tuple[tuple[str, str], ...],
    levels: tuple[Level, ...],
    item: Content | None,
    payload: Payload,
) -> Event:
    """A task of an earlier run stands for this one: nothing is run, all it recorded holds here too.

    `producer_*` name the task that really ran (never another reused one); `item` is as in
    `task_created`. Payload: `parents` (ids of this run), `levels`, the transition as in
    `attempt_succeeded`, `reason` (text) and `status` ("succeeded" or "caught").
    """
    columns = _placed(parents, levels, item)
    columns["payload"] |= payload
    return _of_task(
        "task_reused",
        task,
        producer_flow=origin.flow,
        producer_run_id=origin.run_id,
        producer_step=origin.step,
        producer_task_id=origin.task_id,
        **columns,
    )


def _placed(
    parents: tuple[tuple[str, str], ...], levels: tuple[Level, ...], item: Content | None
) -> dict[str, Any]:
    """The columns that say where a task stands in its run."""
    columns = {} if item is None else _content_columns(item)
    payload: Payload = {"parents": [list(p) for p in parents], "levels": [list(level) for level in levels]}
    if "payload" in columns:
        payload |= columns["payload"]
    columns["payload"] = payload
    columns["foreach_path"] = format_foreach_path(levels)
    return columns


def attempt_started(task: TaskRef, attempt: int, pid: int, host: str) -> Event:
    """Attempts count from 0."""
    return _of_task("attempt_started", task, attempt=attempt, payload={"pid": pid, "host": host})


def attempt_succeeded(
    task: TaskRef, attempt: int, transition: Payload, usage: Payload, epoch: int = 0
) -> Event:
    """The body ran to its end and everything it saved is stored.

    Payload: of the transition `next` (step names), and for a foreach `foreach` (the list's name) and
    `num_splits`; of the usage `duration_s`, `cpu_s`,
    `max_rss_bytes`, as the worker measured them; `task_key` (hex), the digest of all the task depended on; `reads`, by which
    later runs find it: `shape` (a list: the kind of pickles among what it read, then [kind, name] or [kind, name,
    [depth …], [[first, last] …]] for each place it read from), `digest` (hex, of its code and the values there) and
    `outside` ([kind, name, value in hex] of files and of other runs' values).
    """
    return _of_task("attempt_succeeded", task, attempt=attempt, payload={**transition, **usage}, epoch=epoch)


def attempt_failed(task: TaskRef, attempt: int, error_type: str, payload: Payload, epoch: int = 0) -> Event:
    """An attempt ended without success. `type` is the error's type.

    Payload: `message`, `traceback` (text or None), `cause` ("exception", "exit", "signal", "lost"),
    `exit_code`, `exit_signal` (name such as SIGSEGV), and the usage where the worker lived to
    measure it.
    """
    return _of_task("attempt_failed", task, attempt=attempt, type=error_type, payload=payload, epoch=epoch)


def attempt_caught(
    task: TaskRef, attempt: int, error_type: str, payload: Payload, transition: Payload, epoch: int = 0
) -> Event:
    """The last attempt failed and `@catch` let the flow go on. Payload: of a failure and of a transition."""
    return _of_task(
        "attempt_caught",
        task,
        attempt=attempt,
        type=error_type,
        payload={**payload, **transition},
        epoch=epoch,
    )


def attempt_cancelled(task: TaskRef, attempt: int, reason: str, epoch: int = 0) -> Event:
    """An attempt was ended from outside: a sibling failed, or somebody pressed Ctrl-C."""
    return _of_task("attempt_cancelled", task, attempt=attempt, payload={"message": reason}, epoch=epoch)


def retry_scheduled(task: TaskRef, attempt: int, delay_s: float) -> Event:
    """Attempt number `attempt` will be started once `delay_s` has passed."""
    return _of_task("retry_scheduled", task, attempt=attempt, payload={"delay_s": delay_s})


# Artifacts, reads and console


def artifact_saved(task: TaskRef, attempt: int, name: str, content: Content) -> Event:
    """`self.<name>` was persisted; its object, if it has one, was published before."""
    return _of_task("artifact_saved", task, attempt=attempt, name=name, **_content_columns(content))


def artifact_merged(task: TaskRef, attempt: int, name: str, digest: bytes, producer: Pathspec) -> Event:
    """`merge_artifacts` passed an artifact on by reference; `producer` is the task that saved it."""
    return _of_task("artifact_merged", task, attempt=attempt, name=name, digest=digest, **_producer(producer))


def artifact_used(
    task: TaskRef,
    attempt: int,
    name: str,
    digest: bytes | None,
    producer: Pathspec | None,
    item_index: int | None = None,
    modules: list[str] | None = None,
) -> Event:
    """An attempt loaded an artifact, or looked one up that is not there (`digest` None: `is_absent`).

    With `item_index` it is one item of the foreach list `name`, and `digest` is the item's own. Payload: for a
    pickle `modules`, the local modules that it names.
    """
    return _of_task(
        "artifact_used",
        task,
        payload=None if modules is None else {"modules": modules},
        attempt=attempt,
        name=name,
        digest=digest,
        item_index=item_index,
        is_absent=digest is None,
        **({} if producer is None else _producer(producer)),
    )


def external_used(
    task: TaskRef,
    attempt: int | None,
    uri: str,
    direction: str,
    digest: bytes | None,
    size_bytes: int | None,
    facts: Payload | None = None,
) -> Event:
    """An attempt read or wrote something outside the store. `name` is its URI, `digest` that of its bytes.

    Payload: `direction` ("read" or "write"); `state`, a text that changes when the content does, where no
    digest was made; `parameter`, the name of the parameter that holds the path (the task is then
    `_parameters/0`, and there is no attempt).
    """
    return _of_task(
        "external_used",
        task,
        attempt=attempt,
        name=uri,
        digest=digest,
        size_bytes=size_bytes,
        payload={"direction": direction, **(facts or {})},
    )


def console_written(
    task: TaskRef,
    attempt: int,
    stream: str,
    line_count: int,
    size_bytes: int,
    blob: bytes | None,
    digest: bytes | None,
) -> Event:
    """A chunk of a task's output. `name` is "stdout" or "stderr", `size_bytes` that of the text.

    The chunk is zlib-compressed msgpack: a list of [time in µs, text of one line without its end]. It
    is the event's `blob`, or for large ones the object `digest`.
    """
    return _of_task(
        "console_written",
        task,
        attempt=attempt,
        name=stream,
        size_bytes=size_bytes,
        blob=blob,
        digest=digest,
        payload={"lines": line_count},
    )


def journal_closed(running_hash: bytes) -> Event:
    """The last frame of a journal whose writer ended it in good order; `digest` is the sha256 of all before."""
    return Event(kind="journal_closed", digest=running_hash)


def _producer(producer: Pathspec) -> dict[str, str | None]:
    return {
        "producer_flow": producer.flow,
        "producer_run_id": producer.run_id,
        "producer_step": producer.step,
        "producer_task_id": producer.task_id,
    }
