"""The user's benchmark command and the number that it writes."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from conftest import ROOT
from prefloop.config.experiment import Experiment
from prefloop.config.resolve import flags
from prefloop.core.errors import InputError
from prefloop.core.files import read_json, write_json
from prefloop.evaluation.benchmark_runs import benchmark_values, filled, read_number

RESULTS = {"results": {"hellaswag": {"acc,none": 0.25, "alias": "h"}}, "runs": [{"n": 3}]}


def test_placeholders_are_quoted_and_other_braces_kept():
    words = {"model": "a b/$(x)", "output": "out", "policy": "{model}"}
    assert filled("run {model} '{\"n\": 1}' {output}/{policy} {other}", words) == (
        "run 'a b/$(x)' '{\"n\": 1}' out/'{model}' {other}"
    )


@pytest.mark.parametrize(("keys", "number"), [(("results", "hellaswag", "acc,none"), 0.25), (("runs", "0", "n"), 3.0)])
def test_number_is_read_by_keys(tmp_path, keys, number):
    write_json(tmp_path / "model/results_2026.json", RESULTS)
    assert read_number(tmp_path, "*/results_*.json", keys) == number


@pytest.mark.parametrize(
    ("pattern", "keys", "message"),
    [
        ("*.json", ("results",), r"benchmark.file: '\*.json' below .* matches none, expected one file"),
        ("**/*.json", ("results",), "matches model/other.json, model/results_2026.json, expected one file"),
        ("*/results_*.json", ("results", "mmlu"), "no 'mmlu' at results of .*; found hellaswag"),
        ("*/results_*.json", ("runs", "1"), "no '1' at runs of .*; found a list"),
        ("*/results_*.json", ("results", "hellaswag", "alias"), "'h' in .*, expected a finite number"),
    ],
)
def test_missing_number_raises(tmp_path, pattern, keys, message):
    write_json(tmp_path / "model/results_2026.json", RESULTS)
    write_json(tmp_path / "model/other.json", {})
    with pytest.raises(InputError, match=message):
        read_number(tmp_path, pattern, keys)


def program_with(command: str) -> list[str]:
    words = ["--manifest", "m/manifest.json", "--policy", "dota/seed-0/round-1", "--command", command]
    words += ["--file", "*.json", "--value", "score", "--output", "r/benchmark.json"]
    return [sys.executable, str(ROOT / "workflow/scripts/run_benchmark.py"), *words]


def run_program(folder: Path, command: str) -> subprocess.CompletedProcess:
    return subprocess.run(program_with(command), cwd=folder, capture_output=True, text=True)


def test_program_runs_the_command_in_an_empty_folder(tmp_path):
    (tmp_path / "r/benchmark").mkdir(parents=True)
    (tmp_path / "r/benchmark/old.json").write_text("{}")
    done = run_program(tmp_path, """echo "model {model}" && echo '{"score": 7}' > {output}/new.json""")
    assert done.returncode == 0, done.stderr
    assert "model m" in done.stdout and "benchmark of dota/seed-0/round-1" in done.stdout
    assert read_json(tmp_path / "r/benchmark.json") == {"value": 7.0}


def test_failing_command_raises(tmp_path):
    done = run_program(tmp_path, "echo no such task >&2; exit 3")
    assert done.returncode == 1 and "no such task" in done.stderr
    assert "error: evaluation.benchmark.command: exit status 3" in done.stderr
    assert not (tmp_path / "r/benchmark.json").exists()


def is_leased(folder: Path) -> bool:
    with (folder / "GPU-a").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_command_and_its_processes_end_with_the_program(tmp_path, monkeypatch, how):
    """After SIGKILL they still run, and the GPU stays leased until they have ended."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvidia-smi").write_text("#!/bin/sh\necho 0, GPU-a\n")
    (tmp_path / "bin/nvidia-smi").chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("PREFLOOP_DEVICE", raising=False)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PREFLOOP_GPU_LOCKS": str(tmp_path)}
    process = subprocess.Popen(
        program_with("(echo $$ > pid; sleep 60; :) & wait"),
        cwd=tmp_path,
        env=os.environ | environment | {"PREFLOOP_GPUS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in the background
    )
    pid = tmp_path / "pid"
    try:
        while not pid.exists() or not pid.read_text().strip():
            assert process.poll() is None
            time.sleep(0.05)
        assert is_leased(tmp_path)
        process.send_signal(how)
        assert process.wait(20) == {signal.SIGTERM: 143, signal.SIGINT: 1, signal.SIGKILL: -9}[how]
        if how == signal.SIGKILL:
            assert is_leased(tmp_path)
            os.killpg(int(pid.read_text()), signal.SIGKILL)
        deadline = time.monotonic() + 10
        while is_leased(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_leased(tmp_path)
    finally:
        process.kill()
    assert not (tmp_path / "r/benchmark.json").exists()


def test_figure_has_every_run_and_the_initial_policy(tmp_path):
    experiment = Experiment(tmp_path, ("a", "b"), (0, 1), rounds=2, steps=1)
    write_json(tmp_path / "initial/benchmark.json", {"value": 0.5})
    for where, folder in experiment.folders():
        write_json(folder / "benchmark.json", {"value": where["round"] + where["seed"] + 10 * (where["method"] == "b")})
    table = benchmark_values(experiment)
    assert table[table["round"] == 0]["value"].tolist() == [0.5] * 4
    assert table.query("method == 'b' and round == 2")["value"].tolist() == [12, 13]
    path = tmp_path / "figures/benchmark.pdf"
    command = [sys.executable, str(ROOT / "workflow/scripts/figures/plot_benchmark.py")]
    words = [*command, "--label", "accuracy", "--figure", str(path)]
    text = flags(asdict(experiment))
    done = subprocess.run(f"{' '.join(map(json.dumps, words))} {text}", shell=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(pd.read_csv(path.with_suffix(".csv")), table.astype({"value": float}))
    caption = path.with_suffix(".rst").read_text()
    assert caption.startswith("Accuracy of every round") and "no CI" in caption and "2 seeds" in caption


@pytest.mark.parametrize("interrupted", [True, False])
def test_processes_of_the_command_have_time_to_clean_up(tmp_path, interrupted):
    """The shell ends at once, its child half a second after SIGTERM. A second signal does not cut that short."""
    child = "(trap 'sleep 0.5; touch cleaned; exit' TERM; touch ready; while :; do sleep 0.05; done)"
    command = f"{child}; :" if interrupted else f"{child} & while [ ! -f ready ]; do sleep 0.05; done; false"
    process = subprocess.Popen(program_with(command), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / "ready").exists():
            assert process.poll() is None
            time.sleep(0.05)
        if interrupted:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == (143 if interrupted else 1)
        assert (tmp_path / "cleaned").exists()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_the_command_starts_ends_it(tmp_path, how):
    """The signal comes within Popen, when the command runs already."""
    early = f"""
import os, runpy, signal, subprocess, sys
started = subprocess.Popen
class Popen(started):
    def __init__(self, *given, **options):
        super().__init__(*given, **options)
        os.kill(os.getpid(), {int(how)})
        sum(range(1000))  # a handler that raises would raise here, before there is a process to end
subprocess.Popen = Popen
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = {program_with("echo $$ > pid; sleep 60; :")[1:]!r}
sys.path.insert(0, {str(ROOT / "workflow/scripts")!r})
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", early], cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert done.returncode == {signal.SIGTERM: 143, signal.SIGINT: 1}[how], done.stderr
    if (tmp_path / "pid").exists():
        with pytest.raises(ProcessLookupError):
            os.killpg(int((tmp_path / "pid").read_text()), 0)
