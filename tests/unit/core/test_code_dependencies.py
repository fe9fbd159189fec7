"""The hash of a stage's code covers everything that the stage imports and ignores formatting."""

from pathlib import Path

import pytest

from conftest import ROOT
from prefloop.core.code_dependencies import code_files, code_hash, is_file, module_files, read_module

SCRIPTS = ROOT / "workflow/scripts"
PROGRAM = '"""Doubles."""\nimport helper\n\n\ndef double(x):\n    """Twice x."""\n    return helper.times(x, 2)\n'


@pytest.fixture
def hash_of(tmp_path):
    """Writes a program and modules next to it and returns the program's hash."""

    def write(program: str = PROGRAM, **modules: str) -> str:
        for cached in (read_module, code_files, module_files, is_file):
            cached.cache_clear()
        for name, text in {"program": program, "helper": "import math\n", **modules}.items():
            path = tmp_path / f"{name.replace('.', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return code_hash(tmp_path / "program.py", root=tmp_path)

    return write


@pytest.mark.parametrize(
    "same",
    [
        PROGRAM.replace("Twice x.", "Two times x."),
        PROGRAM.replace("Doubles.", "It doubles."),
        PROGRAM.replace("return", "# as before\n    return"),
        PROGRAM.replace("(x, 2)", "(\n        x,\n        2,\n    )"),
        PROGRAM.replace("2)", "0x2)"),
        PROGRAM.replace('"""Twice x."""\n    ', ""),
    ],
)
def test_docstrings_comments_and_formatting_keep_the_hash(hash_of, same):
    assert hash_of(same) == hash_of()


@pytest.mark.parametrize(
    "other",
    [
        PROGRAM.replace("2)", "3)"),
        PROGRAM.replace("2)", "2.0)"),
        PROGRAM.replace("2)", "'2')"),
        PROGRAM.replace("times(x, 2)", "times(2, x)"),
        PROGRAM.replace("(x):", "(x=1):"),
        PROGRAM.replace("return ", "return -"),
        PROGRAM.replace("return ", "x = 1\n    return "),
        PROGRAM + "TEXT = 'a text that has a name'\n",
    ],
)
def test_changed_expressions_change_the_hash(hash_of, other):
    assert hash_of(other) != hash_of()


def test_imports_within_functions_change_the_hash(hash_of):
    program = "def f():\n    from package.inner import deep\n"
    modules = {"package.__init__": "", "package.inner": "from . import deep\n", "package.deep": "X = 1\n"}
    first = hash_of(program, **modules)
    assert hash_of(program, **modules | {"package.deep": "X = 2\n"}) != first
    assert hash_of(program, **modules | {"package.__init__": "X = 1\n"}) != first
    assert hash_of(program, **modules | {"helper": "X = 2\n"}) == first, "no module imports it"


def test_cyclic_imports_are_handled(hash_of):
    assert hash_of(helper="import program\n") == hash_of(helper="import program\n")


def test_moved_code_has_the_same_hash(hash_of, tmp_path_factory):
    first = hash_of()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "program.py").write_text(PROGRAM)
    (elsewhere / "helper.py").write_text("import math\n")
    assert code_hash(elsewhere / "program.py", root=elsewhere) == first


def test_code_with_invalid_syntax_is_hashed_by_its_bytes(hash_of):
    assert hash_of(helper="def\n") != hash_of(helper="def f\n")


def names_of(program: str) -> set[str]:
    return {str(path.relative_to(SCRIPTS)) for path in code_files(SCRIPTS / program)}


def test_code_of_a_stage_includes_its_imports():
    train = names_of("train.py")
    assert {"train.py", "_program.py", "prefloop/core/jsonl.py"} <= train
    assert {f"prefloop/methods/{name}.py" for name in ("losses", "beta_rules")} <= train
    assert not {"prefloop/methods/bandit.py", "prefloop/feedback/annotate.py"} & train
    assert "prefloop/report/plotting.py" in names_of("figures/plot_arms.py")
    assert "prefloop/methods/losses.py" not in names_of("allocate.py")


def test_hashes_of_programs_differ():
    programs = [*SCRIPTS.glob("*.py"), *SCRIPTS.glob("figures/*.py"), *SCRIPTS.glob("tables/*.py")]
    assert len({code_hash(Path(program)) for program in programs}) == len(programs) > 40
