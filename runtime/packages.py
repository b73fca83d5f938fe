"""Which installed distributions a process has imported, and in which versions, without importing anything for it.

Names and versions are those of the `.dist-info` folders beside the packages; `importlib.metadata` would say the
same and cost more than the start of a small run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping

__all__ = ["imported_packages"]

_INFO_ENDINGS = (".dist-info", ".egg-info")
_INSTALLED = ("site-packages", "dist-packages")

#: Modules of well-known distributions that do not list them in `top_level.txt`.
_KNOWN = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv_python",
    "skimage": "scikit_image",
    "sklearn": "scikit_learn",
    "yaml": "pyyaml",
}


def imported_packages(modules: Iterable[str] | None = None) -> dict[str, str]:
    """The version of each distribution that a loaded module belongs to, by its name; sorted.

    With `modules` only those that these modules, loaded or not, belong to. A module whose distribution cannot be
    told, but which says its version itself, is listed under its own name.
    """
    tops = _loaded() if modules is None else {name.partition(".")[0] for name in modules}
    found: dict[str, str] = {}
    for folder in _folders():
        known = _distributions(folder)
        by_name = {_folded(name): (name, version) for name, version, _ in known}
        here = {top for top in tops if _lies_in(folder, top)}
        tops -= here
        for top in list(here):
            folded = _folded(_KNOWN.get(top, top))
            if folded in by_name:
                name, version = by_name[folded]
                found[name] = version
                here.discard(top)
        if here:
            found |= _by_contents(folder, known, here)
    return dict(sorted(found.items()))


def _loaded() -> set[str]:
    """The top-level names of modules that come from installed packages."""
    tops = set()
    for name, module in list(sys.modules.items()):
        if "." not in name:
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and any(part in file for part in _INSTALLED):
                tops.add(name)
    return tops


def _folders() -> list[str]:
    return [
        path
        for path in dict.fromkeys(sys.path)
        if path.rstrip("/").endswith(_INSTALLED) and os.path.isdir(path)
    ]


def _distributions(folder: str) -> list[tuple[str, str, str]]:
    """(name, version, folder) of what is installed in a folder."""
    found = []
    for entry in os.listdir(folder):
        if entry.endswith(_INFO_ENDINGS):
            name, _, version = entry.rpartition(".")[0].partition("-")
            # Of an egg-info the version may be followed by that of Python.
            found.append((name, version.partition("-py")[0], entry))
    return found


def _lies_in(folder: str, top: str) -> bool:
    file = getattr(sys.modules.get(top), "__file__", None)
    if isinstance(file, str):
        return file.startswith(folder + os.sep)
    place = os.path.join(folder, top)
    return os.path.isdir(place) or os.path.exists(f"{place}.py")


def _by_contents(folder: str, known: list[tuple[str, str, str]], tops: set[str]) -> Mapping[str, str]:
    """Distributions whose packages have other names than they, by what they list; else what the module says."""
    found = {}
    left = set(tops)
    for name, version, entry in known:
        try:
            with open(os.path.join(folder, entry, "top_level.txt"), encoding="utf-8") as file:
                mine = left.intersection(file.read().split())
        except (OSError, UnicodeDecodeError):
            continue
        if mine:
            found[name] = version
            left -= mine
    for top in left:
        said = getattr(sys.modules.get(top), "__version__", None)
        if type(said) is str:
            found[top] = said
    return found


def _folded(name: str) -> str:
    return name.replace("-", "_").replace(".", "_").lower()
