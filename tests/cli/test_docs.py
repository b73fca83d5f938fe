"""docs/commands.md has every command and every option."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from weft.cli.commands import COMMANDS
from weft.cli.group import group

DOCS = Path(__file__).parent.parent.parent / "docs" / "commands.md"


def _section(name: str) -> str:
    found = re.search(rf"^## weft {name}\n(.*?)(?=^## |\Z)", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"docs/commands.md has no section on weft {name}"
    return found[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_docs_name_every_option_of_the_command(name: str) -> None:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    section = _section(name)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            for option in parameter.opts:
                assert f"`{option}" in section, f"weft {name} {option} is not in docs/commands.md"
        elif parameter.required:
            assert str(parameter.name).upper() in section


def test_docs_have_no_command_that_is_not_there() -> None:
    assert re.findall(r"^## weft (\w+)$", DOCS.read_text(), re.MULTILINE) == list(COMMANDS)


def test_docs_name_the_options_of_the_group() -> None:
    for parameter in group.params:
        assert any(option in DOCS.read_text() or option == "--version" for option in parameter.opts)
