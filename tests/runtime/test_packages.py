"""The packages of a run are those its process has imported, as the installer calls them."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from weft.runtime.packages import imported_packages


def test_versions_are_those_that_are_installed() -> None:
    found = imported_packages()
    assert found["numpy"] == np.__version__
    assert found["msgpack"] == importlib.metadata.version("msgpack")
    assert list(found) == sorted(found)


def test_only_the_packages_of_named_modules_are_told() -> None:
    found = imported_packages(["numpy.linalg", "os", "no_such_module"])
    assert found == {"numpy": np.__version__}


@pytest.mark.parametrize(
    ("info", "listed", "found"),
    [
        ("some_thing-1.2.dist-info", "thing_inside\n", {"some_thing": "1.2"}),
        ("thing_inside-0.3-py3.11.egg-info", None, {"thing_inside": "0.3"}),
        ("other-9.dist-info", "other\n", {"thing_inside": "7.7"}),
    ],
)
def test_packages_of_other_names_are_found(
    tmp_path: Path, info: str, listed: str | None, found: dict[str, str]
) -> None:
    folder = tmp_path / "site-packages"
    (folder / "thing_inside").mkdir(parents=True)
    (folder / "thing_inside" / "__init__.py").write_text("__version__ = '7.7'\n")
    (folder / info).mkdir()
    if listed is not None:
        (folder / info / "top_level.txt").write_text(listed)
    program = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); import thing_inside\n"
        "from weft.runtime.packages import imported_packages\n"
        "print({n: v for n, v in imported_packages(['thing_inside']).items()})\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == str(found)
