"""Gradient norms of pairs: compared with the loss and finite differences, and measured by the program."""

import json
import math
import runpy
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import ROOT
from prefloop.core.jsonl import read_rows, write_rows
from prefloop.core.seeds import seed_for
from prefloop.models.chat import load_tokenizer, prompt_ids
from prefloop.models.loading import load_base, load_policy, load_trainable
from prefloop.models.options import Lora
from prefloop.models.response_logprobs import prepare_scorer, response_logprobs
from prefloop.training.pair_gradients import draw_indices, pair_gradient, two_norm
from steps import write_step

PROMPT, CHOSEN, REJECTED = [0, 10, 20, 30], [5, 9, 33, 1], [40, 41, 42, 43, 44, 45, 46]
REFERENCE, BETA = (-17.0, -29.0), 0.3


def adapted(manifest, policy):
    """Load a policy with its adapter as the program does; return it and its trained parameters."""
    torch.manual_seed(0)
    network, _ = load_trainable(manifest, policy, "lora", Lora(r=4), torch.float32)
    network.eval()
    return network, [parameter for parameter in network.parameters() if parameter.requires_grad]


def gradient_of(network, trained, references=REFERENCE, beta=BETA):
    logps = response_logprobs(prepare_scorer(network), [PROMPT, PROMPT], [CHOSEN, REJECTED])
    return pair_gradient(*logps, *references, beta, trained)


def logp_by_transformers(network, response) -> torch.Tensor:
    """Return the log-probability from transformers' own loss: −(mean loss) · (number of tokens)."""
    labels = torch.tensor([[-100] * len(PROMPT) + response])
    return -network(input_ids=torch.tensor([PROMPT + response]), labels=labels).loss * len(response)


def test_norms_match_the_loss_itself(manifests, trained):
    """The reference differentiates −log σ(β·M), computed from transformers' loss in double precision."""
    found = gradient_of(*adapted(manifests["llama"], trained("lora")))
    network, parameters = adapted(manifests["llama"], trained("lora"))
    network.double()
    margin = logp_by_transformers(network, CHOSEN) - logp_by_transformers(network, REJECTED)
    margin = margin - (REFERENCE[0] - REFERENCE[1])
    loss = torch.log1p(torch.exp(-BETA * margin))
    norm = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).norm().item()
    assert found.margin == pytest.approx(margin.item(), abs=1e-3)
    assert found.grad_norm == pytest.approx(norm, rel=1e-3)
    weight = 1 / (1 + math.exp(BETA * margin.item()))
    assert 0.1 < weight < 0.9
    assert found.unweighted_norm == pytest.approx(norm / (BETA * weight), rel=1e-3)


def test_norm_matches_finite_differences(manifests, trained):
    """A step of ±ε along the gradient changes the loss by ±ε times the norm."""
    network, parameters = adapted(manifests["llama"], trained("lora"))
    expected = gradient_of(network, parameters).grad_norm
    network.double()

    @torch.no_grad()
    def loss() -> float:
        margin = logp_by_transformers(network, CHOSEN) - logp_by_transformers(network, REJECTED)
        return -F.logsigmoid(BETA * (margin - (REFERENCE[0] - REFERENCE[1]))).item()

    margin = logp_by_transformers(network, CHOSEN) - logp_by_transformers(network, REJECTED)
    direction = [-g for g in torch.autograd.grad(margin, parameters)]  # a larger margin gives a smaller loss
    length, epsilon, losses = two_norm(direction), 1e-3, []
    for step in (epsilon, -2 * epsilon):
        for parameter, part in zip(parameters, direction, strict=True):
            parameter.data += step * part / length
        losses.append(loss())
    assert (losses[0] - losses[1]) / (2 * epsilon) == pytest.approx(expected, rel=1e-3)


def test_gradient_of_new_adapters_projects_the_base_gradient(manifests):
    """For B = 0, ∂M/∂B = (α/r)·G·Aᵀ and ∂M/∂A = 0, where G = ∂M/∂W is the plain model's gradient."""
    network, parameters = adapted(manifests["llama"], manifests["llama"])
    halves = {name: p.detach() for name, p in network.named_parameters() if "lora_A" in name}
    base, _ = load_base(manifests["llama"], torch.float32)
    (logp_by_transformers(base, CHOSEN) - logp_by_transformers(base, REJECTED)).backward()
    weights = dict(base.named_parameters())
    square = 0.0
    for name, half in halves.items():
        weight = name.removeprefix("base_model.model.").replace(".lora_A.default", "")
        square += (32.0 / 4 * weights[weight].grad @ half.T).square().sum().item()
    assert len(halves) == 14, "seven linear layers in each of two blocks"
    assert gradient_of(network, parameters).unweighted_norm == pytest.approx(square**0.5, rel=1e-3)


def test_weight_at_the_reference_is_one_half(manifests, trained):
    network, parameters = adapted(manifests["llama"], trained("lora"))
    at = gradient_of(network, parameters)
    found = gradient_of(network, parameters, (at.logp_chosen, at.logp_rejected), beta=0.1)
    assert found.margin == 0
    assert found.grad_norm == pytest.approx(0.1 / 2 * found.unweighted_norm, rel=1e-6)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_vanishing_weight_keeps_the_unweighted_norm(manifests, trained):
    """For M ≈ 2,000 nats, σ(−βM) underflows in float32, so dividing by it would give 0/0."""
    network, parameters = adapted(manifests["llama"], trained("lora"))
    usual, far = gradient_of(network, parameters), gradient_of(network, parameters, (-2000.0, 0.0))
    assert far.grad_norm == 0
    assert far.unweighted_norm == pytest.approx(usual.unweighted_norm, rel=1e-6)


def test_draw_is_uniform_without_replacement_and_nested():
    def drawn(count: int, seed: int = 0) -> list[int]:
        return draw_indices(50, count, np.random.default_rng(seed)).tolist()

    assert len(set(drawn(20))) == 20 and drawn(20) == sorted(drawn(20)) == drawn(20)
    assert drawn(20) != drawn(20, seed=1)
    assert set(drawn(10)) < set(drawn(20))
    assert drawn(80) == list(range(50))
    counts = np.bincount([i for seed in range(2000) for i in drawn(10, seed)], minlength=50)
    assert abs(counts - 400).max() < 4.5 * (2000 * 0.2 * 0.8) ** 0.5


QUESTIONS = {"p0": "why?", "p1": "what is the answer to a question that is this long?", "p2": "good", "p3": "bad?"}
ANSWERS = [[5, 9, 33, 1], [7, 1], [40, 41, 42, 43, 44], [12, 1]]


@pytest.fixture
def round_files(tmp_path, manifests, trained):
    """Two steps with two prompts each and four responses per prompt, with ties, scored by the trained policy."""
    manifest, policy = manifests["llama"], trained("lora")
    network, tokenizer = load_policy(manifest, policy, torch.float32, "cpu")
    scorer = prepare_scorer(network)
    generator = torch.Generator().manual_seed(0)
    for step, prompt_ids_of_step in enumerate([["p0", "p1"], ["p2", "p3"]]):
        folder = tmp_path / f"step-{step}"
        questions, keys, encoded = [], [], []
        for prompt_id in prompt_ids_of_step:
            messages = [{"role": "user", "content": QUESTIONS[prompt_id]}]
            questions.append({"prompt_id": prompt_id, "messages": messages})
            keys += [{"prompt_id": prompt_id, "cluster": 0, "response_id": i} for i in range(4)]
            encoded += [prompt_ids(tokenizer, messages)] * 4
        with torch.no_grad():
            logps = response_logprobs(scorer, encoded, ANSWERS * 2)
            with network.disable_adapter():
                references = response_logprobs(scorer, encoded, ANSWERS * 2)
        rewards = torch.rand(8, generator=generator).tolist()
        rewards[1] = rewards[0]
        columns = zip(keys, rewards, ANSWERS * 2, logps.tolist(), references.tolist(), strict=True)
        write_step(
            folder,
            (
                key | {"reward": r, "token_ids": ids, "n_tokens": len(ids), "logp": logp, "logp_ref": logp_ref}
                for key, r, ids, logp, logp_ref in columns
            ),
            prompts=questions,
        )
    return tmp_path


@pytest.fixture
def program(round_files, monkeypatch, manifests, trained):
    """Runs measure_gradients.py on the two steps; returns rows and cost."""

    def run(policy=None, **flags) -> tuple[list[dict], dict]:
        words = ["--pfp", *(str(round_files / f"step-{step}/pfp.jsonl") for step in (0, 1))]
        given = {"model": manifests["llama"], "policy": policy or trained("lora"), "seed": 0, "dtype": "float32"}
        given |= {"lora.r": 4, "output": round_files / "gradients.jsonl", "cost": round_files / "cost.json"} | flags
        words += [word for name, value in given.items() for word in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", ["measure_gradients.py", *words])
        runpy.run_path(str(ROOT / "workflow/scripts/measure_gradients.py"))
        return read_rows(round_files / "gradients.jsonl"), json.loads((round_files / "cost.json").read_text())

    return run


def test_program_measures_every_decided_pair(program, round_files, manifests, trained):
    rows, cost = program(beta=BETA)
    prompts = [row for step in (0, 1) for row in read_rows(round_files / f"step-{step}/pfp.jsonl")]
    scored = {(prompt["prompt_id"], row["response_id"]): row for prompt in prompts for row in prompt["responses"]}
    assert {(row["prompt_id"], row["chosen"], row["rejected"]) for row in rows} == {
        (p, w, l)
        for p in QUESTIONS
        for w in range(4)
        for l in range(4)  # noqa: E741
        if scored[p, w]["reward"] > scored[p, l]["reward"]
    }
    assert len(rows) == 4 * 6 - 2, "one tie per step"
    network, parameters = adapted(manifests["llama"], trained("lora"))
    tokenizer, tokens = load_tokenizer(manifests["llama"].parent), 0
    for row in rows:
        prompt = prompt_ids(tokenizer, [{"role": "user", "content": QUESTIONS[row["prompt_id"]]}])
        tokens += len(prompt) + row["n_chosen"] - 1 + row["n_rejected"] - 1
        assert (row["n_chosen"], row["n_rejected"]) == (len(ANSWERS[row["chosen"]]), len(ANSWERS[row["rejected"]]))
        w, l = (scored[row["prompt_id"], row[side]] for side in ("chosen", "rejected"))  # noqa: E741
        assert row["reward_gap"] > 0
        assert row["pfp"] == pytest.approx(l["logp"] - w["logp"])
        assert row["pfp_mean"] == pytest.approx(l["logp"] / l["n_tokens"] - w["logp"] / w["n_tokens"])
        raw = [r["n_tokens"] * math.exp(-r["logp"] / r["n_tokens"]) for r in (w, l)]
        assert row["pfp_raw"] == pytest.approx(raw[0] - raw[1])
        margin = w["logp"] - w["logp_ref"] - (l["logp"] - l["logp_ref"])
        assert row["margin"] == pytest.approx(margin, abs=1e-4)
        assert row["dpo_weight"] == pytest.approx(1 / (1 + math.exp(BETA * margin)), rel=1e-5)
        assert row["grad_norm"] == pytest.approx(BETA * row["dpo_weight"] * row["unweighted_norm"], rel=1e-4)
    row = rows[5]
    responses = [ANSWERS[row["chosen"]], ANSWERS[row["rejected"]]]
    prompt = prompt_ids(tokenizer, [{"role": "user", "content": QUESTIONS[row["prompt_id"]]}])
    scorer = prepare_scorer(network)
    logps = torch.cat([response_logprobs(scorer, [prompt], [response]) for response in responses])
    expected = two_norm(torch.autograd.grad(logps[0] - logps[1], parameters))
    assert row["unweighted_norm"] == pytest.approx(expected, rel=1e-4)
    assert (cost["stage"], cost["tokens_in"]) == ("measure_gradients", tokens)
    assert cost["flops"] == 6 * json.loads(manifests["llama"].read_text())["parameters"] * tokens


def test_program_uses_the_training_seed(program, manifests):
    """An untrained policy gets the random adapters of train.py's seed, with the shape in the flags."""
    few = {"pairs": 7, "policy": manifests["llama"]}
    rows, _ = program(**few)
    torch.manual_seed(seed_for(0, "train", 1))
    network, tokenizer = load_trainable(manifests["llama"], manifests["llama"], "lora", Lora(r=4), torch.float32)
    prompt = prompt_ids(tokenizer, [{"role": "user", "content": QUESTIONS[rows[0]["prompt_id"]]}])
    responses = [ANSWERS[rows[0]["chosen"]], ANSWERS[rows[0]["rejected"]]]
    logps = response_logprobs(prepare_scorer(network.eval()), [prompt, prompt], responses)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    expected = two_norm(torch.autograd.grad(logps[0] - logps[1], trained))
    assert rows[0]["unweighted_norm"] == pytest.approx(expected, rel=1e-4)
    assert len(rows) == len({(row["prompt_id"], row["chosen"], row["rejected"]) for row in rows}) == 7
    assert program(**few)[0] == rows
    assert program(**few | {"lora.dropout": 0.5})[0] == rows, "gradients are measured without dropout"
    other, _ = program(**few | {"seed": 1})
    assert [(row["prompt_id"], row["chosen"]) for row in other] != [(row["prompt_id"], row["chosen"]) for row in rows]
    wider, _ = program(**few | {"lora.r": 8, "lora.alpha": 64})
    assert [row["grad_norm"] for row in wider] != pytest.approx([row["grad_norm"] for row in rows], rel=1e-2)
    assert [row["pfp"] for row in wider] == [row["pfp"] for row in rows]


def test_round_without_a_decided_pair_raises(program, round_files):
    for step in (0, 1):
        path = round_files / f"step-{step}/pfp.jsonl"
        prompts = read_rows(path)
        for response in [response for prompt in prompts for response in prompt["responses"]]:
            response["reward"] = 1.0
        write_rows(path, (prompt | {"best": None, "worst": None, "pfp": None} for prompt in prompts))
    with pytest.raises(SystemExit, match="decided no pair"):
        program()
