"""What a step that raises leaves behind: the error by its name, the user's lines, and no more than is useful."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Project

_STEP = """
    import asyncio, os
    class Raises(FlowSpec):
        @step
        def start(self):
            self.before = 1
            {body}
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        Raises()
    """


def _write(project: Project, body: str) -> None:
    project.write(_STEP.replace("{body}", body))


@pytest.mark.parametrize("isolation", ["fork", "inline"])
@pytest.mark.parametrize("error", ["asyncio.exceptions.CancelledError", "GeneratorExit", "BaseException"])
def test_errors_that_are_no_exceptions_fail_the_attempt_by_name(
    project: Project, error: str, isolation: str
) -> None:
    _write(project, f"raise {error}('enough')")
    run = project.fail("--isolation", isolation)
    (failed,) = run.events("attempt_failed")
    assert (failed.type, (failed.payload or {})["message"]) == (error, "enough")
    assert run.saved("start") == {"before": 1}


def test_tracebacks_show_the_users_lines_only(project: Project) -> None:
    _write(project, "print(self.missing)")
    shown = project.fail().console("start", "stderr")
    assert [line.split(", ")[-1] for line in shown if line.startswith("  File")] == ["in start"]
    assert shown[-1].startswith("AttributeError: Flow Raises has no attribute 'missing' in step start.")


def test_errors_without_a_line_of_the_user_are_one_line(project: Project) -> None:
    project.write(
        """
        class Empty(FlowSpec):
            @step
            def start(self):
                self.items = []
                self.next(self.each, foreach="items")
            @step
            def each(self):
                self.next(self.join)
            @step
            def join(self, inputs):
                self.next(self.end)
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            Empty()
        """
    )
    (line,) = project.fail().console("start", "stderr")
    assert line.endswith("self.items is empty, so there is nothing to run. Give it at least one item.")


def test_long_errors_are_whole_on_the_console_and_short_in_the_record(project: Project) -> None:
    _write(project, "raise ValueError('first ' + 'x' * 500_000 + ' last')")
    run = project.fail()
    assert sum(len(line) for line in run.console("start", "stderr")) > 500_000
    (failed,) = run.events("attempt_failed")
    assert failed.payload is not None
    assert len(failed.payload["message"]) < 20_000
    assert failed.payload["message"].startswith("first x")
    assert failed.payload["message"].endswith("x last")
    assert len(failed.payload["traceback"]) < 70_000


def test_a_child_that_the_step_forked_ends_with_the_error_it_raised(project: Project) -> None:
    _write(project, "self.before = os.fork() or 1 / 0; self.code = os.waitpid(self.before, 0)[1]")
    run = project.run()
    assert run.saved("start")["code"] == 1 << 8


def test_an_artifact_may_be_called_name(project: Project) -> None:
    project.write(
        """
        class Named(FlowSpec):
            @step
            def start(self):
                assert self.name == "Named"
                self.items = ["ada", "bob"]
                self.next(self.each, foreach="items")
            @step
            def each(self):
                self.name = self.input
                self.next(self.greet)
            @step
            def greet(self):
                self.greeting = "hello " + self.name
                self.next(self.join)
            @step
            def join(self, inputs):
                self.all = [(branch.name, branch.greeting) for branch in inputs]
                assert self.name == "Named"
                self.next(self.end)
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            Named()
        """
    )
    assert project.run().saved("join") == {"all": [("ada", "hello ada"), ("bob", "hello bob")]}


def test_the_place_in_a_foreach_cannot_be_set(project: Project) -> None:
    _write(project, "self.index = 3")
    (failed,) = project.fail().events("attempt_failed")
    assert (failed.payload or {})["message"] == (
        "self.index says where a task is in its foreach and cannot be set. Use another name."
    )


def test_constant_that_cannot_be_saved_is_named(project: Project) -> None:
    project.write(
        """
        import threading
        class Guarded(FlowSpec):
            lock = threading.Lock()
            @step
            def start(self):
                self.next(self.end)
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            Guarded()
        """
    )
    done = project.call("run")
    assert done.code == 2
    assert "constant 'lock' of Guarded cannot be saved" in done.err
    assert "_lock" in done.err
