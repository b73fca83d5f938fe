from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from weft.cli.commands import COMMANDS
from weft.cli.group import group

if TYPE_CHECKING:
    from tests.cli.conftest import Ask

HEAVY = ("duckdb", "_duckdb", "pyarrow", "pandas", "numpy", "s3fs", "fsspec", "asyncio", "sklearn")
NOT_BUILT = ("gc", "rm")


def _command(name: str) -> click.Command:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    return command


def _weft(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "weft", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | settings,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_help_with_an_example(name: str, weft: Ask) -> None:
    answer = weft(name, "--help")
    assert answer.code == 0
    assert f"weft {name}" in answer.out.replace(f"Usage: weft {name}", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_group_help_says_what_the_command_says(name: str) -> None:
    assert COMMANDS[name].help == _command(name).short_help


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("demo", "export")])
def test_command_that_shows_something_has_json(name: str) -> None:
    assert any("--json" in parameter.opts for parameter in _command(name).params)


def test_group_help_lists_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, weft.cli.main as m\n"
        "try: m.main(['--help'])\n"
        f"except SystemExit as e: print([n for n in {HEAVY!r} if n in sys.modules], e.code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[] 0\n")
    for name in COMMANDS:
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize("name", NOT_BUILT)
def test_command_that_is_not_built_is_absent(name: str, weft: Ask) -> None:
    answer = weft(name)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: There is no command '{name}'.")


def test_unknown_command_names_a_near_one(weft: Ask) -> None:
    assert "Did you mean runs?" in weft("rnus").err


def test_unknown_option_is_wrong_usage(weft: Ask) -> None:
    answer = weft("runs", "--stauts", "failed")
    assert (answer.code, answer.out) == (2, "")
    assert "--status" in answer.err


def test_no_store_names_the_option_and_creates_none(
    tmp_path: Path, weft: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    answer = weft("--store", str(empty / ".weft"), "runs")
    assert (answer.code, answer.out) == (2, "")
    assert "--store" in answer.err
    assert list(empty.iterdir()) == []


def test_store_of_a_newer_weft_is_refused(store_folder: Path, weft: Ask) -> None:
    description = json.loads((store_folder / "weft.json").read_text())
    (store_folder / "weft.json").write_text(json.dumps(description | {"format": 99, "version": "9.0"}))
    answer = weft("runs")
    assert (answer.code, answer.out) == (3, "")
    assert "9.0" in answer.err
    assert "Upgrade" in answer.err


def test_store_is_found_above_the_working_directory(
    store_folder: Path, weft: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = store_folder.parent / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert len(weft("runs", "--json").json) == 2


def test_store_is_named_by_option_before_environment(
    store_folder: Path, weft: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WEFT_STORE", str(tmp_path / "nowhere"))
    assert weft("runs").code == 2
    assert weft("--store", str(store_folder), "runs").code == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no file that is always full")
@pytest.mark.parametrize("arguments", [("runs",), ("runs", "--json"), ("log",), ("verify",), ("--help",)])
def test_answer_that_does_not_fit_ends_in_one_sentence(
    store_folder: Path, arguments: tuple[str, ...]
) -> None:
    command = [sys.executable, "-m", "weft", "--store", str(store_folder), *arguments]
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: The answer cannot be written: No space left on device. Make room there, or send it elsewhere.\n"
    )


def test_closed_pipe_is_silent(store_folder: Path) -> None:
    command = f"{sys.executable} -m weft --store {store_folder} log --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{", "")


def test_version_is_shown() -> None:
    assert _weft("--version").stdout.startswith("weft 0.")


def test_what_was_registered_for_the_end_of_the_process_is_called() -> None:
    program = (
        "import atexit, sys, weft.cli.main as m\n"
        "atexit.register(print, 'the end')\n"
        "sys.argv = ['weft', 'nothing' if len(sys.argv) > 1 else '--version']\n"
        "m.main()\n"
    )
    ended = [
        subprocess.run([sys.executable, "-c", program, *more], capture_output=True, text=True, check=False)
        for more in ([], ["fails"])
    ]
    assert [each.returncode for each in ended] == [0, 2]
    assert all(each.stdout.endswith("the end\n") for each in ended)
    assert ended[1].stderr.startswith("error: There is no command")
