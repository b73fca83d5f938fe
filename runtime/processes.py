"""Which process this is, so that others can see whether it still lives. Linux tells all of it."""

from __future__ import annotations

import os

from weft.lineage.schema import Payload

__all__ = ["is_alive", "this_process"]


def this_process() -> Payload:
    """Boot, number and start of this process, in ticks since the boot; None where the system does not tell."""
    return {
        "boot_id": _boot_id(),
        "pid": os.getpid(),
        "pid_started": _started("self"),
    }


def is_alive(told: Payload) -> bool:
    """Whether the process that said this of itself is seen on this machine, and at work."""
    boot_id, pid, started = (told.get(name) for name in ("boot_id", "pid", "pid_started"))
    return boot_id is not None and boot_id == _boot_id() and started is not None and started == _started(pid)


def _boot_id() -> str | None:
    return _read_first_line("/proc/sys/kernel/random/boot_id")


def _started(pid: object) -> int | None:
    line = _read_first_line(f"/proc/{pid}/stat")
    if line is None:
        return None
    state, *fields = line.rpartition(")")[2].split()
    # One that was killed and that nobody has waited for is still listed.
    return None if state in "ZX" else int(fields[18])


def _read_first_line(path: str) -> str | None:
    try:
        with open(path, encoding="ascii") as file:
            return file.readline().strip()
    except OSError:
        return None
