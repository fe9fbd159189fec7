"""Reward models: the Bradley-Terry loss, learning a planted rule, and the program."""

import json
import math
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from accelerate import Accelerator
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing

import tiny
from conftest import ROOT
from conversations import asks
from prefloop.config.training_settings import OptimizerConfig
from prefloop.core.errors import InputError
from prefloop.core.files import read_json, sha256_of
from prefloop.core.jsonl import read_rows, write_rows
from prefloop.core.seeds import rng_for
from prefloop.feedback.reward_model import RewardModel, encode, load_trainable_classifier
from prefloop.feedback.reward_sources import Request
from prefloop.models.distributed import wrap_model
from prefloop.models.fetch import fetch
from prefloop.models.options import Lora
from prefloop.training.bradley_terry import RewardModelObjective, bradley_terry, encode_pairs, reward_gaps, rewards
from prefloop.training.loop import optimize
from prefloop.training.reward_pairs import select_half, split_by_conversation
from prefloop.training.reward_report import eval_report


def letters(rng: np.random.Generator, z: int) -> str:
    """Return 5 to 18 random letters, of which `z` are the letter z."""
    text = rng.choice(list("abcdefghij"), rng.integers(5, 19))
    text[rng.permutation(len(text))[:z]] = "z"
    return "".join(text)


def planted(count: int, seed: int = 0) -> list[dict]:
    """Return pairs whose chosen response has more letters z, independent of the lengths."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        fewer, more = sorted(rng.permutation(6)[:2])
        row = {"messages": asks(f"{letters(rng, 0)} {number}")}
        rows.append(row | {"chosen": letters(rng, more), "rejected": letters(rng, fewer)})
    return rows


def make_encoder(folder: Path) -> Path:
    """Write a random BERT to `folder`. Without a chat template, it reads prompt and response as a text pair."""
    words = tiny.tokenizer(chat=False)
    words.cls_token, words.sep_token = "<s>", "</s>"
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    torch.manual_seed(0)
    model = transformers.BertModel(
        transformers.BertConfig(
            **tiny.SIZES, vocab_size=len(words), max_position_embeddings=128, pad_token_id=words.pad_token_id
        )
    )
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.12 if "embed" not in name else 0.5)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bases(manifests, tmp_path_factory) -> dict[str, Path]:
    """Manifests of base models: language models with and without a chat template, and an encoder."""
    root = tmp_path_factory.mktemp("bases")
    fetch(str(make_encoder(root / "made")), root / "bert")
    return manifests | {"bert": root / "bert/manifest.json"}


def load(base: Path, settings: OptimizerConfig, max_tokens: int = 128, dtype: torch.dtype = torch.float32):
    torch.manual_seed(0)
    return load_trainable_classifier(base, settings.parameters, settings.lora, max_tokens, dtype)[:2]


def trained(model, tokenizer, rows: list[dict], settings: OptimizerConfig, dtype=torch.float32) -> list[dict]:
    """Train a model in place; return the metrics of each step."""
    accelerator = Accelerator(cpu=True)
    objective = RewardModelObjective(
        wrap_model(model, "none", accelerator, dtype), tokenizer, encode_pairs(tokenizer, rows)
    )
    steps = optimize(objective.model, objective, settings, seed=1, accelerator=accelerator)
    model.eval()
    return steps


def test_bradley_terry_by_hand():
    """A reward difference of ln 3 gives the chosen response probability 0.75. Gradients are −(1 − p) and 1 − p."""
    chosen = torch.tensor([0.0, math.log(3), -1.0, 50.0], requires_grad=True)
    rejected = torch.tensor([0.0, 0.0, math.log(3) - 1, -50.0], requires_grad=True)
    losses = bradley_terry(chosen, rejected)
    assert losses.tolist() == pytest.approx([math.log(2), -math.log(0.75), -math.log(0.25), 0.0], abs=1e-6)
    losses.sum().backward()
    assert chosen.grad.tolist() == pytest.approx([-0.5, -0.25, -0.75, 0.0], abs=1e-6)
    assert rejected.grad.tolist() == pytest.approx([0.5, 0.25, 0.75, 0.0], abs=1e-6)


@pytest.mark.parametrize("base", ["llama", "gpt_neox", "gpt2", "bert"])
def test_first_loss_matches_plain_forward_passes(bases, base):
    """Padded batches of uneven pairs have the same loss as single, unpadded responses."""
    settings = OptimizerConfig(parameters="full", batch_size=8, micro_batch_size=3)
    model, tokenizer = load(bases[base], settings)
    rows, gaps = planted(8), []
    with torch.no_grad():
        for pair in encode_pairs(tokenizer, rows):
            chosen, rejected = (model.eval()(torch.tensor([side["input_ids"]])).logits.item() for side in pair)
            gaps.append(chosen - rejected)
    assert reward_gaps(model, tokenizer, encode_pairs(tokenizer, rows), 3) == pytest.approx(gaps, abs=1e-5)
    steps = trained(model, tokenizer, rows, settings)
    assert steps[0]["loss"] == pytest.approx(np.mean([math.log(1 + math.exp(-gap)) for gap in gaps]), abs=1e-5)
    assert steps[0]["accuracy"] == np.mean([gap > 0 for gap in gaps])
    assert steps[0]["tokens"] == sum(pair.tokens for pair in encode_pairs(tokenizer, rows))


def test_head_of_another_size_is_replaced(bases, tmp_path):
    """A base model trained for three classes gets a new head, and the log says so."""
    made = transformers.AutoModelForSequenceClassification.from_pretrained(bases["bert"].parent, num_labels=3)
    made.save_pretrained(tmp_path / "classes")
    transformers.AutoTokenizer.from_pretrained(bases["bert"].parent).save_pretrained(tmp_path / "classes")
    fetch(str(tmp_path / "classes"), tmp_path / "base")
    flags = ["--learning-rate", "1e-3", "--epochs", "1", "--batch-size", "8"]
    done = run_program(tmp_path, tmp_path / "base/manifest.json", planted(20), *flags)
    assert done.returncode == 0, done.stderr
    assert "new head instead of classifier.bias ([3] and [1]), classifier.weight ([3, 32] and [1, 32])" in done.stdout
    found = RewardModel(tmp_path / "out/manifest.json", 4, 1)
    assert found.model.config.num_labels == 1
    kept = made.bert.embeddings.word_embeddings.weight
    assert (found.model.bert.embeddings.word_embeddings.weight - kept).abs().max() < 0.01


def test_weights_of_another_size_raise(bases, tmp_path):
    """Only the head may be replaced."""
    shutil.copytree(bases["llama"].parent, tmp_path / "base")
    config = read_json(tmp_path / "base/config.json") | {"intermediate_size": 48}
    (tmp_path / "base/config.json").unlink()
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=r"weights do not fit config.json: model.layers.0.mlp.down_proj.weight \(\[32,"
    ):
        load(tmp_path / "base/manifest.json", OptimizerConfig(parameters="full"))


@pytest.mark.parametrize("pad", [None, "</s>"])
def test_training_reads_the_last_token(bases, tmp_path, pad):
    """Holds if the tokenizer pads with the token that ends a turn, also when the model is loaded elsewhere."""
    base = without_padding(tmp_path / "base", bases["llama"])
    if pad:
        settings = read_json(base.parent / "tokenizer_config.json") | {"pad_token": pad}
        (base.parent / "tokenizer_config.json").write_text(json.dumps(settings))
        config = read_json(base.parent / "config.json") | {"pad_token_id": 1}
        (base.parent / "config.json").write_text(json.dumps(config))
    model, tokenizer = load(base, OptimizerConfig(parameters="full"))
    encoded = [pair.chosen for pair in encode_pairs(tokenizer, planted(6))]
    with torch.no_grad():
        found = rewards(model.eval(), tokenizer, encoded)
        states = [model.model(torch.tensor([row["input_ids"]])).last_hidden_state[0, -1] for row in encoded]
        assert torch.allclose(found, torch.stack(states) @ model.score.weight[0], atol=1e-5)
    saved, _ = load(base, OptimizerConfig(parameters="full"))
    ids = torch.tensor([encoded[0]["input_ids"]])
    assert saved.eval()(ids).logits.item() == pytest.approx(found[0].item(), abs=1e-5)


@pytest.mark.parametrize("parameters", ["lora", "full"])
@pytest.mark.parametrize("base", ["llama", "bert"])
def test_planted_rule_is_learned(bases, base, parameters):
    """More letters z are better: accuracy on held-out pairs exceeds 0.9, and length predicts nothing."""
    rows = planted(450)
    rate, epochs = {"lora": (5e-3, 6), "full": (3e-3, 4)}[parameters]
    settings = OptimizerConfig(
        parameters=parameters, lora=Lora(r=8), learning_rate=rate, epochs=epochs, micro_batch_size=16
    )
    model, tokenizer = load(bases[base], settings)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert bool(frozen) == (parameters == "lora")
    steps = trained(model, tokenizer, rows[:300], settings)
    gaps = reward_gaps(model, tokenizer, encode_pairs(tokenizer, rows[300:]), 32)
    lengths = np.array([len(row["chosen"]) - len(row["rejected"]) for row in rows[300:]])
    found = eval_report(gaps, lengths, np.random.default_rng(0))
    assert found["accuracy"][0] > 0.9
    assert 0.35 < found["longer_wins"] < 0.65
    assert found["warning"] is None
    assert np.mean([step["accuracy"] for step in steps[-10:]]) > 0.9 > steps[0]["accuracy"]
    for name, weight in model.named_parameters():
        assert name not in frozen or (weight == frozen[name]).all(), name


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_micro_batches_do_not_change_training(bases, parameters):
    outcomes = []
    for size in (4, 3, 1):
        settings = OptimizerConfig(
            parameters=parameters,
            lora=Lora(r=4),
            learning_rate=1e-3,
            epochs=2,
            batch_size=4,
            micro_batch_size=size,
        )
        model, tokenizer = load(bases["llama"], settings)
        steps = trained(model, tokenizer, planted(10), settings)
        outcomes.append(([step["loss"] for step in steps], model))
    assert len(outcomes[0][0]) == 6  # 4, 4 and 2 pairs per epoch
    assert outcomes[0][0][0] != pytest.approx(outcomes[0][0][3], abs=1e-3)
    for losses, model in outcomes[1:]:
        assert losses == pytest.approx(outcomes[0][0], abs=1e-5)
        for a, b in zip(model.parameters(), outcomes[0][1].parameters(), strict=True):
            assert a.detach().numpy() == pytest.approx(b.detach().numpy(), abs=1e-5)


@pytest.mark.parametrize("base", ["llama", "bert"])
def test_trained_weights_are_float32(bases, base):
    """Includes the new head. In bfloat16 a step of 2e-5 would not change a weight of 0.02."""
    settings = OptimizerConfig(lora=Lora(r=2), dtype="bfloat16")
    model, _ = load(bases[base], settings, dtype=torch.bfloat16)
    kinds = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    assert any("lora" in name for name in kinds) and any("lora" not in name for name in kinds)
    assert {name: dtype for name, dtype in kinds.items() if dtype != torch.float32} == {}


def test_training_in_bfloat16_learns(bases):
    settings = OptimizerConfig(lora=Lora(r=4), learning_rate=1e-2, epochs=3, batch_size=8, dtype="bfloat16")
    model, tokenizer = load(bases["llama"], settings, dtype=torch.bfloat16)
    rows = planted(40)
    steps = trained(model, tokenizer, rows, settings, torch.bfloat16)
    gaps = reward_gaps(model, tokenizer, encode_pairs(tokenizer, rows), 16)
    assert np.mean([step["loss"] for step in steps[-3:]]) < steps[0]["loss"] - 0.1
    assert np.mean(gaps > 0) > steps[0]["accuracy"]


@pytest.mark.parametrize("asked", [60, 10_000])
@pytest.mark.parametrize("base", ["llama", "bert"])
def test_long_conversations_lose_their_start(bases, base, asked):
    """Conversations are truncated to the requested or the maximum length, and the response is kept."""
    model, tokenizer = load(bases[base], OptimizerConfig(parameters="full"), max_tokens=asked)
    kept = min(asked, model.config.max_position_embeddings)
    for response in ("zyx", "zyx" * (kept // 4)):
        ids = encode(tokenizer, asks("a" * 2 * kept), response)["input_ids"]
        assert len(ids) == kept
        assert tokenizer.decode(ids).replace(" ", "").endswith(f"{response}</s>")
    for conversation in (asks("a"), asks("a" * 2 * kept)):
        assert len(encode(tokenizer, conversation, "zyx" * kept)["input_ids"]) == kept


def test_base_without_a_model_raises(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="transformers cannot load it as a classifier"):
        load(tmp_path / "manifest.json", OptimizerConfig())


def command(folder: Path, base: Path, rows: list[dict], *flags: str) -> list[str]:
    """Write pairs to a file as a user would; return the program and its flags."""
    write_rows(
        folder / "pairs.jsonl",
        [{"prompt": row["messages"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in rows],
    )
    files = {"source": "pairs.jsonl", "packaged": "absent.jsonl", "manifest": "out/manifest.json"}
    files |= {"report": "report.json", "metrics": "training.jsonl", "speed": "speed.csv", "cost": "cost.json"}
    given = [text for name, value in files.items() for text in (f"--{name}", value)]
    program = str(ROOT / "workflow/scripts/train_reward_model.py")
    return [program, "--base", str(base), *given, "--dtype", "float32", "--lora.r", "4", *flags]


def run_program(folder: Path, *given) -> subprocess.CompletedProcess:
    words, environment = [sys.executable, *command(folder, *given)], os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


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


def without_padding(folder: Path, original: Path) -> Path:
    """Copy a fetched model without its padding token; return the manifest."""
    folder.mkdir()
    for file in original.parent.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text())
        settings.pop("pad_token", None), settings.pop("pad_token_id", None)
        (folder / name).write_text(json.dumps(settings))
    return folder / "manifest.json"


def test_saved_model_has_the_reported_accuracy(bases, tmp_path):
    """With merged adapters and the same truncation and padding, RewardModel reproduces the report on held-out pairs.

    Some conversations are truncated, and the base model has no padding token except EOS.
    """
    base, rows = without_padding(tmp_path / "base", bases["llama"]), planted(60)
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


def test_length_rule_gives_a_warning(bases, tmp_path):
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
    done = run_program(tmp_path, bases["llama"], rows + dropped, "--part", "first", "--parameters", "full")
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


def test_taking_too_many_pairs_raises(bases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = command(tmp_path, bases["llama"], planted(8), "--take", "9")
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="error: reward_models: take asks for 9 pairs, pairs.jsonl has 8 in part all"):
        runpy.run_path(words[0])
    assert not (tmp_path / "out").exists()


def test_rewards_are_one_logit_per_row(bases):
    model, tokenizer = load(bases["llama"], OptimizerConfig(parameters="full"))
    pairs = encode_pairs(tokenizer, planted(3))
    found = rewards(model, tokenizer, [pair.chosen for pair in pairs])
    assert (found.shape, found.dtype) == ((3,), torch.float32)


def test_chat_template_prints_the_given_date(bases, tmp_path):
    """With policy.template_date, training reads the same tokens on every day."""
    manifest = without_padding(tmp_path / "base", bases["llama"])
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
