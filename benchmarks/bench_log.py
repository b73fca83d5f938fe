"""The log: what an acknowledged event costs, how fast journals are read and sealed, and how large events are."""

from __future__ import annotations

import os
import time
from itertools import islice
from typing import Any
from zlib import crc32

import msgpack

from benchmarks.measure import bare_syncs_s, load_arrow_s
from benchmarks.report import Figure, answer_of
from benchmarks.workloads import Size, history
from weft.lineage.codec import HEADER_BYTES, decode, read_payloads
from weft.lineage.collector import CollectorPause
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.log import EventLog
from weft.lineage.paths import JOURNALS, journal_name
from weft.lineage.schema import Event

__all__ = ["measure_append", "measure_read", "measure_seal"]

_BATCH = 1_000
_WRITER = bytes(range(16))


def measure_append(size: Size, seed: int, folder: str) -> tuple[list[Figure], str]:
    """One event appended and synced, against a bare write of as many bytes and its sync."""
    count = size.durable_appends
    made = list(history(seed, count))
    times: list[float] = []
    bare: list[float] = []
    for repeat in range(min(3, size.repeats)):
        spent_s, written = _durable_append_s(made, os.path.join(folder, f"append-{repeat}"))
        times.append(spent_s)
        bare.append(bare_syncs_s(count, written // count, folder))
    batched_s = _batched_append_s(made, folder)
    durable_s, bare_s = min(times) / count, min(bare) / count
    return [
        Figure("bare write + fdatasync", bare_s * 1e6, "us"),
        Figure("append + sync, one event", durable_s * 1e6, "us", durable_s / bare_s, "bare"),
        Figure("append, batches without a sync", batched_s / count * 1e6, "us"),
    ], answer_of([count, written])


def _durable_append_s(made: list[Event], folder: str) -> tuple[float, int]:
    """Seconds, and the bytes that were written."""
    journal = Journal.create(LocalStorage(folder))
    written = 0
    start = time.perf_counter()
    for event in made:
        for place in journal.append([event]):
            written += place.length
        journal.sync()
    spent_s = time.perf_counter() - start
    journal.close()
    return spent_s, written


def _batched_append_s(made: list[Event], folder: str) -> float:
    journal = Journal.create(LocalStorage(os.path.join(folder, "batched")))
    start = time.perf_counter()
    for first in range(0, len(made), _BATCH):
        journal.append(made[first : first + _BATCH])
    spent_s = time.perf_counter() - start
    journal.close()
    return spent_s


def measure_read(size: Size, seed: int, folder: str) -> tuple[list[Figure], str]:
    """A journal's bytes as events, against bare msgpack and crc32 over the same payloads."""
    storage = LocalStorage(os.path.join(folder, "read"))
    write_history(storage, seed, size.decoded)
    buffers = [storage.get(path) for path in storage.list(JOURNALS)]
    firsts = [name.first_seq for path in storage.list(JOURNALS) if (name := journal_name(path))]
    start = time.perf_counter()
    with CollectorPause():
        found = [
            decode(_WRITER, seq, payload)
            for buffer, first in zip(buffers, firsts, strict=True)
            for seq, payload in enumerate(read_payloads(buffer, first).payloads, first)
        ]
    read_s = time.perf_counter() - start
    payloads = []
    for buffer in buffers:
        payloads += _payloads(buffer)
    start = time.perf_counter()
    for payload in payloads:
        crc32(payload)
        msgpack.unpackb(payload, strict_map_key=False)
    bare_s = time.perf_counter() - start
    stored = sum(len(buffer) for buffer in buffers)
    return [
        Figure("bare msgpack + crc32", len(payloads) / bare_s, "events/s"),
        Figure("journal read", len(found) / read_s, "events/s", read_s / bare_s, "the time of bare"),
        Figure("journal", stored / len(found), "B/event"),
    ], answer_of(_told(found))


def _payloads(buffer: bytes) -> list[bytes]:
    payloads = []
    offset = 0
    while offset < len(buffer):
        end = offset + HEADER_BYTES + int.from_bytes(buffer[offset : offset + 4], "little")
        payloads.append(buffer[offset + HEADER_BYTES : end])
        offset = end
    return payloads


def measure_seal(size: Size, seed: int, folder: str) -> tuple[list[Figure], str]:
    """Closed journals sealed into a segment, against writing the finished Arrow tables as Parquet."""
    storage = LocalStorage(os.path.join(folder, "seal"))
    write_history(storage, seed, size.decoded)
    load_s = load_arrow_s()
    import pyarrow.parquet as pq

    log = EventLog(storage)
    start = time.perf_counter()
    report = log.seal(force=True, grace_s=0)
    seal_s = time.perf_counter() - start
    files = [file for segment in report.segments for file in segment.files.values()]
    tables = [pq.read_table(os.path.join(storage.root, file.path)) for file in files]
    start = time.perf_counter()
    for table in tables:
        pq.write_table(table, os.path.join(folder, "bare.parquet"), compression="zstd", compression_level=1)
    bare_s = time.perf_counter() - start
    sealed = log.events()
    stored = sum(file.size_bytes for file in files)
    return [
        Figure("loading what writes Parquet, once in a process", load_s, "s"),
        Figure("bare Parquet of ready tables", report.event_count / bare_s, "events/s"),
        Figure("seal", report.event_count / seal_s, "events/s", seal_s / bare_s, "the time of bare"),
        Figure("segment", stored / report.event_count, "B/event"),
    ], answer_of(_told(sealed))


def write_history(storage: LocalStorage, seed: int, count: int) -> None:
    """Write seeded events as one writer's closed journals."""
    journal = Journal.create(storage, _WRITER)
    made = history(seed, count)
    while batch := list(islice(made, _BATCH)):
        journal.append(batch)
    journal.close()


def _told(found: Any) -> list[Any]:
    """What a reader must find again, whatever way the events took; times are left out."""
    return sorted(
        [e.seq, e.kind, e.run_id, e.task_id, e.name, None if e.digest is None else e.digest.hex()]
        for e in found
        if e.kind != "journal_closed"
    )
