"""What the client's objects have in common, the namespace, and the store they ask when none is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

from weft.lineage.answers import Answers
from weft.lineage.errors import NotFound, UsageError
from weft.lineage.ids import parse_pathspec
from weft.lineage.moment import text_of_moment
from weft.lineage.near_names import near

__all__ = [
    "Recorded",
    "default_store",
    "get_namespace",
    "in_namespace",
    "namespace",
    "reopened",
    "set_opener",
]

_LEVEL_NAMES = ("Flow", "run", "step", "task", "artifact")

_namespace: str | None = None
_classes: dict[int, type[Any]] = {}
_stores: dict[tuple[str, int | None], Answers] = {}
_open: Callable[[str | None, str | None], Answers] | None = None


def namespace(tag: str | None) -> str | None:
    """From now on see only runs with this tag, such as `user:me`; None sees all, as at the start."""
    global _namespace
    _namespace = tag
    return tag


def get_namespace() -> str | None:
    return _namespace


def in_namespace() -> tuple[str, list[str]]:
    """A condition on the view `runs` for those in the namespace, and its parameters."""
    if _namespace is None:
        return "true", []
    tagged = "select 1 from tags g where g.flow = runs.flow and g.run_id = runs.run_id and g.tag = ?"
    return f"exists ({tagged})", [_namespace]


def set_opener(opener: Callable[[str | None, str | None], Answers]) -> None:
    """Say how a store is opened, by its URL and as of a moment: the floor below cannot know."""
    global _open
    _open = opener


def default_store(url: str | None = None, as_of_us: int | None = None) -> Answers:
    """The store at `url`, else that of the working folder; each is opened once for a moment. Raises: NotFound."""
    import os

    from weft.lineage.description import find_store

    assert _open is not None, "weft.lineage.store says how a store is opened"
    root = url or find_store(os.getcwd(), os.environ)
    if root is None:
        return _open(None, None)
    key = (root, as_of_us)
    if key not in _stores:
        _stores[key] = _open(root, None if as_of_us is None else text_of_moment(as_of_us))
    return _stores[key]


class Recorded:
    """What all levels have in common. The subclass says its level and how to find its children."""

    _LEVEL: ClassVar[int]
    _NOUN: ClassVar[str]

    def __init_subclass__(cls) -> None:
        _classes[cls._LEVEL] = cls

    def __init__(self, pathspec: str, *, store: Answers | None = None) -> None:
        self._store = store or default_store()
        spec = parse_pathspec(pathspec)
        parts = [part for part in spec if part is not None]
        if len(parts) != self._LEVEL:
            raise UsageError(
                f"{pathspec!r} names no {self._NOUN}. Write {'/'.join(_LEVEL_NAMES[: self._LEVEL])}."
            )
        self._parts = parts
        self.pathspec = pathspec
        self.id = parts[-1]
        self._facts_known: dict[str, Any] = {}
        self._check()

    @classmethod
    def listed(cls, pathspec: str, store: Answers, facts: dict[str, Any] | None = None) -> Self:
        """An object that a query has just named, so that it need not be looked for.

        `facts` are columns of its row that cannot change any more; they are not asked for again.
        """
        found = cls.__new__(cls)
        found._store = store
        found._parts = pathspec.split("/")
        found.pathspec = pathspec
        found.id = found._parts[-1]
        found._facts_known = facts or {}
        found._on_listed()
        return found

    def _on_listed(self) -> None:
        """Set what a subclass has beside the common."""

    def _check(self) -> None:
        """Raises: NotFound with near names."""
        raise NotImplementedError

    def _child_names(self) -> list[str]:
        """The ids of the children, newest first."""
        raise NotImplementedError

    def _child(self, name: str) -> Any:
        raise NotImplementedError

    @property
    def path_components(self) -> list[str]:
        return list(self._parts)

    @property
    def parent(self) -> Any:
        """The object one level up; None for a flow."""
        above = _classes.get(self._LEVEL - 1)
        return None if above is None else above("/".join(self._parts[:-1]), store=self._store)

    @property
    def tags(self) -> frozenset[str]:
        """Of the run."""
        return self.user_tags | self.system_tags

    @property
    def user_tags(self) -> frozenset[str]:
        return self._tags("user")

    @property
    def system_tags(self) -> frozenset[str]:
        return self._tags("system")

    def is_in_namespace(self) -> bool:
        return get_namespace() is None or get_namespace() in self.tags

    def __iter__(self) -> Iterator[Any]:
        return (self._child(name) for name in self._child_names())

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(f"{self.pathspec} has no {name!r}.{near(str(name), self._child_names())}")
        return self._child(name)

    def __contains__(self, name: object) -> bool:
        return name in self._child_names()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __reduce__(self) -> tuple[Any, ...]:
        return reopened, (self._LEVEL, self.pathspec, self._store.url, None, self._store.as_of_us)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.pathspec!r})"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<code>{escape(repr(self))}</code>"

    def _identity(self) -> tuple[object, ...]:
        return type(self).__name__, self.pathspec, self._store.url, self._store.as_of_us

    def _tags(self, kind: str) -> frozenset[str]:
        if self._LEVEL < 2:
            return frozenset()
        rows = self._store.rows(
            "select tag from tags where flow = ? and run_id = ? and kind = ?", [*self._parts[:2], kind]
        )
        return frozenset(row[0] for row in rows)

    def _row(self, view: str, columns: str) -> tuple[Any, ...]:
        """Columns of this object's one row in a view."""
        names = columns.split(", ")
        if all(name in self._facts_known for name in names):
            return tuple(self._facts_known[name] for name in names)
        keys = ("flow", "run_id", "step", "task_id")[: len(self._parts)]
        condition = " and ".join(f"{key} = ?" for key in keys)
        rows = self._store.rows(f"select {columns} from {view} where {condition}", self._parts[:4])
        if not rows:
            raise NotFound(f"There is no {self._NOUN} {self.pathspec} in {self._store.url}.{self._near()}")
        return rows[0]

    def _near(self) -> str:
        if self._LEVEL == 1:
            return near(self.id, [row[0] for row in self._store.rows("select distinct flow from runs")])
        try:
            return near(self.id, self.parent._child_names())
        except NotFound as error:
            return f" {error}"

    def _names(self, query: str) -> list[str]:
        return [str(row[0]) for row in self._store.rows(query, self._parts)]


def reopened(
    level: int, pathspec: str, url: str, attempt: int | None = None, as_of_us: int | None = None
) -> Any:
    """Unpickle: the same object over the same store, as of the same moment."""
    more = {} if attempt is None else {"attempt": attempt}
    return _classes[level](pathspec, store=default_store(url, as_of_us), **more)
