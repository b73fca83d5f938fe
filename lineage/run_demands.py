"""Which runs a query is about, where it says so plainly. Pure.

A query that demands `flow = … and run_id = …` of all it reads of the record gives the same answer when it is
asked of the events of these runs alone, however long the history is. It is DuckDB's own parser that says what is
demanded; anything less plain is left as it is, and asked of all runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from weft.lineage.parse_trees import demands, lower, nodes_of, text_of
from weft.lineage.view_sql import VIEWS

__all__ = ["RunKey", "runs_demanded"]

RunKey = tuple[str, str]

#: Runs that one query may name; flows and run ids that are listed apart are taken all with all.
_RUNS_MAX = 64

_SCHEMAS = frozenset(("raw", "told", "state", "fold"))
#: What has the columns flow and run_id; of summaries those that tell of each run by itself.
_SHOWN = frozenset((*VIEWS, "step_costs", "reuse"))
_RUN_IDS = frozenset(("run_id", "raw_run_id"))

#: How many levels a pathspec of each view has. With just so many none of them has a slash within.
_LEVELS = {"tasks": 4, "artifacts": 5}

_SOURCES = frozenset(("SUBQUERY", "TABLE_FUNCTION", "EMPTY", "EXPRESSION_LIST"))


class _Obscure(Exception):
    """The query is not plain enough."""


class _Table(NamedTuple):
    """A relation of the record within one FROM, and what is demanded of it."""

    name: str
    group: set[str]
    flows: set[str]
    run_ids: set[str]
    named: set[RunKey]


def runs_demanded(tree: Mapping[str, Any], params: Any = None) -> frozenset[RunKey] | None:
    """The (flow, run id) that all rows a query reads of the record belong to; None where that is not plain to see.

    `tree` is what DuckDB's `json_serialize_sql` makes of the query, parsed. Run ids are as the query writes them.
    """
    statements = tree.get("statements") or []
    if len(statements) != 1:
        return None
    nodes = list(nodes_of(statements[0]))
    if any(node.get("type") in ("PIVOT", "SHOW_REF") for node in nodes):
        return None
    made = {lower(node["key"]) for node in nodes if "key" in node and "value" in node}
    made |= {lower(node["cte_name"]) for node in nodes if "cte_name" in node}
    if made & _SHOWN:
        return None
    found: set[RunKey] = set()
    read = 0
    try:
        for node in nodes:
            if node.get("type") == "SELECT_NODE":
                count, runs = _demanded_of(node, params, made)
                read += count
                found |= runs
    except _Obscure:
        return None
    every = sum(node.get("type") == "BASE_TABLE" for node in nodes)
    return frozenset(found) if read == every and 0 < len(found) <= _RUNS_MAX else None


def _demanded_of(node: Mapping[str, Any], params: Any, made: set[str]) -> tuple[int, set[RunKey]]:
    """How many tables one SELECT reads, and the runs that it demands of those of the record."""
    tables: dict[str, _Table] = {}
    count, items = _collect(node.get("from_table") or {}, tables, made)
    aliases = {lower(column.get("alias")) for column in node.get("select_list", ())}
    for condition in demands(node.get("where_clause")):
        for column, values in _listed(condition, params):
            if len(column) == 2:
                chosen = [tables[column[0]]] if column[0] in tables else []
            else:
                # Without a name before it a column is that of the only table there is.
                chosen = list(tables.values()) if items == 1 and column[-1] not in aliases else []
            for table in chosen:
                _note(table, column[-1], values)
    found: set[RunKey] = set()
    for table in tables.values():
        joined = [tables[alias] for alias in table.group]
        runs = _runs_of(joined)
        if not runs:
            raise _Obscure
        found |= runs
    return count, found


def _runs_of(joined: Sequence[_Table]) -> set[RunKey]:
    """The runs that are demanded of one of some tables whose rows are of the same run."""
    for table in joined:
        if table.named:
            return table.named
        if table.flows and table.run_ids:
            if len(table.flows) * len(table.run_ids) > _RUNS_MAX:
                raise _Obscure
            return {(flow, run_id) for flow in table.flows for run_id in table.run_ids}
    return set()


def _note(table: _Table, column: str, values: list[str]) -> None:
    """Two demands on one column are both kept: that is more runs than are meant, never fewer."""
    if column == "flow":
        table.flows.update(values)
    elif column in _RUN_IDS:
        table.run_ids.update(values)
    elif column == "pathspec" and table.name in _LEVELS:
        parts = [value.split("/") for value in values]
        if all(len(levels) == _LEVELS[table.name] for levels in parts):
            table.named.update((levels[0], levels[1]) for levels in parts)


def _collect(source: Mapping[str, Any], tables: dict[str, _Table], made: set[str]) -> tuple[int, int]:
    """Put the tables of a FROM into `tables`, by alias. Gives how many there are, and how many items with others."""
    kind = source.get("type")
    if source.get("sample") or source.get("at_clause"):
        raise _Obscure
    if kind == "BASE_TABLE":
        schema, name = lower(source.get("schema_name")), lower(source.get("table_name"))
        alias = lower(source.get("alias")) or name
        if not schema and name in made:
            return 1, 1
        is_of_record = schema in _SCHEMAS or (not schema and name in _SHOWN)
        if (
            not is_of_record
            or alias in tables
            or source.get("catalog_name")
            or source.get("column_name_alias")
        ):
            raise _Obscure
        tables[alias] = _Table("" if schema else name, {alias}, set(), set(), set())
        return 1, 1
    if kind == "JOIN":
        if source.get("join_type") not in ("INNER", "LEFT") or source.get("ref_type") not in (
            "REGULAR",
            "CROSS",
        ):
            raise _Obscure
        left, right = dict[str, _Table](), dict[str, _Table]()
        counts = [_collect(source["left"], left, made), _collect(source["right"], right, made)]
        if left.keys() & right.keys():
            raise _Obscure
        tables.update(left)
        tables.update(right)
        items = counts[0][1] + counts[1][1]
        using = {lower(name) for name in source.get("using_columns") or ()}
        if items == 2 and len(left) == len(right) == 1 and _is_same_run(using):
            _join(tables, *left, *right)
        for pair, columns in _equated(source.get("condition")).items():
            if all(alias in tables for alias in pair) and _is_same_run(columns):
                _join(tables, *pair)
        return counts[0][0] + counts[1][0], items
    if kind not in _SOURCES:
        raise _Obscure
    # What a subquery reads is looked at where its own SELECT is.
    return 0, 0 if kind == "EMPTY" else 1


def _is_same_run(columns: set[str]) -> bool:
    """Whether rows that are equal in these columns are of the same run."""
    return "run_uid" in columns or ("flow" in columns and bool(columns & _RUN_IDS))


def _equated(condition: Any) -> dict[tuple[str, str], set[str]]:
    """The columns in which a join demands rows of two tables to be equal."""
    found: dict[tuple[str, str], set[str]] = {}
    for demand in demands(condition):
        if demand.get("type") != "COMPARE_EQUAL":
            continue
        a, b = _column(demand["left"]), _column(demand["right"])
        if len(a) != 2 or len(b) != 2:
            continue
        names = {a[1], b[1]}
        if len(names) == 1 or names <= _RUN_IDS:
            pair = (a[0], b[0]) if a[0] < b[0] else (b[0], a[0])
            found.setdefault(pair, set()).add(a[1])
    return found


def _join(tables: Mapping[str, _Table], a: str, b: str) -> None:
    group = tables[a].group | tables[b].group
    for alias in group:
        tables[alias].group.update(group)


def _listed(condition: Mapping[str, Any], params: Any) -> Iterator[tuple[list[str], list[str]]]:
    """A column, and the texts it has to be one of."""
    if condition.get("type") == "COMPARE_EQUAL":
        sides = condition["left"], condition["right"]
        tried = [(sides[0], [sides[1]]), (sides[1], [sides[0]])]
    elif condition.get("type") == "COMPARE_IN" and condition.get("children"):
        first, *rest = condition["children"]
        tried = [(first, rest)]
    else:
        return
    for side, others in tried:
        column = _column(side)
        values = [text_of(other, params) for other in others]
        texts = [value for value in values if value is not None]
        if len(column) in (1, 2) and texts and len(texts) == len(values):
            yield column, texts


def _column(expression: Mapping[str, Any]) -> list[str]:
    """The parts of a column's name, in small letters; none for what is no column."""
    if expression.get("type") != "COLUMN_REF":
        return []
    return [lower(part) for part in expression.get("column_names", ())]
