"""References: one copy of the base weights, the right model speaking, and averages of policies."""

import pytest
import torch

from prefloop.models import load_base, load_policy, reference_for
from prefloop.policies import average, read_policy
from prefloop.rows import write_tensors
from prefloop.scoring import response_logps

PROMPTS, RESPONSES = [[0, 5, 6], [0, 9]], [[7, 8, 1], [9, 30, 31]]


def logps(network) -> list[float]:
    with torch.no_grad():
        return response_logps(network, PROMPTS, RESPONSES, 2).tolist()


def of(manifest, policy) -> list[float]:
    return logps(load_policy(manifest, policy, torch.float32, "cpu")[0])


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_reference_speaks_for_itself_and_leaves_the_policy_alone(manifests, trained, parameters):
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
    """Every parameter of a policy with its adapter merged."""
    network, _ = load_policy(manifest, policy, torch.float32, "cpu")
    network = network.merge_and_unload() if hasattr(network, "merge_and_unload") else network
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_average_is_that_of_the_weights_over_three_rounds(manifests, trained, tmp_path, parameters):
    """ema by its definition, on merged weights: adapters are averaged as what they add and not factor by factor."""
    manifest, decay = manifests["llama"], 0.6
    expected, reference = weights(manifest, manifest), manifest
    for seed in (1, 2, 3):
        policy = trained(parameters, seed=seed)
        expected = {k: decay * v + (1 - decay) * weights(manifest, policy)[k] for k, v in expected.items()}
        old = read_policy(reference) if reference != manifest else None
        initial = load_base(manifest, torch.float32)[0].state_dict() if parameters == "full" else None
        reference = tmp_path / f"reference-{seed}.pt"
        write_tensors(reference, average(old, read_policy(policy), decay, initial))
    found = weights(manifest, reference)
    for name, tensor in expected.items():
        assert found[name].numpy() == pytest.approx(tensor.numpy(), abs=1e-6), name
    moved = weights(manifest, manifest)
    assert any((found[name] - moved[name]).abs().max() > 1e-4 for name in found)
