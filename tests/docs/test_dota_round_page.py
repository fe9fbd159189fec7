"""docs/dota_round.md: the code of its last section reproduces the numbers of a run from its files."""

import os
import subprocess
import sys

from conftest import ROOT, Workdir
from pages import blocks_of

MODEL = "SmolLM2-135M-Instruct.Q4_1-40c2439c"
REWARD = "import zlib\n\ndef untied(prompts, responses):\n    return [zlib.crc32(r.encode()) for r in responses]\n"
SETTINGS = {
    "rounds": 1,
    "name": "default",
    "bandit": {"budget": 16, "alpha": 0.1},
    "clusters": {"k": 8},
    "generation": {"n": 4},
    "pairs": {"min_gap_quantile": 0.7, "top_n": 32},
}


def test_last_section_reproduces_the_numbers_of_a_run(tmp_path, model_folders):
    """The page's log-probabilities are those of another model, but the loss of this tiny model starts at log 2, too."""
    directory = Workdir(tmp_path, model_folders["llama"])
    (directory.path / "untied.py").write_text(REWARD)
    directory.configure(**SETTINGS, feedback={"function": "untied:untied"})
    done = directory.run("results/default/dota/seed-0/round-1/policy.pt")
    assert done.returncode == 0, done.stdout
    (model,) = (directory.path / "results/models").iterdir()
    section = [block for block in blocks_of(ROOT / "docs/dota_round.md") if block.language in ("python", "text")][-4:]
    code, told, asking, asked = (block.text for block in section)
    done = subprocess.run(
        [sys.executable, "-"],
        input=code + asking.replace(MODEL, model.name),
        cwd=directory.path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "workflow/scripts")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *same, before, after = done.stdout.splitlines(keepends=True)
    assert "".join(same) == told
    start = ", M 0.00, loss 0.6931, weight 0.5000"
    assert start in before
    assert start in asked
    assert after.startswith("after: ")
    assert start not in after
