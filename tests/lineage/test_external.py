from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import fsspec
import pytest

from weft.lineage.external import Fingerprint, fingerprint, is_remote, normalized


@pytest.mark.parametrize(
    ("given", "uri"),
    [
        ("/data/x.csv", "/data/x.csv"),
        ("/data//./y/../x.csv", "/data/x.csv"),
        ("x.csv", "/here/x.csv"),
        (Path("a") / "x.csv", "/here/a/x.csv"),
        ("file:///data/a%20b.csv", "/data/a b.csv"),
        ("S3://bucket/Key", "s3://bucket/Key"),
        ("s3://id:secret@bucket/key", "s3://bucket/key"),
        ("https://host/a?X-Amz-Signature=1&part=2", "https://host/a?part=2"),
        ("https://host/a?token=1", "https://host/a"),
        ("postgresql://me:pw@host:5432/db", "postgresql://host:5432/db"),
    ],
)
def test_normalized_gives_one_name_without_secrets(given: str | Path, uri: str) -> None:
    assert normalized(given, "/here") == uri
    assert is_remote(uri) == ("://" in uri)


def test_fingerprint_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 3_000_000)
    assert fingerprint(str(path)) == Fingerprint(hashlib.sha256(b"x" * 3_000_000).digest(), 3_000_000)
    seen = fingerprint(str(path), digested_bytes_max=1000)
    assert (seen.digest, seen.size_bytes) == (None, 3_000_000)
    assert seen.state == f"mtime_ns:{path.stat().st_mtime_ns}"


def test_fingerprint_of_a_folder_is_that_of_the_list_sha256sum_prints(tmp_path: Path) -> None:
    for name in ("b/x.csv", "a.csv", "b/a/y.csv", "B.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    command = "find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    printed = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    seen = fingerprint(str(tmp_path))
    assert seen.digest is not None
    assert seen.digest.hex() == printed.stdout.split()[0]
    assert seen.size_bytes == sum(len(name) for name in ("b/x.csv", "a.csv", "b/a/y.csv", "B.csv"))
    huge = fingerprint(str(tmp_path), digested_bytes_max=3)
    assert huge.digest is None
    assert huge.state is not None


def test_fingerprint_of_what_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for uri in (str(tmp_path / "none"), str(tmp_path / "pipe"), "nul\0", "s3://bucket/key", "odd://x"):
        assert fingerprint(uri) == Fingerprint()


def test_fingerprint_of_a_remote_uri_is_what_an_open_file_system_says() -> None:
    files = fsspec.filesystem("memory")
    files.pipe("/bucket/x", b"abc")
    assert fingerprint("memory://bucket/x").size_bytes == 3
    assert fingerprint("memory://bucket/y") == Fingerprint()
