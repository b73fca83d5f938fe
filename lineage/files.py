"""What the operating system does for files: written whole, published, made durable, and errors in our own words."""

from __future__ import annotations

import errno
import fcntl
import os

from weft.lineage import clock
from weft.lineage.errors import NotFound, StoreError, StoreUnavailable

__all__ = [
    "is_on_network",
    "not_found",
    "publish_exclusive",
    "read_error",
    "remove",
    "sync",
    "sync_folder",
    "temporary_name",
    "unavailable",
    "write_all",
]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_NETWORK_FILESYSTEMS = frozenset(
    (
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.sshfs",
        "glusterfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "smb3",
    )
)


def temporary_name(target: str) -> str:
    folder, _, name = target.rpartition("/")
    return f"{folder}/.{name}.{clock.random_bytes(6).hex()}.tmp"


def publish_exclusive(temporary: str, target: str) -> None:
    """Give a file its name, unless there is one of that name (FileExistsError)."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        # A file system without hard links: the name is claimed first, then the content takes it over.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        os.rename(temporary, target)


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise unavailable(error, path) from error


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync(descriptor: int) -> None:
    """Durable bytes; the times of the file may lag."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        # On macOS fsync stops at the drive's own cache.
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


def sync_folder(folder: str) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unavailable(error, folder) from error


def is_on_network(path: str) -> bool:
    """Whether a path lies on a file system whose locks another machine may hold; False where the kernel does not say."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
            mounts = [line.split(" ")[1:3] for line in file]
    except OSError:
        return False
    real = os.path.realpath(path)
    best = ("", "")
    for point, kind in mounts:
        # Later lines hide earlier ones at the same point.
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1] in _NETWORK_FILESYSTEMS


def not_found(path: str) -> NotFound:
    return NotFound(f"{path} is not in the store. Run `weft verify` to see what else is missing.")


def read_error(error: OSError, path: str) -> NotFound | StoreError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return not_found(path)
    return unavailable(error, path)


def unavailable(error: OSError, path: str) -> StoreUnavailable:
    """One clear sentence for what the operating system said, and what to do about it."""
    if error.errno in _FULL:
        return StoreUnavailable(
            f"The disk is full: {path} cannot be written ({error.strerror}). Free some space and try again."
        )
    if error.errno in _FORBIDDEN:
        return StoreUnavailable(
            f"The store does not allow this: {path} ({error.strerror}). Make it writable, or name another one with --store."
        )
    return StoreUnavailable(
        f"{path} is out of reach ({error.strerror}). Check the disk or the path, then try again."
    )
