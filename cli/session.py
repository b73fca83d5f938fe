"""What the options before a command say, and what commands share: opening the store, `--json`, tidying up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from weft.lineage.errors import NotFound, StoreUnavailable

if TYPE_CHECKING:
    from weft.lineage.storage import LocalStorage
    from weft.lineage.store import Store

__all__ = ["Session", "json_option", "rows_of"]

#: Put on every command that shows something.
json_option = click.option("--json", "is_json", is_flag=True, help="Give JSON instead of text.")


class Session(NamedTuple):
    """What the options before the command say; a command gets it by `click.pass_obj`."""

    store_url: str | None
    as_of: str | None

    def storage(self) -> LocalStorage:
        """Where the store's bytes lie; none is ever created. Raises: NotFound, StoreError."""
        import os

        from weft.lineage.description import find_store, read_description
        from weft.lineage.storage import LocalStorage

        root = self.store_url or find_store(os.getcwd(), os.environ)
        if root is None:
            raise NotFound(
                "There is no store here. Run a flow first, or name a store with --store or WEFT_STORE."
            )
        if "://" in root and not root.startswith("file://"):
            raise StoreUnavailable(f"{root} is not a local folder. Give a folder to --store.")
        storage = LocalStorage(os.path.abspath(root.removeprefix("file://")))
        read_description(storage)
        return storage

    def open(self) -> Store:
        """The store; none is ever created. Raises: StoreError, NotFound."""
        from weft.lineage.store import open_store

        return open_store(self.store_url, as_of=self.as_of)


def rows_of(store: Store, query: str, **params: Any) -> list[dict[str, Any]]:
    """The rows of a query, each by column name."""
    return store.sql(query, **params).dicts()
