"""KL divergence: that of the response distributions by enumeration, whatever the padding, the batch and the policy."""

import json
import runpy
import sys

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from conftest import ROOT
from prefloop.chat import load_tokenizer, prompt_ids
from prefloop.divergence import divergences
from prefloop.models import load_policy, reference_for
from prefloop.rows import read_rows, write_rows
from prefloop.sampling import Decoding, Voice, generate
from prefloop.scoring import response_logits, response_logps
from tiny import ARCHITECTURES

EOS, PAD = 1, 2
PROMPTS = [[0, 10, 20, 30], [0, 9], [0, 40, 41, 42, 43, 44, 45, 46]]
RESPONSES = [[5, 9, 33, 1], [7, 1], [40, 41, 42, 43, 44, 45]]
TEXTS = ["why?", "what is the answer to a question that is this long?", "good"]


def speakers(manifest, policy, reference):
    """The policy's model, the reference's, and the context in which that one speaks, as the program loads them."""
    network, _ = load_policy(manifest, policy, torch.float32, "cpu")
    return network, *reference_for(network, policy, reference, manifest, torch.float32, "cpu")


@torch.no_grad()
def measure(speakers, prompts, responses) -> tuple[torch.Tensor, torch.Tensor]:
    network, other, as_reference = speakers
    logits = response_logits(network, prompts, responses, PAD)
    with as_reference():
        logits_ref = response_logits(other, prompts, responses, PAD)
    return divergences(logits, logits_ref, responses)


@pytest.fixture(params=["lora", "full"])
def moved(request, manifests, trained):
    return speakers(manifests["llama"], trained(request.param), manifests["llama"])


def test_expectation_is_the_divergence_of_the_response_distributions(moved):
    """All responses of up to two tokens, each weighted by its probability; those by scoring.py, which tests trust."""
    network, other, as_reference = moved
    vocabulary = network.config.vocab_size
    firsts = [token for token in range(vocabulary) if token != EOS]
    responses = [[EOS], *([first, second] for first in firsts for second in range(vocabulary))]
    prompts = [PROMPTS[0]] * len(responses)
    with torch.no_grad():
        logps = response_logps(network, prompts, responses, PAD).double()
        with as_reference():
            logps_ref = response_logps(other, prompts, responses, PAD).double()
    kl, log_ratio = (values.double() for values in measure(moved, prompts, responses))
    p = logps.exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    truth = (p * (logps - logps_ref)).sum().item()
    assert truth > 0.05
    assert (p * kl).sum().item() == pytest.approx(truth, rel=1e-4)
    assert (p * log_ratio).sum().item() == pytest.approx(truth, rel=1e-4)


def test_mean_of_samples_agrees_with_the_naive_estimator_and_is_less_noisy(moved):
    uniforms = torch.rand(1500, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    responses = generate([Voice(moved[0])], [PROMPTS[0]], [1500], uniforms, Decoding(), [EOS], PAD)
    kl, log_ratio = (values.double() for values in measure(moved, [PROMPTS[0]] * 1500, responses))
    difference = log_ratio - kl
    assert abs(difference.mean().item()) < 3 * difference.std().item() / 1500**0.5
    assert kl.mean().item() > 20 * kl.std().item() / 1500**0.5, "the estimate must tell the divergence from 0"
    assert kl.var().item() < 0.5 * log_ratio.var().item()
    assert (kl > -1e-6).all() and (log_ratio < 0).any()


def test_every_position_counts_up_to_eos_and_none_after_it(moved):
    """By hand, without padding: PyTorch's own divergence of the next-token distributions, summed over positions."""
    network, other, as_reference = moved
    kl, log_ratio = measure(moved, PROMPTS, RESPONSES)
    for i, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        ids = torch.tensor([prompt + response])
        with torch.no_grad():
            ours = Categorical(logits=network(ids).logits[0].double())
            with as_reference():
                theirs = Categorical(logits=other(ids).logits[0].double())
        by_position = kl_divergence(ours, theirs)[len(prompt) - 1 : -1]
        assert len(by_position) == len(response)
        assert kl[i].item() == pytest.approx(by_position.sum().item(), abs=1e-5)
        assert by_position[-1].item() > 1e-3, "leaving out the last position must show"
        ratios = (ours.logits - theirs.logits)[range(len(prompt) - 1, ids.shape[1] - 1), response]
        assert log_ratio[i].item() == pytest.approx(ratios.sum().item(), abs=1e-5)


def test_padding_and_batch_change_nothing(moved):
    together = measure(moved, PROMPTS, RESPONSES)
    for i in range(3):
        for all_of_them, alone in zip(together, measure(moved, PROMPTS[i : i + 1], RESPONSES[i : i + 1]), strict=True):
            assert all_of_them[i].item() == pytest.approx(alone.item(), abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_those_that_scoring_sees(manifests, architecture):
    """On absolute positions too: columns, mask and positions are right if each response's log-probability is."""
    network, _ = load_policy(manifests[architecture], manifests[architecture], torch.float32, "cpu")
    with torch.no_grad():
        logits, logps = (f(network, PROMPTS, RESPONSES, PAD) for f in (response_logits, response_logps))
    for row, response, logp in zip(logits.split(list(map(len, RESPONSES))), RESPONSES, logps, strict=True):
        found = torch.log_softmax(row, dim=1)[range(len(response)), response].sum()
        assert found.item() == pytest.approx(logp.item(), abs=1e-5)


def test_known_logits():
    """KL((.5, .5) ‖ (.25, .75)) = ½ ln 2 + ½ ln ⅔, once for the first response and twice for the second."""
    logits = torch.tensor([[0.5, 0.5]] * 3).log()
    logits_ref = torch.tensor([[0.25, 0.75]] * 3).log()
    kl, log_ratio = divergences(logits, logits_ref, [[1], [1, 0]])
    assert kl.tolist() == pytest.approx([0.143841, 0.287682], abs=1e-6)
    assert log_ratio.tolist() == pytest.approx([-0.405465, 0.287682], abs=1e-6)


@pytest.fixture
def program(monkeypatch, tmp_path, manifests):
    """divergence.py on three prompts: called with policy, reference and flags, returns rows and cost."""
    questions = [{"prompt_id": text[:4], "messages": [{"role": "user", "content": text}]} for text in TEXTS]
    write_rows(tmp_path / "eval.jsonl", questions)

    def run(policy, reference, **flags) -> tuple[list[dict], dict]:
        given = {"model": manifests["llama"], "policy": policy, "reference": reference, "stream": "evaluation"}
        given |= {"prompts": tmp_path / "eval.jsonl", "output": tmp_path / "kl.jsonl", "cost": tmp_path / "cost.json"}
        given |= {"seed": 0, "samples": 2, "max-new-tokens": 12, "dtype": "float32"} | flags
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", ["divergence.py", *words])
        runpy.run_path(str(ROOT / "workflow/scripts/divergence.py"))
        return read_rows(tmp_path / "kl.jsonl"), json.loads((tmp_path / "cost.json").read_text())

    return run


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_program_writes_each_response_whatever_the_batch(program, trained, manifests, parameters):
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


def test_program_finds_no_divergence_of_a_policy_from_itself(program, trained):
    rows, _ = program(trained("lora"), trained("lora"))
    assert {row["kl"] for row in rows} == {0.0} and {row["log_ratio"] for row in rows} == {0.0}


def test_program_counts_sampling_once_and_scoring_by_both(program, trained, manifests):
    """Prompts run once to sample two responses and once to score them; no response's last token is read."""
    manifest = manifests["llama"]
    tokenizer = load_tokenizer(manifest.parent)
    read = sum(len(prompt_ids(tokenizer, [{"role": "user", "content": text}])) for text in TEXTS)
    parameters = json.loads(manifest.read_text())["parameters"]
    for policy, models in [(trained("lora"), 2), (manifest, 1)]:
        rows, cost = program(policy, manifest)
        written = sum(row["n_tokens"] for row in rows)
        assert cost["stage"] == "divergence"
        assert cost["tokens_out"] == written
        assert cost["tokens_in"] == read + models * (read + written - len(rows))
        assert cost["flops"] == 2 * parameters * (cost["tokens_in"] + cost["tokens_out"])
