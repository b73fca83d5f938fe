"""Reading the parse trees that DuckDB's `json_serialize_sql` makes of queries. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["demands", "lower", "text_of"]


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
