"""Supervised fine-tuning: transformers' own loss, the same step whatever the micro-batches, a model to go on from."""

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
from prefloop.fetch import count_parameters
from prefloop.finetuning import Example, finetune
from prefloop.models import add_adapter, load_base, load_policy
from prefloop.optimisation import Optimisation
from prefloop.policies import Lora, read_policy
from prefloop.rows import InputError, read_json, read_rows, sha256_of, write_rows

# Prompts and responses of uneven lengths, one response of a single token.
EXAMPLES = [
    Example([0, 10, 20, 30], [5, 9, 33, 40, 41, 1]),
    Example([0, 11], [1]),
    Example([0, 12, 22, 32, 42, 52], [7, 8, 1]),
    Example([0, 13, 23], [60, 61, 62, 63, 64, 65, 66, 67]),
    Example([0, 14, 24, 34], [6, 1]),
    Example([0, 15], [70, 71, 72, 73, 1]),
]


def run(manifest: Path, settings: Optimisation) -> tuple[list[dict], torch.nn.Module]:
    torch.manual_seed(0)
    model, _ = load_base(manifest, torch.float32)
    model = model if settings.parameters == "full" else add_adapter(model, settings.lora)
    steps: list[dict] = []
    accelerator = Accelerator(cpu=True)
    finetune(model, EXAMPLES, settings, pad=2, seed=1, accelerator=accelerator, on_step=steps.append)
    return steps, model


def own_loss(manifest: Path, examples: list[Example]) -> tuple[torch.Tensor, torch.nn.Module]:
    """What transformers makes of one batch, padded on the right, with all but the responses masked; and its model."""
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
def test_the_loss_is_transformers_own_and_falls(manifests, architecture, parameters):
    """A mean over the response tokens of the global batch: neither over responses nor over micro-batches."""
    settings = Optimisation(
        parameters=parameters, lora=Lora(r=4), learning_rate=5e-3, epochs=8, batch_size=6, micro_batch_size=4
    )
    steps, _ = run(manifests[architecture], settings)
    expected, model = own_loss(manifests[architecture], EXAMPLES)
    assert steps[0]["loss"] == pytest.approx(expected.item(), abs=1e-5)
    each = [own_loss(manifests[architecture], [example])[0].item() for example in EXAMPLES]
    assert sum(each) / len(each) != pytest.approx(expected.item(), abs=1e-2), "a mean over responses is another number"
    assert steps[0]["tokens"] == sum(len(prompt) + len(response) - 1 for prompt, response in EXAMPLES)
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.05
    if parameters == "full":
        expected.backward()
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters() if p.grad is not None))
        assert steps[0]["grad_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_micro_batches_change_nothing(manifests, parameters):
    """Though they hold different numbers of response tokens, and the last batch fewer examples."""
    outcomes = []
    for size in (4, 3, 1):
        settings = Optimisation(
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
    _, model = run(manifests["llama"], Optimisation(lora=Lora(r=4), learning_rate=1e-2, batch_size=3))
    base = load_base(manifests["llama"], torch.float32)[0].state_dict()
    names = {name.replace("base_model.model.", "").replace(".base_layer", ""): name for name in model.state_dict()}
    assert base.keys() <= names.keys()
    assert all((model.state_dict()[names[name]] == weight).all() for name, weight in base.items())
    assert any(p.abs().max() > 0 for name, p in model.named_parameters() if "lora_B" in name)


def test_a_diverged_run_says_so(manifests):
    with pytest.raises(InputError, match="the loss is not finite at step [1-9].*lower the learning rate"):
        run(manifests["llama"], Optimisation(parameters="full", learning_rate=1e18, epochs=6, batch_size=3))


PROMPTS = [
    ("why?", "it is good"),
    ("who is it", "me"),
    ("what is the answer to that", "the answer is bad, the reply is good"),  # longer than a response may be
    ("how", "so"),
]
LIMIT = 8
WRITTEN = {  # what a prompt reads like, up to where the response begins
    "llama": "<s><user>{}</s><assistant>",
    "gpt_neox": "<s>\n\nHuman: {}\n\nAssistant:",
}


def command(folder: Path, model: Path, rows: list[dict], *flags: str) -> list[str]:
    """The program and its flags."""
    write_rows(folder / "prompts.jsonl", rows)
    files = {"prompts": "prompts.jsonl", "output": "policy.pt", "manifest": "model/manifest.json"}
    files |= {"metrics": "training.jsonl", "speed": "speed.csv", "cost": "cost.json"}
    names = [text for name, value in files.items() for text in (f"--{name}", value)]
    settings = ["--dtype", "float32", "--lora.r", "4", "--max-response-tokens", str(LIMIT), *flags]
    return [str(ROOT / "workflow/scripts/sft.py"), "--model", str(model), *names, *settings]


def asks(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def given(number: int, prompt: str, chosen: str) -> dict:
    return {"prompt_id": f"p{number}", "messages": asks(prompt), "chosen": chosen, "rejected": "no"}


@pytest.mark.parametrize(("architecture", "parameters"), [("llama", "lora"), ("gpt_neox", "full")])
def test_the_program_learns_what_was_chosen_and_leaves_a_model_to_go_on_from(
    manifests, tmp_path, architecture, parameters
):
    base = manifests[architecture]
    (tmp_path / "model").mkdir()
    (tmp_path / "model/stale.safetensors").write_text("of a run before")
    rows = [given(number, *pair) for number, pair in enumerate(PROMPTS)]
    rows.insert(1, {"prompt_id": "p9", "messages": asks("nobody has answered")})
    flags = ["--parameters", parameters, "--learning-rate", "1e-2", "--epochs", "6"]
    words, environment = [sys.executable, *command(tmp_path, base, rows, *flags)], os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

    # One BOS, the prompt, the response, one EOS: the first step's loss and tokens are those of exactly these.
    words = AutoTokenizer.from_pretrained(base.parent)
    examples = []
    for prompt, chosen in PROMPTS:
        read = words(WRITTEN[architecture].format(prompt), add_special_tokens=False)["input_ids"]
        learned = words(chosen, add_special_tokens=False)["input_ids"]
        examples.append(Example(read, (learned + [1])[:LIMIT]))
    assert [example.prompt.count(0) for example in examples] == [1] * 4
    assert [example.response.count(1) for example in examples] == [1, 1, 0, 1]
    steps = read_rows(tmp_path / "training.jsonl")
    assert [(step["step"], step["epoch"]) for step in steps] == [(n, n) for n in range(6)]
    assert {step["tokens"] for step in steps} == {sum(example.tokens for example in examples)}
    assert steps[0]["loss"] == pytest.approx(own_loss(base, examples)[0].item(), abs=1e-5)
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.1
    assert "sft: 4 responses, 1 prompts without one, 6 steps in " in done.stdout
    assert f" responses/s), loss {steps[0]['loss']:.4f} -> {steps[-1]['loss']:.4f} nats a token" in done.stdout
    cost = read_json(tmp_path / "cost.json")
    assert cost["flops"] == 6 * read_json(base)["parameters"] * sum(step["tokens"] for step in steps)

    # The folder alone is the policy that base and policy.pt are together, and not the base.
    folder = tmp_path / "model"
    ids = torch.tensor([examples[0].prompt + examples[0].response])
    with torch.no_grad():
        both = load_policy(base, tmp_path / "policy.pt", torch.float32, "cpu")[0](ids).logits
        alone = load_policy(folder / "manifest.json", folder / "manifest.json", torch.float32, "cpu")[0](ids).logits
        before = load_policy(base, base, torch.float32, "cpu")[0](ids).logits
    assert alone.numpy() == pytest.approx(both.numpy(), abs=1e-4)
    assert (alone - before).abs().max() > 0.1
    assert own_loss(folder / "manifest.json", examples)[0].item() < steps[-1]["loss"] + 0.05

    manifest, saved = read_json(folder / "manifest.json"), read_policy(tmp_path / "policy.pt")
    assert manifest["source"] == f"fine-tuned {Path(read_json(base)['source']).name}"
    assert manifest["architecture"] == read_json(base)["architecture"]
    assert manifest["parameters"] == count_parameters(folder / "model.safetensors") == read_json(base)["parameters"]
    assert manifest["files"] == {p.name: sha256_of(p) for p in folder.iterdir() if p.name != "manifest.json"}
    assert "stale.safetensors" not in manifest["files"]
    assert manifest["sha256"] != read_json(base)["sha256"] == saved["base_model"]
    assert (saved["adapter"] is None, saved["round"]) == (parameters == "full", 0)
    assert saved["pairs_sha256"] == sha256_of(tmp_path / "prompts.jsonl")
    again = AutoTokenizer.from_pretrained(folder)
    assert again("why? it is")["input_ids"] == words("why? it is")["input_ids"]


def test_prompts_without_a_chosen_response_are_refused(manifests, tmp_path, monkeypatch):
    rows = [{"prompt_id": f"p{number}", "messages": asks(prompt)} for number, (prompt, _) in enumerate(PROMPTS)]
    monkeypatch.chdir(tmp_path)
    words = command(tmp_path, manifests["llama"], rows)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="error: prompts.jsonl: no prompt comes with a chosen response"):
        runpy.run_path(words[0])
    assert {path.name for path in tmp_path.iterdir()} == {"prompts.jsonl"}
