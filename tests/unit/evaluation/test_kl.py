"""KL divergence: compared with enumeration, sampling and hand-computed values, and measured by the program."""

import json
import runpy
import sys

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from conftest import ROOT
from prefloop.config.generation_settings import SamplingParams
from prefloop.core.jsonl import read_rows, write_rows
from prefloop.evaluation.kl import kl_divergences
from prefloop.generation.decoding import WeightedModel, sample_responses
from prefloop.models.chat import load_tokenizer, prompt_ids
from prefloop.models.loading import PolicyAndReference, load_policy, load_scorers
from prefloop.models.response_logprobs import prepare_scorer, response_logits, response_logprobs
from tiny import ARCHITECTURES

EOS, PAD = 1, 2
PROMPTS = [[0, 10, 20, 30], [0, 9], [0, 40, 41, 42, 43, 44, 45, 46]]
RESPONSES = [[5, 9, 33, 1], [7, 1], [40, 41, 42, 43, 44, 45]]
TEXTS = ["why?", "what is the answer to a question that is this long?", "good"]


def measure(models: PolicyAndReference, prompts, responses) -> tuple[torch.Tensor, torch.Tensor]:
    return kl_divergences(*models.read(lambda scorer: response_logits(scorer, prompts, responses)), responses)


@pytest.fixture(params=["lora", "full"])
def moved(request, manifests, trained):
    """A trained policy and its initial reference, loaded as by the program."""
    manifest = manifests["llama"]
    return load_scorers(manifest, trained(request.param), manifest, torch.float32, "cpu")[0]


def test_expectation_matches_enumeration(moved):
    """Enumerates all responses of up to two tokens, weighted by their probability from `response_logprobs`."""
    vocabulary = moved.policy.model.config.vocab_size
    firsts = [token for token in range(vocabulary) if token != EOS]
    responses = [[EOS], *([first, second] for first in firsts for second in range(vocabulary))]
    prompts = [PROMPTS[0]] * len(responses)
    logps, logps_ref = moved.read(lambda scorer: response_logprobs(scorer, prompts, responses).double())
    kl, log_ratio = (values.double() for values in measure(moved, prompts, responses))
    p = logps.exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    truth = (p * (logps - logps_ref)).sum().item()
    assert truth > 0.05
    assert (p * kl).sum().item() == pytest.approx(truth, rel=1e-4)
    assert (p * log_ratio).sum().item() == pytest.approx(truth, rel=1e-4)


def test_estimate_is_less_noisy_than_log_ratios(moved):
    uniforms = torch.rand(1500, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    responses = sample_responses(
        [WeightedModel(moved.policy.model)], [PROMPTS[0]], [1500], uniforms, SamplingParams(), [EOS]
    )
    kl, log_ratio = (values.double() for values in measure(moved, [PROMPTS[0]] * 1500, responses))
    difference = log_ratio - kl
    assert abs(difference.mean().item()) < 3 * difference.std().item() / 1500**0.5
    assert kl.mean().item() > 20 * kl.std().item() / 1500**0.5, "the estimate must be significantly above 0"
    assert kl.var().item() < 0.5 * log_ratio.var().item()
    assert (kl > -1e-6).all() and (log_ratio < 0).any()


def test_every_position_up_to_eos_counts(moved):
    """The reference sums PyTorch's divergence of the next-token distributions over positions, without padding."""
    kl, log_ratio = measure(moved, PROMPTS, RESPONSES)
    for i, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        ids = torch.tensor([prompt + response])
        logits = moved.read(lambda scorer: scorer.model(ids).logits[0].double())  # noqa: B023 - called now
        ours, theirs = (Categorical(logits=values) for values in logits)
        by_position = kl_divergence(ours, theirs)[len(prompt) - 1 : -1]
        assert len(by_position) == len(response)
        assert kl[i].item() == pytest.approx(by_position.sum().item(), abs=1e-5)
        assert by_position[-1].item() > 1e-3, "leaving out the last position must change the result"
        ratios = (ours.logits - theirs.logits)[range(len(prompt) - 1, ids.shape[1] - 1), response]
        assert log_ratio[i].item() == pytest.approx(ratios.sum().item(), abs=1e-5)


def test_batch_does_not_change_divergences(moved):
    together = measure(moved, PROMPTS, RESPONSES)
    for i in range(3):
        for all_of_them, alone in zip(together, measure(moved, PROMPTS[i : i + 1], RESPONSES[i : i + 1]), strict=True):
            assert all_of_them[i].item() == pytest.approx(alone.item(), abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_match_logprobs(manifests, architecture):
    """Equal log-probabilities show that columns, mask and positions are correct, also for absolute positions."""
    scorer = prepare_scorer(load_policy(manifests[architecture], manifests[architecture], torch.float32, "cpu")[0])
    with torch.no_grad():
        logits, logps = (f(scorer, PROMPTS, RESPONSES) for f in (response_logits, response_logprobs))
    for row, response, logp in zip(logits.split(list(map(len, RESPONSES))), RESPONSES, logps, strict=True):
        found = torch.log_softmax(row, dim=1)[range(len(response)), response].sum()
        assert found.item() == pytest.approx(logp.item(), abs=1e-5)


def test_known_logits():
    """KL((0.5, 0.5) ‖ (0.25, 0.75)) = ½ ln 2 + ½ ln ⅔, once for the first response and twice for the second."""
    logits = torch.tensor([[0.5, 0.5]] * 3).log()
    logits_ref = torch.tensor([[0.25, 0.75]] * 3).log()
    kl, log_ratio = kl_divergences(logits, logits_ref, [[1], [1, 0]])
    assert kl.tolist() == pytest.approx([0.143841, 0.287682], abs=1e-6)
    assert log_ratio.tolist() == pytest.approx([-0.405465, 0.287682], abs=1e-6)


@pytest.fixture
def program(monkeypatch, tmp_path, manifests):
    """Runs measure_kl.py on three prompts with a policy, a reference and flags; returns rows and cost."""
    questions = [{"prompt_id": text[:4], "messages": [{"role": "user", "content": text}]} for text in TEXTS]
    write_rows(tmp_path / "eval.jsonl", questions)

    def run(policy, reference, **flags) -> tuple[list[dict], dict]:
        given = {"model": manifests["llama"], "policy": policy, "reference": reference, "stream": "evaluation"}
        given |= {"prompts": tmp_path / "eval.jsonl", "output": tmp_path / "kl.jsonl", "cost": tmp_path / "cost.json"}
        given |= {"seed": 0, "samples": 2, "max-new-tokens": 12, "dtype": "float32"} | flags
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", ["measure_kl.py", *words])
        runpy.run_path(str(ROOT / "workflow/scripts/measure_kl.py"))
        return read_rows(tmp_path / "kl.jsonl"), json.loads((tmp_path / "cost.json").read_text())

    return run


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_program_does_not_depend_on_batch_size(program, trained, manifests, parameters):
    policy, manifest = trained(parameters), manifests["llama"]
    rows, _ = program(policy, manifest)
    assert [(row["prompt_id"], row["response_id"]) for row in rows] == [
        (prompt_id, number) for prompt_id in ("why?", "what", "good") for number in (0, 1)
    ]
    assert {row["finish_reason"] for row in rows} == {"stop", "length"}
    assert all(row["n_tokens"] == 12 for row in rows if row["finish_reason"] == "length")
    assert all(row["kl"] > 0 for row in rows)
    one_by_one, _ = program(policy, manifest, **{"batch-size": 1})
    for row, other in zip(rows, one_by_one, strict=True):
        assert row["response"] == other["response"]
        assert [row["kl"], row["log_ratio"]] == pytest.approx([other["kl"], other["log_ratio"]], abs=1e-4)
    assert [row["response"] for row in program(policy, manifest, seed=1)[0]] != [row["response"] for row in rows]


def test_memory_for_logits_is_limited(program, trained, manifests, monkeypatch):
    """The limit does not depend on the number of responses. Samples of a prompt may be in different groups."""
    from prefloop.evaluation import kl

    held = []

    def recorded(logits, logits_ref, responses):
        held.append((len(logits), len(responses)))
        return kl_divergences(logits, logits_ref, responses)

    monkeypatch.setattr(kl, "kl_divergences", recorded)
    rows, _ = program(trained("lora"), manifests["llama"])
    assert held == [(sum(row["n_tokens"] for row in rows), 6)]
    held.clear()
    monkeypatch.setattr(kl, "MAX_TOKENS", 24)
    in_groups, _ = program(trained("lora"), manifests["llama"])
    assert len(held) > 1
    assert max(tokens for tokens, _ in held) <= 24
    assert any(responses > 1 for _, responses in held)
    for row, other in zip(rows, in_groups, strict=True):
        assert row["response"] == other["response"]
        assert [row["kl"], row["log_ratio"]] == pytest.approx([other["kl"], other["log_ratio"]], abs=1e-6)


@pytest.mark.parametrize(
    ("lengths", "groups"), [([3, 4, 5, 9, 1], [(0, 2), (2, 3), (3, 4), (4, 5)]), ([7, 1], [(0, 1), (1, 2)])]
)
def test_response_groups(monkeypatch, lengths, groups):
    from prefloop.evaluation import kl

    monkeypatch.setattr(kl, "MAX_TOKENS", 7)
    assert [(group.start, group.stop) for group in kl.response_groups(lengths)] == groups


def test_policy_does_not_diverge_from_itself(program, trained):
    rows, _ = program(trained("lora"), trained("lora"))
    assert {row["kl"] for row in rows} == {0.0} and {row["log_ratio"] for row in rows} == {0.0}


def test_cost_counts_sampling_and_both_models(program, trained, manifests):
    """Prompts are read once to sample and once per model to score. The last token of a response is never read."""
    manifest = manifests["llama"]
    tokenizer = load_tokenizer(manifest.parent)
    read = sum(len(prompt_ids(tokenizer, [{"role": "user", "content": text}])) for text in TEXTS)
    parameters = json.loads(manifest.read_text())["parameters"]
    for policy, models in [(trained("lora"), 2), (manifest, 1)]:
        rows, cost = program(policy, manifest)
        written = sum(row["n_tokens"] for row in rows)
        assert cost["stage"] == "measure_kl"
        assert cost["tokens_out"] == written
        assert cost["tokens_in"] == read + models * (read + written - len(rows))
        assert cost["flops"] == 2 * parameters * (cost["tokens_in"] + cost["tokens_out"])
