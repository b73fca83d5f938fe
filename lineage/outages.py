"""What a remote file system's errors mean: which pass by themselves, which are answers, which are told the user.

Filesystems of fsspec raise errors of Python, of botocore and of their HTTP libraries. None of those
libraries is imported here: an error is known by its HTTP status, its code or the names of its classes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from weft.lineage.errors import StoreUnavailable

__all__ = ["is_conflict", "is_missing", "is_past_end", "is_transient", "status_of", "unreachable"]

#: 409 is what S3 answers to two conditional writes of one name at once: one of them is to try again.
_TRANSIENT_STATUSES = frozenset((408, 409, 425, 429, 500, 502, 503, 504))
_TRANSIENT_ERRNOS = frozenset(
    (errno.EBUSY, errno.EREMOTEIO, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPIPE)
)
_TRANSIENT_CLASSES = frozenset(
    (
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "ConnectionError",
        "HTTPClientError",
        "IncompleteRead",
        "IncompleteReadError",
        "ReadTimeoutError",
        "ResponseParserError",
        "ServerDisconnectedError",
        "TimeoutError",
    )
)
_CREDENTIAL_CLASSES = frozenset(
    (
        "CredentialRetrievalError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "TokenRetrievalError",
    )
)


def is_conflict(error: BaseException) -> bool:
    """Whether a file was not created because there is one of that name. Not all servers say it alike."""
    return isinstance(error, FileExistsError) or status_of(error) == 412


def is_missing(error: BaseException) -> bool:
    """Whether there is no file of that name."""
    is_absent = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
    return is_absent and not _is_bucket_missing(error)


def is_past_end(error: BaseException) -> bool:
    """Whether a range was asked for that begins where the file has ended."""
    return status_of(error) == 416


def is_transient(error: BaseException) -> bool:
    """Whether the same request may go well a little later."""
    status = status_of(error)
    if status is not None:
        return status in _TRANSIENT_STATUSES
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS:
        return True
    return any(_class_names(each) & _TRANSIENT_CLASSES for each in _chain(error))


def status_of(error: BaseException) -> int | None:
    """The HTTP status of the answer that an error stands for; None where there was no answer."""
    for each in _chain(error):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if isinstance(status, int):
                return status
    return None


def unreachable(url: str, error: BaseException) -> StoreUnavailable:
    """One sentence for what a remote store said, or did not say, and what to do about it."""
    said = _said(error)
    if any(_class_names(each) & _CREDENTIAL_CLASSES for each in _chain(error)):
        return StoreUnavailable(
            f"{url} needs credentials ({said}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        )
    if _is_bucket_missing(error):
        return StoreUnavailable(
            f"{url} lies in a bucket that does not exist at {_endpoint()}. "
            "Create the bucket, or name another store with --store."
        )
    if isinstance(error, PermissionError) or status_of(error) in (401, 403):
        return StoreUnavailable(
            f"{url} does not allow this ({said}). Check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE) "
            "and what they may do in that bucket."
        )
    return StoreUnavailable(
        f"{url} is out of reach at {_endpoint()} ({said}). Check the network and the endpoint "
        "(AWS_ENDPOINT_URL), then try again."
    )


def _is_bucket_missing(error: BaseException) -> bool:
    responses = (getattr(each, "response", None) for each in _chain(error))
    codes = {r.get("Error", {}).get("Code") for r in responses if isinstance(r, dict)}
    return "NoSuchBucket" in codes


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "its usual address"


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text[:300] or type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _class_names(error: BaseException) -> set[str]:
    return {each.__name__ for each in type(error).__mro__}
