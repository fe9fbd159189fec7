"""References share the base weights with the policy, and averages are over the changes of the base weights."""

from pathlib import Path

import pytest
import torch

import tiny
from prefloop.core.files import write_tensors
from prefloop.models.fetch import fetch
from prefloop.models.loading import load_base, load_merged, load_policy, reference_for
from prefloop.models.policies import average_policies, read_policy
from prefloop.models.response_logprobs import prepare_scorer, response_logprobs

PROMPTS, RESPONSES = [[0, 5, 6], [0, 9]], [[7, 8, 1], [9, 30, 31]]


def logps(network) -> list[float]:
    with torch.no_grad():
        return response_logprobs(prepare_scorer(network), PROMPTS, RESPONSES).tolist()


def of(manifest, policy) -> list[float]:
    return logps(load_policy(manifest, policy, torch.float32, "cpu")[0])


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_reference_does_not_change_the_policy(manifests, trained, parameters):
    manifest, policy = manifests["llama"], trained(parameters)
    other = trained(parameters, seed=7)
    initial, ours, theirs = of(manifest, manifest), of(manifest, policy), of(manifest, other)
    assert ours != pytest.approx(theirs, abs=1e-2)
    for reference, expected in [(manifest, initial), (other, theirs), (policy, ours)]:
        network, _ = load_policy(manifest, policy, torch.float32, "cpu")
        model, context = reference_for(network, policy, reference, manifest, torch.float32, "cpu")
        with context():
            assert logps(model) == pytest.approx(expected, abs=1e-5)
        assert logps(network) == pytest.approx(ours, abs=1e-6)
        assert parameters == "full" or model is network


def weights(manifest, policy) -> dict[str, torch.Tensor]:
    """Return every parameter of a policy with its adapter merged."""
    network, _ = load_policy(manifest, policy, torch.float32, "cpu")
    network = network.merge_and_unload() if hasattr(network, "merge_and_unload") else network
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_average_equals_the_average_of_merged_weights(manifests, trained, tmp_path, parameters):
    """Over three rounds, the average is over the adapters' changes of the weights, not over their factors."""
    manifest, decay = manifests["llama"], 0.6
    expected, reference = weights(manifest, manifest), manifest
    for seed in (1, 2, 3):
        policy = trained(parameters, seed=seed)
        expected = {k: decay * v + (1 - decay) * weights(manifest, policy)[k] for k, v in expected.items()}
        old = read_policy(reference) if reference != manifest else None
        initial = load_base(manifest, torch.float32)[0].state_dict() if parameters == "full" else None
        reference = tmp_path / f"reference-{seed}.pt"
        write_tensors(reference, average_policies(old, read_policy(policy), decay, initial))
    found = weights(manifest, reference)
    for name, tensor in expected.items():
        assert found[name].numpy() == pytest.approx(tensor.numpy(), abs=1e-6), name
    moved = weights(manifest, manifest)
    assert any((found[name] - moved[name]).abs().max() > 1e-4 for name in found)


@pytest.fixture(scope="module")
def tied(tmp_path_factory) -> Path:
    """The manifest of a model whose output head is its input embedding."""
    root = tmp_path_factory.mktemp("tied")
    fetch(str(tiny.make_model(root / "made", "qwen", tied=True)), root / "fetched")
    return root / "fetched/manifest.json"


def test_tied_embedding_is_written_once(tied, tmp_path, monkeypatch):
    """Also holds on a GPU, from which every named tensor is copied to the CPU."""
    model, _ = load_base(tied, torch.float32)
    tiny.write_policy(tmp_path / "cpu.pt", model, tied, None)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: tensor.clone())
    tiny.write_policy(tmp_path / "gpu.pt", model, tied, None)
    assert (tmp_path / "gpu.pt").read_bytes() == (tmp_path / "cpu.pt").read_bytes()
    policy = read_policy(tmp_path / "cpu.pt")
    write_tensors(tmp_path / "average.pt", average_policies(policy, policy, 0.5))
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    for name in ("gpu", "average"):
        state = read_policy(tmp_path / f"{name}.pt")["state_dict"]
        assert sum({t.untyped_storage().data_ptr(): t.nbytes for t in state.values()}.values()) == parameters
        assert state.keys() == policy["state_dict"].keys()


def test_policy_with_two_copies_of_a_tied_weight_loads(tied, tmp_path):
    """Earlier versions wrote such policies on a GPU."""
    model, _ = load_base(tied, torch.float32)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    tiny.write_policy(tmp_path / "policy.pt", model, tied, None)
    content = read_policy(tmp_path / "policy.pt")
    content["state_dict"] = {name: tensor.clone() for name, tensor in content["state_dict"].items()}
    write_tensors(tmp_path / "twice.pt", content)
    assert (tmp_path / "twice.pt").stat().st_size > (tmp_path / "policy.pt").stat().st_size
    for load in (load_policy, load_merged):
        loaded, _ = load(tied, tmp_path / "twice.pt", torch.float32, "cpu")
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
        assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
