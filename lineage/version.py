"""The version of weft; a constant, because asking the installation costs 36 ms at every start."""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = "0.2.0"
