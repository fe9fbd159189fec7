"""The program that trains reward models: the saved model, the report, and what it prints."""

import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers
from safetensors.torch import load_file

from conversations import asks
from prefloop.core.files import read_json, sha256_of
from prefloop.core.jsonl import read_rows
from prefloop.core.seeds import rng_for
from prefloop.feedback.reward_model import RewardModel
from prefloop.feedback.reward_sources import Request
from prefloop.training.reward_pairs import select_half, split_by_conversation
from reward_model_training import command, planted, run_program, without_padding


def held_out_of(rows: list[dict], share: float) -> list[dict]:
    """Return the rows that the program holds out with seed 0: rows are drawn, then split."""
    drawn = [rows[i] for i in rng_for(0, "reward_model", "take").permutation(len(rows))]
    return split_by_conversation(drawn, share, rng_for(0, "reward_model", "split"))[1]


def scored(manifest: Path, rows: list[dict], batch_size: int = 32) -> np.ndarray:
    """Return r(chosen) − r(rejected) as computed by the pipeline's feedback."""
    model = RewardModel(manifest, batch_size, 1)
    requests = {side: [Request("", 0, row["messages"], row[side]) for row in rows] for side in ("chosen", "rejected")}
    sides = [np.array(model.rewards(requests[side])) for side in ("chosen", "rejected")]
    return sides[0] - sides[1]


def test_saved_model_has_the_reported_accuracy(manifests, tmp_path):
    """With merged adapters and the same truncation and padding, RewardModel reproduces the report on held-out pairs.

    Some conversations are truncated, and the base model has no padding token except EOS.
    """
    base, rows = without_padding(tmp_path / "base", manifests["llama"]), planted(60)
    for row in rows[:2] + held_out_of(rows, 0.3)[:2]:
        row["messages"] = asks(row["messages"][0]["content"], "b" * 60, "and?")
    flags = ["--learning-rate", "1e-2", "--epochs", "3", "--batch-size", "8", "--eval-fraction", "0.3"]
    done = run_program(tmp_path, base, rows, *flags, "--max-tokens", "60")
    assert done.returncode == 0, done.stderr
    found, manifest = read_json(tmp_path / "report.json"), read_json(tmp_path / "out/manifest.json")
    unseen = held_out_of(rows, 0.3)
    assert (found["trained_pairs"], found["eval_pairs"], len(unseen)) == (42, 18, 18)
    gaps = scored(tmp_path / "out/manifest.json", unseen, batch_size=5)
    assert np.abs(gaps).max() > 0.5
    assert found["log_loss"] == pytest.approx(np.mean(np.log1p(np.exp(-gaps))), abs=1e-5)
    assert found["accuracy"][0] == np.mean(gaps > 0)
    longer = np.array([len(row["chosen"]) - len(row["rejected"]) for row in unseen])
    assert found["longer_wins"] == np.mean(0.5 * (1 + np.sign(longer)))
    confidence = np.maximum(1 / (1 + np.exp(-gaps)), 1 / (1 + np.exp(gaps)))
    mean = sum(bin["pairs"] * bin["confidence"] for bin in found["calibration"]) / 18
    assert mean == pytest.approx(confidence.mean(), abs=1e-5)
    assert scored(tmp_path / "out/manifest.json", unseen, batch_size=1) == pytest.approx(gaps, abs=1e-5)

    assert manifest["source"] == f"reward model on {Path(read_json(base)['source']).name}"
    assert manifest["architecture"] == "LlamaForSequenceClassification"
    assert manifest["parameters"] == sum(
        tensor.numel() for tensor in load_file(tmp_path / "out/model.safetensors").values()
    )
    assert manifest["files"] == {
        path.name: sha256_of(path) for path in (tmp_path / "out").iterdir() if path.name != "manifest.json"
    }
    steps = read_rows(tmp_path / "training.jsonl")
    assert [step["step"] for step in steps] == list(range(3 * math.ceil(42 / 8)))
    assert np.mean([step["loss"] for step in steps[-3:]]) < np.mean([step["loss"] for step in steps[:3]])
    assert len((tmp_path / "speed.csv").read_text().splitlines()) == 1 + len(steps)
    cost = read_json(tmp_path / "cost.json")
    of_base, training = read_json(base)["parameters"], sum(step["tokens"] for step in steps)
    held_out = cost["tokens_in"] - training
    assert cost["flops"] == 6 * of_base * training + 2 * of_base * held_out
    assert 18 * 2 * 10 < held_out <= 18 * 2 * 60
    assert "reward_model: 42 pairs trained on, 18 held out in " in done.stdout
    assert f" pairs/s), accuracy {found['accuracy'][0]:.3f} [" in done.stdout
    assert (found["warning"] is None) == ("WARNING" not in done.stdout)


def test_length_rule_gives_a_warning(manifests, tmp_path):
    """If longer is always better, no model beats counting. The other half of the conversations is not used.

    A prompt may have several pairs. Repeated pairs and pairs without a preference are dropped and counted.
    """
    rng = np.random.default_rng(0)
    rows = [row | {"rejected": "b" * n, "chosen": "b" * (n + 5)}
            for row, n in zip(planted(60), rng.integers(3, 12, 60), strict=True)]  # fmt: skip
    rows += [row | {"chosen": "c" * 20} for row in rows[:5]]
    dropped = [rows[3], rows[4] | {"chosen": "no", "rejected": "no"}, rows[5] | {"rejected": " "}]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/stale.safetensors").write_text("of a run before")
    done = run_program(tmp_path, manifests["llama"], rows + dropped, "--part", "first", "--parameters", "full")
    assert done.returncode == 0, done.stderr
    found, first = read_json(tmp_path / "report.json"), select_half(rows, "first")
    for account in ("68 rows", "1 repeated", "0 without a pair", "1 with equal responses", "1 with an empty response"):
        assert account in done.stdout
    assert (found["longer_wins"], found["shorter_wins"]) == (1.0, 0.0)
    assert found["trained_pairs"] + found["eval_pairs"] == len(first) < 45
    gaps = scored(tmp_path / "out/manifest.json", held_out_of(first, 0.2))
    assert found["log_loss"] == pytest.approx(np.mean(np.log1p(np.exp(-gaps))), abs=1e-5)
    lines = [line for line in done.stdout.splitlines() if "WARNING" in line]
    assert lines == [f"WARNING: out: {found['warning']}"]
    assert 'does not beat "longer wins"' in lines[0]
    assert not (tmp_path / "out/stale.safetensors").exists()


def test_taking_too_many_pairs_raises(manifests, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = command(tmp_path, manifests["llama"], planted(8), "--take", "9")
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="error: reward_models: take asks for 9 pairs, pairs.jsonl has 8 in part all"):
        runpy.run_path(words[0])
    assert not (tmp_path / "out").exists()


def test_chat_template_prints_the_given_date(manifests, tmp_path):
    """With policy.template_date, training reads the same tokens on every day."""
    manifest = without_padding(tmp_path / "base", manifests["llama"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(manifest.parent)
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(manifest.parent)
    losses = []
    for date in ("2025-01-30", "2024-12-01"):
        folder = tmp_path / date
        folder.mkdir()
        done = run_program(folder, manifest, planted(6), "--date", date, "--epochs", "1")
        assert done.returncode == 0, done.stderr
        losses.append([row["loss"] for row in read_rows(folder / "training.jsonl")])
    assert losses[0] != losses[1]
