"""The code of a flow as a run finds it: which modules are local, and which distributions brought the others."""

from __future__ import annotations

import importlib.metadata
import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Project

FLOW = """
    import ours.deep
    import numpy as np
    class Surveyed(FlowSpec):
        @catch(var="problem")
        @step
        def start(self):
            import yaml_like_thing
            self.x = int(ours.deep.value(np.int64(1)))
            self.next(self.end)
        @step
        def end(self):
            from later import late
            self.y = late()
    if __name__ == "__main__":
        Surveyed()
    """


@pytest.fixture
def reached(project: Project) -> Any:
    """What a run recorded: of a flow beside a package of its own, a module that a step imports, and an installed
    module whose distribution has another name."""
    project.write(FLOW)
    project.write("def late():\n    return 1\n", "later.py", prelude="")
    (project.folder / "ours").mkdir()
    project.write("", "ours/__init__.py", prelude="")
    project.write("def value(x):\n    return x\n", "ours/deep.py", prelude="")
    site = project.folder / "venv" / "site-packages"
    (site / "Yaml_Like-1.2.3.dist-info").mkdir(parents=True)
    (site / "Yaml_Like-1.2.3.dist-info" / "RECORD").write_text("yaml_like_thing.py,,\n")
    (site / "yaml_like_thing.py").write_text("")
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])

    def survey() -> Any:
        (event,) = project.run("--isolation", "inline", PYTHONPATH=path).events("code_reached")
        return event.payload

    return survey


def test_survey_finds_local_modules_also_those_a_step_imports(reached: Any) -> None:
    code = reached()
    assert code["modules"] == ["__main__", "later", "ours", "ours.deep"]
    steps = code["steps"]
    assert "later.py:late" in steps["end"]["parts"]
    assert "ours/deep.py:value" in steps["start"]["parts"]
    assert "flow.py:Surveyed.start decorators" in steps["start"]["parts"]
    assert {step["rule"] for step in steps.values()} == {"reached"}
    assert code["packages"] == {"numpy": importlib.metadata.version("numpy"), "Yaml_Like": "1.2.3"}
    assert steps["start"]["packages"] == ["Yaml_Like", "numpy"]
    assert steps["end"]["packages"] == ["numpy"]


def test_local_module_that_cannot_be_read_counts_its_bytes(project: Project, reached: Any) -> None:
    before = reached()
    source = FLOW.replace("from later import late", "late = int")
    project.write(
        source.replace(
            "import ours.deep",
            "import ours.deep\n    try:\n        import later\n    except SyntaxError:\n        pass",
        )
    )
    (project.folder / "later.py").write_text("def late(:\n")
    after = reached()
    assert "later.py" in after["steps"]["start"]["parts"]
    assert before["steps"]["start"]["digest"] != after["steps"]["start"]["digest"]
