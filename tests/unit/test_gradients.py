"""A pair's gradient norm: by another road, by finite differences, and through the program."""

import json
import math
import runpy
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import ROOT
from prefloop.chat import load_tokenizer, prompt_ids
from prefloop.gradients import draw, pair_gradient, two_norm
from prefloop.models import load_base, load_policy, load_trainable
from prefloop.policies import Lora
from prefloop.rows import read_rows, write_rows
from prefloop.scoring import response_logps
from prefloop.seeds import seed_for

PROMPT, CHOSEN, REJECTED = [0, 10, 20, 30], [5, 9, 33, 1], [40, 41, 42, 43, 44, 45, 46]
REFERENCE, BETA = (-17.0, -29.0), 0.3


def adapted(manifest, policy):
    """A policy with its adapter as the program loads it, and what of it is trained."""
    torch.manual_seed(0)
    network, _ = load_trainable(manifest, policy, "lora", Lora(r=4), torch.float32)
    network.eval()
    return network, [parameter for parameter in network.parameters() if parameter.requires_grad]


def gradient_of(network, trained, references=REFERENCE, beta=BETA):
    logps = response_logps(network, [PROMPT, PROMPT], [CHOSEN, REJECTED], 2)
    return pair_gradient(*logps, *references, beta, trained)


def logp_by_transformers(network, response) -> torch.Tensor:
    """Minus transformers' own mean loss times the token count: no padding, no code of ours."""
    labels = torch.tensor([[-100] * len(PROMPT) + response])
    return -network(input_ids=torch.tensor([PROMPT + response]), labels=labels).loss * len(response)


def test_norms_are_those_of_the_loss_itself(manifests, trained):
    """−log σ(β·M) written out on transformers' loss and differentiated as one, in double precision."""
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


def test_norm_is_the_slope_along_the_gradient(manifests, trained):
    """By finite differences: a step of ±ε along the gradient's direction changes the loss by ±ε times the norm."""
    network, parameters = adapted(manifests["llama"], trained("lora"))
    expected = gradient_of(network, parameters).grad_norm
    network.double()

    @torch.no_grad()
    def loss() -> float:
        margin = logp_by_transformers(network, CHOSEN) - logp_by_transformers(network, REJECTED)
        return -F.logsigmoid(BETA * (margin - (REFERENCE[0] - REFERENCE[1]))).item()

    margin = logp_by_transformers(network, CHOSEN) - logp_by_transformers(network, REJECTED)
    direction = [-g for g in torch.autograd.grad(margin, parameters)]  # a larger margin is a smaller loss
    length, epsilon, losses = two_norm(direction), 1e-3, []
    for step in (epsilon, -2 * epsilon):
        for parameter, part in zip(parameters, direction, strict=True):
            parameter.data += step * part / length
        losses.append(loss())
    assert (losses[0] - losses[1]) / (2 * epsilon) == pytest.approx(expected, rel=1e-3)


def test_fresh_adapters_have_the_base_model_s_gradient_through_their_random_half(manifests):
    """With B = 0, ∂M/∂B = (α/r)·G·Aᵀ and ∂M/∂A = 0, where G = ∂M/∂W is the plain model's own gradient."""
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


def test_at_the_reference_the_weight_is_a_half(manifests, trained):
    network, parameters = adapted(manifests["llama"], trained("lora"))
    at = gradient_of(network, parameters)
    found = gradient_of(network, parameters, (at.logp_chosen, at.logp_rejected), beta=0.1)
    assert found.margin == 0
    assert found.grad_norm == pytest.approx(0.1 / 2 * found.unweighted_norm, rel=1e-6)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_vanishing_weight_leaves_the_unweighted_norm_alone(manifests, trained):
    """M ≈ 2,000 nats: σ(−βM) underflows in float32, and dividing by it would be 0/0."""
    network, parameters = adapted(manifests["llama"], trained("lora"))
    usual, far = gradient_of(network, parameters), gradient_of(network, parameters, (-2000.0, 0.0))
    assert far.grad_norm == 0
    assert far.unweighted_norm == pytest.approx(usual.unweighted_norm, rel=1e-6)


def test_draw_is_uniform_without_replacement_and_nested():
    def drawn(count: int, seed: int = 0) -> list[int]:
        return draw(50, count, np.random.default_rng(seed)).tolist()

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
    """Two steps of a round, two prompts each, four responses a prompt, one tie; scored by the adapter's policy."""
    manifest, policy = manifests["llama"], trained("lora")
    network, tokenizer = load_policy(manifest, policy, torch.float32, "cpu")
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
            logps = response_logps(network, encoded, ANSWERS * 2, tokenizer.pad_token_id)
            with network.disable_adapter():
                references = response_logps(network, encoded, ANSWERS * 2, tokenizer.pad_token_id)
        rewards = torch.rand(8, generator=generator).tolist()
        rewards[1] = rewards[0]
        said = {"response": "", "sampler": "policy", "component": "policy", "finish_reason": "stop"}
        counts = [len(ids) for ids in ANSWERS * 2]
        write_rows(folder / "prompts.jsonl", questions)
        write_rows(folder / "rewards.jsonl", (k | {"reward": r} for k, r in zip(keys, rewards, strict=True)))
        rows = zip(keys, ANSWERS * 2, counts, strict=True)
        write_rows(folder / "generations.jsonl", (k | said | {"token_ids": ids, "n_tokens": n} for k, ids, n in rows))
        rows = zip(keys, counts, logps.tolist(), references.tolist(), strict=True)
        write_rows(
            folder / "pfp.jsonl", (k | {"n_tokens": n, "logp": logp, "logp_ref": ref} for k, n, logp, ref in rows)
        )
    return tmp_path


@pytest.fixture
def program(round_files, monkeypatch, manifests, trained):
    """gradients.py on those two steps; returns rows and cost."""

    def run(policy=None, **flags) -> tuple[list[dict], dict]:
        words = []
        for name in ("prompts", "generations", "rewards", "pfp"):
            words += [f"--{name}", *(str(round_files / f"step-{step}" / f"{name}.jsonl") for step in (0, 1))]
        given = {"model": manifests["llama"], "policy": policy or trained("lora"), "seed": 0, "dtype": "float32"}
        given |= {"output": round_files / "gradients.jsonl", "cost": round_files / "cost.json"} | flags
        words += [word for name, value in given.items() for word in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", ["gradients.py", *words])
        runpy.run_path(str(ROOT / "workflow/scripts/gradients.py"))
        return read_rows(round_files / "gradients.jsonl"), json.loads((round_files / "cost.json").read_text())

    return run


def test_program_measures_every_decided_pair_of_all_steps(program, round_files, manifests, trained):
    rows, cost = program(beta=BETA)
    files = {name: [] for name in ("rewards", "pfp")}
    for name, found in files.items():
        for step in (0, 1):
            found += read_rows(round_files / f"step-{step}" / f"{name}.jsonl")
    reward = {(row["prompt_id"], row["response_id"]): row["reward"] for row in files["rewards"]}
    scored = {(row["prompt_id"], row["response_id"]): row for row in files["pfp"]}
    assert {(row["prompt_id"], row["chosen"], row["rejected"]) for row in rows} == {
        (p, w, l)
        for p in QUESTIONS
        for w in range(4)
        for l in range(4)  # noqa: E741
        if reward[p, w] > reward[p, l]
    }
    assert len(rows) == 4 * 6 - 2, "one tie a step"
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
    logps = torch.cat([response_logps(network, [prompt], [response], 2) for response in responses])
    expected = two_norm(torch.autograd.grad(logps[0] - logps[1], parameters))
    assert row["unweighted_norm"] == pytest.approx(expected, rel=1e-4)
    assert (cost["stage"], cost["tokens_in"]) == ("gradients", tokens)
    assert cost["flops"] == 6 * json.loads(manifests["llama"].read_text())["parameters"] * tokens


def test_program_draws_by_seed_and_starts_new_adapters_as_training_does(program, manifests):
    """An untrained policy's adapters are random, but those of train.py's seed; their shape is the flags'."""
    few = {"pairs": 7, "policy": manifests["llama"], "lora.r": 4}
    rows, _ = program(**few)
    torch.manual_seed(seed_for(0, "train", 1))
    network, tokenizer = load_trainable(manifests["llama"], manifests["llama"], "lora", Lora(r=4), torch.float32)
    prompt = prompt_ids(tokenizer, [{"role": "user", "content": QUESTIONS[rows[0]["prompt_id"]]}])
    responses = [ANSWERS[rows[0]["chosen"]], ANSWERS[rows[0]["rejected"]]]
    logps = response_logps(network.eval(), [prompt, prompt], responses, 2)
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


def test_program_says_what_is_wrong_with_its_input(program, round_files):
    questions = round_files / "step-1/prompts.jsonl"
    write_rows(questions, [row for row in read_rows(questions) if row["prompt_id"] != "p2"])
    with pytest.raises(SystemExit, match="no prompt p2"):
        program()
    for step in (0, 1):
        rewards = round_files / f"step-{step}/rewards.jsonl"
        write_rows(rewards, [row | {"reward": 1.0} for row in read_rows(rewards)])
    with pytest.raises(SystemExit, match="tells apart"):
        program()
