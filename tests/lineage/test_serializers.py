from __future__ import annotations

import collections
import datetime
import enum
import hashlib
import pathlib
import re
import struct
import subprocess
import sys
import threading
import zoneinfo
from collections.abc import Iterator
from decimal import Context, Decimal, setcontext
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.lineage.errors import NotSerializable, StoreDamaged, StoreTooNew, UsageError, WeftError
from weft.lineage.serializers import Dumped, dump, is_pickle, load

UTC = datetime.UTC


def bytes_of(dumped: Dumped) -> bytes:
    return b"".join(dumped.parts)


def again(value: Any) -> Any:
    dumped = dump(value)
    return load(dumped.serializer, bytes_of(dumped))


def form(value: Any) -> Any:
    """All that tells a value from another: its type at every level, NaN's bits, the sign of zero, the fold."""
    kind = type(value)
    if kind is float:
        return kind, struct.pack("<d", value)
    if kind is complex:
        return kind, form(value.real), form(value.imag)
    if kind in (list, tuple):
        return kind, [form(item) for item in value]
    if kind is dict:
        return kind, [(form(key), form(item)) for key, item in value.items()]
    if kind in (set, frozenset):
        return kind, sorted(repr(form(item)) for item in value)
    if kind in (datetime.datetime, datetime.time):
        zone = value.tzinfo
        return kind, value.replace(tzinfo=None), value.fold, type(zone), repr(zone)
    if isinstance(value, np.generic):
        return kind, value.dtype.str, value.tobytes()
    if kind is Decimal:
        return kind, value.as_tuple()
    return kind, value


_ZONES = st.sampled_from(
    [
        None,
        UTC,
        datetime.timezone(datetime.timedelta(hours=-3, microseconds=7)),
        datetime.timezone(datetime.timedelta(0), "home"),
        zoneinfo.ZoneInfo("Europe/Berlin"),
        zoneinfo.ZoneInfo("UTC"),
    ]
)
_NUMPY = st.one_of(
    st.booleans().map(np.bool_),
    st.integers(-128, 127).map(np.int8),
    st.integers(0, 2**64 - 1).map(np.uint64),
    st.floats(width=16).map(np.float16),
    st.floats(width=32).map(np.float32),
    st.floats().map(np.float64),
    st.complex_numbers(width=64).map(np.complex64),
    st.integers(-(2**62), 2**62).map(lambda n: np.datetime64(n, "ns")),
    st.integers(-(2**62), 2**62).map(lambda n: np.timedelta64(n, ("s", 25))),
    st.just(np.datetime64("NaT", "ns")),
    st.text(st.characters(exclude_characters="\0")).map(np.str_),
    st.binary().map(np.bytes_),
)
_ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(2**63 - 3, 2**64 + 3),
    st.integers(-(2**63) - 3, -(2**63) + 3),
    st.floats(),
    st.text(st.characters()),
    st.binary(),
    st.complex_numbers(),
    st.decimals(),
    st.datetimes(timezones=_ZONES),
    st.dates(),
    st.times(timezones=_ZONES.filter(lambda zone: not isinstance(zone, zoneinfo.ZoneInfo))),
    st.timedeltas(),
    st.text(st.characters(exclude_characters="\0")).map(pathlib.Path),
    st.text(st.characters()).map(pathlib.PureWindowsPath),
    _NUMPY,
)
_KEYS = st.recursive(
    _ATOMS.filter(lambda atom: not isinstance(atom, Decimal) or not atom.is_snan()),
    lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)),
    max_leaves=4,
)
VALUES = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(_KEYS, inner, max_size=4),
        st.sets(_KEYS, max_size=4),
        st.frozensets(_KEYS, max_size=4),
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=VALUES)
def test_any_plain_value_comes_back_with_every_type_it_had(value: Any) -> None:
    dumped = dump(value)
    loaded = load(dumped.serializer, bytes_of(dumped))
    assert form(loaded) == form(value)
    assert dump(loaded).digest == dumped.digest
    assert dumped.digest == hashlib.sha256(bytes_of(dumped)).digest()
    assert dumped.size_bytes == len(bytes_of(dumped))
    assert form(load(dumped.serializer, memoryview(bytes_of(dumped)))) == form(value)


def test_paths_are_plain_but_not_for_an_older_weft() -> None:
    path = dump({"data": [pathlib.Path("a/b")]})
    assert (path.serializer, path.value, dump("a/b").serializer) == ("plain/2", '{"data":["a/b"]}', "plain/1")

    class Own(pathlib.PurePosixPath):
        """What it does when it is made is not known."""

    with pytest.raises(NotSerializable):
        dump(Own("a"))


def test_plain_values_are_plain() -> None:
    for value in (
        [{"a": (1, 2.5, None)}, {b"x"}, frozenset({(1, "x")})],
        2**200,
        Decimal("1.50"),
        datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1),
        np.float64(0.1),
        "\ud800",
    ):
        assert dump(value).serializer == "plain/1"


PROGRAM = """
import datetime, decimal, sys, zoneinfo
import numpy as np
from weft.lineage.serializers import dump
words = ["w%d" % i for i in range(200)]
values = [
    set(words), frozenset(words), {"x": {(word, len(word)) for word in words}}, {word: None for word in words},
    2**100, 1e300, float("nan"), decimal.Decimal("-0.10"), b"x", "\\ud800",
    datetime.datetime(2020, 2, 29, 1, 2, 3, 4, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    datetime.timedelta(-1, 5, 7), np.float32(0.1), np.datetime64("2020-01-01T00:00", "m"),
    np.arange(12.0).reshape(3, 4), np.asfortranarray(np.arange(6, dtype="u1").reshape(2, 3)), np.array(["a", "bc"]),
]
if "tables" in sys.argv:
    import pandas as pd, polars as pl, pyarrow as pa
    columns = {"a": [1, 2], "s": ["x", None], "t": [datetime.datetime(2020, 1, 1)] * 2}
    values += [pd.DataFrame(columns), pl.DataFrame(columns), pa.table(columns)]
for value in values:
    print(dump(value).digest.hex())
"""


def _digests(hash_seed: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": hash_seed, "TZ": f"XYZ{hash_seed[-1]}", "LANG": "C"},
    )
    return done.stdout.split()


def test_digests_are_equal_in_any_process_and_hash_seed() -> None:
    first = _digests("1", "tables")
    assert len(first) == 20
    assert _digests("4242", "tables") == first


def test_the_bytes_of_plain_values_are_fixed() -> None:
    """A change here is a change of the format and needs a new tag."""
    assert bytes_of(dump(None)) == b"\xc0"
    assert bytes_of(dump([1, "a", b"b", {"k": 1.5}])) == b"\x94\x01\xa1a\xc4\x01b\x81\xa1k\xcb?\xf8" + bytes(
        6
    )
    assert bytes_of(dump((1, 2))) == b"\xc7\x03\x01\x92\x01\x02"
    assert bytes_of(dump({2, 1})) == b"\xc7\x03\x02\x92\x01\x02"
    assert bytes_of(dump(2**64)) == b"\xc7\x09\x04" + bytes(8) + b"\x01"
    assert bytes_of(dump(datetime.date(2020, 1, 2))) == b"\xc7\x06\x08\x93\xcd\x07\xe4\x01\x02"
    assert bytes_of(dump(np.int8(3))) == b"\xd7\x0b\x92\xa3|i1\xc4\x01\x03"


def test_a_decimal_does_not_depend_on_the_context() -> None:
    value = Decimal("1E+3")
    before = dump(value).digest
    setcontext(Context(capitals=0, prec=1))
    try:
        assert dump(value).digest == before
        assert again(Decimal("1.23456")).as_tuple() == Decimal("1.23456").as_tuple()
    finally:
        setcontext(Context())


class Colour(enum.IntEnum):
    RED = 1


class Point(NamedTuple):
    x: int


class Text(str):
    __slots__ = ()


class Named:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return 0


class OwnZone(datetime.tzinfo):
    def utcoffset(self, when: datetime.datetime | None) -> datetime.timedelta:
        return datetime.timedelta(0)

    def dst(self, when: datetime.datetime | None) -> None:
        return None

    def tzname(self, when: datetime.datetime | None) -> str:
        return "own"


@pytest.mark.parametrize(
    "value",
    [
        Colour.RED,
        Point(1),
        Text("x"),
        [Text("x")],
        {"a": Colour.RED},
        {Text("k"): 1},
        collections.OrderedDict(a=1),
        collections.defaultdict(list, a=[1]),
        collections.Counter("aab"),
        bytearray(b"x"),
        range(3),
        Named(a=1),
        [{"deep": (Named(a=1),)}],
        np.array([None, {}], dtype=object),
        np.longdouble(1),
        np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
        pa.scalar(3),
        int,
        len,
        datetime.time(tzinfo=OwnZone()),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", repr(value)),  # The same names in every process.
)
def test_what_is_not_plain_comes_back_by_pickle(value: Any) -> None:
    dumped = dump(value)
    assert is_pickle(dumped.serializer)
    loaded = load(dumped.serializer, bytes_of(dumped))
    assert type(loaded) is type(value)
    assert repr(loaded) == repr(value) or loaded == value


def test_shared_parts_stay_shared() -> None:
    part = [1]
    loaded = again([part, part, {"again": part}])
    assert loaded[0] is loaded[1] is loaded[2]["again"]
    cycle: list[Any] = []
    cycle.append(cycle)
    looped = again(cycle)
    assert looped[0] is looped
    held = again(((part,), (part,)))
    assert held[0][0] is held[1][0]


def test_shared_immutable_parts_are_plain() -> None:
    pair = (1, (2, "x"))
    assert dump([pair, pair, {"k": pair}]).serializer == "plain/1"


def test_doubling_tuples_do_not_explode() -> None:
    value: Any = (1, ())
    for _ in range(90):
        value = (value, value)
    dumped = dump(value)
    assert is_pickle(dumped.serializer)
    assert dumped.size_bytes < 10_000


def test_nesting_is_plain_up_to_a_hundred_levels() -> None:
    value: Any = 1
    for _ in range(100):
        value = [value]
    assert dump(value).serializer == "plain/1"
    assert again(value) == value
    for wrap in (lambda inner: [inner], lambda inner: {"k": inner}, lambda inner: (inner,)):
        deep: Any = 1
        for _ in range(150):
            deep = wrap(deep)
        assert is_pickle(dump(deep).serializer)
        assert again(deep) == deep


def test_keys_that_only_identity_tells_apart_are_kept() -> None:
    first, second = float("nan"), float("nan")
    assert len(again({(first,): 1, (second,): 2})) == 2
    assert len(again({first: 1, second: 2})) == 2
    assert len(again({first, second})) == 2


def test_large_buffers_lie_beside_their_pickle() -> None:
    value: dict[str, Any] = {
        "a": np.arange(5000.0),
        "b": np.arange(3),
        "c": [np.zeros((100, 100), order="F")],
    }
    dumped = dump(value)
    assert dumped.serializer == "pickle-buffers/1"
    assert any(isinstance(part, memoryview) for part in dumped.parts)
    loaded = load(dumped.serializer, bytes_of(dumped))
    assert np.array_equal(loaded["a"], value["a"])
    loaded["a"] += 1
    assert loaded["c"][0].flags.f_contiguous


def test_a_pickle_with_buffers_is_mapped_and_changes_stay_here(tmp_path: Any) -> None:
    value = [np.arange(5000.0)]
    frozen = np.arange(5000)
    frozen.flags.writeable = False
    value.append(frozen)
    dumped = dump(value)
    path = tmp_path / "object"
    path.write_bytes(bytes_of(dumped))
    loaded = load(dumped.serializer, path.read_bytes(), str(path))
    loaded[0] += 1
    assert loaded[0][0] == 1.0
    assert not loaded[1].flags.writeable
    assert loaded[0].ctypes.data % 64 == 0
    assert path.read_bytes() == bytes_of(dumped)


def generate() -> Iterator[int]:
    yield 1


class Refuses:
    def __reduce__(self) -> str:
        raise RuntimeError("not me")


@pytest.mark.parametrize(
    ("value", "type_name", "message"),
    [
        (generate(), "generator", "A value of type generator cannot be saved"),
        (threading.Lock(), "_thread.lock", "of type _thread.lock cannot be saved"),
        (lambda: 1, "function", "of type function cannot be saved"),
        ({"model": [1, threading.Lock()]}, "_thread.lock", "at ['model'][1] in a dict cannot be saved"),
        (Named(inner=Named(f=generate())), "generator", ".inner.f in a "),
        ([Refuses()], "test_serializers.Refuses", "not me"),
    ],
)
def test_what_nothing_can_save_is_named(value: Any, type_name: str, message: str) -> None:
    with pytest.raises(NotSerializable) as raised:
        dump(value)
    assert raised.value.type_name.endswith(type_name)
    assert message in str(raised.value)
    assert str(raised.value).endswith("Keep it in a local variable, or save what it is made from.")


def test_pickles_load_only_with_trust() -> None:
    dumped = dump(Named(a=1))
    with pytest.raises(UsageError, match=r"can run any code\. Pass --trust"):
        load(dumped.serializer, bytes_of(dumped), trust=False)
    plain = dump([1])
    assert load(plain.serializer, bytes_of(plain), trust=False) == [1]


def test_a_pickle_whose_class_is_gone_says_so() -> None:
    with pytest.raises(WeftError, match=r"ModuleNotFoundError: .*no_such_module.* can be imported"):
        load("pickle/5", b"cno_such_module\nThing\n.")


@pytest.mark.parametrize("serializer", ["plain/1", "npy/1", "parquet-arrow/1"])
@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x92\x01", b"\xc7\x01\x63\xc0", b"\x93NUMPY\x01\x00\x06\x00{'a'}\n"]
)
def test_damaged_bytes_are_damage(serializer: str, data: bytes) -> None:
    with pytest.raises(StoreDamaged, match=f"not {serializer}"):
        load(serializer, data)


def test_unknown_serializers_ask_for_a_newer_weft() -> None:
    for serializer in ("plain/9", "zarr/1", "pickle/9"):
        with pytest.raises(StoreTooNew, match=serializer):
            load(serializer, b"")


def test_immutable_means_that_nothing_inside_can_change() -> None:
    immutable = [None, 1, "x", (1, ("y", frozenset({1}))), Decimal(1), datetime.date(1, 1, 1), np.float32(1)]
    mutable = [[], {}, set(), (1, [2]), ((), ({},)), np.zeros(1), Named(a=1)]
    assert [dump(value).is_immutable for value in immutable] == [True] * len(immutable)
    assert [dump(value).is_immutable for value in mutable] == [False] * len(mutable)
    assert dump(pa.table({"a": [1]})).is_immutable


IMPORTS = """
import sys
from weft.lineage.serializers import dump, load
for value in (None, 1, "x", [1, {"a": (1.5, b"x")}], {1, 2}):
    dumped = dump(value)
    load(dumped.serializer, dumped.parts[0])
heavy = {"pickle", "json", "numpy", "pandas", "pyarrow", "polars", "inspect", "dataclasses", "decimal"}
print(sorted(heavy & set(sys.modules)))
"""


def test_plain_values_import_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_classes_of_the_main_program_are_saved_and_loaded() -> None:
    program = (
        "from weft.lineage.serializers import dump, load\n"
        "class Mine:\n    x = 3\n"
        "d = dump(Mine())\n"
        "print(d.serializer, d.type, load(d.serializer, d.parts[0]).x)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["pickle/5", "__main__.Mine", "3"]


def test_a_time_zone_that_is_not_known_here_is_no_damage() -> None:
    here = dump(datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")))
    elsewhere = bytes_of(here).replace(b"Berlin", b"Utopia")
    with pytest.raises(WeftError, match=r"Utopia.*Install tzdata") as raised:
        load(here.serializer, elsewhere)
    assert not isinstance(raised.value, StoreDamaged)


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    dumped = dump(np.float32(1))
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(WeftError, match="Install numpy where you load it"):
        load(dumped.serializer, bytes_of(dumped))


def test_a_class_of_no_module_is_saved_or_named() -> None:
    odd = type("Odd", (), {"__module__": None})
    with pytest.raises(NotSerializable, match="Odd"):
        dump(odd())
