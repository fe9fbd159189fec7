"""All checks of benchmarks/gpu.py pass on a CPU."""

import json
import runpy
import subprocess
import sys

import pytest
import torch

from conftest import ROOT


def test_all_checks_pass_on_a_cpu(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/gpu.py", "--device", "cpu", "--small", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())
    states = [row["state"] for row in rows]
    assert states.count("PASS") >= 24 and not {"FAIL", "SKIP"} & set(states), done.stdout
    assert (tmp_path / "gpu.md").read_text().count("\n") == len(rows) + 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA A100-SXM4-80GB", 312e12),
    ],
)
def test_peak_is_that_of_the_variant(monkeypatch, name, expected):
    """Variants of a GPU differ in speed. One that is not listed has no peak."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "workflow/scripts"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    machine = runpy.run_path(str(ROOT / "benchmarks/gpu.py"))["Machine"]
    assert machine("cuda", True, None).peak() == expected
