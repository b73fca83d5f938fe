"""The port through which questions are asked of an open store."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from weft.lineage.objects import Objects
    from weft.lineage.schema import Event

__all__ = ["Answers", "Line"]


class Line(NamedTuple):
    """One line without its end. `pathspec` is the task, `stream` "stdout" or "stderr"."""

    time_us: int
    pathspec: str
    attempt: int
    stream: str
    text: str


class Answers(Protocol):
    """What lineage, console, contents and client objects need of a store."""

    @property
    def url(self) -> str: ...

    @property
    def objects(self) -> Objects: ...

    @property
    def as_of_us(self) -> int | None:
        """The moment that answers are of; None for now."""

    def rows(
        self, query: str, params: Any = None, about: Collection[tuple[str, str]] | None = ()
    ) -> list[tuple[Any, ...]]:
        """Rows of a query of weft's own over the views and what lies below them.

        `about` are the runs, as (flow, run id), whose events, with those of the origins of their reused tasks, are
        all that it needs; None: those of all. Where it is not given, the query may say it itself.
        """

    def rows_at_hand(self, query: str, params: Any = None) -> list[tuple[Any, ...]]:
        """The same over those runs alone that were asked about last; none where all would be read for it."""

    def foresee(
        self, about: Collection[tuple[str, str]], families: Collection[str], later: Collection[str] = ()
    ) -> None:
        """Say that several questions about runs follow, and which families of their events these will read, and
        which others later."""

    def foresee_states(self, names: Collection[str]) -> None:
        """Say that a question about all runs follows, and which of the states that are kept of them it will read."""

    def held(self, about: Collection[tuple[str, str]], families: Collection[str]) -> list[Event] | None:
        """The events of some families of runs, in no order; None where these are many, or where all of history must
        be searched for them."""

    def held_before(self, families: Collection[str]) -> list[Event]:
        """The events of some families that are held of the runs that were asked about before."""

    def has_twins(self) -> bool:
        """Whether two runs share a pathspec, which makes the second `id~2`."""

    def lines(self, pathspec: str, stream: str | None = None) -> list[Line]:
        """What a run, a step or a task printed, by time."""
