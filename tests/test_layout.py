"""The folders hold one package, nothing is imported under two names, and modules keep the house's measures."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from weft.lineage.version import VERSION

ROOT = Path(__file__).parent.parent
PARTS = ("lineage", "runtime", "cli")
#: Blank lines do not count.
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
#: Words with no meaning of their own (docs/glossary.md has those to use instead).
BANNED_WORDS = {
    "common",
    "datastore",
    "handler",
    "helper",
    "helpers",
    "info",
    "job",
    "manager",
    "metadata",
    "misc",
}
BANNED_WORDS |= {"util", "utils"}
#: Names that users know from Metaflow.
FIXED_NAMES = {"metadata", "metadata_dict", "MetaflowData", "Metadata"}

MODULES = sorted(
    path for part in PARTS for path in (ROOT / part).rglob("*.py") if "__pycache__" not in path.parts
)
MODULES += [ROOT / "weft" / "__init__.py", ROOT / "weft" / "__main__.py"]


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _name(path: Path) -> str:
    relative = path.relative_to(ROOT).with_suffix("")
    parts = relative.parts if relative.parts[0] == "weft" else ("weft", *relative.parts)
    return ".".join(parts).removesuffix(".__init__")


def _exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            assert isinstance(node, ast.Assign)
            names = ast.literal_eval(node.value)
            assert isinstance(names, list)
            return names
    return None


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def _words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)}


def test_links_point_at_the_folders() -> None:
    for part in PARTS:
        assert (ROOT / "weft" / part).resolve() == ROOT / part


def test_every_package_is_listed_for_the_wheel() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    inits = (path for part in PARTS for path in (ROOT / part).rglob("__init__.py"))
    packages = {"weft"} | {"weft." + ".".join(path.parent.relative_to(ROOT).parts) for path in inits}
    assert set(tools["packages"]) == packages | {"weft.examples"}
    assert set(tools["package-dir"]) == set(tools["packages"])


def test_version_is_one() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


def test_no_module_is_imported_under_its_folder_name() -> None:
    assert not set(PARTS) & set(sys.modules)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_module_keeps_the_measures(path: Path) -> None:
    lines_in_use = sum(bool(line.strip()) for line in path.read_text().splitlines())
    assert lines_in_use <= MODULE_LINES_MAX, f"{path} has {lines_in_use} lines; split it by its nouns"
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{path}:{node.lineno} {node.name} has {lines} lines"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_module_says_what_it_is_and_exports(path: Path) -> None:
    tree = _tree(path)
    assert ast.get_docstring(tree), f"{path} has no docstring"
    exported = _exported(tree)
    if path.name in ("__init__.py", "__main__.py"):
        return
    assert exported is not None, f"{path} has no __all__"
    public = {name for name in _defined(tree) if not name.startswith("_")}
    assert public <= set(exported), f"neither in __all__ nor private: {sorted(public - set(exported))}"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_names_are_words_of_the_glossary(path: Path) -> None:
    names = {path.stem} | {
        node.name
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    for name in names - FIXED_NAMES:
        assert not _words(name) & BANNED_WORDS, f"{path}: {name} says nothing; see docs/glossary.md"


def test_only_exported_names_are_imported() -> None:
    exports = {_name(path): set(_exported(_tree(path)) or ()) for path in MODULES}
    for path in MODULES:
        for node in ast.walk(_tree(path)):
            if not isinstance(node, ast.ImportFrom) or node.module not in exports:
                continue
            for alias in node.names:
                is_module = f"{node.module}.{alias.name}" in exports
                assert is_module or alias.name in exports[node.module], (
                    f"{path}:{node.lineno} imports {alias.name}, which {node.module} does not export"
                )


def test_no_file_waits_for_a_later_day() -> None:
    mark = re.compile(r"\b(TODO|FIXME|XXX)\b")
    for path in MODULES:
        assert not mark.search(path.read_text()), f"{path} holds a mark without an issue"
