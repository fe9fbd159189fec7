"""docs/library.md: its code blocks run in order and print what the page shows. The package installs."""

import os
import shutil
import subprocess
import sys

from conftest import ROOT
from pages import blocks_of, printed_by

PAGE = ROOT / "docs/library.md"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_blocks_print_what_the_page_shows(model_folders, tmp_path, monkeypatch, capsys):
    """A tiny model replaces the page's model."""
    monkeypatch.chdir(tmp_path)
    blocks, names, ran = blocks_of(PAGE), {"__name__": "page"}, 0
    for number, block in enumerate(blocks):
        if block.language != "python":
            continue
        expected = printed_by(blocks, number)
        assert expected is not None, f"the page does not show what block {number} prints"
        capsys.readouterr()
        exec(compile(block.text.replace(MODEL, str(model_folders["llama"])), f"{PAGE}, block {number}", "exec"), names)
        printed = capsys.readouterr().out.splitlines(keepends=True)
        assert "".join(line for line in printed if not line.startswith("{")) == expected, "except for trainer logs"
        ran += 1
    assert ran == 5


def test_package_installs_with_all_modules(tmp_path):
    """Runs `pip install --no-deps .` in a copy, because a build leaves files next to the sources."""
    clone, target = tmp_path / "clone", tmp_path / "target"
    shutil.copytree(ROOT / "workflow/scripts", clone / "workflow/scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", str(target), str(clone)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in target.iterdir() if "dist-info" not in path.name} == {"prefloop"}

    def modules(folder):
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.py"))

    assert modules(target / "prefloop") == modules(ROOT / "workflow/scripts/prefloop")
    code = "import prefloop.methods.losses, prefloop.models.response_logprobs as module; print(module.__file__)"
    environment = os.environ | {"PYTHONPATH": str(target)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(target))
