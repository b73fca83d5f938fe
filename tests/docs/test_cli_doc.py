"""Every command and every option has help and is in docs/cli.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from weft.cli import commands, group

DOCUMENT = (Path(__file__).parent.parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
SECTIONS = {
    part.partition("\n")[0]: part for part in re.split(r"^## ", DOCUMENT, flags=re.MULTILINE) if "```" in part
}
README_FLOW_COMMANDS = ("check", "dump", "help", "logs", "resume", "run", "show", "version")


def _command(name: str) -> click.Command:
    command = group.group.get_command(click.Context(group.group), name)
    assert command is not None
    return command


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_command_has_help_and_is_documented(name: str) -> None:
    command = _command(name)
    assert command.help
    section = SECTIONS[f"weft {name}"]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"weft {name} {parameter.opts} has no help"
            for option in parameter.opts:
                assert option in section, f"weft {name} {option}: run tools/write-cli-docs"


def test_documented_commands_are_those_there_are() -> None:
    documented = {name.removeprefix("weft ") for name in SECTIONS if name.startswith("weft ")}
    assert documented == set(commands.COMMANDS)


def test_flow_commands_and_options_are_documented(readme_store: Path) -> None:
    folder = readme_store.parent
    shown = _help(folder)
    commands = re.findall(r"^  ([a-z][\w-]*)  ", shown.partition("\nCommands:\n")[2], re.MULTILINE)
    assert set(README_FLOW_COMMANDS) <= set(commands)
    for command in commands:
        section = SECTIONS[f"flow.py {command}"]
        for option in re.findall(r"--[a-z][\w-]+", _help(folder, command)):
            assert option in section, f"flow.py {command} {option}: run tools/write-cli-docs"
    for option in re.findall(r"--[a-z][\w-]+", shown):
        assert option in SECTIONS["flow.py"]


def _help(folder: Path, *command: str) -> str:
    arguments = [sys.executable, "trees.py", *command, "--help"]
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=True).stdout
