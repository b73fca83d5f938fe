"""What the options before a command say, and what commands share: opening the store, `--json`, tidying up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from weft.lineage.store import Store

__all__ = ["Session", "json_option", "rows_of"]

#: Put on every command that shows something.
json_option = click.option("--json", "is_json", is_flag=True, help="Give JSON instead of text.")


class Session(NamedTuple):
    """What the options before the command say; a command gets it by `click.pass_obj`."""

    store_url: str | None
    as_of: str | None

    def open(self) -> Store:
        """The store; none is ever created. Raises: StoreError, NotFound."""
        from weft.lineage.store import open_store

        return open_store(self.store_url, as_of=self.as_of)


def rows_of(store: Store, query: str, **params: object) -> list[dict[str, Any]]:
    """The rows of a query, each by column name."""
    result = store.sql(query, **params)
    return [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]
