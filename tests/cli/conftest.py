"""A small recorded history, and a way to run the command line over it in this process."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest

from weft.cli.main import main
from weft.lineage import events
from weft.lineage.description import create_store
from weft.lineage.events import Content, Level, RunRef
from weft.lineage.ids import Pathspec
from weft.lineage.journal import Journal
from weft.lineage.local import LocalStorage
from weft.lineage.objects import Objects
from weft.lineage.schema import Event

#: The manifest of the code, as an object of the store.
MANIFEST = b'{"entry": "f.py", "files": {}}'
CODE = hashlib.sha256(MANIFEST).digest()
USAGE = {"cpu_s": 0.25, "max_rss_bytes": 50_000_000}
NEXT_FIT = {"next": ["fit"], "foreach": "carriers", "num_splits": 2}


class Answer(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        assert self.err == ""
        return json.loads(self.out)


Ask = Callable[..., Answer]


def content(value: object) -> Content:
    """A small plain value as an attempt records it."""
    blob = msgpack.packb(value)
    number = float(value) if isinstance(value, int | float) else None
    text = json.dumps(value)
    return Content(
        hashlib.sha256(blob).digest(), len(blob), type(value).__name__, "plain", text, number, blob
    )


def console(*lines: str) -> bytes:
    return zlib.compress(msgpack.packb([[1_700_000_000_000_000 + i, line] for i, line in enumerate(lines)]))


def failed_run() -> list[Event]:
    """Run 1: the second of two carriers fails, after it printed a line that would clear the screen."""
    run = RunRef(b"\x01" * 16, "DelayFlow", "1")
    start, fit_a, fit_b = run.task("start", "1"), run.task("fit", "2"), run.task("fit", "3")
    told = [
        events.run_started(run, CODE, {"user": "ada", "host": "h", "graph": {}, "command": ["f.py"]}),
        events.parameter_set(run, "alpha", content(0.5), "parameter"),
        events.tag_added(run, "nightly", "user"),
        events.step_started(run, "start"),
        events.task_created(start, (), (), None),
        events.attempt_started(start, 0, 11, "h"),
        events.artifact_saved(start, 0, "carriers", content(["AA", "HA"])),
        events.attempt_succeeded(start, 0, NEXT_FIT, USAGE),
        events.step_started(run, "fit"),
    ]
    for index, (task, carrier) in enumerate(((fit_a, "AA"), (fit_b, "HA"))):
        level = Level("fit", "carriers", index, 2, carrier)
        told.append(events.task_created(task, (("start", "1"),), (level,), content(carrier)))
        told.append(events.attempt_started(task, 0, 12 + index, "h"))
        lines = console(f"fitting {carrier}", "\x1b[2Jdone")
        told.append(events.console_written(task, 0, "stdout", 2, 20, lines, None))
    origin = Pathspec("DelayFlow", "1", "start", "1")
    told += [
        events.artifact_used(fit_a, 0, "carriers", content("AA").digest, origin, 0),
        events.artifact_saved(fit_a, 0, "rmse", content(16.5)),
        events.attempt_succeeded(fit_a, 0, {"next": ["end"]}, USAGE),
        events.console_written(fit_b, 0, "stderr", 1, 8, console("too few flights"), None),
        events.attempt_failed(
            fit_b,
            0,
            "ValueError",
            {"message": "too few flights", "traceback": "Traceback\nValueError", **USAGE},
        ),
        events.run_ended(
            run,
            "failed",
            {
                "root_cause": "DelayFlow/1/fit/3",
                "error_type": "ValueError",
                "error_message": "too few flights",
            },
        ),
    ]
    return told


def resumed_run() -> list[Event]:
    """Run 2: resumes run 1; start and one carrier are reused, the other runs."""
    run = RunRef(b"\x02" * 16, "DelayFlow", "2")
    origin = Pathspec("DelayFlow", "1", "start", "1")
    levels = [(Level("fit", "carriers", i, 2, carrier),) for i, carrier in enumerate(("AA", "HA"))]
    done = {"status": "succeeded", "next": ["end"], "reason": "succeeded in 1"}
    fit_b, end = run.task("fit", "3"), run.task("end", "4")
    return [
        events.run_started(
            run, CODE, {"user": "ada", "graph": {}, "origin_run_id": "1", "origin_run_uid": "01" * 16}
        ),
        events.parameter_set(run, "alpha", content(0.5), "parameter"),
        events.step_started(run, "start"),
        events.task_reused(
            run.task("start", "1"),
            origin,
            (),
            (),
            None,
            {**NEXT_FIT, "status": "succeeded", "reason": "succeeded in 1"},
        ),
        events.step_started(run, "fit"),
        events.task_reused(
            run.task("fit", "2"),
            origin._replace(step="fit", task_id="2"),
            (("start", "1"),),
            levels[0],
            content("AA"),
            done,
        ),
        events.task_created(fit_b, (("start", "1"),), levels[1], content("HA")),
        events.attempt_started(fit_b, 0, 21, "h"),
        events.artifact_used(fit_b, 0, "carriers", content("HA").digest, origin, 1),
        events.artifact_saved(fit_b, 0, "rmse", content(18.25)),
        events.attempt_succeeded(fit_b, 0, {"next": ["end"]}, USAGE),
        events.step_started(run, "end"),
        events.task_created(end, (("fit", "2"), ("fit", "3")), (), None),
        events.attempt_started(end, 0, 22, "h"),
        events.artifact_used(end, 0, "rmse", content(16.5).digest, Pathspec("DelayFlow", "1", "fit", "2")),
        events.artifact_used(end, 0, "rmse", content(18.25).digest, Pathspec("DelayFlow", "2", "fit", "3")),
        events.artifact_saved(end, 0, "best", content(16.5)),
        events.attempt_succeeded(end, 0, {"next": []}, USAGE),
        events.run_ended(run, "succeeded"),
    ]


@pytest.fixture
def store_folder(tmp_path: Path) -> Path:
    """A store with two runs, each in a closed journal of its own."""
    folder = tmp_path / ".weft"
    folder.mkdir()
    storage = LocalStorage(str(folder))
    create_store(storage)
    Objects(storage).put([MANIFEST])
    for told in (failed_run(), resumed_run()):
        journal = Journal.create(storage)
        for event in told:
            journal.append([event])
        journal.sync()
        journal.close()
    return folder


@pytest.fixture
def weft(store_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Run `weft` with arguments over the recorded history."""
    monkeypatch.delenv("WEFT_STORE", raising=False)
    monkeypatch.chdir(store_folder.parent)

    def ask(*arguments: str) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        code = ended.value.code
        return Answer(code if isinstance(code, int) else 0, captured.out, captured.err)

    return ask
