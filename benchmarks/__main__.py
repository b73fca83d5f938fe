"""`python -m benchmarks`: measure all, or the benchmarks that are named."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from typing import NamedTuple

from benchmarks import (
    bench_commands,
    bench_diff,
    bench_lineage,
    bench_log,
    bench_plan,
    bench_run,
    bench_scale,
    bench_store,
)
from benchmarks.report import Figure, Report
from benchmarks.workloads import SIZES, Size

_SEED = 17


class _Benchmark(NamedTuple):
    title: str
    measure: Callable[[Size, int, str], tuple[list[Figure], str]]


_BENCHMARKS = {
    "hello": _Benchmark("A flow of three steps, process included", bench_run.measure_hello),
    "steps": _Benchmark("Linear steps", bench_run.measure_steps),
    "wide": _Benchmark("A wide foreach and its join, two workers", bench_run.measure_wide),
    "resume": _Benchmark("Resume", bench_run.measure_resume),
    "plan": _Benchmark("Resume as a plan", bench_plan.measure_plan),
    "append": _Benchmark("Durable appends", bench_log.measure_append),
    "read": _Benchmark("Reading a journal", bench_log.measure_read),
    "seal": _Benchmark("Sealing", bench_log.measure_seal),
    "list": _Benchmark("Listing runs", bench_store.measure_list),
    "diff": _Benchmark("Comparing two runs", bench_diff.measure_diff),
    "scale": _Benchmark("A long history", bench_scale.measure_scale),
    "lineage": _Benchmark("Lineage in a long history", bench_lineage.measure_lineage),
    "commands": _Benchmark("Commands as whole processes", bench_commands.measure_commands),
}


#: Those that share the long history.
_IN_HISTORY = ("scale", "lineage", "commands")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(_BENCHMARKS)}; all if none")
    parser.add_argument("--size", choices=SIZES, default="canonical")
    parser.add_argument("--seed", type=int, default=_SEED)
    parser.add_argument("--folder", help="where stores are made: its file system is what is measured")
    parser.add_argument(
        "--events", type=int, metavar="N", help="in the long history, instead of what --size says"
    )
    parser.add_argument(
        "--store", metavar="STORE", help="where the long history is kept: made once, then measured again"
    )
    parser.add_argument("--json", metavar="FILE", dest="json_path", help="also write all figures to FILE")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(_BENCHMARKS))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; known: {', '.join(_BENCHMARKS)}")
    size = SIZES[arguments.size]
    if arguments.events is not None:
        size = size._replace(history=arguments.events)
    with tempfile.TemporaryDirectory(prefix="weft-bench-", dir=arguments.folder) as folder:
        report = Report(arguments.size, arguments.seed, folder)
        report.begin()
        for name in arguments.names or _BENCHMARKS:
            benchmark = _BENCHMARKS[name]
            place = os.path.join(folder, name)
            if name in _IN_HISTORY:
                place = arguments.store or os.path.join(folder, "history")
            os.makedirs(place, exist_ok=True)
            figures, answer = benchmark.measure(size, arguments.seed, place)
            report.add(name, benchmark.title, figures, answer)
        if arguments.json_path:
            report.write(arguments.json_path)


if __name__ == "__main__":
    main()
