"""A command line of a flow as it was typed: which flow it is about, and which store."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from weft.cli.output import print_error
from weft.lineage.description import STORE_FOLDER, create_store, find_store, read_description
from weft.lineage.errors import InvalidFlow, NotFound
from weft.lineage.storage import Storage
from weft.lineage.stores import open_storage
from weft.runtime.config import configs_of, given_configs
from weft.runtime.flow import FlowSpec
from weft.runtime.graph import Graph

__all__ = [
    "Invocation",
    "Opened",
    "checked_graph",
    "configs_given",
    "existing_store",
    "flow_command",
    "open_for_reading",
    "open_for_writing",
]

_SAFE_IN_A_SHELL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@%+=,")


class Invocation(NamedTuple):
    """What stands before the command, and the flow it is about."""

    flow_class: type[FlowSpec]
    store_url: str | None
    is_quiet: bool
    decorators: tuple[str, ...]
    #: Names and files, and names and documents, of configs.
    configs: tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = ((), ())

    @property
    def script(self) -> str:
        module = sys.modules[self.flow_class.__module__]
        return getattr(module, "__file__", None) or sys.argv[0]

    def command(self, words: str) -> str:
        """What a user types for a command of this flow on this store."""
        return f"{flow_command()}{self._store_option} {words}"

    def store_command(self, words: str) -> str:
        """What a user types for a `weft` command on this store."""
        return f"weft{self._store_option} {words}"

    @property
    def _store_option(self) -> str:
        return f" --store {_quoted(self.store_url)}" if self.store_url else ""


def flow_command() -> str:
    """How the flow was started, as it is typed: `python flow.py` or `python -m package.flow`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None:
        return f"python -m {spec.name.removesuffix('.__main__')}"
    return f"python {_quoted(sys.argv[0])}"


def _quoted(word: str) -> str:
    if _SAFE_IN_A_SHELL.issuperset(word):
        return word
    import shlex

    return shlex.quote(word)


def checked_graph(call: Invocation) -> Graph:
    """The graph of a flow that checks, with what `--with` adds. Raises: InvalidFlow, UsageError."""
    from weft.runtime.checks import check_flow
    from weft.runtime.source import parse_flow

    graph = parse_flow(call.flow_class)
    problems = check_flow(call.flow_class, graph)
    for problem in problems[:-1]:
        print_error(str(problem))
    if problems:
        raise InvalidFlow(problems[-1].message, problems[-1].path, problems[-1].line)
    return graph


def configs_given(call: Invocation, options: Mapping[str, Any]) -> dict[str, Any]:
    """The configs that are given before and after the command, or by the environment. Raises: UsageError."""
    if not configs_of(call.flow_class):
        return {}
    files = [*call.configs[0], *options.get("config_files", ())]
    documents = [*call.configs[1], *options.get("config_values", ())]
    return given_configs(call.flow_class, dict(files), dict(documents), os.environ)


def existing_store(call: Invocation) -> str:
    root = call.store_url or find_store(os.getcwd(), os.environ)
    if root is None:
        raise NotFound("There is no store here. Run the flow first, or name a store with --store.")
    return root


class Opened(NamedTuple):
    """A store and its id."""

    storage: Storage
    store_id: str


def open_for_writing(call: Invocation) -> Opened:
    """The store a run is recorded in; created if there is none. Raises: StoreError."""
    root = call.store_url or find_store(os.getcwd(), os.environ) or os.path.join(os.getcwd(), STORE_FOLDER)
    storage = open_storage(root)
    return Opened(storage, create_store(storage).store_id)


def open_for_reading(call: Invocation) -> Opened:
    """The store that is there. Raises: NotFound, StoreError."""
    storage = open_storage(existing_store(call))
    return Opened(storage, read_description(storage).store_id)
