"""Runs a recorded run again from its code snapshot, with its parameters, and compares what comes of it.

The reproduction is a run of the same store that takes over the parameters of the recorded run as they are recorded,
bytes for bytes, and none of its tasks: a resume from its first step on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from weft.lineage.accounts import ViewAccount
from weft.lineage.comparison import read_code
from weft.lineage.errors import NotFound, UsageError, WeftError
from weft.lineage.external import fingerprint
from weft.lineage.ids import digest_to_text
from weft.lineage.pairs import RunFacts
from weft.lineage.run_facts import read_run_facts
from weft.lineage.serializers import is_pickle

if TYPE_CHECKING:
    from weft.lineage.answers import Answers

__all__ = [
    "Deviation",
    "Recipe",
    "check_environment",
    "check_inputs",
    "make_recipe",
    "reproduce",
    "uv_command",
]

_TAG = "reproduces:"


class Deviation(NamedTuple):
    """Something that is not as it was recorded; None is what is not there."""

    name: str
    recorded: str | None
    here: str | None


class Recipe(NamedTuple):
    """How to run a recorded run again; `files` are the texts of its code by path.

    `is_trusted` says that pickles of its parameters may be loaded.
    """

    run: RunFacts
    entry: str
    files: dict[str, str]
    start: str
    options: tuple[str, ...]
    is_trusted: bool


def make_recipe(store: Answers, flow: str, run_id: str, is_trusted: bool) -> Recipe:
    """Read all that is needed from the record.

    Raises: NotFound when the code is not in the store; UsageError when a parameter is a pickle and `is_trusted` is
    not given.
    """
    account = ViewAccount(store)
    (run,) = read_run_facts(account, list(account.runs([(flow, run_id)]).values()))
    if run.code_digest is None or run.graph is None:
        raise NotFound(
            f"{run.pathspec} has recorded no code. Only runs made by weft from a file can be reproduced."
        )
    entry, files = read_code(store, run.code_digest)
    rows = store.rows(
        "select name, serializer from artifacts where flow = ? and run_id = ? and step = '_parameters' "
        "and name in (select name from parameters where flow = ? and run_id = ?) order by name",
        [flow, run_id, flow, run_id],
    )
    pickled = [name for name, serializer in rows if is_pickle(serializer)]
    if pickled and not is_trusted:
        raise UsageError(
            f"Parameter {pickled[0]} of {run.pathspec} is recorded as a pickle, and loading a pickle can run any code. "
            "Pass --trust if you trust who wrote it."
        )
    return Recipe(run, entry, files, str(run.graph["start"]), _options_of(run), is_trusted)


def check_environment(run: RunFacts) -> list[Deviation]:
    """What of Python, platform and packages is not here as the run recorded it."""
    from importlib.metadata import PackageNotFoundError, version

    from weft.lineage.version import VERSION

    system = os.uname()
    here: dict[str, str | None] = {
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "platform": f"{system.sysname}-{system.release}-{system.machine}",
        "weft": VERSION,
    }
    for name in run.environment:
        if name.startswith("package "):
            try:
                here[name] = version(name.removeprefix("package "))
            except PackageNotFoundError:
                here[name] = None
    return [
        Deviation(name, recorded, here[name])
        for name, recorded in run.environment.items()
        if name in here and here[name] != recorded
    ]


def check_inputs(store: Answers, run: RunFacts) -> list[Deviation]:
    """Which files that the run read are not what they were."""
    rows = store.rows(
        "select uri, min(digest) from external_uses where flow = ? and run_id = ? and direction = 'read' "
        "and digest is not null group by uri having count(distinct digest) = 1 order by uri",
        [run.flow, run.run_id],
    )
    found = []
    for uri, recorded in rows:
        if "://" in uri and not uri.startswith("file://"):
            continue
        path = uri.removeprefix("file://")
        digest = fingerprint(path).digest if os.path.exists(path) else None
        here = None if digest is None else digest_to_text(digest)
        if here != recorded:
            found.append(Deviation(uri, recorded, here))
    return found


def reproduce(recipe: Recipe, store_url: str, has_uv: bool = False) -> str:
    """Run it again in the store, from a temporary folder; what its tasks print goes to stderr. The id of the new run.

    The working folder is the caller's, so that relative paths lead where they do for the caller.

    Raises: UsageError where uv is asked for and is not there; WeftError when no run came about.
    """
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory(prefix="weft-reproduce-") as folder:
        entry = _restore(recipe, os.path.join(folder, "code"))
        id_file = os.path.join(folder, "run_id")
        command, environment = _python(recipe, folder) if has_uv else ([sys.executable], dict(os.environ))
        command += [entry, "--store", store_url, *recipe.options, "resume", recipe.start]
        command += ["--origin-run-id", recipe.run.run_id, "--tag", f"{_TAG}{recipe.run.pathspec}"]
        command += ["--run-id-file", id_file, *(["--trust"] if recipe.is_trusted else [])]
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=2, check=False)
        try:
            with open(id_file, encoding="utf-8") as file:
                run_id = file.read().strip()
        except OSError:
            run_id = ""
    if not run_id:
        raise WeftError(
            f"{recipe.run.pathspec} could not be started again: its code ended with exit code {done.returncode} before "
            "its first task. What it printed above says why."
        )
    return run_id


def _restore(recipe: Recipe, folder: str) -> str:
    """Write the code to a folder; the path of the flow's file."""
    root = os.path.abspath(folder)
    for name, text in recipe.files.items():
        path = os.path.normpath(os.path.join(root, name))
        if not path.startswith(root + os.sep):
            raise WeftError(
                f"The code of {recipe.run.pathspec} names a file outside its folder: {name}. It is not run."
            )
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)
    return os.path.join(root, recipe.entry)


def _options_of(run: RunFacts) -> tuple[str, ...]:
    """The decorators that the recorded command line added to every step."""
    found: list[str] = []
    for word, following in zip(run.command, [*run.command[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if option == "--with" and (equals or following):
            found += ["--with", value if equals else following]
    return tuple(found)


def _python(recipe: Recipe, folder: str) -> tuple[list[str], dict[str, str]]:
    """The start of a command in an environment that uv makes, and its variables; weft itself is this one."""
    from importlib.metadata import requires
    from shutil import which

    uv = which("uv")
    if uv is None:
        raise UsageError("uv is not on PATH. Install it, or leave out --uv to run in this environment.")
    packages = {
        name.removeprefix("package "): version
        for name, version in recipe.run.environment.items()
        if name.startswith("package ")
    }
    return uv_command(uv, recipe.run.environment.get("python"), packages, requires("weft") or []), {
        **os.environ,
        "PYTHONPATH": _link(folder, sys.modules["weft"].__path__[0]),
    }


def uv_command(uv: str, python: str | None, packages: Mapping[str, str], needed: Sequence[str]) -> list[str]:
    """`uv run` with the recorded packages in their versions, and what weft needs beside them."""
    command = [uv, "run", "--no-project", "--isolated", *(("--python", python) if python else ())]
    recorded = {name.replace("-", "_").lower() for name in packages}
    for name, version in packages.items():
        if name not in ("setuptools", "pip"):
            command += ["--with", f"{name}=={version}"]
    for requirement in needed:
        name = requirement.partition(";")[0].split(">")[0].split("=")[0].strip()
        if "extra ==" not in requirement and name.replace("-", "_").lower() not in recorded:
            command += ["--with", requirement]
    return [*command, "python"]


def _link(folder: str, package: str) -> str:
    """A folder that holds this weft and nothing else."""
    path = os.path.join(folder, "packages")
    os.mkdir(path)
    os.symlink(os.path.realpath(package), os.path.join(path, "weft"))
    return path
