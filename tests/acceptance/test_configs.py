"""Configs: given in all their ways, read by key, taken by decorators, kept and changed by resumes."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from weft.lineage.store import open_store

if TYPE_CHECKING:
    from tests.conftest import Project, Run

_FLOW = """
    import os
    from weft import Config

    class Trains(FlowSpec):
        config = Config("config", default="train.json", help="How to train.")
        extra = Config("extra", default_value={"note": None})
        rate = Parameter("rate", default=config.model.rate)

        @environment(vars={"MODE": config.mode})
        @retry(times=config.retries, minutes_between_retries=0)
        @step
        def start(self):
            self.mode = os.environ["MODE"]
            self.xs = list(self.config.items_to_do)
            self.next(self.fit, foreach="xs")

        @step
        def fit(self):
            self.y = self.config["size"] * self.input
            self.next(self.join)

        @step
        def join(self, inputs):
            self.total = sum(branch.y for branch in inputs)
            self.sizes = [branch.config.size for branch in inputs]
            self.next(self.end)

        @step
        def end(self):
            print(self.total, self.rate, self.config.model.rate, self.extra.note)

    if __name__ == "__main__":
        Trains()
"""
_DOCUMENT = {"model": {"rate": 0.5}, "mode": "fast", "retries": 1, "items_to_do": [1, 2], "size": 3}


def _write(project: Project, **changes: Any) -> dict[str, Any]:
    document = {**_DOCUMENT, **changes}
    (project.folder / "train.json").write_text(json.dumps(document))
    return document


def _text(**changes: Any) -> tuple[str, str, str]:
    return "--config-value", "config", json.dumps({**_DOCUMENT, **changes})


def _config_reads(run: Run) -> set[tuple[str, str]]:
    return {
        (e.step or "", e.name or "") for e in run.events("artifact_used") if e.producer_step == "_parameters"
    }


@pytest.mark.parametrize("isolation", ["fork", "spawn", "inline"])
def test_steps_and_decorators_take_values_and_what_they_read_is_recorded(
    project: Project, isolation: str
) -> None:
    project.write(_FLOW)
    _write(project)
    run = project.run("--isolation", isolation)
    assert run.console("end") == ["9 0.5 0.5 None"]
    assert run.saved("start")["mode"] == "fast"
    assert _config_reads(run) == {
        ("start", "config.mode"),
        ("start", "config.items_to_do"),
        ("fit", "config.size"),
        ("join", "config.size"),
        ("end", "rate"),
        ("end", "config.model"),
        ("end", "extra.note"),
    }
    with open_store(str(project.folder / ".weft")) as store:
        rows = store.rows("select name, role from parameters order by all")
        down = store.lineage(str(project.folder / "train.json"), "down").tree()
    keys = [("config", "config"), *((f"config.{key}", "config") for key in sorted(_DOCUMENT))]
    assert rows == [*keys, ("extra", "config"), ("extra.note", "config"), ("rate", "parameter")]
    assert "fit" in down


def test_resume_keeps_configs_and_runs_only_what_reads_a_key_that_changes(project: Project) -> None:
    project.write(_FLOW)
    _write(project)
    first = project.run()
    _write(project, size=4, mode="slow")
    same = project.resume()
    assert set(same.statuses.values()) == {"reused"}
    assert same.state.parameters["config.size"].value == "3"
    # Nobody reads retries: how often a step is tried changes nothing that comes of it.
    assert set(project.resume(*_text(retries=3)).statuses.values()) == {"reused"}
    size = project.resume(*_text(size=4)).statuses
    assert {place for place, status in size.items() if status != "reused"} == {
        "fit[0]",
        "fit[1]",
        "join",
        "end",
    }
    # The file as it is now; `start` runs in another environment.
    given = project.resume("--from", first.run_id, "--config", "config", "train.json")
    assert given.statuses["start"] == "succeeded"
    assert given.saved("start")["mode"] == "slow"
    assert given.console("end") == ["12 0.5 0.5 None"]


def test_default_that_comes_from_a_config_follows_it_unless_a_value_was_given(project: Project) -> None:
    project.write(_FLOW)
    _write(project)
    project.run()
    followed = project.resume(*_text(model={"rate": 0.25}))
    assert followed.console("end") == ["9 0.25 0.25 None"]
    given = project.run("--rate", "7")
    assert given.console("end") == ["9 7.0 0.5 None"]
    kept = project.resume("--from", given.run_id, *_text(model={"rate": 0.25}))
    assert kept.console("end") == ["9 7.0 0.25 None"]


def test_plan_why_diff_and_reproduce_know_configs(project: Project) -> None:
    project.write(_FLOW)
    _write(project)
    first = project.run()
    plan = json.loads(project.call("resume", *_text(size=4), "--plan", "--json").out)
    why = {task["step"]: task["reason"] for task in plan["tasks"]}
    assert why["fit"] == "parameter config.size changed"
    second = project.resume(*_text(size=4))
    with open_store(str(project.folder / ".weft")) as store:
        difference = store.diff(f"Trains/{first.run_id}", f"Trains/{second.run_id}")
        (cause,) = [d for d in difference.differences if d.kind == "config"]
    assert cause.id == "config config.size"
    assert not cause.because
    assert (cause.a, cause.b) == ("3", "4")
    (project.folder / "train.json").unlink()
    done = project.call_in(
        project.folder, [sys.executable, "-m", "weft", "reproduce", f"Trains/{second.run_id}"]
    )
    assert done.code == 0, done.err
    assert "is equal to" in done.out


def test_configs_come_from_options_then_variables_then_defaults(project: Project) -> None:
    project.write(_FLOW)
    _write(project)
    (project.folder / "other.json").write_text(json.dumps({**_DOCUMENT, "size": 10}))
    variables = {"WEFT_FLOW_CONFIG": json.dumps({"config": "other.json"})}
    assert project.run(**variables).console("end") == ["30 0.5 0.5 None"]
    assert project.run(*_text(size=1), **variables).console("end") == ["3 0.5 0.5 None"]
    value = {"METAFLOW_FLOW_CONFIG_VALUE": json.dumps({"config": {**_DOCUMENT, "size": 100}})}
    assert project.run(**value).console("end") == ["300 0.5 0.5 None"]
    before_the_command = project.call(*_text(size=2), "run")
    assert before_the_command.code == 0
    assert project.newest().console("end") == ["6 0.5 0.5 None"]


def test_parser_makes_the_document_and_plain_leaves_it_as_it_is(project: Project) -> None:
    project.write(
        """
        from weft import Config

        def pairs(text):
            return dict(line.split("=") for line in text.splitlines())

        class Parsed(FlowSpec):
            own = Config("own", default="own.txt", parser=pairs)
            toml = Config("toml", default_value="[a]\\nb = [1, 2]", parser="tomllib.loads")
            listed = Config("listed", default_value=[1, {"x": 2}])
            plain = Config("plain", default_value={"x": 1}, plain=True)
            made = Config("made", default_value=lambda context: {"flow": context.flow_name})
            absent = Config("absent")

            @step
            def start(self):
                self.kept = self.toml.a
                print({**self.own}, self.toml.a.b, self.listed, type(self.plain).__name__, self.made.flow, self.absent)
                self.next(self.end)

            @step
            def end(self):
                print(self.kept.b, self.kept == {"b": [1, 2]}, "c" in self.kept, self.kept.get("c", 5))

        if __name__ == "__main__":
            Parsed()
        """
    )
    (project.folder / "own.txt").write_text("a=1\nb=2")
    run = project.run()
    assert run.console("start") == ["{'a': '1', 'b': '2'} [1, 2] [1, {'x': 2}] dict Parsed None"]
    assert run.console("end") == ["[1, 2] True False 5"]
    # Whoever goes through a document depends on all of it.
    assert ("start", "own") in _config_reads(run)


def test_config_cannot_be_changed_by_a_step(project: Project) -> None:
    project.write(_FLOW.replace("self.mode = os", "self.config.size = 9; self.mode = os"))
    _write(project)
    failed = project.fail()
    (event,) = [e for e in failed.events("attempt_failed") if e.attempt == 0]
    assert event.payload is not None
    assert "A config cannot be changed." in event.payload["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config", "confg", "train.json"), "error: Trains has no config confg. Did you mean config?"),
        (
            ("--config", "config", "gone.json"),
            "error: Config config: 'gone.json' is not of type file (No such file or directory).",
        ),
        (("--config-value", "config", "{"), "error: Config config: "),
        (
            ("--config-value", "config", '{"mode": "a", "retries": 0}'),
            "error: Config config has no 'model'. Did you mean mode?",
        ),
        (
            ("--config-value", "config", '{"model": {"rate": 1}, "retries": 0}'),
            "Step start: @environment: Config config has no 'mode'. Did you mean model?",
        ),
        (
            ("--config-value", "config", '{"model": {"rate": 1}, "mode": "a", "retries": "x"}'),
            "Step start: @retry(times='x') is not a count.",
        ),
        (
            (*_text(), "--config", "config", "train.json"),
            "error: Config config is given by --config and by --config-value. Leave one of them.",
        ),
    ],
)
def test_bad_config_ends_in_one_sentence(project: Project, arguments: tuple[str, ...], message: str) -> None:
    project.write(_FLOW)
    _write(project)
    done = project.call("run", *arguments)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert project.runs() == []


def test_check_says_what_a_default_lacks_and_help_names_the_configs(project: Project) -> None:
    project.write(_FLOW)
    missing = project.call("check")
    assert missing.code == 2
    assert "Config config: 'train.json' is not of type file (No such file or directory)." in missing.err
    _write(project)
    assert project.call("check").code == 0
    assert "config: How to train.; extra" in " ".join(project.call("run", "--help").out.split())


def test_parameter_cannot_have_the_name_of_the_option(project: Project) -> None:
    project.write(_FLOW.replace('rate = Parameter("rate"', 'config_value = Parameter("config-value"'))
    _write(project)
    done = project.call("check")
    assert done.code == 2
    assert "Parameter config-value has the name of an option that gives configs." in done.err


def test_keys_that_are_no_part_of_a_pathspec_count_with_the_document(project: Project) -> None:
    project.write(_FLOW.replace("self.config.items_to_do", 'self.config["a/b"]'))
    run = project.run("--config-value", "config", json.dumps({**_DOCUMENT, "a/b": [1], "": 1}))
    assert "config.a/b" not in run.parameters
    assert ("start", "config") in _config_reads(run)
