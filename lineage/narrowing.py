"""What a query demands so plainly of a digest that a view can look for it by its bytes. Pure.

Views show digests as text, which no file is sorted or indexed by. Where a query of one SELECT demands
`digest = 'sha256:…'` of all its rows, the view `artifacts` may leave out the others, and finds these by the
Bloom filters of the segments. It is DuckDB's own parser that says so; anything less plain is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.lineage.parse_trees import demands, lower, nodes_of, text_of

__all__ = ["digest_demanded"]

_PREFIX = "sha256:"
_HEX = frozenset("0123456789abcdef")


def digest_demanded(tree: Mapping[str, Any], params: Any = None) -> bytes | None:
    """The digest that every row of `artifacts` in the answer must have; None where that is not plain to see.

    `tree` is what DuckDB's `json_serialize_sql` makes of the query, parsed.
    """
    statements = tree.get("statements") or [{}]
    node = statements[0].get("node") or {}
    # One node is one SELECT: no subquery, set operation or table expression that could mean other rows.
    selects = [found for found in nodes_of(tree) if str(found.get("type")).endswith("_NODE")]
    if len(statements) != 1 or node.get("type") != "SELECT_NODE" or len(selects) != 1:
        return None
    name = _name_of(node.get("from_table") or {})
    if name is None or any(lower(column.get("alias")) == "digest" for column in node.get("select_list", ())):
        return None
    found = {
        digest
        for condition in demands(node.get("where_clause"))
        if (digest := _digest_in(condition, name, params)) is not None
    }
    return found.pop() if len(found) == 1 else None


def _name_of(table: Mapping[str, Any]) -> str | None:
    """What the query calls the view; None when it reads anything but `artifacts`, or a sample of it."""
    is_plain = table.get("type") == "BASE_TABLE" and lower(table.get("table_name")) == "artifacts"
    if not is_plain or any(
        table.get(more)
        for more in ("schema_name", "catalog_name", "sample", "column_name_alias", "at_clause")
    ):
        return None
    return lower(table.get("alias")) or "artifacts"


def _digest_in(condition: Mapping[str, Any], name: str, params: Any) -> bytes | None:
    if condition.get("type") != "COMPARE_EQUAL":
        return None
    column = [lower(part) for part in condition["left"].get("column_names", ())]
    if condition["left"].get("type") != "COLUMN_REF" or column not in (["digest"], [name, "digest"]):
        return None
    value = text_of(condition["right"], params)
    digits = value.removeprefix(_PREFIX) if isinstance(value, str) and value.startswith(_PREFIX) else ""
    return bytes.fromhex(digits) if len(digits) == 64 and _HEX.issuperset(digits) else None
