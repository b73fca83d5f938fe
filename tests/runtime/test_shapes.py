"""What tasks tell of their reads, by which later runs find them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from weft.runtime.keys import Dependency, StepCode, digest_of_json
from weft.runtime.shapes import parse_shape, reads_of

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
places = st.builds(
    Dependency,
    st.sampled_from(["artifact", "item", "parameter", "merged"]),
    st.lists(st.integers(0, 9), max_size=2).map(tuple),
    names,
)
values = st.none() | st.binary(max_size=32)


@given(st.dictionaries(places, values, max_size=8), names)
def test_digest_of_reads_is_that_of_a_list_in_json(
    reads: dict[Dependency, bytes | None], digest: str
) -> None:
    """Tasks that were finished by an older version are found by it."""
    told = reads_of(StepCode(digest, "reached", None, {}, {}), "", reads)
    assert told is not None
    shape = parse_shape(told["shape"])
    assert shape.places == tuple(sorted(reads))
    in_hex = [None if reads[place] is None else (reads[place] or b"").hex() for place in shape.places]
    whole = [digest, json.dumps(told["shape"], ensure_ascii=False), in_hex]
    assert told["digest"] == digest_of_json(whole).hex()[:32]
