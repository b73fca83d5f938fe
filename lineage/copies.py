"""Local copies of a remote store's files that never change. They can be deleted at any time.

They lie below `$XDG_CACHE_HOME/weft/<hash of URL and endpoint>/`, under the paths that they have in the store.
Whoever believes what is in them checks it by the sha256 in their names. Of all stores together no more than
`WEFT_CACHE_MAX_BYTES` is kept (10 GB where it is not set): those go first that nobody has used for longest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os

from weft.lineage import clock, files
from weft.lineage.errors import StoreUnavailable, UsageError

__all__ = ["Copies"]

_CACHE_VARIABLE = "XDG_CACHE_HOME"
#: The same URL may mean another store where the endpoint is another.
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_KEY_DIGITS = 24

_MAX_BYTES_VARIABLE = "WEFT_CACHE_MAX_BYTES"
_MAX_BYTES = 10_000_000_000

#: A copy that was used so lately may be about to be read: it stays, however many there are.
_IN_USE_S = 3600.0


class Copies:
    """The copies of one store's files."""

    def __init__(self, url: str) -> None:
        place = "\n".join([url, *(os.environ.get(name, "") for name in _ENDPOINT_VARIABLES)])
        key = hashlib.sha256(place.encode()).hexdigest()[:_KEY_DIGITS]
        root = os.environ.get(_CACHE_VARIABLE) or os.path.join(os.path.expanduser("~"), ".cache")
        self._root = os.path.join(root, "weft")
        self.folder = os.path.join(self._root, key)

    def path(self, path: str) -> str:
        """Where the copy of a file lies, or will lie."""
        return f"{self.folder}/{path}"

    def has(self, path: str) -> bool:
        """Whether there is a copy, which counts as used now."""
        try:
            os.utime(self.path(path))
        except FileNotFoundError:
            return False
        except OSError:
            # A cache that cannot be written to is read all the same.
            return os.path.exists(self.path(path))
        return True

    def prune(self) -> list[str]:
        """Remove copies, of any store, beyond what may be kept; gives where they lay. Raises: UsageError."""
        max_bytes = _max_bytes()
        found = []
        for folder, _, names in os.walk(self._root):
            for name in names:
                try:
                    stat = os.lstat(os.path.join(folder, name))
                except FileNotFoundError:
                    continue
                found.append((stat.st_mtime, stat.st_size, os.path.join(folder, name)))
        found.sort()
        excess = sum(size for _, size, _ in found) - max_bytes
        newest_s = clock.now_us() / 1e6 - _IN_USE_S
        removed = []
        for used_s, size, path in found:
            if excess <= 0 or used_s > newest_s:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                removed.append(path)
                excess -= size
        return removed

    def temporary(self, path: str) -> str:
        """Where to write a copy before it is `kept`. Raises: StoreUnavailable."""
        target = self.path(path)
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
        except OSError as error:
            raise self._unavailable(error) from error
        return files.temporary_name(target)

    def keep(self, temporary: str, path: str) -> None:
        """Give a whole file the name of a copy. Raises: StoreUnavailable."""
        try:
            descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            try:
                # A name that outlives its bytes in a power cut would be a damaged copy.
                files.sync(descriptor)
            finally:
                os.close(descriptor)
            os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
            os.rename(temporary, self.path(path))
        except OSError as error:
            raise self._unavailable(error) from error

    def forget(self, path: str) -> bool:
        """Whether there was a copy, which is gone now."""
        try:
            os.unlink(self.path(path))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unavailable(error) from error
        return True

    def _unavailable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(
            f"Copies of the store's files cannot be kept in {self.folder} ({error.strerror}). "
            f"Make room there, or name another folder with {_CACHE_VARIABLE}."
        )


def _max_bytes() -> int:
    text = os.environ.get(_MAX_BYTES_VARIABLE, "")
    if not text:
        return _MAX_BYTES
    if not text.isdecimal():
        raise UsageError(
            f"{_MAX_BYTES_VARIABLE} is {text!r}, which is no number of bytes. Set it to one, or unset it."
        )
    return int(text)
