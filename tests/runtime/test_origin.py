"""Which run a resume goes on from, and which it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.lineage import clock, events
from weft.lineage.errors import UsageError
from weft.lineage.events import RunRef
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.runtime.origin import Owner, choose_origin

OWNER = Owner("ada", "5" * 32)
RUN = RunRef(b"u" * 16, "MyFlow", "17")
_HOUR_US = 3600 * 1_000_000


def _begin(storage: LocalStorage, ago_us: int) -> Journal:
    """A run that somebody took up a while ago, and said no more of."""
    begun_us = clock.now_us() - ago_us
    journal = Journal.create(storage, now_us=lambda: begun_us)
    payload = {"user": "ada", "host": "box", "pid": 4711}
    lease = events.lease_renewed(RUN, begun_us + 120_000_000)
    journal.append([events.run_started(RUN, None, payload), lease])
    journal.sync()
    return journal


def test_scheduler_that_can_be_seen_is_not_taken_over_however_long_it_is_silent(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    journal = _begin(storage, _HOUR_US)
    with pytest.raises(
        UsageError, match=r"still running \(ada on box, process 4711; its lease was renewed 36"
    ):
        choose_origin(storage, "MyFlow", OWNER, "17")
    journal.close()


def test_run_whose_scheduler_is_gone_can_be_resumed_at_once_and_says_how_far_it_was_read(
    tmp_path: Path,
) -> None:
    storage = LocalStorage(str(tmp_path))
    journal = _begin(storage, 0)
    journal.append([events.tag_added(RUN, "late", "user")])
    journal.close()
    origin = choose_origin(storage, "MyFlow", OWNER, None)
    assert (origin.run.status, origin.last_seq, origin.run.writer) == ("lost", 3, journal.writer)
