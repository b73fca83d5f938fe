"""The code of a flow as it lies in this process: its local modules, and the versions of those from elsewhere."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from weft.runtime.decorators import Catch, Environment, decorators_of
from weft.runtime.keys import FlowCode, flow_code
from weft.runtime.modules import ModuleSource, is_standard
from weft.runtime.reach import reach_flow

__all__ = ["local_names", "survey"]

_INSTALLED = ("site-packages", "dist-packages")
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
_OWN = frozenset({"weft", "metaflow"})
_SOURCE = ".py"


def survey(flow_class: type) -> FlowCode:
    """What each step of a flow depends on, from the files its modules were loaded from."""
    classes = [
        (base.__module__, base.__qualname__)
        for base in flow_class.__mro__
        if base is not object and base.__module__.partition(".")[0] not in _OWN
    ]
    steps = {name: _asked(decorators) for name, decorators in decorators_of(flow_class).items()}
    module = sys.modules[flow_class.__module__]
    finder = _Finder(os.path.dirname(os.path.abspath(getattr(module, "__file__", None) or "")))
    reach = reach_flow(classes, steps, finder.find, local_names())
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return flow_code(reach, _Distributions().versions(reach.every.modules), python)


def local_names() -> list[str]:
    """The imported modules that are neither installed nor part of Python; sorted."""
    found = []
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and _is_local(path) and name.partition(".")[0] not in _OWN:
            found.append(name)
    return sorted(found)


def _asked(decorators: Iterable[Any]) -> str:
    """What decorators change about what a step makes of its inputs: not how often or how long it is tried."""
    asked = [
        [decorator.name, sorted((k, repr(v)) for k, v in decorator.attributes.items())]
        for decorator in decorators
        if isinstance(decorator, Catch | Environment)
    ]
    return json.dumps(asked) if asked else ""


def _is_local(path: str) -> bool:
    if path.startswith((_STANDARD_LIBRARY, "<")):
        return False
    return not any(part in _INSTALLED for part in path.split(os.sep))


class _Finder:
    """Finds local modules: those imported where they were loaded from, others where Python would look."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._found: dict[str, ModuleSource | None] = {}
        self._folders: dict[str, list[str]] = {}

    def find(self, name: str) -> ModuleSource | None:
        if name not in self._found:
            self._found[name] = None if name.partition(".")[0] in _OWN else self._look(name)
        return self._found[name]

    def _look(self, name: str) -> ModuleSource | None:
        module = sys.modules.get(name)
        if module is not None:
            path = getattr(module, "__file__", None)
            folders = list(getattr(module, "__path__", ()))
            package = getattr(module, "__package__", None) or ""
        else:
            if is_standard(name):
                return None
            path, folders = self._spec(name)
            package = name if folders else name.rpartition(".")[0]
        if folders:
            self._folders[name] = folders
        if path is None:
            is_ours = bool(folders) and all(_is_local(os.path.join(folder, "")) for folder in folders)
            return ModuleSource(name, f"<{name}>", package, ast.Module([], [])) if is_ours else None
        return self._read(name, os.path.abspath(path), package) if _is_local(path) else None

    def _spec(self, name: str) -> tuple[str | None, list[str]]:
        """Where Python would load a module from; nothing is imported."""
        from importlib.machinery import PathFinder

        parent = name.rpartition(".")[0]
        if parent and self.find(parent) is None:
            return None, []
        try:
            spec = PathFinder.find_spec(name, self._folders.get(parent) if parent else None)
        except (ImportError, ValueError):
            return None, []
        if spec is None:
            return None, []
        return spec.origin, list(spec.submodule_search_locations or ())

    def _read(self, name: str, path: str, package: str) -> ModuleSource | None:
        inside = path.startswith(self._folder + os.sep)
        shown = os.path.relpath(path, self._folder) if inside else f"<{name}>"
        try:
            with open(path, "rb") as file:
                source = file.read()
            tree = ast.parse(source, path) if path.endswith(_SOURCE) else None
        except (OSError, SyntaxError, ValueError):
            return ModuleSource(name, shown, package, None, f"unreadable {path}")
        digest = "" if tree is not None else hashlib.sha256(source).hexdigest()
        return ModuleSource(name, shown, package, tree, digest)


class _Distributions:
    """Versions of installed distributions, found beside the modules they brought.

    `importlib.metadata` would read the records of all distributions to say which brought a module.
    """

    def __init__(self) -> None:
        self._listed: dict[str, dict[str, list[tuple[str, str]]]] = {}

    def versions(self, modules: Iterable[str]) -> dict[str, dict[str, str]]:
        """For each module the distributions that may have brought it, with their versions."""
        tops = {module: module.partition(".")[0] for module in modules}
        found = {top: self._of_top(top) for top in sorted(set(tops.values()))}
        return {module: found[top] for module, top in tops.items()}

    def _of_top(self, top: str) -> dict[str, str]:
        folders = self._folders_of(top)
        found: dict[str, str] = {}
        for folder in folders:
            listed = self._list(folder)
            same_name = listed.get(_normal(top), [])
            # A folder without a file of its own may hold parts of many distributions.
            others = [entry for name, entries in listed.items() if name != _normal(top) for entry in entries]
            brought = [entry for entry in same_name if _has_brought(folder, entry[0], top)]
            is_shared = getattr(sys.modules.get(top), "__file__", "") is None
            if not brought or is_shared:
                brought += [entry for entry in others if _has_brought(folder, entry[0], top)]
            for file, version in brought:
                found[file.partition("-")[0]] = version
        return found or {top: "not found" if not folders else "unknown"}

    def _folders_of(self, top: str) -> list[str]:
        module = sys.modules.get(top)
        path = getattr(module, "__file__", None)
        if path is None and module is None:
            from importlib.machinery import PathFinder

            try:
                spec = PathFinder.find_spec(top)
            except (ImportError, ValueError):
                spec = None
            path = None if spec is None else spec.origin
            inside = [] if spec is None else list(spec.submodule_search_locations or ())
        else:
            inside = list(getattr(module, "__path__", ()))
        if inside:
            return sorted({os.path.dirname(folder) for folder in inside})
        return [] if path is None else [os.path.dirname(path)]

    def _list(self, folder: str) -> dict[str, list[tuple[str, str]]]:
        """(folder of its record, version) of each distribution, by normal name."""
        if folder not in self._listed:
            listed: dict[str, list[tuple[str, str]]] = {}
            try:
                names = os.listdir(folder)
            except OSError:
                names = []
            for name in names:
                if name.endswith((".dist-info", ".egg-info")):
                    distribution, _, version = name.rpartition(".")[0].partition("-")
                    listed.setdefault(_normal(distribution), []).append((name, version or "unknown"))
            self._listed[folder] = listed
        return self._listed[folder]


def _has_brought(folder: str, record: str, top: str) -> bool:
    for name in ("RECORD", "top_level.txt", "SOURCES.txt"):
        try:
            with open(os.path.join(folder, record, name), "rb") as file:
                listed = b"\n" + file.read()
        except OSError:
            continue
        at = f"\n{top}".encode()
        if any(at + end in listed for end in (b"/", b".", b"\n", b"\r")):
            return True
    return False


def _normal(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")
