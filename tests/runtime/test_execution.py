"""What a run is called."""

from __future__ import annotations

from weft.runtime.execution import new_run_id


def test_runs_that_begin_in_one_microsecond_have_ids_of_their_own() -> None:
    """Seen once: two resumes that were started at once had one id."""
    ids = {new_run_id(1_795_598_377_243_398, pid) for pid in range(4_194_000, 4_194_010)}
    assert len(ids) == 10
    assert all(1_795_598_377_243_000 <= int(run_id) <= 1_795_598_377_243_999 for run_id in ids)
