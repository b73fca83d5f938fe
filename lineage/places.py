"""Which segments hold events of which run: what a question about one run need not read, it need not prove.

One record of 20 bytes for each run and segment, sorted: 8 bytes of a digest of (flow, run id), 8 bytes of the
segment's id, and how many events there are. Two runs with one digest share their segments: more is read, never less.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator

__all__ = ["events_in", "places_bytes", "segment_key"]

_KEY_BYTES = 8
_RECORD_BYTES = 20


def places_bytes(counts: Iterable[tuple[str, str, str, int]], *others: bytes) -> bytes:
    """The records for (segment id, flow, run id, events), and those of `others`."""
    records = {
        _run_key(flow, run_id) + segment_key(segment_id) + count.to_bytes(4, "big")
        for segment_id, flow, run_id, count in counts
    }
    for data in others:
        records.update(_records(data))
    return b"".join(sorted(records))


def events_in(data: bytes, flow: str, run_id: str) -> dict[bytes, int]:
    """How many events of a run each segment holds, by the key of the segment."""
    wanted = _run_key(flow, run_id)
    places = range(0, len(data), _RECORD_BYTES)
    index = bisect_left(places, wanted, key=lambda at: data[at : at + _KEY_BYTES])
    found: dict[bytes, int] = {}
    for at in places[index:]:
        if not data.startswith(wanted, at):
            break
        key = data[at + _KEY_BYTES : at + 2 * _KEY_BYTES]
        found[key] = found.get(key, 0) + int.from_bytes(data[at + 2 * _KEY_BYTES : at + _RECORD_BYTES], "big")
    return found


def segment_key(segment_id: str) -> bytes:
    return hashlib.sha256(segment_id.encode()).digest()[:_KEY_BYTES]


def _run_key(flow: str, run_id: str) -> bytes:
    return hashlib.sha256(f"{flow}/{run_id}".encode(errors="surrogatepass")).digest()[:_KEY_BYTES]


def _records(data: bytes) -> Iterator[bytes]:
    return (data[at : at + _RECORD_BYTES] for at in range(0, len(data), _RECORD_BYTES))
