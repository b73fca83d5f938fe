"""A forked child is as random as a fresh interpreter, unless the flow seeded the generator itself.

Python reseeds `random` in every child; that is undone where the flow had called `random.seed`. NumPy's
global generator is copied by a fork; it is reseeded unless `numpy.random.seed` was called, which
leaves it without a seed sequence.
"""

from __future__ import annotations

import random
import sys
from typing import Any

__all__ = ["reseed", "seeded_state"]

_State = tuple[Any, ...]

#: The generator's state when weft was imported: what differs later was drawn or seeded.
_FIRST_STATE: _State = random.getstate()

_WORDS = 624
#: How many times over the flow may have drawn all words of the state before that counts as a seed.
_REFILLS_MAX = 64


def seeded_state() -> _State | None:
    """The state of `random` if the flow seeded it; to be asked before the fork."""
    state = random.getstate()
    if state[1][:_WORDS] == _FIRST_STATE[1][:_WORDS]:
        return None
    replay = random.Random()
    replay.setstate(_FIRST_STATE)
    for _ in range(_REFILLS_MAX):
        replay.getrandbits(32 * _WORDS)
        if replay.getstate()[1][:_WORDS] == state[1][:_WORDS]:
            return None
    return state


def reseed(state: _State | None) -> None:
    """In the child: give back the flow's own seed, and fresh entropy to what nobody seeded."""
    if state is not None:
        random.setstate(state)
    mtrand = sys.modules.get("numpy.random.mtrand")
    generator = getattr(getattr(mtrand, "_rand", None), "_bit_generator", None)
    if mtrand is not None and getattr(generator, "_seed_seq", None) is not None:
        mtrand.seed()
