"""Reading the parse trees that DuckDB's `json_serialize_sql` makes of queries. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["demands", "is_plain_question", "lower", "nodes_of", "text_of"]


def nodes_of(tree: Any) -> Iterator[Mapping[str, Any]]:
    """Every object of a tree."""
    waiting = [tree]
    while waiting:
        here = waiting.pop()
        if isinstance(here, Mapping):
            yield here
            waiting += here.values()
        elif isinstance(here, list):
            waiting += here


def is_plain_question(tree: Any, names: Collection[str]) -> bool:
    """Whether a query is one SELECT of one of these relations, joined with nothing, in which no expression can fail.

    In what order expressions are worked out, and which of them not at all, is then of no matter to its answer.
    """
    types = Counter(str(node.get("type")) for node in nodes_of(tree))
    if sum(types[kind] for kind in types if kind.endswith("_NODE")) != 1 or types["SELECT_NODE"] != 1:
        return False
    sources = [node for node in nodes_of(tree) if str(node.get("type")) in _SOURCES]
    if len(sources) != 1 or sources[0]["type"] != "BASE_TABLE" or sources[0].get("sample"):
        return False
    if sources[0].get("schema_name") or lower(sources[0].get("table_name")) not in names:
        return False
    return all(
        node["class"] in _SAFE_CLASSES or lower(node.get("function_name")) in _SAFE_FUNCTIONS
        for node in nodes_of(tree)
        if "class" in node
    )


_SOURCES = frozenset(("BASE_TABLE", "JOIN", "TABLE_FUNCTION", "PIVOT", "SHOW_REF", "EXPRESSION_LIST"))

#: Expressions that give a value for every row; of functions the common ones of that kind.
_SAFE_CLASSES = frozenset(
    ("BETWEEN", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "OPERATOR", "PARAMETER", "STAR")
)
_SAFE_FUNCTIONS = frozenset(
    (
        "any_value",
        "avg",
        "count",
        "count_star",
        "first",
        "last",
        "lower",
        "max",
        "min",
        "starts_with",
        "sum",
        "upper",
    )
)


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
