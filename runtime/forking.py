"""Whether the process that has imported a flow may still be forked."""

from __future__ import annotations

import os
import sys

__all__ = ["reason_not_to_fork"]


def reason_not_to_fork() -> str | None:
    """Why this process cannot be forked safely any more, in a few words; None when it can be.

    Threads of BLAS and jemalloc are known to survive a fork (they are stopped before it, or hold no
    lock that a child needs); their names are those of the process, or `jemalloc_bg_thd`.
    """
    if sys.platform != "linux":
        return f"on {sys.platform} a fork may not go on after system libraries were used"
    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        names = sorted(t.name for t in threading.enumerate() if t is not threading.main_thread())
        return f"the flow's import started threads ({', '.join(names)})"
    foreign = _foreign_threads()
    if foreign:
        return f"native threads are running ({', '.join(foreign)})"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return "CUDA is initialized"
    if "grpc._cython.cygrpc" in sys.modules:
        return "gRPC is loaded"
    pyspark = sys.modules.get("pyspark")
    if pyspark is not None and pyspark.SparkContext._active_spark_context is not None:
        return "a Spark session is open"
    return None


def _foreign_threads() -> list[str]:
    try:
        tasks = os.listdir("/proc/self/task")
        names = {_read_line(f"/proc/self/task/{task}/comm") for task in tasks}
        own = _read_line("/proc/self/comm")
    except OSError:
        return []
    return sorted(names - {own, "jemalloc_bg_thd"})


def _read_line(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.readline().strip()
