"""What is recorded of a run as a whole, for who compares or repeats it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from weft.lineage.accounts import Account, ViewAccount
from weft.lineage.errors import NotFound, UsageError
from weft.lineage.held_account import account_of
from weft.lineage.ids import digest_to_text, parse_pathspec
from weft.lineage.named_runs import NamedRun
from weft.lineage.near_names import near
from weft.lineage.pairs import RunFacts

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = ["find_run", "find_runs", "read_run_facts"]

#: The families of events that two runs are compared by; those of runs and tasks come with every run.
_FAMILIES = ("artifact", "use", "other")


def find_run(store: Answers, text: str, account: Account | None = None) -> NamedRun:
    """The run that `Flow/run` names; of a flow alone the newest. Raises: NotFound, UsageError."""
    account = account or ViewAccount(store)
    spec = parse_pathspec(text)
    if spec.step is not None:
        raise UsageError(f"{text} names more than a run. Write {spec.flow}/{spec.run_id}.")
    run = (
        None
        if spec.run_id is None
        else account.runs([(spec.flow, spec.run_id)]).get((spec.flow, spec.run_id))
    )
    if run is not None:
        return run
    ids = store.rows(
        "select run_id from fold.runs where flow = ? order by started_at desc, run_id desc", [spec.flow]
    )
    if not ids:
        flows = [row[0] for row in store.rows("select distinct flow from fold.runs")]
        raise NotFound(f"There is no flow {spec.flow!r} in {store.url}.{near(spec.flow, flows)}")
    if spec.run_id is None:
        (run,) = account.runs([(spec.flow, ids[0][0])]).values()
        return run
    hint = near(spec.run_id, [row[0] for row in ids])
    raise NotFound(f"There is no run {spec.flow}/{spec.run_id} in {store.url}.{hint}")


def find_runs(store: Answers, texts: Sequence[str]) -> tuple[Account, list[NamedRun]]:
    """The runs that these name, as `find_run` does, and an account of all that is compared of them."""
    specs = [parse_pathspec(text) for text in texts]
    about = [(spec.flow, spec.run_id) for spec in specs if spec.run_id is not None]
    store.foresee(about, (), later=("run", "task", *_FAMILIES))
    account = account_of(store, about, _FAMILIES)
    return account, [find_run(store, text, account) for text in texts]


def read_run_facts(account: Account, runs: Sequence[NamedRun]) -> list[RunFacts]:
    """What is recorded of each of some runs."""
    told: list[dict[bytes, dict[str, Any]]] = []
    for kind in ("run_started", "code_reached"):
        rows = account.events((kind,), ("epoch", "time_us", "writer", "seq", "run_uid", "payload"), runs)
        payloads: dict[bytes, dict[str, Any]] = {}
        for *_, uid, payload in sorted(rows, key=lambda row: (-row[0], *row[1:4])):
            payloads.setdefault(bytes(uid), payload or {})
        told.append(payloads)
    return [_run_facts(run, *(payloads.get(run.uid, {}) for payloads in told)) for run in runs]


def _run_facts(run: NamedRun, started: dict[str, Any], reached: dict[str, Any]) -> RunFacts:
    duration_s = None
    if run.started_at is not None and run.finished_at is not None:
        duration_s = (run.finished_at - run.started_at).total_seconds()
    return RunFacts(
        run.pathspec,
        run.flow,
        run.run_id,
        run.status,
        run.started_at,
        duration_s,
        None if run.code_digest is None else digest_to_text(run.code_digest),
        run.origin_run_id,
        started.get("graph") or None,
        _environment(started, reached, run.user_name),
        tuple(map(str, started.get("command") or ())),
        {step: code["digest"] for step, code in (reached.get("steps") or {}).items()},
    )


def _environment(started: dict[str, Any], reached: dict[str, Any], user: str | None) -> dict[str, str]:
    git = started.get("git") or {}
    facts = {name: started.get(name) for name in ("python", "platform", "weft", "host", "isolation")}
    facts |= {"user": user, "git commit": git.get("commit"), "git branch": git.get("branch")}
    # What was imported when the run began, and what the code imports later.
    told = {**(reached.get("packages") or {}), **(started.get("packages") or {})}
    packages = {name.replace("-", "_"): version for name, version in told.items()}
    facts |= {f"package {name}": version for name, version in sorted(packages.items())}
    return {name: str(value) for name, value in facts.items() if value is not None}
