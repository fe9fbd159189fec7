"""Parallel workers of pytest share folders that are made once, and start with the longest tests."""

from types import SimpleNamespace

import pytest

from conftest import ROOT, pytest_collection_modifyitems


def test_shared_folder_is_made_once(make_once):
    made = []
    folders = {make_once("example", made.append) for _ in range(2)}
    assert folders == set(made) and len(made) == 1


def test_shared_folder_is_made_again_after_an_error(make_once):
    def fail(folder):
        (folder / "half").touch()
        raise ValueError

    with pytest.raises(ValueError):
        make_once("failing", fail)
    folder = make_once("failing", lambda folder: (folder / "whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]


def test_tests_of_the_workflow_start_first():
    """The other tests keep their order, and so do those of the workflow."""
    names = ["docs/b", "unit/core/a", "workflow/d", "workflow/c"]
    items = [SimpleNamespace(path=ROOT / f"tests/{name}.py") for name in names]
    pytest_collection_modifyitems(items)
    assert [item.path.stem for item in items] == ["d", "c", "b", "a"]
    assert "--no-loadscope-reorder" in (ROOT / "Makefile").read_text(), "xdist would start with files of many tests"
