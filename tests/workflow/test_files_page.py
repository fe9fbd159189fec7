"""docs/files.md is what the files are: every file of a run that uses everything, field by field."""

import csv
import json
import re
from pathlib import Path

import pytest

import documented
from conftest import Workdir
from prefloop.clusters import read_clusters
from prefloop.rows import read_json, read_rows, read_tensors

PAGE = documented.ROOT / "docs/files.md"
EVERYTHING = {
    "name": "files",
    "rounds": 2,
    "steps": 1,
    "compare": ["dota", "judged"],
    "sft": {"enabled": True, "lora": {"r": 4}, "batch_size": 8, "micro_batch_size": 8, "dtype": "float32"},
    "reward_models": {"mine": {"take": 24, "max_tokens": 64, "epochs": 1, "dtype": "float32"}},
    "prompts": {"take": 24, "eval_fraction": 0.34},
    "clusters": {"k": "elbow", "k_max": 3},
    "bandit": {"budget": 3},
    "generation": {"n": 3},
    "evaluation": {"by_checkpoint": {"steps": [1], "methods": ["dota"]}, "opponents": ["initial", "chosen"]},
    "figures": ["quality", "frontier", "gradients", "checkpoints", "tabular"],
    "tables": ["results", "differences", "win_rates", "length", "costs", "cost_to_reach"],
    "tabular": {"seeds": 1, "empirical": {"steps": 2, "every": 1}, "normalised": {"steps": 4}, "paper": {"steps": 2}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, model_folders) -> Path:
    """A tiny experiment in which every kind of file is made: two methods, one of them judged, one exported."""
    directory = Workdir(tmp_path_factory.mktemp("files"), model_folders["llama"])
    (directory.path / "judge.txt").write_text("{conversation} A: {response_a} B: {response_b} Best?")
    judge = {"template": "judge.txt", "min_label_mass": 0.0, "dtype": "float32"}
    methods = {
        "dota": {
            "generation": {"sampler": "policy_reference", "n": 4},
            "reference": {"kind": "ema"},
            "train": {"loss": "xpo", "beta_rule": "risk", "beta_risk": {"warmup": 1}},
        },
        "judged": {
            "clusters": {"k": 2},
            "feedback": {"kind": "judge", "model": str(model_folders["qwen"]), "judge": judge},
        },
    }
    directory.configure(**EVERYTHING, methods=methods)
    directory.configure(reward_models={"mine": {"base": str(model_folders["llama"])}})
    directory.configure(evaluation={"evaluator": {"kind": "reward_model", "model": "trained:mine"}})
    done = directory.run("all", "export", "--notemp")
    assert done.returncode == 0, done.stdout
    return directory.path / "results/files"


def test_it_runs(run):
    print(run)
