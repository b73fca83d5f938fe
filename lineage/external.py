"""What lies outside the store, files above all: one name for each, and what tells its contents apart."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["Fingerprint", "fingerprint", "is_remote", "normalized"]

_CHUNK_BYTES = 1 << 20

#: Parts of a query that let somebody in, and so belong into no record.
_SECRET_PARTS = ("x-amz-", "x-goog-", "sig", "signature", "token", "access_token", "key", "password")

#: What file systems say of an object that changes with its content, the best first.
_STATES = (
    "VersionId",
    "version_id",
    "generation",
    "ETag",
    "etag",
    "md5Hash",
    "LastModified",
    "updated",
    "mtime",
)


class Fingerprint(NamedTuple):
    """What is known of a content: its sha256, its size, or else a `state` that changes when it does."""

    digest: bytes | None = None
    size_bytes: int | None = None
    state: str | None = None


def is_remote(uri: str) -> bool:
    return "://" in uri


def normalized(path_or_uri: str | os.PathLike[str], folder: str | None = None) -> str:
    """The absolute path of a file, links not followed, or the URI without passwords and signatures.

    A relative path is one in `folder`, else in the working folder.

    >>> normalized("s3://me:secret@bucket/a//b.csv")
    's3://bucket/a//b.csv'
    >>> normalized("file:///data/../data/x.csv"), normalized("x.csv", "/data")
    ('/data/x.csv', '/data/x.csv')
    """
    text = os.fsdecode(os.fspath(path_or_uri))
    scheme, mark, rest = text.partition("://")
    if not mark or scheme.lower() == "file":
        if mark:
            from urllib.parse import unquote

            text = unquote(rest.removeprefix("localhost"))
        text = os.path.expanduser(text)
        return os.path.normpath(os.path.join(folder or os.getcwd(), text))
    place, question, query = rest.partition("?")
    host, slash, path = place.partition("/")
    host = host.rpartition("@")[2]
    kept = [part for part in query.split("&") if part and not part.lower().startswith(_SECRET_PARTS)]
    return f"{scheme.lower()}://{host}{slash}{path}{question if kept else ''}{'&'.join(kept)}"


def fingerprint(uri: str, digested_bytes_max: int | None = None) -> Fingerprint:
    """What tells the content of a normalized URI apart now. Never fails: what cannot be read is not known.

    A file has the sha256 of its bytes, a folder that of the list of its files, as
    `find . -type f | LC_ALL=C sort | xargs sha256sum` prints it. More than `digested_bytes_max` is not
    read. Of remote URIs the file system is asked that the process has opened for that scheme already.
    """
    if is_remote(uri):
        return _ask_remote(uri)
    try:
        if os.path.isdir(uri):
            return _fingerprint_folder(uri, digested_bytes_max)
        facts = os.stat(uri)
        if not os.path.isfile(uri):
            return Fingerprint()
        if digested_bytes_max is not None and facts.st_size > digested_bytes_max:
            return Fingerprint(None, facts.st_size, f"mtime_ns:{facts.st_mtime_ns}")
        return _fingerprint_file(uri)
    except (OSError, ValueError):
        return Fingerprint()


def _fingerprint_file(path: str) -> Fingerprint:
    import hashlib

    digest, size_bytes = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
    return Fingerprint(digest.digest(), size_bytes)


def _fingerprint_folder(folder: str, digested_bytes_max: int | None) -> Fingerprint:
    import hashlib

    files = sorted((os.fsencode(path), path) for path in _files_below(folder))
    sizes = [os.stat(os.path.join(folder, path)) for _, path in files]
    size_bytes = sum(facts.st_size for facts in sizes)
    if digested_bytes_max is not None and size_bytes > digested_bytes_max:
        newest = max(facts.st_mtime_ns for facts in sizes)
        return Fingerprint(None, size_bytes, f"files:{len(files)},mtime_ns:{newest}")
    digest = hashlib.sha256()
    for name, path in files:
        content = _fingerprint_file(os.path.join(folder, path))
        assert content.digest is not None
        digest.update(content.digest.hex().encode() + b"  ./" + name + b"\n")
    return Fingerprint(digest.digest(), size_bytes)


def _files_below(folder: str) -> Iterator[str]:
    """Relative paths of the files in a folder and below; links to folders are not followed."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if os.path.isfile(path):
                yield os.path.relpath(path, folder)


def _ask_remote(uri: str) -> Fingerprint:
    fsspec: Any = sys.modules.get("fsspec")
    try:
        kind = None if fsspec is None else fsspec.registry.get(uri.partition("://")[0])
        # Only one that is open already: it has the right credentials, and asking it loads nothing.
        if kind is None or not kind._cache:
            return Fingerprint()
        facts = kind.current().info(kind._strip_protocol(uri))
        state = next((f"{name.lower()}:{facts[name]}" for name in _STATES if facts.get(name)), None)
        size = facts.get("size")
        return Fingerprint(None, size if isinstance(size, int) else None, state)
    except Exception:  # noqa: BLE001  # Whatever a file system raises, the step goes on.
        return Fingerprint()
