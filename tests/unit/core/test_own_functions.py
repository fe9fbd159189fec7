"""User functions are found by module or path, in the working directory and elsewhere."""

import sys

import pytest

from prefloop.core import own_functions
from prefloop.core.code_dependencies import code_files, is_file, module_files, read_module
from prefloop.core.errors import InputError
from prefloop.core.own_functions import is_own, load_own, own_code, own_files
from prefloop.core.registry import lookup

MINE = "def double(x):\n    from helper_of_tests import times\n    return times(x)\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory and a folder in it, each with a module whose function imports another module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "other").mkdir()
    for place in (tmp_path, tmp_path / "other"):
        (place / "mine_of_tests.py").write_text(MINE)
        (place / "helper_of_tests.py").write_text("def times(x):\n    return 2 * x\n")
    yield tmp_path
    own_functions.load_own.cache_clear()
    for name in [name for name in sys.modules if name.endswith("_of_tests")]:
        del sys.modules[name]


@pytest.mark.parametrize("word", ["m:f", "a.b:f", "path.py:f", "/some where/x-1.py:f", "~/x.py:f"])
def test_functions_are_recognized_by_their_form(word):
    assert is_own(word)


@pytest.mark.parametrize("word", ["pfp", "m", "a/b:f", "m:", ":f", "m:f:g", "path.py:1f", None, 3])
def test_other_words_are_not_functions(word):
    assert not is_own(word)


@pytest.mark.parametrize("module", ["mine_of_tests", "mine_of_tests.py", "other/mine_of_tests.py"])
def test_functions_import_from_their_own_folder(module):
    assert load_own(f"{module}:double", "train.loss")(21) == 42
    assert lookup({}, f"{module}:double", "train.loss")(21) == 42


def test_absolute_path_outside_the_working_directory_is_found(folder, monkeypatch):
    monkeypatch.chdir(folder / "other")
    assert load_own(f"{folder}/mine_of_tests.py:double", "train.loss")(2) == 4


@pytest.mark.parametrize("function", ["mine_of_tests:double", "other/mine_of_tests.py:double"])
def test_hash_of_a_function_covers_its_imports(function, folder):
    def code() -> str:
        for cached in (code_files, is_file, module_files, read_module):
            cached.cache_clear()
        return own_code(function)

    first, helper = code(), own_files(function)[0].parent / "helper_of_tests.py"
    helper.write_text(helper.read_text() + "# a comment\n")
    assert code() == first
    helper.write_text(helper.read_text().replace("2", "3"))
    assert code() != first


def test_installed_functions_have_no_hash():
    assert own_code("numpy:mean") == ""
    assert lookup({}, "numpy:mean", "train.loss")([1, 3]) == 2


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("no_such_module_here:f", "cannot import no_such_module_here .*expected no_such_module_here.py in the working"),
        ("nowhere.py:f", "cannot import nowhere.py .*No such file"),
        ("mine_of_tests:treble", "module mine_of_tests has no treble"),
        ("mine_of_tests:__name__", "has str __name__, expected a function"),
    ],
)
def test_missing_function_raises_with_its_setting(function, problem):
    with pytest.raises(InputError, match=f"train.loss: .*{problem}"):
        lookup({}, function, "train.loss")


def test_error_in_a_module_names_its_line(folder):
    (folder / "wrong_of_tests.py").write_text("\n1 / 0\n")
    with pytest.raises(InputError, match="ZeroDivisionError: division by zero, in wrong_of_tests.py, line 2"):
        load_own("wrong_of_tests.py:f", "train.loss")
