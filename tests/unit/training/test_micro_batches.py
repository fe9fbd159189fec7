"""Batches are split into micro-batches by examples or tokens, in one process or several."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

import two_processes
from prefloop.config.training_settings import OptimizerConfig, TrainConfig
from prefloop.models.loading import load_trainable
from prefloop.models.options import Lora
from prefloop.models.response_logprobs import prepare_scorer
from prefloop.training.bradley_terry import EncodedPair, RewardModelObjective
from prefloop.training.loop import Batch, accumulate_gradients, micro_batches
from prefloop.training.preference import PreferenceObjective
from prefloop.training.sft import SFTExample, SFTObjective

PAIRS = two_processes.PAIRS
LENGTHS = [7, 3, 3, 9, 1, 30, 2, 2]


def tokens(indices: list[int]) -> int:
    return sum(LENGTHS[i] for i in indices)


def cut(processes: int, **settings) -> list[list[list[int]]]:
    accelerators = [SimpleNamespace(num_processes=processes, process_index=rank) for rank in range(processes)]
    return [micro_batches([*range(8)], OptimizerConfig(**settings), tokens, a) for a in accelerators]


def test_micro_batches_respect_their_limits():
    assert cut(1, micro_batch_tokens=12) == [[[0, 1], [2, 3], [4], [5], [6, 7]]]
    assert cut(1, micro_batch_tokens=100) == [[[*range(8)]]]
    assert cut(1, micro_batch_size=3) == [[[0, 1, 2], [3, 4, 5], [6, 7]]]


@pytest.mark.parametrize("limit", [1, 8, 12, 30, 100])
@pytest.mark.parametrize("processes", [1, 2, 3, 5, 11])
def test_processes_have_equally_many_micro_batches_in_order(processes, limit):
    parts = cut(processes, micro_batch_tokens=limit)
    assert len({len(part) for part in parts}) == 1
    assert [i for part in parts for micro_batch in part for i in micro_batch] == [*range(8)]
    for micro_batch in (micro_batch for part in parts for micro_batch in part):
        assert tokens(micro_batch) <= limit or len(micro_batch) == 1


def test_processes_get_similar_numbers_of_tokens():
    """30 of 57 tokens are in one example, which cannot be split."""
    assert [tokens(part[0]) for part in cut(2, micro_batch_tokens=100)] == [23, 34]


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_any_split_gives_the_same_gradients(manifests, parameters):
    """Gradients agree to 1e-6, and values are in the same order."""
    torch.manual_seed(0)
    network, _ = load_trainable(manifests["llama"], manifests["llama"], parameters, Lora(r=4), torch.float32)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    trained = [p for p in network.parameters() if p.requires_grad]
    accelerator, order = Accelerator(cpu=True), [3, 0, 6, 2, 5, 1, 4]
    results = []
    for limits in ({"micro_batch_size": 7}, *({"micro_batch_tokens": limit} for limit in (1, 12, 21, 1000))):
        settings = TrainConfig(parameters=parameters, **limits)
        objective = PreferenceObjective(prepare_scorer(network.eval()), PAIRS, settings, accelerator)
        batch = Batch(0, 0, order, micro_batches(order, settings, objective.tokens, accelerator))
        values = accumulate_gradients(network, objective, batch, dict.fromkeys(order, 1 / 7), accelerator)
        results.append((len(batch.micro_batches), values, [p.grad.clone() for p in trained]))
        for parameter in trained:
            parameter.grad = None
    assert [count for count, *_ in results] == [1, 7, 6, 3, 1]
    for _, values, grads in results[1:]:
        assert torch.allclose(values["margin"], results[0][1]["margin"], atol=1e-5)
        assert all(torch.allclose(ours, theirs, atol=1e-6) for ours, theirs in zip(grads, results[0][2], strict=True))
    assert max(grad.abs().max() for grad in results[0][2]) > 1e-2


def test_tokens_count_what_a_forward_pass_reads(manifests):
    """Packed, prompts count once and last response tokens do not. Padded, every row is as long as the longest."""
    network, _ = load_trainable(manifests["llama"], manifests["llama"], "full", Lora(), torch.float32)
    packed = prepare_scorer(network)
    padded = packed.__class__(network, packed=False, varlen=False, chunked_head=True)
    pairs = [two_processes.TokenizedPair([0, 1, 2], [5, 6, 7, 1], [8], 0.0, 0.0)] * 2
    examples = [SFTExample([0, 1, 2], [5, 6, 7, 1]), SFTExample([0], [5, 1])]
    for scorer, of_pairs, of_examples in ((packed, 2 * (3 + 3 + 0), 6 + 2), (padded, 4 * 6, 2 * 6)):
        assert PreferenceObjective(scorer, pairs, TrainConfig(), Accelerator(cpu=True)).tokens([0, 1]) == of_pairs
        assert SFTObjective(scorer, examples).tokens([0, 1]) == of_examples
    encoded = [
        EncodedPair({"input_ids": [1] * 5}, {"input_ids": [1] * 2}),
        EncodedPair({"input_ids": [1]}, {"input_ids": [1] * 3}),
    ]
    assert RewardModelObjective(network, None, encoded).tokens([0, 1]) == 4 * 5
    assert RewardModelObjective(network, None, encoded).tokens([1]) == 2 * 3
