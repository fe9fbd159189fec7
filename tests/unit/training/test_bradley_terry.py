"""Reward models: the Bradley-Terry loss, and learning a planted rule."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from accelerate import Accelerator
from tokenizers.processors import TemplateProcessing

import tiny
from conversations import asks
from prefloop.config.training_settings import OptimizerConfig
from prefloop.core.errors import InputError
from prefloop.core.files import read_json
from prefloop.feedback.reward_model import RewardModel, encode, load_trainable_classifier
from prefloop.models.distributed import wrap_model
from prefloop.models.fetch import fetch
from prefloop.models.options import Lora
from prefloop.training.bradley_terry import RewardModelObjective, bradley_terry, encode_pairs, reward_gaps, rewards
from prefloop.training.loop import optimize
from prefloop.training.reward_report import eval_report
from reward_model_training import planted, run_program, without_padding


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


def test_rewards_are_one_logit_per_row(bases):
    model, tokenizer = load(bases["llama"], OptimizerConfig(parameters="full"))
    pairs = encode_pairs(tokenizer, planted(3))
    found = rewards(model, tokenizer, [pair.chosen for pair in pairs])
    assert (found.shape, found.dtype) == ((3,), torch.float32)
