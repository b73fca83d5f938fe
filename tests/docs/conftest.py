"""Documents as programs: their files are written, their commands run, and what they print is compared.

A fence says what it is: ` ```python file=trees.py ` is written to that file, ` ```diff file=trees.py `
replaces its `-` lines by its `+` lines, ` ```console ` holds commands after `$ ` with what they print.
A line `…` stands for any lines. Run ids, times, durations, pids and digests are masked.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent.parent

_FENCE = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_RUN_ID = re.compile(r"\b1\d{15}\b")
_MASKS = (
    (_RUN_ID, "RUN"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?"), "TIME"),
    (re.compile(r"pid \d+"), "PID"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s|m|h|µs)( ago)?(?=\W|$)"), "SPAN"),
    (re.compile(r"\b(sha256:)?[0-9a-f]{12,64}\b"), "DIGEST"),
    (re.compile(r"\b\d+(\.\d+)? (B|KB|MB|bytes)\b"), "SIZE"),
    (re.compile(r"(/[\w.-]+)+/(?=\w+\.(?:py|csv))"), "FOLDER/"),
    (re.compile(r"[ ─-]+"), " "),
)


class Block(NamedTuple):
    """One fenced block of a document; `line` is where its fence stands."""

    language: str
    file: str | None
    text: str
    line: int


class Step(NamedTuple):
    """One command of a console block and what the document says it prints."""

    command: str
    expected: list[str]
    line: int


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [Block(m[1], m[2], m[3], text.count("\n", 0, m.start()) + 1) for m in _FENCE.finditer(text)]


def steps_of(block: Block) -> list[Step]:
    """The commands of a console block; a command goes on over lines that end with a backslash, or inside quotes."""
    steps: list[Step] = []
    command: list[str] | None = None
    for offset, line in enumerate(block.text.splitlines(), start=1):
        if command is None and line.startswith("$ "):
            command = [line.removeprefix("$ ")]
        elif command is not None:
            command.append(line)
        else:
            assert steps, f"line {block.line + offset} comes before any command"
            steps[-1].expected.append(line)
            continue
        text = "\n".join(command)
        if text.count('"') % 2 == 0 and not text.endswith("\\"):
            steps.append(Step(text, [], block.line + offset))
            command = None
    assert command is None, f"the command at line {block.line} has no end"
    return steps


class Session:
    """A folder in which one document is followed from top to bottom."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ids: dict[str, str] = {}
        self._written: list[str] = []
        self._seen: list[str] = []

    def follow(self, path: Path, commands_max: int | None = None) -> int:
        """Do what the document says, all of it or its first commands; the number of commands that were run."""
        count = 0
        for block in blocks_of(path):
            place = f"{path.name}:{block.line}"
            if block.language == "diff" and block.file:
                self._replace(block, place)
            elif block.language == "console":
                for step in steps_of(block):
                    if count == commands_max:
                        return count
                    self._run(step, f"{path.name}:{step.line}")
                    count += 1
            elif block.file:
                (self.folder / block.file).write_text(block.text, encoding="utf-8")
        return count

    def run(self, command: str) -> str:
        """What a command prints to either stream."""
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("WEFT_", "PYTHON"))}
        env = kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "USER": "ada"}
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.stdout

    def _replace(self, block: Block, place: str) -> None:
        assert block.file is not None
        target = self.folder / block.file
        lines = block.text.splitlines()
        old = "\n".join(line[1:] for line in lines if line.startswith("-"))
        new = "\n".join(line[1:] for line in lines if line.startswith("+"))
        source = target.read_text(encoding="utf-8")
        assert source.count(old) == 1, f"{place}: what is to be replaced is there {source.count(old)} times"
        target.write_text(source.replace(old, new), encoding="utf-8")

    def _run(self, step: Step, place: str) -> None:
        self._note(_RUN_ID.findall(step.command + "\n".join(step.expected)), self._written)
        command = _RUN_ID.sub(lambda found: self._ids.get(found[0], found[0]), step.command)
        printed = self.run(command)
        self._note(_RUN_ID.findall(printed), self._seen)
        self._ids.update(zip(self._written, self._seen, strict=False))
        expected, actual = _masked(step.expected), _masked(printed.splitlines())
        shown = f"{place}: `{command}` printed\n{printed}"
        if "…" in expected:
            missing = [line for line in expected if line not in actual and line != "…"]
            assert not missing, f"{shown}\nand not\n{missing}"
        else:
            # Tasks that run side by side print in any order.
            assert sorted(expected) == sorted(actual), shown

    @staticmethod
    def _note(found: list[str], known: list[str]) -> None:
        known.extend(sorted(set(found) - set(known)))


def _masked(lines: list[str]) -> list[str]:
    masked = []
    for line in lines:
        for pattern, word in _MASKS:
            line = pattern.sub(word, line)
        masked.append(line.strip())
    return [line for line in masked if line]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path)


@pytest.fixture(scope="session")
def readme_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that the flow of the README leaves, run and resumed."""
    session = Session(tmp_path_factory.mktemp("readme"))
    session.follow(ROOT / "README.md", commands_max=2)
    return session.folder / ".weft"
