"""The code of a run: the flow's file and the local modules it imported, content-addressed, and what git says."""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

from weft.lineage import clock
from weft.lineage.objects import Objects

__all__ = ["CodeSnapshot", "GitQuestion", "save_code"]

_CODE_BYTES_MAX = 10 << 20
_GIT_WAIT_S = 0.5


class CodeSnapshot(NamedTuple):
    """`digest` names the manifest object; `skipped` maps paths left out to the reason."""

    digest: bytes
    size_bytes: int
    entry: str
    file_count: int
    skipped: dict[str, str]


class GitQuestion:
    """One `git status`, asked while other work goes on and waited for half a second at most."""

    def __init__(self, folder: str) -> None:
        self._process: Any = None
        self._asked_at_s = clock.monotonic_s()
        root = _repository_of(folder)
        if root is None:
            return
        self._prefix = os.path.relpath(folder, root) + os.sep
        import subprocess

        command = [
            "git",
            "-C",
            folder,
            "status",
            "--porcelain=v2",
            "--branch",
            "--ignored=matching",
            "-z",
            ".",
        ]
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError:
            self._process = None

    def answer(self) -> tuple[dict[str, Any] | None, frozenset[str]]:
        """(commit, branch and dirtiness; paths that git ignores), or (None, nothing) where git says nothing."""
        if self._process is None:
            return None, frozenset()
        import subprocess

        process, self._process = self._process, None
        left_s = max(0.0, self._asked_at_s + _GIT_WAIT_S - clock.monotonic_s())
        try:
            output, _ = process.communicate(timeout=left_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return None, frozenset()
        if process.returncode != 0:
            return None, frozenset()
        facts, ignored = _parse_status(output.decode("utf-8", "replace"))
        # Git names paths from the root of the repository.
        here = self._prefix.removeprefix("." + os.sep)
        return facts, frozenset(path.removeprefix(here) for path in ignored)


def save_code(entry: str, objects: Objects, ignored: frozenset[str]) -> CodeSnapshot:
    """Store the flow's file and every `.py` below its folder that was imported.

    Left out, and named: what git ignores, and what would make the snapshot larger than 10 MB. Installed
    packages are never part of it.
    """
    import hashlib
    import json

    folder = os.path.dirname(os.path.abspath(entry))
    files: dict[str, str] = {}
    skipped: dict[str, str] = {}
    total_bytes = 0
    for path in [os.path.abspath(entry), *_local_modules(folder)]:
        name = os.path.relpath(path, folder)
        if name in files:
            continue
        if name in ignored or any(name.startswith(i) for i in ignored if i.endswith("/")):
            skipped[name] = "ignored by git"
            continue
        try:
            with open(path, "rb") as file:
                source = file.read()
        except OSError as error:
            skipped[name] = f"cannot be read: {error.strerror}"
            continue
        if total_bytes + len(source) > _CODE_BYTES_MAX:
            skipped[name] = "beyond the limit of 10 MB"
            continue
        total_bytes += len(source)
        files[name] = objects.put([source]).hex()
    manifest = json.dumps({"entry": os.path.basename(entry), "files": files}, sort_keys=True).encode()
    digest = objects.put([manifest], hashlib.sha256(manifest).digest())
    return CodeSnapshot(digest, len(manifest), os.path.basename(entry), len(files), skipped)


def _local_modules(folder: str) -> list[str]:
    """Files of imported modules below the folder, but for installed ones; sorted."""
    found = set()
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if not isinstance(path, str) or not path.endswith(".py"):
            continue
        path = os.path.abspath(path)
        if not path.startswith(folder + os.sep) or name.partition(".")[0] == "weft":
            continue
        parts = path[len(folder) :].split(os.sep)
        is_installed = (
            "site-packages" in parts or "dist-packages" in parts or path.startswith(_STANDARD_LIBRARY)
        )
        if not is_installed:
            found.add(path)
    return sorted(found)


#: An interpreter may be installed below the flow's folder, too.
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep


def _repository_of(folder: str) -> str | None:
    """The nearest folder above with a `.git`, found without starting git."""
    while not os.path.exists(os.path.join(folder, ".git")):
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent
    return folder


def _parse_status(text: str) -> tuple[dict[str, Any] | None, frozenset[str]]:
    """Source: git-status(1), porcelain format version 2."""
    commit = branch = None
    is_dirty = False
    ignored = set()
    for entry in text.split("\0"):
        if entry.startswith("# branch.oid "):
            commit = entry.removeprefix("# branch.oid ")
        elif entry.startswith("# branch.head "):
            branch = entry.removeprefix("# branch.head ")
        elif entry.startswith("! "):
            ignored.add(entry[2:])
        elif entry[:2] in ("1 ", "2 ", "u ", "? "):
            is_dirty = True
    if commit is None:
        return None, frozenset()
    return {"commit": commit, "branch": branch, "is_dirty": is_dirty}, frozenset(ignored)
