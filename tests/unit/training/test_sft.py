"""Supervised fine-tuning: comparison with transformers' loss, micro-batches, and the model for later stages."""

import math
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import ROOT
from conversations import asks
from prefloop.config.training_settings import OptimizerConfig
from prefloop.core.errors import InputError
from prefloop.core.files import read_json, sha256_of
from prefloop.core.jsonl import read_rows, write_rows
from prefloop.models.loading import add_adapter, load_base, load_policy
from prefloop.models.options import Lora
from prefloop.models.policies import read_policy
from prefloop.models.response_logprobs import prepare_scorer
from prefloop.models.weight_files import count_parameters
from prefloop.training.loop import optimize
from prefloop.training.sft import SFTExample, SFTObjective

# Prompts and responses have different lengths, and one response has a single token.
EXAMPLES = [
    SFTExample([0, 10, 20, 30], [5, 9, 33, 40, 41, 1]),
    SFTExample([0, 11], [1]),
    SFTExample([0, 12, 22, 32, 42, 52], [7, 8, 1]),
    SFTExample([0, 13, 23], [60, 61, 62, 63, 64, 65, 66, 67]),
    SFTExample([0, 14, 24, 34], [6, 1]),
    SFTExample([0, 15], [70, 71, 72, 73, 1]),
]


def run(manifest: Path, settings: OptimizerConfig) -> tuple[list[dict], torch.nn.Module]:
    torch.manual_seed(0)
    model, _ = load_base(manifest, torch.float32)
    model = model if settings.parameters == "full" else add_adapter(model, settings.lora)
    accelerator = Accelerator(cpu=True)
    objective = SFTObjective(prepare_scorer(model), EXAMPLES)
    return optimize(model, objective, settings, seed=1, accelerator=accelerator), model


def transformers_loss(manifest: Path, examples: list[SFTExample]) -> tuple[torch.Tensor, torch.nn.Module]:
    """Return transformers' own loss of a right-padded batch with only responses as labels, and the model."""
    model = AutoModelForCausalLM.from_pretrained(manifest.parent, dtype=torch.float32).eval()
    rows = [example.prompt + example.response for example in examples]
    width = max(map(len, rows))
    labels = [[-100] * len(example.prompt) + example.response for example in examples]
    ids = torch.tensor([row + [2] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    targets = torch.tensor([row + [-100] * (width - len(row)) for row in labels])
    return model(input_ids=ids, attention_mask=mask, labels=targets).loss, model


@pytest.mark.parametrize("parameters", ["lora", "full"])
@pytest.mark.parametrize("architecture", ["llama", "qwen", "gpt2", "gpt_neox"])
def test_loss_matches_transformers_and_falls(manifests, architecture, parameters):
    """The loss is a mean over the response tokens of the global batch, not over responses or micro-batches."""
    settings = OptimizerConfig(
        parameters=parameters, lora=Lora(r=4), learning_rate=5e-3, epochs=8, batch_size=6, micro_batch_size=4
    )
    steps, _ = run(manifests[architecture], settings)
    expected, model = transformers_loss(manifests[architecture], EXAMPLES)
    assert steps[0]["loss"] == pytest.approx(expected.item(), abs=1e-5)
    each = [transformers_loss(manifests[architecture], [example])[0].item() for example in EXAMPLES]
    assert sum(each) / len(each) != pytest.approx(expected.item(), abs=1e-2), "a mean over responses would differ"
    assert steps[0]["tokens"] == sum(len(prompt) + len(response) - 1 for prompt, response in EXAMPLES)
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.05
    if parameters == "full":
        expected.backward()
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters() if p.grad is not None))
        assert steps[0]["grad_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_micro_batches_do_not_change_training(manifests, parameters):
    """Micro-batches have different numbers of response tokens, and the last batch has fewer examples."""
    outcomes = []
    for size in (4, 3, 1):
        settings = OptimizerConfig(
            parameters=parameters, lora=Lora(r=4), learning_rate=1e-3, epochs=2, batch_size=4, micro_batch_size=size
        )
        steps, model = run(manifests["llama"], settings)
        outcomes.append(([step["loss"] for step in steps], model))
    assert len(outcomes[0][0]) == 4
    for losses, model in outcomes[1:]:
        assert losses == pytest.approx(outcomes[0][0], abs=1e-5)
        for a, b in zip(model.parameters(), outcomes[0][1].parameters(), strict=True):
            assert a.detach().numpy() == pytest.approx(b.detach().numpy(), abs=1e-5)


def test_only_adapters_are_trained(manifests):
    _, model = run(manifests["llama"], OptimizerConfig(lora=Lora(r=4), learning_rate=1e-2, batch_size=3))
    base = load_base(manifests["llama"], torch.float32)[0].state_dict()
    names = {name.replace("base_model.model.", "").replace(".base_layer", ""): name for name in model.state_dict()}
    assert base.keys() <= names.keys()
    assert all((model.state_dict()[names[name]] == weight).all() for name, weight in base.items())
    assert any(p.abs().max() > 0 for name, p in model.named_parameters() if "lora_B" in name)


def test_divergence_raises(manifests):
    with pytest.raises(InputError, match="the loss is not finite at step [1-9].*lower the learning rate"):
        run(manifests["llama"], OptimizerConfig(parameters="full", learning_rate=1e18, epochs=6, batch_size=3))


PROMPTS = [
    ("why?", "it is good"),
    ("who is it", "me"),
    ("what is the answer to that", "the answer is bad, the reply is good"),  # exceeds the maximum length
    ("how", "so"),
]
LIMIT = 8
WRITTEN = {  # the text of a prompt up to the start of the response
    "llama": "<s><user>{}</s><assistant>",
    "gpt_neox": "<s>\n\nHuman: {}\n\nAssistant:",
}
LEAD = {"llama": "", "gpt_neox": " "}  # text between prompt and response in the finished conversation


def command(folder: Path, model: Path, rows: list[dict], *flags: str) -> list[str]:
    """Write the prompts; return the program and its flags."""
    write_rows(folder / "prompts.jsonl", rows)
    files = {"prompts": "prompts.jsonl", "output": "policy.pt", "manifest": "model/manifest.json"}
    files |= {"metrics": "training.jsonl", "speed": "speed.csv", "cost": "cost.json"}
    names = [text for name, value in files.items() for text in (f"--{name}", value)]
    settings = ["--dtype", "float32", "--lora.r", "4", "--max-response-tokens", str(LIMIT), *flags]
    return [str(ROOT / "workflow/scripts/fine_tune.py"), "--model", str(model), *names, *settings]


def given(number: int, prompt: str, chosen: str) -> dict:
    return {"prompt_id": f"p{number}", "messages": asks(prompt), "chosen": chosen, "rejected": "no"}


@pytest.mark.parametrize(("architecture", "parameters"), [("llama", "lora"), ("gpt_neox", "full")])
def test_program_writes_policy_and_model(manifests, tmp_path, architecture, parameters):
    base = manifests[architecture]
    (tmp_path / "model").mkdir()
    (tmp_path / "model/stale.safetensors").write_text("of a run before")
    rows = [given(number, *pair) for number, pair in enumerate(PROMPTS)]
    rows.insert(1, {"prompt_id": "p9", "messages": asks("nobody has answered")})
    flags = ["--parameters", parameters, "--learning-rate", "1e-2", "--epochs", "6"]
    words, environment = [sys.executable, *command(tmp_path, base, rows, *flags)], os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

    # The examples have one BOS, the prompt, the response and one EOS. They give the loss and tokens of the first step.
    words = AutoTokenizer.from_pretrained(base.parent)
    examples = []
    for prompt, chosen in PROMPTS:
        text = WRITTEN[architecture].format(prompt)
        read = words(text, add_special_tokens=False)["input_ids"]
        learned = words(text + LEAD[architecture] + chosen, add_special_tokens=False)["input_ids"][len(read) :]
        examples.append(SFTExample(read, (learned + [1])[:LIMIT]))
    assert [example.prompt.count(0) for example in examples] == [1] * 4
    assert [example.response.count(1) for example in examples] == [1, 1, 0, 1]
    steps = read_rows(tmp_path / "training.jsonl")
    assert [(step["step"], step["epoch"]) for step in steps] == [(n, n) for n in range(6)]
    assert {step["tokens"] for step in steps} == {sum(example.tokens for example in examples)}
    assert steps[0]["loss"] == pytest.approx(transformers_loss(base, examples)[0].item(), abs=1e-5)
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.1
    assert "fine_tune: 4 responses, 1 prompts without one, 6 steps in " in done.stdout
    assert f" responses/s), loss {steps[0]['loss']:.4f} -> {steps[-1]['loss']:.4f} nats per token" in done.stdout
    cost = read_json(tmp_path / "cost.json")
    assert cost["flops"] == 6 * read_json(base)["parameters"] * sum(step["tokens"] for step in steps)

    # The model folder equals base and policy.pt together, and differs from the base.
    folder = tmp_path / "model"
    ids = torch.tensor([examples[0].prompt + examples[0].response])
    with torch.no_grad():
        both = load_policy(base, tmp_path / "policy.pt", torch.float32, "cpu")[0](ids).logits
        alone = load_policy(folder / "manifest.json", folder / "manifest.json", torch.float32, "cpu")[0](ids).logits
        before = load_policy(base, base, torch.float32, "cpu")[0](ids).logits
    assert alone.numpy() == pytest.approx(both.numpy(), abs=1e-4)
    assert (alone - before).abs().max() > 0.1
    assert transformers_loss(folder / "manifest.json", examples)[0].item() < steps[-1]["loss"] + 0.05

    manifest, saved = read_json(folder / "manifest.json"), read_policy(tmp_path / "policy.pt")
    assert manifest["source"] == f"fine-tuned {Path(read_json(base)['source']).name}"
    assert manifest["architecture"] == read_json(base)["architecture"]
    assert manifest["parameters"] == count_parameters(folder)["parameters"] == read_json(base)["parameters"]
    assert manifest["files"] == {p.name: sha256_of(p) for p in folder.iterdir() if p.name != "manifest.json"}
    assert "stale.safetensors" not in manifest["files"]
    assert manifest["sha256"] != read_json(base)["sha256"] == saved["base_model"]
    assert (saved["adapter"] is None, saved["round"]) == (parameters == "full", 0)
    assert saved["pairs_sha256"] == sha256_of(tmp_path / "prompts.jsonl")
    again = AutoTokenizer.from_pretrained(folder)
    assert again("why? it is")["input_ids"] == words("why? it is")["input_ids"]


def test_prompts_without_chosen_responses_raise(manifests, tmp_path, monkeypatch):
    rows = [{"prompt_id": f"p{number}", "messages": asks(prompt)} for number, (prompt, _) in enumerate(PROMPTS)]
    monkeypatch.chdir(tmp_path)
    words = command(tmp_path, manifests["llama"], rows)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="error: prompts.jsonl: no prompt comes with a chosen response"):
        runpy.run_path(words[0])
    assert {path.name for path in tmp_path.iterdir()} == {"prompts.jsonl"}
