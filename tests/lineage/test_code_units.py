"""Code is compared unit by unit, and a unit reaches the steps that mention it, however far."""

from __future__ import annotations

import pytest

from weft.lineage.code_units import compare_code, steps_reached, units_of

FLOW = '''\
"""A flow."""
import helpers
LIMIT = 3


def scale(x):
    """Scales."""
    return x * LIMIT


def unused():
    return 0


class F(FlowSpec):
    rate = Parameter("rate", default=1)

    @step
    def start(self):
        self.x = scale(1)
        self.next(self.end)

    @step
    def end(self):
        print(self.x)
'''
STEPS = ["start", "end"]


@pytest.mark.parametrize(
    ("old", "new", "name", "is_cosmetic", "reached"),
    [
        ("print(self.x)", "print(self.x + 1)", "F.end", False, ["end"]),
        ("return x * LIMIT", "return x + LIMIT", "scale", False, ["start"]),
        ("LIMIT = 3", "LIMIT = 4", "LIMIT", False, ["start"]),
        ("return 0", "return 1", "unused", False, []),
        ("import helpers", "import helpers, os", "", False, STEPS),
        ("default=1", "default=2", "F.rate", False, []),
        ("class F(FlowSpec)", "class F(Base)", "F", False, STEPS),
        ("print(self.x)", "print( self.x )  # shown", "F.end", True, ["end"]),
        ('"""Scales."""', '"""Scales a number."""', "scale", True, ["start"]),
        ("return x * LIMIT", "return (x * LIMIT)", "scale", True, ["start"]),
        ("    return 0", "    pass\n    return 0", "unused", True, []),
        ('"""A flow."""', '"""The flow."""', "", True, STEPS),
    ],
)
def test_one_edit_changes_one_unit(
    old: str, new: str, name: str, is_cosmetic: bool, reached: list[str]
) -> None:
    assert FLOW.count(old) == 1
    before, after = units_of({"f.py": FLOW}), units_of({"f.py": FLOW.replace(old, new)})
    (change,) = compare_code(before, after)
    assert (change.path, change.name, change.change) == ("f.py", name, "changed")
    assert change.is_cosmetic is is_cosmetic
    assert steps_reached((change.path, change.name), (before, after), STEPS) == reached
    assert [line[1:].strip() for line in change.diff.split("\n") if line.startswith("+")]


def test_units_that_come_and_go_are_told_so() -> None:
    before = units_of({"f.py": "def a():\n    return 1\n"})
    after = units_of({"f.py": "def b():\n    return 1\n", "g.py": "X = 1\n"})
    found = [(change.path, change.name, change.change) for change in compare_code(before, after)]
    assert found == [("f.py", "a", "only_a"), ("f.py", "b", "only_b"), ("g.py", "X", "only_b")]


def test_a_function_of_another_module_is_reached_through_its_callers() -> None:
    flow = "class F(FlowSpec):\n    def start(self):\n        self.x = outer()\n"
    helpers = "def outer():\n    return inner()\n\n\ndef inner():\n    return {}\n"
    before, after = (units_of({"f.py": flow, "h.py": helpers.format(number)}) for number in (1, 2))
    (change,) = compare_code(before, after)
    assert change.name == "inner"
    assert steps_reached(("h.py", "inner"), (before, after), ["start", "end"]) == ["start"]


def test_a_file_that_does_not_parse_is_one_unit_that_reaches_all() -> None:
    before, after = units_of({"f.py": "print 'old'\n"}), units_of({"f.py": "print 'new'\n"})
    (change,) = compare_code(before, after)
    assert (change.name, change.is_cosmetic) == ("", False)
    assert steps_reached(("f.py", ""), (before, after), STEPS) == STEPS


def test_code_that_is_equal_differs_in_nothing() -> None:
    units = units_of({"f.py": FLOW})
    assert compare_code(units, units_of({"f.py": FLOW})) == []
