"""Digests of syntax trees: the same for sources that differ in comments, formatting and docstrings only. Pure.

What a task's code is compared by, and what makes the difference of two runs cosmetic.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable

__all__ = ["digest_of", "text_digest"]

_DIGEST_CHARS = 32
_UNSEEN_FIELDS = frozenset({"ctx", "type_comment", "type_ignores", "kind"})
_BLOCKS = frozenset({"body", "orelse", "finalbody"})


def digest_of(nodes: Iterable[ast.AST]) -> str:
    """A digest of syntax trees, the same for sources that differ in comments, formatting and docstrings only."""
    out: list[str] = []
    for node in nodes:
        _write(node, out)
    return text_digest("\0".join(out))


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARS]


def _write(node: ast.AST, out: list[str]) -> None:
    out.append(node.__class__.__name__)
    for field in node._fields:
        if field in _UNSEEN_FIELDS:
            continue
        value = getattr(node, field, None)
        if isinstance(value, list):
            out.append("[")
            for item in value:
                if field in _BLOCKS and (
                    isinstance(item, ast.Pass)
                    or (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
                ):
                    continue  # Docstrings, and statements that do nothing.
                if isinstance(item, ast.AST):
                    _write(item, out)
                else:
                    out.append(repr(item))
            out.append("]")
        elif isinstance(value, ast.AST):
            _write(value, out)
        else:
            out.append(repr(value))
