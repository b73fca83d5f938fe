"""`weft reproduce`: run a recorded run again and compare what comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from weft.cli.diff import show_diff
from weft.cli.format import escape_controls, short_digest
from weft.cli.output import Output
from weft.cli.session import Session, json_option

if TYPE_CHECKING:
    from weft.lineage.diff import Diff
    from weft.runtime.reproduce import Deviation

__all__ = ["reproduce"]


@click.command(short_help="Run a recorded run again and compare what comes of it.")
@click.argument("run")
@click.option("--uv", "has_uv", is_flag=True, help="In an environment that uv makes as it was recorded.")
@click.option("--trust", "is_trusted", is_flag=True, help="Let parameters that are pickles be loaded.")
@json_option
@click.pass_obj
def reproduce(session: Session, run: str, has_uv: bool, is_trusted: bool, is_json: bool) -> int:
    """Run a recorded run again and compare what comes of it.

    RUN is Flow/run. Its code snapshot is restored to a temporary folder and run with its parameters, as a run
    of the same store with the tag reproduces:RUN; Python, packages and files that are not as they were
    recorded are listed first. Exit code 0: every artifact has the digest it had; 1: not so, and the first
    difference is shown. The code of the run is executed: reproduce only what you would run.

    \b
    Examples:
      weft reproduce MyFlow/17
      weft reproduce MyFlow/17 --uv --json
    """
    from weft.lineage.run_facts import find_run
    from weft.runtime.reproduce import check_environment, check_inputs, make_recipe
    from weft.runtime.reproduce import reproduce as run_again

    session.check_is_now("A reproduction runs now.")
    output = Output(is_json=is_json)
    with session.open() as store:
        named = find_run(store, run)
        recipe = make_recipe(store, named.flow, named.run_id, is_trusted)
        environment = [] if has_uv else check_environment(recipe.run)
        inputs = check_inputs(store, recipe.run)
        if not is_json:
            _show_deviations(output, "environment", environment)
            _show_deviations(output, "input", inputs)
            output.flush()
        run_id = run_again(recipe, store.url, has_uv)
        found = store.diff(recipe.run.pathspec, f"{recipe.run.flow}/{run_id}")
        if is_json:
            output.document(_document(found, environment, inputs))
        else:
            _show_outcome(output, found)
        return 0 if found.is_equal else 1


def _show_deviations(output: Output, noun: str, deviations: list[Deviation]) -> None:
    for deviation in deviations:
        recorded, here = (_short(value) for value in (deviation.recorded, deviation.here))
        text = f"{noun} {deviation.name}: recorded {recorded}, here {here}"
        output.line(escape_controls(text), "yellow")


def _short(value: str | None) -> str:
    if value is None:
        return "nothing"
    return short_digest(value) if value.startswith("sha256:") else value


def _artifacts(found: Diff) -> list[dict[str, Any]]:
    """Each artifact name of each step: how many tasks have it equal, changed, or in one run only."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for (step, name), count in found.equal.items():
        rows[step, name] = {
            "step": step,
            "name": name,
            "equal": count,
            "changed": 0,
            "only_a": 0,
            "only_b": 0,
        }
    for difference in found.differences:
        if difference.kind == "artifact":
            key = (difference.step or "", difference.name or "")
            row = {"step": key[0], "name": key[1], "equal": 0, "changed": 0, "only_a": 0, "only_b": 0}
            rows.setdefault(key, row)[difference.change] += 1
    order = {times.step: place for place, times in enumerate(found.times)}
    return sorted(rows.values(), key=lambda row: (order.get(row["step"], len(order)), row["name"]))


def _document(found: Diff, environment: list[Deviation], inputs: list[Deviation]) -> dict[str, Any]:
    return {
        "run": found.a.pathspec,
        "reproduction": found.b.pathspec,
        "is_equal": found.is_equal,
        "environment": [deviation._asdict() for deviation in environment],
        "inputs": [deviation._asdict() for deviation in inputs],
        "artifacts": _artifacts(found),
        "diff": found.document(),
    }


def _show_outcome(output: Output, found: Diff) -> None:
    rows = _artifacts(found)
    output.table(
        ("artifact", "equal", "changed", "missing", "new"),
        [
            (
                f"{row['step']}/{row['name']}",
                row["equal"],
                row["changed"] or None,
                row["only_a"] or None,
                row["only_b"] or None,
            )
            for row in rows
        ],
        empty="no artifacts",
    )
    if found.is_equal:
        output.line(f"{found.b.pathspec} is equal to {found.a.pathspec}", "green")
        return
    output.line(f"{found.b.pathspec} is not equal to {found.a.pathspec}", "red")
    output.line()
    show_diff(output, found.text())
