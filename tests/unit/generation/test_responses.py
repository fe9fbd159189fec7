"""Responses are planned per prompt, sampled in batches that do not depend on shards, and written as rows."""

import runpy
import sys

import pytest

import tiny
from conftest import ROOT
from conversations import asks
from prefloop.config.generation_settings import SamplingParams
from prefloop.core.costs import CostMeter
from prefloop.core.errors import InputError
from prefloop.core.files import read_json
from prefloop.core.jsonl import read_rows, write_rows
from prefloop.core.seeds import seed_for
from prefloop.core.shards import Shard
from prefloop.generation.responses import (
    Response,
    dataset_responses,
    decode_responses,
    generation_rows,
    plan_responses,
    sample_planned,
)
from prefloop.methods.samplers import POLICY, REFERENCE, Mixp, Sampling

PROMPTS = [[0, 5], [0, 5, 6, 7], [0, 8, 9]]
IDS = ["p", "q", "r"]


class FakeEngine:
    """Returns each prompt's tokens followed by the response's seed, and records the calls."""

    def __init__(self, forms_batches=False, models=1):
        self.forms_batches, self.models, self.calls = forms_batches, models, []

    def generate(self, component, prompts, counts, seeds, params):
        self.calls.append((component, prompts, counts))
        repeated = [ids for ids, count in zip(prompts, counts, strict=True) for _ in range(count)]
        return [[*ids, seed] for ids, seed in zip(repeated, seeds, strict=True)]

    def models_per_token(self, component):
        return self.models


def sampled(engine, planned, shard=None, meter=None):
    return sample_planned(engine, planned, PROMPTS, SamplingParams(), 4, shard or Shard(), meter or CostMeter("x", 10))


def test_plan_has_a_component_and_a_seed_per_response():
    planned = plan_responses(IDS, Sampling("policy_reference", 2), 3, "round-1/step-2")
    assert [response.key for response in planned] == [(i, n) for i in range(3) for n in range(2)]
    assert [response.component for response in planned] == [POLICY, REFERENCE] * 3
    assert planned[3].seed == seed_for(3, "generate", "round-1/step-2", "q", 1)
    assert len({response.seed for response in planned}) == 6


def test_plan_of_a_prompt_does_not_depend_on_the_others():
    sampling = Sampling("mixp", 4, Mixp(p=0.5))
    together = plan_responses(IDS, sampling, 0, "s")
    alone = [plan_responses([name], sampling, 0, "s") for name in IDS]
    assert [r[1:] for r in together] == [r[1:] for plan in alone for r in plan]


def test_unknown_sampler_raises():
    with pytest.raises(InputError, match="^sampler: 'nobody' is not one of policy"):
        plan_responses(IDS, Sampling("nobody"), 0, "s")


def test_batches_go_by_length_and_component():
    """Batches have four responses: two per prompt and component, with the two longest prompts first."""
    engine, planned = FakeEngine(), plan_responses(IDS, Sampling("policy_reference", 4), 0, "s")
    responses = sampled(engine, planned)
    assert [(component.name, prompts, counts) for component, prompts, counts in engine.calls] == [
        (name, prompts, counts)
        for name in ("policy", "reference")
        for prompts, counts in (([PROMPTS[1], PROMPTS[2]], [2, 2]), ([PROMPTS[0]], [2]))
    ]
    assert responses == {r.key: [*PROMPTS[r.prompt_index], r.seed] for r in planned}


@pytest.mark.parametrize("forms_batches", [False, True])
def test_shards_sample_the_same_responses_as_one_run(forms_batches):
    planned = plan_responses(IDS, Sampling("policy", 4), 0, "s")
    shards = [sampled(FakeEngine(forms_batches), planned, Shard(index, 2)) for index in range(2)]
    assert shards[0].keys().isdisjoint(shards[1])
    assert shards[0] | shards[1] == sampled(FakeEngine(), planned)


def test_engine_that_forms_batches_gets_one_call():
    engine, planned = FakeEngine(forms_batches=True), plan_responses(IDS, Sampling("policy", 4), 0, "s")
    sampled(engine, planned)
    assert [sorted(prompts) for _, prompts, _ in engine.calls] == [sorted(PROMPTS)]


def test_cost_counts_every_model_of_a_mixture():
    """Two models with 10 parameters process 9 prompt tokens once and all response tokens, at 2 FLOPs each."""
    meter, planned = CostMeter("generate", 10), plan_responses(IDS, Sampling("policy", 2), 0, "s")
    sampled(FakeEngine(models=2), planned, meter=meter)
    written = sum(2 * (len(prompt) + 1) for prompt in PROMPTS)
    assert meter.tokens_out == written
    assert meter.flops == 2 * 10 * 2 * (9 + written)


def test_rows_of_a_shard_are_in_prompt_order():
    planned = plan_responses(IDS, Sampling("policy", 1), 0, "s")
    rows = [{"prompt_id": name, "cluster": i} for i, name in enumerate(IDS)]
    responses = {(2, 0): Response([4, 1], "four", "stop"), (0, 0): Response([5], "five", "length")}
    assert list(generation_rows(rows, planned, responses, "policy")) == [
        {
            "prompt_id": name,
            "cluster": cluster,
            "response_id": 0,
            "response": text,
            "token_ids": ids,
            "sampler": "policy",
            "component": "policy",
            "finish_reason": reason,
            "n_tokens": len(ids),
        }
        for name, cluster, text, ids, reason in [("p", 0, "five", [5], "length"), ("r", 2, "four", [4, 1], "stop")]
    ]


def test_dataset_responses_are_complete_and_end_with_eos():
    tokenizer = tiny.tokenizer()
    rows = [{"messages": asks("why?"), "chosen": f"good {i}", "rejected": "</s> bad"} for i in range(3)]
    planned = plan_responses(IDS, Sampling("dataset", 2), 0, "s")
    responses = dataset_responses(tokenizer, rows, planned, Shard(1, 2))
    assert responses.keys() == {(1, 0), (1, 1)}
    assert [response.text for response in responses.values()] == ["good 1", "</s> bad"]
    for response in responses.values():
        assert response.token_ids.index(tokenizer.eos_token_id) == len(response.token_ids) - 1


def test_finish_reason_is_stop_with_eos():
    tokenizer = tiny.tokenizer()
    ids = tokenizer("good", add_special_tokens=False)["input_ids"]
    eos = tokenizer.eos_token_id
    decoded = decode_responses(tokenizer, {(0, 0): ids, (0, 1): [*ids, eos]}, [eos])
    assert [(r.text, r.finish_reason) for r in decoded.values()] == [
        (tokenizer.decode(ids), "length"),
        (tokenizer.decode(ids), "stop"),
    ]


@pytest.mark.parametrize(("sampler", "stream"), [("policy", "s"), ("policy", "evaluation"), ("dataset", "s")])
def test_generate_counts_and_warns_of_truncated_responses(monkeypatch, tmp_path, capsys, manifests, sampler, stream):
    """Responses of one token are too short to end. Responses of a data set are never truncated."""
    prompt = {"prompt_id": "p", "cluster": 0, "messages": [{"role": "user", "content": "why?"}]}
    write_rows(tmp_path / "prompts.jsonl", [prompt | {"chosen": "good", "rejected": "bad"}])
    files = {"prompts": "prompts.jsonl", "output": "generations.jsonl", "cost": "cost.json"}
    manifest = str(manifests["llama"])
    words = ["--model", manifest, "--policy", manifest, "--seed", "0", "--stream", stream, "--sampler", sampler]
    words += [
        "--max-new-tokens",
        "1",
        "--n",
        "2",
        *(w for k, v in files.items() for w in (f"--{k}", str(tmp_path / v))),
    ]
    monkeypatch.setattr(sys, "argv", ["generate", *words])
    runpy.run_path(str(ROOT / "workflow/scripts/generate.py"), run_name="__main__")
    truncated = [row["finish_reason"] == "length" for row in read_rows(tmp_path / "generations.jsonl")]
    assert truncated == [sampler == "policy"] * 2
    assert read_json(tmp_path / "cost.json")["truncated"] == [sum(truncated), 2]
    log = capsys.readouterr().out
    key = "evaluation" if stream == "evaluation" else "generation"
    warning = f"WARNING: 2 of 2 responses (100%) of policy {manifest} reached {key}.max_new_tokens (1) before their end"
    assert (warning in log) == truncated[0]
    assert f", {sum(truncated)} truncated" in log
