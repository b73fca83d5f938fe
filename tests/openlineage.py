"""Holds OpenLineage events against the schemas of the specification, facets included."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

_SCHEMAS = Path(__file__).parent / "fixtures" / "openlineage"


@cache
def _registry() -> Registry[Any]:
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in _SCHEMAS.rglob("*.json")]
    return Registry().with_resources(
        (document["$id"], Resource.from_contents(document)) for document in documents
    )


@cache
def _validator(url: str) -> Draft202012Validator:
    """Raises when the schema is not there."""
    _registry().resolver().lookup(url)
    checker = Draft202012Validator.FORMAT_CHECKER
    return Draft202012Validator({"$ref": url}, registry=_registry(), format_checker=checker)


def check_event(document: dict[str, Any]) -> int:
    """Validate an event and every facet in it against the schema it names; the number of facets."""
    _validator("https://openlineage.io/spec/2-0-2/OpenLineage.json").validate(document)
    _validator(document["schemaURL"]).validate(document)
    count = 0
    for facet in _facets(document):
        _validator(facet["_schemaURL"]).validate(facet)
        count += 1
    return count


def _facets(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [facet for item in value for facet in _facets(item)]
    if not isinstance(value, dict):
        return []
    inner = [facet for item in value.values() for facet in _facets(item)]
    return [value, *inner] if "_schemaURL" in value else inner
