"""What a reproduction checks and how it starts, without starting anything."""

from __future__ import annotations

import msgpack

from weft.lineage.pairs import RunFacts
from weft.runtime.reproduce import Deviation, check_environment, uv_command


def _facts(**environment: str) -> RunFacts:
    return RunFacts("F/1", "F", "1", "succeeded", None, None, None, None, None, environment)


def test_only_what_is_not_here_as_recorded_deviates() -> None:
    version = ".".join(map(str, msgpack.version))
    recorded = {
        "python": "2.7.18",
        "host": "elsewhere",
        "package msgpack": version,
        "package no-such-thing": "1.0",
    }
    found = check_environment(_facts(**recorded))
    assert [(d.name, d.recorded) for d in found] == [("python", "2.7.18"), ("package no-such-thing", "1.0")]
    assert found[1] == Deviation("package no-such-thing", "1.0", None)


def test_uv_is_told_the_recorded_versions_and_what_weft_needs() -> None:
    command = uv_command(
        "/bin/uv",
        "3.11.9",
        {"numpy": "2.0.0", "setuptools": "65", "Some_Thing": "1"},
        ["click>=8.1", "some-thing>=0", 'pytest>=8; extra == "test"'],
    )
    assert command == [
        "/bin/uv",
        "run",
        "--no-project",
        "--isolated",
        "--python",
        "3.11.9",
        "--with",
        "numpy==2.0.0",
        "--with",
        "Some_Thing==1",
        "--with",
        "click>=8.1",
        "python",
    ]
