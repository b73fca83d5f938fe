from __future__ import annotations

import json
from typing import Any

import duckdb
import pytest

from weft.lineage.narrowing import digest_demanded

HEX = "ab" * 32
TEXT = f"sha256:{HEX}"


def demanded(query: str, params: dict[str, Any] | list[Any] | None = None) -> bytes | None:
    row = duckdb.execute("select json_serialize_sql(?)", [query]).fetchone()
    assert row is not None
    return digest_demanded(json.loads(row[0]), params)


@pytest.mark.parametrize(
    "query",
    [
        f"select * from artifacts where digest = '{TEXT}'",
        f"FROM artifacts WHERE flow = 'a or b' AND digest='{TEXT}' ORDER BY name LIMIT 3",
        f"select count(*) from artifacts a where a.digest = '{TEXT}' and (name = 'x');",
        "select name from artifacts as a where a.name = 'x' and a.digest = $d group by name",
        f"select * from artifacts where (((digest = '{TEXT}'))) and (x or y)",
        f"select \"digest\" from artifacts -- where true\n where Artifacts.Digest = '{TEXT}' and digest = $d",
        f"select name, count(*) over () from artifacts where digest = '{TEXT}' and not (a or b)",
    ],
)
def test_a_digest_that_is_plainly_demanded_is_found(query: str) -> None:
    assert demanded(query, {"d": TEXT}) == bytes.fromhex(HEX)


@pytest.mark.parametrize(
    "condition",
    [
        f"digest = '{TEXT}' or name = 'x'",
        f"not digest = '{TEXT}'",
        f"digest <> '{TEXT}'",
        f"digest = '{TEXT}' = false",
        f"digest = '{TEXT}' || 'x'",
        f"name between 'a' and digest = '{TEXT}'",
        f"name = 'x'' and digest = ''{TEXT}'' and y'",
        f"name = E'\\' and digest = ' and digest = '{TEXT}' or true",
        f"true -- and digest = '{TEXT}'",
        f"case when true and digest = '{TEXT}' and true then 1 end",
        "digest = $other",
        "digest = $number",
        "digest = 'sha256:ab'",
        f"digest = '{TEXT.upper()}'",
        f"digest = '{TEXT}' union all from artifacts",
        f"digest = '{TEXT}' and digest = 'sha256:{'cd' * 32}'",
        f"digest = '{TEXT}' and exists (from artifacts)",
        f"other.digest = '{TEXT}'",
        f"true order by true and digest = '{TEXT}' limit 1",
        f"true group by all having digest = '{TEXT}'",
        f"true qualify digest = '{TEXT}'",
    ],
)
def test_anything_less_plain_is_left_alone(condition: str) -> None:
    params: dict[str, Any] = {"d": TEXT, "number": 5}
    assert demanded(f"select * from artifacts where {condition}", params) is None


def test_digest_may_be_a_parameter_by_position() -> None:
    query = "select * from artifacts where name = ? and digest = ?"
    assert demanded(query, ["x", TEXT]) == bytes.fromhex(HEX)
    assert demanded(query, [TEXT, "x"]) is None
    assert demanded(query, ["x"]) is None


@pytest.mark.parametrize(
    "query",
    [
        f"select * from artifact_uses where digest = '{TEXT}'",
        f"select * from artifacts a, artifact_uses u where digest = '{TEXT}'",
        f"select * from runs where digest = '{TEXT}'",
        f"select * from other.artifacts where digest = '{TEXT}'",
        f"select (select 1 from artifacts where digest = '{TEXT}')",
        f"select true and digest = '{TEXT}' and false from artifacts where true",
        f"select name as digest from artifacts where digest = '{TEXT}'",
        f"with artifacts as (select 1 as digest) from artifacts where digest = '{TEXT}'",
        f"from artifacts tablesample 5 rows where digest = '{TEXT}'",
        f"from artifacts a(x, digest) where digest = '{TEXT}'",
        f"from (from artifacts) artifacts where digest = '{TEXT}'",
        f"explain select * from artifacts where digest = '{TEXT}'",
        "from artifacts",
        "from from",
        "",
    ],
)
def test_a_demand_on_another_table_is_left_alone(query: str) -> None:
    assert demanded(query) is None
