"""`merge_artifacts`: which references a join takes over from its branches. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from weft.lineage.errors import UsageError
from weft.runtime.refs import Ref, Table

__all__ = [
    "MergeRefused",
    "MissingInMergeArtifactsException",
    "UnhandledInMergeArtifactsException",
    "merge_tables",
]


class MergeRefused(UsageError):
    """A call of `merge_artifacts` that makes no sense where it stands."""


class UnhandledInMergeArtifactsException(UsageError):
    """Branches disagree on artifacts; `artifact_names` lists them."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(
            f"The branches have different values of {', '.join(names)}. Set them on self before "
            f"merge_artifacts, or name them in exclude=[…]."
        )
        self.artifact_names = names

    def __reduce__(self) -> tuple[type, tuple[list[str]]]:
        return type(self), (self.artifact_names,)


class MissingInMergeArtifactsException(UsageError):
    """`include` names artifacts that no branch has; `artifact_names` lists them."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"No branch has an artifact {', '.join(names)}. Mend the names in include=[…].")
        self.artifact_names = names

    def __reduce__(self) -> tuple[type, tuple[list[str]]]:
        return type(self), (self.artifact_names,)


def merge_tables(
    tables: Iterable[Table], already_set: Collection[str], include: Collection[str], exclude: Collection[str]
) -> dict[str, Ref]:
    """The references that all branches which have them agree on, all or nothing.

    Equality is that of digests. Names in `already_set` and `exclude` are skipped; with `include` only
    those are looked at.

    Raises: UnhandledInMergeArtifactsException, MissingInMergeArtifactsException, MergeRefused.
    """
    if include and exclude:
        raise MergeRefused("merge_artifacts takes include or exclude, not both. Drop one of them.")
    merged: dict[str, Ref] = {}
    conflicts: list[str] = []
    for table in tables:
        for name, ref in table.items():
            if name in already_set or name in exclude or (include and name not in include):
                continue
            known = merged.setdefault(name, ref)
            if known.digest != ref.digest and name not in conflicts:
                conflicts.append(name)
    missing = [name for name in include if name not in merged and name not in already_set]
    if missing:
        raise MissingInMergeArtifactsException(missing)
    if conflicts:
        raise UnhandledInMergeArtifactsException(sorted(conflicts))
    return merged
