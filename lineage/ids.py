"""Names of things: pathspecs and digests, parsed and formatted. Pure."""

from __future__ import annotations

from typing import NamedTuple

from weft.lineage.errors import InvalidPathspec

__all__ = ["Pathspec", "TaskRef", "digest_from_text", "digest_to_text", "parse_pathspec"]

_DIGEST_PREFIX = "sha256:"
_LEVELS_MAX = 5


class Pathspec(NamedTuple):
    """`Flow/run/step/task/artifact`, each level but the first optional."""

    flow: str
    run_id: str | None = None
    step: str | None = None
    task_id: str | None = None
    name: str | None = None

    def __str__(self) -> str:
        return "/".join([part for part in self if part is not None])


class TaskRef(NamedTuple):
    """One task of one run; `run_uid` tells runs apart that share a pathspec after a merge."""

    run_uid: bytes
    flow: str
    run_id: str
    step: str
    task_id: str

    @property
    def pathspec(self) -> str:
        return f"{self.flow}/{self.run_id}/{self.step}/{self.task_id}"


def parse_pathspec(text: str) -> Pathspec:
    """Split a pathspec into its levels.

    >>> parse_pathspec("Hello/17/start")
    Pathspec(flow='Hello', run_id='17', step='start', task_id=None, name=None)

    Raises: InvalidPathspec when a level is empty or there are more than five.
    """
    parts = text.split("/")
    if not 1 <= len(parts) <= _LEVELS_MAX or not all(parts):
        raise InvalidPathspec(
            f"{text!r} is not a pathspec. Write Flow[/run[/step[/task[/artifact]]]], for example MyFlow/17/start."
        )
    return Pathspec(*parts)


def digest_to_text(digest: bytes) -> str:
    """The text form of a digest: `sha256:` and 64 hex digits."""
    return _DIGEST_PREFIX + digest.hex()


def digest_from_text(text: str) -> bytes:
    """The 32 bytes of a digest given with or without its `sha256:`.

    Raises: InvalidPathspec when it is not 64 hex digits, so that no other text ever becomes a path.
    """
    digits = text.removeprefix(_DIGEST_PREFIX)
    try:
        digest = bytes.fromhex(digits)
    except ValueError:
        digest = b""
    if len(digest) != 32 or len(digits) != 64:
        raise InvalidPathspec(f"{text!r} is not a digest. Write 64 hex digits, with or without `sha256:`.")
    return digest
