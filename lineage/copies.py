"""Local copies of a remote store's files that never change. They can be deleted at any time.

They lie below `$XDG_CACHE_HOME/weft/<hash of URL and endpoint>/`, under the paths that they have in the store.
Whoever believes what is in them checks it by the sha256 in their names.
"""

from __future__ import annotations

import hashlib
import os

from weft.lineage import files
from weft.lineage.errors import StoreUnavailable

__all__ = ["Copies"]

_CACHE_VARIABLE = "XDG_CACHE_HOME"
#: The same URL may mean another store where the endpoint is another.
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_KEY_DIGITS = 24


class Copies:
    """The copies of one store's files."""

    def __init__(self, url: str) -> None:
        place = "\n".join([url, *(os.environ.get(name, "") for name in _ENDPOINT_VARIABLES)])
        key = hashlib.sha256(place.encode()).hexdigest()[:_KEY_DIGITS]
        root = os.environ.get(_CACHE_VARIABLE) or os.path.join(os.path.expanduser("~"), ".cache")
        self.folder = os.path.join(root, "weft", key)

    def path(self, path: str) -> str:
        """Where the copy of a file lies, or will lie."""
        return f"{self.folder}/{path}"

    def has(self, path: str) -> bool:
        return os.path.exists(self.path(path))

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
