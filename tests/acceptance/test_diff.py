"""Runs of real flows are compared: their code, their environment, and what is in their tables and arrays."""

from __future__ import annotations

from tests.conftest import Project
from weft.lineage.local import LocalStorage
from weft.lineage.store import Store

FLOW = """
import numpy as np
import pyarrow as pa

BASE = 10


def shifted(numbers):
    return [number + BASE for number in numbers]


class Made(FlowSpec):
    factor = Parameter("factor", default=2)

    @step
    def start(self):
        self.numbers = [1, 2, 3]
        self.next(self.each, foreach="numbers")

    @step
    def each(self):
        self.product = self.input * self.factor
        self.next(self.join)

    @step
    def join(self, inputs):
        products = [branch.product for branch in inputs]
        self.table = pa.table({"product": products, "shifted": shifted(products)})
        self.array = np.array(products)
        self.opaque = [object.__new__(Thing)]
        self.next(self.end)

    @step
    def end(self):
        self.rows = self.table.num_rows


class Thing:
    pass


if __name__ == "__main__":
    Made()
"""


def test_a_changed_line_and_a_changed_parameter_explain_what_came_of_them(project: Project) -> None:
    project.write(FLOW)
    first = project.run()
    again = project.run()
    project.write(FLOW.replace("BASE = 10", "BASE = 11"))
    edited = project.run()
    scaled = project.run("--factor", "3")
    ids = [f"Made/{run.run_id}" for run in (first, again, edited, scaled)]
    with Store(LocalStorage(str(project.store))) as store:
        assert store.diff(ids[0], ids[1]).is_equal
        of_code = store.diff(ids[1], ids[2])
        assert [cause.id for cause in of_code.causes] == ["code flow.py:BASE"]
        assert [effect.first for effect in of_code.causes[0].effects] == ["artifact join/table"]
        table = of_code.contrast("artifact join/table")
        assert table is not None
        assert table.total == 3
        assert ("shifted[0]", "12", "13") in table.parts
        of_parameter = store.diff(ids[2], ids[3])
        assert [cause.id for cause in of_parameter.causes] == ["parameter factor"]
        array = of_parameter.contrast("artifact join/array")
        assert array is not None
        assert "3 of 3 elements differ, by 3 at most" in array.summary
        environment = of_code.a.environment
        assert {"package numpy", "package pyarrow", "package msgpack"} <= set(environment)


def test_a_line_that_no_step_reaches_is_no_cause(project: Project) -> None:
    """What each step's code was is recorded; an import of the module reaches none of them."""
    project.write(
        FLOW.replace("self.numbers = [1, 2, 3]", "self.numbers = [1, int(os.environ['N']), 3]").replace(
            "import numpy", "import os\nimport numpy"
        )
    )
    first = project.run(N="2")
    source = (project.folder / "flow.py").read_text()
    (project.folder / "flow.py").write_text(source.replace("import os\n", "import os\nimport json\n"))
    second = project.run(N="5")
    with Store(LocalStorage(str(project.store))) as store:
        diff = store.diff(f"Made/{first.run_id}", f"Made/{second.run_id}")
    assert [(c.id, bool(c.effects)) for c in diff.causes] == [
        ("artifact start/numbers", True),
        ("code flow.py:", False),
    ]
