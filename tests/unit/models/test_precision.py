"""Scoring and training compute in the same dtype, and trained weights have float32 masters."""

import math

import pytest
import torch
from accelerate import Accelerator

import tiny
from prefloop.config.training_settings import TrainConfig
from prefloop.models.distributed import wrap_model
from prefloop.models.loading import load_base, load_merged, load_policy, load_trainable, reference_for
from prefloop.models.options import Lora
from prefloop.models.policies import read_policy, trained_weights
from prefloop.models.precision import master_of, round_masters, trained_parameters
from prefloop.models.response_logprobs import prepare_scorer, response_logprobs
from prefloop.training.loop import batch_order
from prefloop.training.preference import TokenizedPair
from train_policy import train_policy

PROMPTS = [[0, 10, 20, 30, 40, 50], [0, 3], [0, 60, 61, 62]]
CHOSEN = [[5, 9, 33, 1], [7, 1], [40, 41, 42, 43, 44, 45, 46, 47, 1]]
REJECTED = [[12, 1], [50, 51, 52, 53, 54, 1], [61, 20]]
BF16 = torch.bfloat16


def scored(model, order=(0, 1, 2)) -> list[float]:
    rows = [[texts[i] for i in order] for texts in (PROMPTS, CHOSEN, REJECTED)]
    with torch.no_grad():
        return response_logprobs(prepare_scorer(model), rows[0] * 2, rows[1] + rows[2]).tolist()


@pytest.mark.parametrize("parameters", ["lora", "full"])
@pytest.mark.parametrize("architecture", ["llama", "qwen", "gpt2", "gpt_neox"])
def test_first_margins_in_bfloat16_are_zero(manifests, architecture, parameters):
    """If training and scoring read the same batch, their log-probabilities are equal bit by bit."""
    manifest = manifests[architecture]
    settings = TrainConfig(parameters=parameters, epochs=30, batch_size=3, micro_batch_size=3, learning_rate=5e-3)
    _, order = next(batch_order(3, settings, seed=1))
    logps = scored(load_policy(manifest, manifest, BF16, "cpu")[0], order)
    logps_ref = {i: (logps[n], logps[3 + n]) for n, i in enumerate(order)}
    pairs = [TokenizedPair(PROMPTS[i], CHOSEN[i], REJECTED[i], *logps_ref[i]) for i in range(3)]
    torch.manual_seed(0)
    network, _ = load_trainable(manifest, manifest, parameters, Lora(r=4), BF16)
    steps, _ = train_policy(network, pairs, settings, dtype=BF16)
    assert steps[0]["margins/max"] == steps[0]["margins/min"] == 0.0
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert steps[-1]["loss"] < 0.6


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_loaded_bfloat16_policy_scores_as_at_the_end_of_training(manifests, tmp_path, parameters):
    """Also holds for a policy used as reference. The file has the float32 masters, from which training continues."""
    manifest, path = manifests["llama"], tmp_path / "policy.pt"
    lora = Lora(r=4) if parameters == "lora" else None
    torch.manual_seed(0)
    network, _ = load_trainable(manifest, manifest, parameters, Lora(r=4), BF16)
    pairs = [TokenizedPair(*row, -20.0, -15.0) for row in zip(PROMPTS, CHOSEN, REJECTED, strict=True)]
    settings = TrainConfig(parameters=parameters, epochs=3, batch_size=3, learning_rate=5e-3)
    train_policy(network, pairs, settings, dtype=BF16)
    tiny.write_policy(path, network, manifest, lora)
    state = read_policy(path)["state_dict"]
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert any(not torch.equal(tensor, tensor.to(BF16).float()) for tensor in state.values())
    expected = scored(network)
    assert expected != scored(load_policy(manifest, manifest, BF16, "cpu")[0])
    policy, _ = load_policy(manifest, path, BF16, "cpu")
    assert scored(policy) == expected
    reference, as_reference = reference_for(policy, manifest, path, manifest, BF16, "cpu")
    with as_reference():
        assert scored(reference) == expected
    again, _ = load_trainable(manifest, path, parameters, Lora(r=4), BF16)
    masters = trained_weights(wrap_model(again, "none", Accelerator(cpu=True), BF16), lora)
    assert masters.keys() == trained_weights(network, lora).keys()
    assert all(torch.equal(masters[name], tensor) for name, tensor in trained_weights(network, lora).items())
    assert scored(again.eval()) == expected


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_bfloat16_keeps_rotary_frequencies(manifests, trained, parameters):
    """transformers loads rotary frequencies in float32."""
    manifest, path = manifests["llama"], trained(parameters)
    expected = dict(load_base(manifest, BF16)[0].named_buffers())["model.rotary_emb.inv_freq"]
    assert expected.dtype == torch.float32
    policy, _ = load_policy(manifest, path, BF16, "cpu")
    reference, _ = reference_for(policy, manifest, path, manifest, BF16, "cpu")
    for model in (policy, reference, load_merged(manifest, path, BF16, "cpu")[0]):
        assert {p.dtype for p in model.parameters()} == {BF16}
        (found,) = [b for name, b in model.named_buffers() if name.endswith("rotary_emb.inv_freq")]
        assert torch.equal(found, expected)


def test_masters_collect_gradients_in_float32():
    """In bfloat16, adding a gradient or a step of 2^-10 to 1 would have no effect."""
    model = wrap_model(torch.nn.Linear(1, 1, bias=False), "none", Accelerator(cpu=True), BF16)
    (master,) = trained_parameters(model).values()
    with torch.no_grad():
        master.fill_(1.0)
    round_masters(model)
    for x in (1.0, 2**-10):
        model(torch.full((1, 1), x, dtype=BF16)).sum().backward()
    assert master.grad.item() == 1 + 2**-10
    assert model.weight.grad is None
    optimizer = torch.optim.SGD([master], lr=2**-10)
    master.grad.fill_(1.0)
    for _ in range(8):
        optimizer.step()
        round_masters(model)
    assert master.item() == 1 - 2**-7
    assert model.weight.item() == 1 - 2**-7
    assert model.weight.dtype == BF16


def test_float32_needs_no_masters(manifests):
    network, _ = load_trainable(manifests["llama"], manifests["llama"], "full", Lora(), torch.float32)
    model = wrap_model(network, "none", Accelerator(cpu=True), torch.float32)
    assert all(master_of(parameter) is parameter for parameter in model.parameters())
