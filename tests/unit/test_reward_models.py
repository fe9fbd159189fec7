"""Reward models: the Bradley–Terry loss, honest halves and reports, and a rule learned that the saved model applies."""

import json
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tokenizers.processors import TemplateProcessing

import tiny
from conftest import ROOT
from prefloop.classifiers import RewardModel, encode, load_trainable_classifier
from prefloop.fetch import count_parameters, fetch
from prefloop.optimisation import Optimisation
from prefloop.policies import Lora
from prefloop.reward_models import (
    Encoded,
    bradley_terry,
    fit,
    half_of,
    report,
    reward_gaps,
    rewards,
    split_by_conversation,
    warning,
)
from prefloop.rows import InputError, read_json, read_rows, sha256_of, write_rows
from prefloop.seeds import rng_for


def asks(*turns: str) -> list[dict]:
    """A conversation of user, assistant, user, …"""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]


def letters(rng: np.random.Generator, z: int) -> str:
    """5 to 18 random letters, `z` of them z."""
    text = rng.choice(list("abcdefghij"), rng.integers(5, 19))
    text[rng.permutation(len(text))[:z]] = "z"
    return "".join(text)


def planted(count: int, seed: int = 0) -> list[dict]:
    """Pairs whose chosen response has more of the letter z, whatever the lengths."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        fewer, more = sorted(rng.permutation(6)[:2])
        row = {"messages": asks(f"{letters(rng, 0)} {number}")}
        rows.append(row | {"chosen": letters(rng, more), "rejected": letters(rng, fewer)})
    return rows


def make_encoder(folder: Path) -> Path:
    """Write a randomly initialised BERT to `folder`; without chat template, it reads prompt and response as a pair."""
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
    """What reward models start from: language models with and without a chat template, and an encoder."""
    root = tmp_path_factory.mktemp("bases")
    fetch(str(make_encoder(root / "made")), root / "bert")
    return manifests | {"bert": root / "bert/manifest.json"}


def load(base: Path, settings: Optimisation, max_tokens: int = 128, dtype: torch.dtype = torch.float32):
    torch.manual_seed(0)
    return load_trainable_classifier(base, settings.parameters, settings.lora, max_tokens, dtype)


def encoded(tokenizer, rows: list[dict]) -> list[Encoded]:
    return [Encoded(*(encode(tokenizer, row["messages"], row[side]) for side in Encoded._fields)) for row in rows]


def trained(model, tokenizer, rows: list[dict], settings: Optimisation) -> list[dict]:
    steps: list[dict] = []
    fit(
        model,
        tokenizer,
        encoded(tokenizer, rows),
        settings,
        seed=1,
        accelerator=Accelerator(cpu=True),
        on_step=steps.append,
    )
    model.eval()
    return steps


def test_bradley_terry_by_hand():
    """−log of the odds' share: rewards ln 3 apart make the chosen ¾ probable. Its gradient is −(1 − p) and 1 − p."""
    chosen = torch.tensor([0.0, math.log(3), -1.0, 50.0], requires_grad=True)
    rejected = torch.tensor([0.0, 0.0, math.log(3) - 1, -50.0], requires_grad=True)
    losses = bradley_terry(chosen, rejected)
    assert losses.tolist() == pytest.approx([math.log(2), -math.log(0.75), -math.log(0.25), 0.0], abs=1e-6)
    losses.sum().backward()
    assert chosen.grad.tolist() == pytest.approx([-0.5, -0.25, -0.75, 0.0], abs=1e-6)
    assert rejected.grad.tolist() == pytest.approx([0.5, 0.25, 0.75, 0.0], abs=1e-6)


def numbered(conversations: int, each: int) -> list[dict]:
    """Rows of so many conversations, each of which goes on in `each` ways after the same first message."""
    return [
        {"messages": asks(f"question {c}", *[f"so {i}", "and?"][: 2 * (i > 0)]), "row": (c, i)}
        for i in range(each)
        for c in range(conversations)
    ]


def test_halves_share_no_conversation():
    rows = numbered(40, 3)
    first, second = half_of(rows, "first"), half_of(rows, "second")
    assert half_of(rows, "all") == rows
    assert sorted(row["row"] for row in first + second) == sorted(row["row"] for row in rows)
    halves = [{row["row"][0] for row in half} for half in (first, second)]
    assert not halves[0] & halves[1]
    assert [len(half) for half in (first, second)] == [3 * len(openings) for openings in halves]
    assert all(10 < len(openings) < 30 for openings in halves)
    assert half_of(rows[::-1], "first") == first[::-1], "which half must not depend on the other rows"
    assert half_of(rows[:30], "first") == [row for row in first if row in rows[:30]]


def test_a_system_message_opens_no_conversation():
    """All prompts of a data set may begin with the same one."""
    system = {"role": "system", "content": "be good"}
    rows = numbered(20, 1)
    before = [row | {"messages": [system, *row["messages"]]} for row in rows]
    assert [row["row"] for row in half_of(before, "first")] == [row["row"] for row in half_of(rows, "first")]


@pytest.mark.parametrize(("share", "count"), [(0.2, 2), (0.5, 5), (0.01, 1)])
def test_no_conversation_is_trained_on_and_held_out(share, count):
    rows = numbered(10, 3)
    training, unseen = split_by_conversation(rows, share, np.random.default_rng(0))
    assert sorted(row["row"] for row in training + unseen) == sorted(row["row"] for row in rows)
    sides = [{row["row"][0] for row in side} for side in (training, unseen)]
    assert not sides[0] & sides[1]
    assert (len(sides[1]), len(unseen)) == (count, 3 * count)
    others = [split_by_conversation(rows, share, np.random.default_rng(seed))[1] for seed in range(5)]
    assert any(other != unseen for other in others)


def test_one_conversation_cannot_be_split():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"3 pair\(s\) in 1 conversation\(s\): at least two conversations are needed"):
        split_by_conversation(numbered(1, 3), 0.2, rng)
    with pytest.raises(InputError, match=r"0 pair\(s\)"):
        split_by_conversation([], 0.2, rng)


def test_two_conversations_can_always_be_split():
    """However large the share, a conversation is left to train on."""
    training, unseen = split_by_conversation(numbered(2, 1), 0.8, np.random.default_rng(0))
    assert (len(training), len(unseen)) == (1, 1)


# (log-odds, right, chosen is so much longer); a gap of log(p / (1 − p)) is a confidence of p.
EIGHT = [
    (math.log(11 / 9), 1, 5),  # .55
    (-math.log(5 / 3), 0, -3),  # .625
    (0.0, 0.5, 2),  # .5, half right
    (math.log(3), 1, 0),  # .75, and length is half right
    (math.log(19), 1, -4),  # .95
    (math.log(19), 1, 1),
    (-math.log(19), 0, 7),
    (math.log(19), 1, -2),
]


def test_report_by_hand():
    gaps, right, longer = np.array(EIGHT).T
    found = report(gaps, longer, np.random.default_rng(0))
    assert found["held_out_pairs"] == 8
    assert found["accuracy"][0] == right.mean() == 5.5 / 8
    assert (found["longer_wins"], found["shorter_wins"]) == (4.5 / 8, 3.5 / 8)
    assert found["lead_over_length"][0] == 1 / 8
    for name in ("accuracy", "lead_over_length"):
        mean, low, high = found[name]
        assert low < mean < high
    assert found["calibration"] == [
        pytest.approx({"pairs": 2, "confidence": 0.525, "accuracy": 0.75}),
        pytest.approx({"pairs": 1, "confidence": 0.625, "accuracy": 0.0}),
        pytest.approx({"pairs": 1, "confidence": 0.75, "accuracy": 1.0}),
        pytest.approx({"pairs": 4, "confidence": 0.95, "accuracy": 0.75}),
    ]
    assert found["calibration_error"] == pytest.approx((2 * 0.225 + 1 * 0.625 + 1 * 0.25 + 4 * 0.2) / 8)
    given = [0.55, 0.375, 0.5, 0.75, 0.95, 0.95, 0.05, 0.95]  # to what was preferred
    assert found["log_loss"] == pytest.approx(-sum(map(math.log, given)) / 8)


def test_the_better_rule_about_length_is_the_one_to_beat():
    """With every length turned round "shorter wins" is right as often as "longer wins" was, and the lead the same."""
    gaps, _, longer = np.array(EIGHT).T
    one, other = (report(gaps, sign * longer, np.random.default_rng(0)) for sign in (1, -1))
    assert (other["longer_wins"], other["shorter_wins"]) == (one["shorter_wins"], one["longer_wins"])
    assert other["lead_over_length"] == one["lead_over_length"]
    assert '"longer wins"' in warning(one) and '"shorter wins"' in warning(other)


def test_a_certain_model_has_no_uncertain_report():
    found = report(np.full(4, 1000.0), np.zeros(4), np.random.default_rng(0))
    assert found["accuracy"] == [1.0, 1.0, 1.0]
    assert found["lead_over_length"] == [0.5, 0.5, 0.5]
    assert found["calibration"] == [{"pairs": 4, "confidence": 1.0, "accuracy": 1.0}]
    assert (found["calibration_error"], found["log_loss"]) == (0.0, 0.0)
    json.dumps(found, allow_nan=False)


def test_a_model_that_counts_characters_is_warned_of():
    """It agrees with "longer wins" on every pair, which is right on three in four: no lead at all."""
    lengths = np.array([1, 2, 3, -4] * 10)
    found = report(0.1 * lengths, lengths, np.random.default_rng(0))
    assert warning(found).startswith(
        'the reward model does not beat "longer wins" on 40 held-out pairs: '
        "accuracy 0.750 against 0.750, lead +0.000 [+0.000, +0.000]; what it rewards may be length"
    )


def test_a_lead_that_may_be_luck_is_warned_of():
    gaps, _, longer = np.array(EIGHT).T
    found = report(gaps, longer, np.random.default_rng(0))
    mean, low, high = found["lead_over_length"]
    assert low < 0 < mean
    assert warning(found).startswith(
        f'the reward model has not been shown to beat "longer wins" on 8 held-out pairs: accuracy 0.688 against 0.562, '
        f"lead +0.125 [{low:+.3f}, {high:+.3f}]"
    )


def test_a_clear_lead_is_not_warned_of():
    """Right on nine pairs in ten, where length is on two in three."""
    gaps, lengths = np.array([1.0] * 9 + [-1.0]), np.array([1, 1, -1])
    found = report(np.tile(gaps, 30), np.tile(lengths, 100), np.random.default_rng(0))
    assert found["lead_over_length"][0] == pytest.approx(0.9 - 2 / 3)
    assert warning(found) is None


@pytest.mark.parametrize("base", ["llama", "gpt_neox", "gpt2", "bert"])
def test_the_first_step_has_the_loss_of_plain_forward_passes(bases, base):
    """Pairs of uneven lengths in padded batches lose what each response alone, unpadded, says they do."""
    settings = Optimisation(parameters="full", batch_size=8, micro_batch_size=3)
    model, tokenizer = load(bases[base], settings)
    rows, gaps = planted(8), []
    with torch.no_grad():
        for pair in encoded(tokenizer, rows):
            chosen, rejected = (model.eval()(torch.tensor([side["input_ids"]])).logits.item() for side in pair)
            gaps.append(chosen - rejected)
    assert reward_gaps(model, tokenizer, encoded(tokenizer, rows), 3) == pytest.approx(gaps, abs=1e-5)
    steps = trained(model, tokenizer, rows, settings)
    assert steps[0]["loss"] == pytest.approx(np.mean([math.log(1 + math.exp(-gap)) for gap in gaps]), abs=1e-5)
    assert steps[0]["accuracy"] == np.mean([gap > 0 for gap in gaps])
    assert steps[0]["tokens"] == sum(pair.tokens for pair in encoded(tokenizer, rows))


@pytest.mark.parametrize("parameters", ["lora", "full"])
@pytest.mark.parametrize("base", ["llama", "bert"])
def test_a_planted_rule_is_learned(bases, base, parameters):
    """More z is better: right on more than nine in ten pairs that were held out, where length is a coin."""
    rows = planted(450)
    rate, epochs = {"lora": (5e-3, 6), "full": (3e-3, 4)}[parameters]
    settings = Optimisation(
        parameters=parameters, lora=Lora(r=8), learning_rate=rate, epochs=epochs, micro_batch_size=16
    )
    model, tokenizer = load(bases[base], settings)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert bool(frozen) == (parameters == "lora")
    steps = trained(model, tokenizer, rows[:300], settings)
    gaps = reward_gaps(model, tokenizer, encoded(tokenizer, rows[300:]), 32)
    lengths = np.array([len(row["chosen"]) - len(row["rejected"]) for row in rows[300:]])
    found = report(gaps, lengths, np.random.default_rng(0))
    assert found["accuracy"][0] > 0.9
    assert 0.35 < found["longer_wins"] < 0.65
    assert warning(found) is None
    assert np.mean([step["accuracy"] for step in steps[-10:]]) > 0.9 > steps[0]["accuracy"]
    for name, weight in model.named_parameters():
        assert name not in frozen or (weight == frozen[name]).all(), name


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_micro_batches_change_nothing(bases, parameters):
    outcomes = []
    for size in (4, 3, 1):
        settings = Optimisation(
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
    assert len(outcomes[0][0]) == 6  # 4, 4 and 2 pairs an epoch
    assert outcomes[0][0][0] != pytest.approx(outcomes[0][0][3], abs=1e-3)
    for losses, model in outcomes[1:]:
        assert losses == pytest.approx(outcomes[0][0], abs=1e-5)
        for a, b in zip(model.parameters(), outcomes[0][1].parameters(), strict=True):
            assert a.detach().numpy() == pytest.approx(b.detach().numpy(), abs=1e-5)


@pytest.mark.parametrize("base", ["llama", "bert"])
def test_what_is_trained_is_in_float32(bases, base):
    """The new head as well: in bfloat16 a step of 2e-5 would leave a weight of .02 where it is."""
    settings = Optimisation(lora=Lora(r=2), dtype="bfloat16")
    model, _ = load(bases[base], settings, dtype=torch.bfloat16)
    kinds = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    assert any("lora" in name for name in kinds) and any("lora" not in name for name in kinds)
    assert {name: dtype for name, dtype in kinds.items() if dtype != torch.float32} == {}


def test_bfloat16_learns_too(bases):
    settings = Optimisation(lora=Lora(r=4), learning_rate=1e-2, epochs=3, batch_size=8, dtype="bfloat16")
    AcceleratorState._reset_state(reset_partial_state=True)  # its precision is one for a whole process
    try:
        model, tokenizer = load(bases["llama"], settings, dtype=torch.bfloat16)
        rows, steps = planted(40), []
        accelerator = Accelerator(cpu=True, mixed_precision="bf16")
        pairs = encoded(tokenizer, rows)
        fit(model, tokenizer, pairs, settings, seed=1, accelerator=accelerator, on_step=steps.append)
        gaps = reward_gaps(model.eval(), tokenizer, pairs, 16)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert np.mean([step["loss"] for step in steps[-3:]]) < steps[0]["loss"] - 0.1
    assert np.mean(gaps > 0) > steps[0]["accuracy"]


@pytest.mark.parametrize("asked", [60, 10_000])
@pytest.mark.parametrize("base", ["llama", "bert"])
def test_long_conversations_lose_their_start(bases, base, asked):
    """Cut to the tokens asked for, or to what the model takes: the response stays, were it most of them."""
    model, tokenizer = load(bases[base], Optimisation(parameters="full"), max_tokens=asked)
    kept = min(asked, model.config.max_position_embeddings)
    for response in ("zyx", "zyx" * (kept // 4)):
        ids = encode(tokenizer, asks("a" * 2 * kept), response)["input_ids"]
        assert len(ids) == kept
        assert tokenizer.decode(ids).replace(" ", "").endswith(f"{response}</s>")
    for conversation in (asks("a"), asks("a" * 2 * kept)):
        assert len(encode(tokenizer, conversation, "zyx" * kept)["input_ids"]) == kept


def test_a_base_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="no model that transformers can make a classifier of"):
        load(tmp_path / "manifest.json", Optimisation())


def command(folder: Path, base: Path, rows: list[dict], *flags: str) -> list[str]:
    """The program and its flags, for pairs in the form of a person's own file."""
    write_rows(
        folder / "pairs.jsonl",
        [{"prompt": row["messages"], "chosen": row["chosen"], "rejected": row["rejected"]} for row in rows],
    )
    files = {"source": "pairs.jsonl", "packaged": "absent.jsonl", "manifest": "out/manifest.json"}
    files |= {"report": "report.json", "metrics": "training.jsonl", "speed": "speed.csv", "cost": "cost.json"}
    given = [text for name, value in files.items() for text in (f"--{name}", value)]
    program = str(ROOT / "workflow/scripts/reward_model.py")
    return [program, "--base", str(base), *given, "--dtype", "float32", "--lora.r", "4", *flags]


def run_program(folder: Path, *given) -> subprocess.CompletedProcess:
    words, environment = [sys.executable, *command(folder, *given)], os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def held_out_of(rows: list[dict], share: float) -> list[dict]:
    """The rows that the program keeps apart with seed 0: drawn, then split."""
    drawn = [rows[i] for i in rng_for(0, "reward_model", "take").permutation(len(rows))]
    return split_by_conversation(drawn, share, rng_for(0, "reward_model", "split"))[1]


def scored(manifest: Path, rows: list[dict], batch_size: int = 32) -> np.ndarray:
    """r(chosen) − r(rejected) as the pipeline's feedback gives it."""
    model = RewardModel(manifest, batch_size, 1)
    conversations = [row["messages"] for row in rows]
    sides = [np.array(model(conversations, [row[side] for row in rows])) for side in ("chosen", "rejected")]
    return sides[0] - sides[1]


def without_padding(folder: Path, original: Path) -> Path:
    """A copy of a fetched model whose tokenizer has no padding token."""
    folder.mkdir()
    for file in original.parent.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text())
        settings.pop("pad_token", None), settings.pop("pad_token_id", None)
        (folder / name).write_text(json.dumps(settings))
    return folder / "manifest.json"


def test_the_saved_model_gives_the_rewards_it_was_reported_with(bases, tmp_path):
    """Adapters merged, cut and padded alike: RewardModel's gaps on the held-out pairs are those of the report.

    Some conversations are too long and cut, and the base has no padding token but EOS.
    """
    base, rows = without_padding(tmp_path / "base", bases["llama"]), planted(60)
    for row in rows[:2] + held_out_of(rows, 0.3)[:2]:
        row["messages"] = asks(row["messages"][0]["content"], "b" * 60, "and?")
    flags = ["--learning-rate", "1e-2", "--epochs", "3", "--batch-size", "8", "--held-out", "0.3"]
    done = run_program(tmp_path, base, rows, *flags, "--max-tokens", "60")
    assert done.returncode == 0, done.stderr
    found, manifest = read_json(tmp_path / "report.json"), read_json(tmp_path / "out/manifest.json")
    unseen = held_out_of(rows, 0.3)
    assert (found["trained_pairs"], found["held_out_pairs"], len(unseen)) == (42, 18, 18)
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
    assert manifest["parameters"] == count_parameters(tmp_path / "out/model.safetensors")
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


def test_pairs_that_length_decides_are_warned_of(bases, tmp_path):
    """Longer is always better there, so no model can beat counting. The other half of the conversations is unused.

    A prompt may have several pairs; one that occurs again, or prefers nothing, is dropped and counted.
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
    found, first = read_json(tmp_path / "report.json"), half_of(rows, "first")
    for account in ("68 rows", "1 repeated", "0 without a pair", "1 with equal responses", "1 with an empty response"):
        assert account in done.stdout
    assert (found["longer_wins"], found["shorter_wins"]) == (1.0, 0.0)
    assert found["trained_pairs"] + found["held_out_pairs"] == len(first) < 45
    gaps = scored(tmp_path / "out/manifest.json", held_out_of(first, 0.2))
    assert found["log_loss"] == pytest.approx(np.mean(np.log1p(np.exp(-gaps))), abs=1e-5)
    lines = [line for line in done.stdout.splitlines() if "WARNING" in line]
    assert lines == [f"WARNING: out: {found['warning']}"]
    assert 'does not beat "longer wins"' in lines[0]
    assert not (tmp_path / "out/stale.safetensors").exists()


def test_more_pairs_than_there_are_cannot_be_taken(bases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = command(tmp_path, bases["llama"], planted(8), "--take", "9")
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="error: reward_models: take asks for 9 pairs, pairs.jsonl has 8 in part all"):
        runpy.run_path(words[0])
    assert not (tmp_path / "out").exists()


def test_rewards_are_one_logit_a_row(bases):
    model, tokenizer = load(bases["llama"], Optimisation(parameters="full"))
    pairs = encoded(tokenizer, planted(3))
    found = rewards(model, tokenizer, [pair.chosen for pair in pairs])
    assert (found.shape, found.dtype) == ((3,), torch.float32)
