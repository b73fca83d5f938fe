"""Reading the parse trees that DuckDB's `json_serialize_sql` makes of queries. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["demands", "lower", "nodes_of", "reads_one_of", "text_of"]


def nodes_of(tree: Any) -> Iterator[Mapping[str, Any]]:
    """Every object of a tree."""
    if isinstance(tree, Mapping):
        yield tree
        for child in tree.values():
            yield from nodes_of(child)
    elif isinstance(tree, list):
        for child in tree:
            yield from nodes_of(child)


def reads_one_of(tree: Any, names: Collection[str]) -> bool:
    """Whether a query reads one of these relations, once, and joins it with nothing."""
    sources = [node for node in nodes_of(tree) if node.get("type") in _SOURCES]
    if len(sources) != 1 or sources[0]["type"] != "BASE_TABLE":
        return False
    return not sources[0].get("schema_name") and lower(sources[0].get("table_name")) in names


_SOURCES = frozenset(("BASE_TABLE", "JOIN", "TABLE_FUNCTION", "PIVOT", "SHOW_REF", "EXPRESSION_LIST"))


def demands(condition: Any) -> Iterator[Mapping[str, Any]]:
    """The conditions that must all hold."""
    if not isinstance(condition, Mapping):
        return
    if condition.get("type") == "CONJUNCTION_AND":
        for child in condition.get("children", ()):
            yield from demands(child)
    else:
        yield condition


def text_of(expression: Mapping[str, Any], params: Any) -> str | None:
    """The text that a literal or a parameter stands for; None for anything else."""
    value: Any = None
    if expression.get("type") == "VALUE_PARAMETER":
        name = str(expression.get("identifier"))
        if isinstance(params, Mapping):
            value = params.get(name)
        elif isinstance(params, Sequence) and name.isdigit() and 0 < int(name) <= len(params):
            value = params[int(name) - 1]
    elif expression.get("type") == "VALUE_CONSTANT":
        literal = expression.get("literal") or {}
        # Older versions of DuckDB write the value with its type.
        if literal.get("kind") == "STRING":
            value = literal.get("text")
        elif "value" in expression:
            value = (expression["value"] or {}).get("value")
    return value if isinstance(value, str) else None


def lower(text: Any) -> str:
    """A name as DuckDB compares it; empty for None."""
    return str(text or "").lower()
