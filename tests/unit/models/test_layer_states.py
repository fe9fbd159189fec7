"""Features of responses are transformers' hidden states, and reading them does not change log-probabilities."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prefloop.core.errors import InputError
from prefloop.models.chat import prompt_ids
from prefloop.models.layer_states import FeatureReader, layer_of, read_responses, shorter_lengths
from prefloop.models.loading import load_base, load_scorers

QUESTIONS = ["what is good?", "a"]
ASKED = [0, 1, 0, 0]
RESPONSES = [[5, 9, 33, 1], [7, 1], [40, 41, 42, 43, 44], [8]]


def by_hand(model, prompt: list[int], response: list[int], layer: int) -> torch.Tensor:
    """Return the mean of transformers' hidden states over a response without its last token."""
    tokens = response[:-1] or [prompt[-1]]
    ids = torch.tensor([prompt + response[:-1]])
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0]
    return states[-len(tokens) :].mean(dim=0)


@pytest.fixture(params=["llama", "qwen", "gpt2", "gpt_neox"])
def architecture(request) -> str:
    return request.param


def read(models, reader, tokenizer):
    prompts = [prompt_ids(tokenizer, [{"role": "user", "content": QUESTIONS[i]}]) for i in ASKED]
    return prompts, read_responses(models, reader, prompts, RESPONSES, Path("policy.pt"))


def check(readings, manifest, prompts, layer: int = 1) -> None:
    model = load_base(manifest, torch.float32)[0].eval()
    for reading, prompt, response in zip(readings, prompts, RESPONSES, strict=True):
        expected = by_hand(model, prompt, response, layer)
        assert torch.tensor(reading.features).allclose(expected, atol=1e-4), response


def test_features_are_hidden_states(architecture, manifests):
    manifest = manifests[architecture]
    models, tokenizer = load_scorers(manifest, manifest, manifest, torch.float32, "cpu")
    _, before = read(models, None, tokenizer)
    reader = FeatureReader(models, (manifest,) * 3, torch.float32, None)
    assert reader.passes == 0
    prompts, readings = read(models, reader, tokenizer)
    check(readings, manifest, prompts)
    assert [r[:2] for r in readings] == [r[:2] for r in before]
    assert before[0].features is None


@pytest.mark.parametrize("parameters", ["lora", "full"])
@pytest.mark.parametrize("reference", ["initial", "policy", "other"])
def test_features_are_of_the_initial_policy(parameters, reference, manifests, trained):
    """Holds for any policy and reference. A separate pass is needed only if neither is the initial policy."""
    manifest, policy = manifests["llama"], trained(parameters)
    of_reference = {"initial": manifest, "policy": policy, "other": trained(parameters, seed=1)}[reference]
    models, tokenizer = load_scorers(manifest, policy, of_reference, torch.float32, "cpu")
    _, before = read(models, None, tokenizer)
    reader = FeatureReader(models, (manifest, policy, of_reference), torch.float32, 1)
    assert reader.passes == (reference != "initial")
    prompts, readings = read(models, reader, tokenizer)
    check(readings, manifest, prompts)
    _, again = read(models, reader, tokenizer)
    assert [r[:2] for r in readings] == [r[:2] for r in before] == [r[:2] for r in again]


class Block(nn.Module):
    pass


class Tower(nn.Module):
    pass


class Reader(nn.Module):
    """A model that reads images with as many layers as it reads text with."""

    _no_split_modules = ("Block", "Tower")

    def __init__(self):
        super().__init__()
        self.vision, self.text = nn.ModuleList(Tower() for _ in range(4)), nn.ModuleList(Block() for _ in range(4))
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_hidden_layers=4))


def test_layers_are_those_that_read_text():
    model = Reader()
    assert layer_of(model, None, Path("model")) is model.text[1]
    assert layer_of(model, 4, Path("model")) is model.text[3]


def test_missing_layer_raises(manifests):
    manifest = manifests["llama"]
    models, _ = load_scorers(manifest, manifest, manifest, torch.float32, "cpu")
    with pytest.raises(InputError, match="no layer 3; the model has 2 layers"):
        FeatureReader(models, (manifest,) * 3, torch.float32, 3)


def test_shorter_lengths_are_per_prompt():
    responses = [[1] * 3, [1] * 5, [1] * 3, [1] * 2, [1] * 4]
    first, second = [0, 5], [0, 5]
    assert shorter_lengths([first] * 3 + [second] * 2, responses) == [[], [3], [], [], [2]]
