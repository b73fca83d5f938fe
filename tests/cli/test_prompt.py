"""The prompt of `weft sql`, typed at through a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_WAIT_S = 30.0
_ENDLESS = "select sum(a.range * b.range) from range(10000000) a, range(10000000) b;\n"
#: A session of its own has no terminal yet, and Ctrl-C would reach nobody.
_TAKE_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A process at the other end of a terminal."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        # Else Ctrl-C throws away what was shown since, too.
        settings = termios.tcgetattr(slave)
        settings[3] |= termios.NOFLSH
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env,
            start_new_session=True,
        )
        os.close(slave)
        self._shown = ""

    def wait_for_editor(self) -> None:
        """Wait until the line editor reads: what is typed before that is shown twice, and may be run much later."""
        deadline = time.monotonic() + _WAIT_S
        while termios.tcgetattr(self._master)[3] & termios.ICANON:
            assert time.monotonic() < deadline, "the line editor never came"
            time.sleep(0.01)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> str:
        """All that was shown up to `text`, which is not looked at again."""
        deadline = time.monotonic() + _WAIT_S
        while text not in self._shown:
            readable, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, f"{text!r} never came; shown: {self._shown!r}"
            try:
                self._shown += os.read(self._master, 65536).decode()
            except OSError as error:
                raise AssertionError(
                    f"it ended with {self.process.wait(_WAIT_S)}: {self._shown!r}"
                ) from error
        before, _, self._shown = self._shown.partition(text)
        return before

    def interrupt(self) -> str:
        """What was shown from Ctrl-C to the next prompt. A line editor that is just reading misses one: it is pressed again."""
        for _ in range(int(_WAIT_S)):
            self.type("\x03")
            readable, _, _ = select.select([self._master], [], [], 1.0)
            if readable:
                return self.wait_for("weft> ")
        raise AssertionError("Ctrl-C does nothing")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self._master)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def prompt(store_folder: Path, state: Path) -> Iterator[Terminal]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("WEFT")}
    env |= {"XDG_STATE_HOME": str(state), "NO_COLOR": "1", "TERM": "xterm", "INPUTRC": "/dev/null"}
    terminal = Terminal([sys.executable, "-m", "weft", "--store", str(store_folder), "sql"], env)
    terminal.wait_for("weft> ")
    yield terminal
    terminal.close()


def test_query_that_runs_is_cancelled_by_ctrl_c_and_the_next_is_answered(prompt: Terminal) -> None:
    shown = ""
    while "cancelled" not in shown:
        # Between the end of a line and the start of its query Ctrl-C drops the line instead.
        prompt.wait_for_editor()
        prompt.type(_ENDLESS)
        prompt.wait_for("range(10000000) b;\r\n")
        shown = prompt.interrupt()
    prompt.wait_for_editor()
    prompt.type("select count(*) as n from runs;\n")
    prompt.wait_for("1 row in ")
    prompt.wait_for("weft> ")
    prompt.type("half a que")
    prompt.wait_for("half a que")
    prompt.interrupt()
    prompt.type("select 40 + 2 as n;\n")
    assert "42" in prompt.wait_for("1 row in ")
    prompt.type("\\q\n")
    assert prompt.process.wait(_WAIT_S) == 0


def test_views_are_listed_described_and_completed_and_what_was_typed_is_kept(
    prompt: Terminal, state: Path
) -> None:
    prompt.type("\\d\n")
    assert "artifact_uses" in prompt.wait_for("weft> ")
    prompt.type("\\d tags\n")
    assert "TIMESTAMP" in prompt.wait_for("weft> ")
    prompt.type("\\d nothing\n")
    prompt.wait_for("There is no view 'nothing'")
    prompt.type("\\timing\n")
    prompt.wait_for("timing is off")
    prompt.wait_for("weft> ")
    prompt.type("select count(*) as n from artifact_u\t;\n")
    assert "from artifact_uses" in prompt.wait_for("weft> ")
    prompt.type("\\nonsense\n")
    prompt.wait_for("There is no command \\nonsense")
    prompt.wait_for("weft> ")
    prompt.type("\x04")
    assert prompt.process.wait(_WAIT_S) == 0
    assert "\\d tags" in (state / "weft" / "sql_history").read_text()
