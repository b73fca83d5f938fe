"""What names a store means the same to every command and to Python, and what cannot be one is said in a sentence."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from weft.lineage.errors import StoreUnavailable
from weft.lineage.store import open_store

if TYPE_CHECKING:
    from tests.conftest import Project

_FLOW = """
    class Small(FlowSpec):
        @step
        def start(self):
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        Small()
    """


@pytest.mark.parametrize("url", ["file://{folder}/named", "{folder}/named", "named", "~/named"])
def test_a_store_is_found_by_the_name_it_was_made_under(project: Project, url: str) -> None:
    project.write(_FLOW)
    home = {"HOME": str(project.folder)}
    named = url.format(folder=project.folder)
    assert project.call("--store", named, "run", **home).code == 0
    assert (project.folder / "named" / "weft.json").exists()
    weft = [sys.executable, "-m", "weft", "--store", named, "runs"]
    assert "Small/" in project.call_in(project.folder, weft, home).out
    count = f"import weft; print(weft.open_store({named!r}).sql('FROM runs').fetchall()[0][0])"
    assert project.call_in(project.folder, [sys.executable, "-c", count], home).out == "Small\n"


def test_what_is_no_place_for_a_store_is_refused_alike(project: Project) -> None:
    project.write(_FLOW)
    done = project.call("--store", "nonsense://bucket/store", "run")
    assert done.code == 3
    assert done.err == (
        "error: nonsense://bucket/store is no place for a store (Protocol not known: nonsense). "
        "Name a folder, s3://bucket/prefix or another URL of fsspec.\n"
    )
    weft = [sys.executable, "-m", "weft", "--store", "nonsense://bucket/store", "runs"]
    assert project.call_in(project.folder, weft).err == done.err
    with pytest.raises(StoreUnavailable, match="Name a folder"):
        open_store("nonsense://bucket/store")


def test_tags_are_kept_once_and_empty_ones_are_refused(project: Project) -> None:
    project.write(_FLOW)
    run = project.run("--tag", "a", "--tag", "b", "--tag", "a")
    assert [event.name for event in run.events("tag_added") if (event.payload or {})["kind"] == "user"] == [
        "a",
        "b",
    ]
    for tag in ("", " ", "x" * 501):
        done = project.call("run", "--tag", tag)
        assert done.code == 2
        assert done.err.endswith("cannot be a tag. Give 1 to 500 characters.\n")
