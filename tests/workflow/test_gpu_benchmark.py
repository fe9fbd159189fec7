"""All checks of benchmarks/gpu.py pass on a CPU."""

import json
import subprocess
import sys

from conftest import ROOT


def test_all_checks_pass_on_a_cpu(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/gpu.py", "--device", "cpu", "--small", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())
    states = [row["state"] for row in rows]
    assert states.count("PASS") >= 24 and not {"FAIL", "SKIP"} & set(states), done.stdout
    assert (tmp_path / "gpu.md").read_text().count("\n") == len(rows) + 2
