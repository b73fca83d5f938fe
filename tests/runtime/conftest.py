"""Flows written to files, as users write them, and imported from there."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_PRELUDE = """\
from weft.runtime.decorators import catch, environment, resources, retry, step, timeout
from weft.runtime.parameters import JSONType, Parameter
"""


@pytest.fixture
def import_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., type]]:
    """`import_flow(source, name="F", module="flow_file")`: the class `name` of a module holding `source`.

    The first line of `source` is line 3 of the file.
    """
    modules = []
    # Bytecode of a file is believed for as long as its size and its second of change are the same.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(source: str, name: str = "F", module: str = "flow_file") -> type:
        path = tmp_path / f"{module}.py"
        path.write_text(_PRELUDE + textwrap.dedent(source))
        spec = importlib.util.spec_from_file_location(module, path)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[module] = loaded
        modules.append(module)
        spec.loader.exec_module(loaded)
        flow_class = getattr(loaded, name)
        assert isinstance(flow_class, type)
        return flow_class

    yield load
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def flow_of(import_flow: Callable[..., type]) -> Callable[..., type]:
    """`flow_of(start="self.a", a="self.end", end="")`: a flow `F` of steps and what they give to `self.next`.

    A transition that begins with `inputs:` makes the step a join; "" is a step without `self.next`.
    """

    def make(**steps: str) -> type:
        lines = ["class F:"]
        for name, transition in steps.items():
            is_join = transition.startswith("inputs:")
            transition = transition.removeprefix("inputs:").strip()
            lines += ["    @step", f"    def {name}(self{', inputs' if is_join else ''}):"]
            lines.append(f"        self.next({transition})" if transition else "        pass")
        return import_flow("\n".join(lines) + "\n")

    return make
