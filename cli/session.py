"""What the options before a command say, and what commands share: opening the store, `--json`, tidying up."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from weft.lineage.errors import NotFound, UsageError, WeftError

if TYPE_CHECKING:
    from weft.lineage.storage import Storage
    from weft.lineage.store import Store

__all__ = ["Session", "json_option", "rows_of"]

#: A question that finds so many journals, or so many bytes of them, seals them after its answer.
_TIDY_FILES = 50
_TIDY_BYTES = 8_000_000

#: It folds at most about so many bytes of segments: a second or two.
_TIDY_FOLDED_BYTES = 32_000_000

#: Put on every command that shows something.
json_option = click.option("--json", "is_json", is_flag=True, help="Give JSON instead of text.")


class Session(NamedTuple):
    """What the options before the command say; a command gets it by `click.pass_obj`."""

    store_url: str | None
    as_of: str | None

    def storage(self) -> Storage:
        """Where the store's bytes lie as they are now; none is ever created.

        Raises: NotFound, StoreError; UsageError when a moment of the past is asked for.
        """
        from weft.lineage.description import find_store, read_description
        from weft.lineage.stores import open_storage

        self.check_is_now("This command deals with the files of the store as they are now.")
        root = self.store_url or find_store(os.getcwd(), os.environ)
        if root is None:
            raise NotFound(
                "There is no store here. Run a flow first, or name a store with --store or WEFT_STORE."
            )
        storage = open_storage(root)
        read_description(storage)
        return storage

    def check_is_now(self, reason: str) -> None:
        """Raises: UsageError with the reason when a moment of the past is asked for."""
        if self.as_of is not None:
            raise UsageError(f"{reason} Leave out --as-of.")

    @contextmanager
    def open(self) -> Iterator[Store]:
        """The store; none is ever created. Once the answer is out, what waits to be sealed may be.

        Raises: StoreError, NotFound.
        """
        from weft.lineage.engine import let_go, prepare

        prepare()
        from weft.lineage.store import open_store

        with open_store(self.store_url, as_of=self.as_of) as store:
            try:
                yield store
            finally:
                sys.stdout.flush()
                _warn(store)
        if store.wants_checkpoint or _is_untidy(store.storage):
            # Only now: what the answer needed is let go of first.
            let_go()
            _tidy(store.storage, store.wants_checkpoint)


def _warn(store: Store) -> None:
    """Say that the answer lacks events, so that nobody takes it for all there was."""
    for path, where in sorted(store.damaged.items()):
        click.echo(
            f"warning: {path} is damaged {where}. Events that it held are not in this answer. Run `weft verify`.",
            err=True,
        )


def _is_untidy(storage: Storage) -> bool:
    """Whether many journals lie there."""
    from weft.lineage.paths import JOURNALS

    try:
        journals = storage.scan(JOURNALS)
    except (WeftError, OSError):
        return False
    return len(journals) >= _TIDY_FILES or sum(file.size_bytes for file in journals) >= _TIDY_BYTES


def _tidy(storage: Storage, wants_checkpoint: bool) -> None:
    """Seal and compact when many journals lie there, and fold what no checkpoint holds yet.

    Whatever keeps this from being done is no concern of the caller's.
    """
    from weft.lineage.log import EventLog

    try:
        if _is_untidy(storage):
            EventLog(storage).tidy()
        if wants_checkpoint:
            from weft.lineage.checkpointing import refresh_checkpoint

            refresh_checkpoint(storage, EventLog(storage), _TIDY_FOLDED_BYTES)
    except (WeftError, OSError):
        return


def rows_of(store: Store, query: str, **params: Any) -> list[dict[str, Any]]:
    """The rows of a query, each by column name."""
    return store.sql(query, **params).dicts()
