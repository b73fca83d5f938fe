"""weft: flows for data science whose record of what happened is the product.

    from weft import FlowSpec, Parameter, step

Importing this module is cheap: each name is loaded when it is first used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if os.name != "posix":
    raise ImportError("weft runs on Linux and macOS. On Windows, install and run it inside WSL.")

from weft.lineage.version import VERSION as __version__
from weft.runtime import randomness as _randomness  # noqa: F401  # it notes the state before any flow draws
from weft.runtime.command_line import set_command_line as _set_command_line

if TYPE_CHECKING:
    from weft.lineage.client import (
        DataArtifact,
        Flow,
        Metaflow,
        Run,
        Step,
        Task,
        get_namespace,
        namespace,
    )
    from weft.lineage.store import Store, open_store, sql
    from weft.runtime.config import Config, ConfigValue
    from weft.runtime.current import current
    from weft.runtime.decorators import cache, catch, environment, resources, retry, step, timeout
    from weft.runtime.flow import FlowSpec
    from weft.runtime.include import IncludeFile
    from weft.runtime.parameters import JSONType, Parameter
    from weft.runtime.track import track

__all__ = [
    "Config",
    "ConfigValue",
    "DataArtifact",
    "Flow",
    "FlowSpec",
    "IncludeFile",
    "JSONType",
    "Metaflow",
    "Parameter",
    "Run",
    "Step",
    "Store",
    "Task",
    "__version__",
    "cache",
    "catch",
    "current",
    "environment",
    "get_namespace",
    "namespace",
    "open_store",
    "resources",
    "retry",
    "sql",
    "step",
    "timeout",
    "track",
]

_LAZY = {
    "weft.lineage.client": (
        "DataArtifact",
        "Flow",
        "Metaflow",
        "Run",
        "Step",
        "Task",
        "get_namespace",
        "namespace",
    ),
    "weft.lineage.store": ("Store", "open_store", "sql"),
    "weft.runtime.config": ("Config", "ConfigValue"),
    "weft.runtime.current": ("current",),
    "weft.runtime.decorators": ("cache", "catch", "environment", "resources", "retry", "step", "timeout"),
    "weft.runtime.flow": ("FlowSpec",),
    "weft.runtime.include": ("IncludeFile",),
    "weft.runtime.parameters": ("JSONType", "Parameter"),
    "weft.runtime.track": ("track",),
}
_MODULE_OF = {name: module for module, names in _LAZY.items() for name in names}


def _start_command_line(flow_class: type[FlowSpec]) -> None:
    try:
        from weft.cli.start import main
    except KeyboardInterrupt:
        raise SystemExit(1) from None

    main(flow_class)


_set_command_line(_start_command_line)

if "WEFT_TRACK" in os.environ:
    from weft.runtime.readers import install_if_asked

    install_if_asked()


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'weft' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
