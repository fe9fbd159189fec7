"""Model cards: their content, and what they leave out."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

from conftest import ROOT
from prefloop.core.files import read_json, sha256_of, write_json
from prefloop.report.cards import cost_sums, header, license_of, lineage, public, results_of


def test_header_has_base_model_and_license_in_the_hubs_format(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner/local").mkdir(parents=True)
    terms = {"license": "other", "license_name": "llama"}
    manifest = tmp_path / "manifest.json"
    write_json(manifest, {"source": "Qwen/Qwen3-0.6B@v1"} | terms)
    assert license_of(manifest, None) == terms
    assert license_of(manifest, "mit") == {"license": "mit"}
    read = yaml.safe_load(header(manifest, terms).strip("-"))
    assert (read["base_model"], read["license"], read["license_name"]) == ("Qwen/Qwen3-0.6B", "other", "llama")
    for source in ("owner/local", "/home/someone/model", "pypi:a==1/b.gguf#sha256=0"):
        write_json(manifest, {"source": source})
        assert license_of(manifest, None) == {}
        assert yaml.safe_load(header(manifest, {}).strip("-")).keys() == {"library_name", "pipeline_tag", "tags"}


def test_card_names_all_inputs_of_the_policy(manifests, trained, tmp_path):
    """Checksums, costs and numbers match the files. Home folders in the config are left out."""
    costs = [tmp_path / f"{name}.cost.json" for name in ("generate", "generate_2", "train")]
    for path, stage, tokens in zip(costs, ["generate", "generate", "train"], [10, 20, 5], strict=True):
        write_json(path, {"stage": stage, "tokens_in": tokens, "tokens_out": 1, "flops": 3e12, "seconds": 0.5})
    table = tmp_path / "results.csv"
    pd.DataFrame({"method": ["initial", "dota", "other"], "win": 0.625, "win_low": 0.5, "win_high": 0.75}).to_csv(table)
    (tmp_path / "results.rst").write_text("Brackets are intervals.")
    for name in ("train.jsonl", "eval.jsonl", "pairs.jsonl"):
        (tmp_path / name).write_text(name)
    settings = {
        "policy": {"model": "/home/someone/models/llama"},
        "train": {"beta": 0.25},
        "judges": ["~/secret/j.txt"],
    }
    policy, base = trained("lora"), manifests["llama"]
    words = ["--title", "tiny-dota", "--method", "dota", "--settings", json.dumps(settings), "--card", "README.md"]
    words += ["--model", base, "--base", base, "--prompts", "train.jsonl", "eval.jsonl", "--policies", policy]
    words += ["--pairs", "pairs.jsonl", "--costs", *costs, "--tables", table, "--license", "mit"]
    command = [sys.executable, ROOT / "workflow/scripts/write_model_card.py", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "README.md").read_text()
    for line in (
        "license: mit",
        f"1. base model llama, files {read_json(base)['sha256']}",
        f"2. round 1: policy.pt {sha256_of(policy)}, trained on pairs.jsonl {sha256_of(tmp_path / 'pairs.jsonl')}",
        f"* train.jsonl: SHA-256 {sha256_of(tmp_path / 'train.jsonl')}",
        "  model: llama\n",
        "  beta: 0.25\n",
        "- j.txt\n",
        "| generate | 2 | 30 | 2 | 6 | 1 |",
        "| all | 3 | 35 | 3 | 9 | 1.5 |",
        "| dota | 0.625 [0.5, 0.75] |",
        "Brackets are intervals.",
    ):
        assert line in card, line
    for hidden in ("/home", "someone", "secret", str(tmp_path), str(Path.home()), "| other"):
        assert hidden not in card, hidden


def test_card_escapes_untrusted_markup(tmp_path):
    """The license is from the model's author, and anyone with access to results/ can change the manifest."""
    hostile = "x <img src=https://a.b/c> [d](https://e.f) `g`"
    write_json(tmp_path / "manifest.json", {"source": hostile, "sha256": "<b>", "license": hostile})
    settings = {"feedback": {"system_prompt": "a\n```\n<script>alert(1)</script>\n````\n"}}
    files = {"model": "manifest.json", "base": "manifest.json", "costs": "c.json", "card": "README.md"}
    write_json(tmp_path / "c.json", {"stage": "<b>", "tokens_in": 1, "tokens_out": 1, "flops": 1, "seconds": 1.0})
    words = [word for name, file in files.items() for word in (f"--{name}", file)]
    words += ["--title", "t", "--method", "m", "--settings", json.dumps(settings), "--prompts", "--policies", "--pairs"]
    command = [sys.executable, ROOT / "workflow/scripts/write_model_card.py", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "README.md").read_text().split("\n---\n", 1)[1]
    before, code, after = page.split("`````")
    assert "<script>" in code and code.startswith("yaml\n")
    for part in (before, after):
        assert not re.search(r"(?<!\\)[<`]|\]\(http(?!s://snakemake)", part.replace("](https://snakemake", "")), part
    assert r"License: x \<img src=https\://a.b/c> [d]\(https\://e.f) \`g\`." in before


def test_lineage_names_the_policy_of_another_run(manifests, tmp_path):
    start = tmp_path / "policy.pt"
    start.write_bytes(b"weights")
    lines = lineage(manifests["llama"], manifests["llama"], [], start)
    assert len(lines) == 2
    assert lines[1].startswith(f"2. policy.pt of another run {sha256_of(start)}, whose settings and costs")


def test_lineage_names_fine_tuning(manifests, tmp_path):
    write_json(tmp_path / "tuned.json", {"source": "fine-tuned x", "sha256": "abc"})
    lines = lineage(manifests["llama"], tmp_path / "tuned.json", [])
    assert lines[1] == "2. fine-tuned on chosen responses, files abc"


def test_method_without_rows_has_no_results(tmp_path):
    pd.DataFrame({"method": ["a"], "win": [0.5]}).to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "t.rst").write_text("Caption.")
    assert results_of(tmp_path / "t.csv", ["b"]) == ""


def test_public_removes_folders_of_absolute_paths():
    value = {"a": ["/x/y", "hub/model"], "b": {"c": "~/z"}, "d": 1.5, "e": None, "f": "./here/too"}
    assert public(value) == {"a": ["y", "hub/model"], "b": {"c": "z"}, "d": 1.5, "e": None, "f": "./here/too"}


def test_costs_of_one_stage_add_up(tmp_path):
    write_json(tmp_path / "c.json", {"stage": "train", "tokens_in": 1, "tokens_out": 2, "flops": 0, "seconds": 1.0})
    assert cost_sums([tmp_path / "c.json"])["runs"].tolist() == [1, 1]
