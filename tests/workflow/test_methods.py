"""Every published method runs, also with other references, fine-tuning, judges and reward models."""

import json
import math

import pandas as pd
import pytest
import torch
import yaml

from conftest import ROOT
from prefloop.config.resolve import merged, of_method
from prefloop.config.validation import checked
from prefloop.core.jsonl import read_rows
from prefloop.models.policies import read_policy

PRESETS = list(yaml.safe_load((ROOT / "experiments/methods.yaml").read_text())["methods"])
LAPTOP = yaml.safe_load((ROOT / "experiments/laptop/methods.yaml").read_text())


LABELLED_PAIRS = ("delta_ucb", "drts", "random_pair")


@pytest.fixture(scope="module")
def presets(tmp_path_factory, model_folders):
    """Run two rounds of every preset on the tiny model with the file of the laptop experiment."""
    from conftest import Workdir

    directory = Workdir(tmp_path_factory.mktemp("presets"), model_folders["llama"])
    small = {  # smaller settings for the tiny model, over those of the experiment
        "prompts": {"take": 40, "eval_fraction": 0.1, "max_prompt_tokens": 160, "max_response_tokens": 300},
        "bandit": {"budget": 4},
        "generation": {"n": 4},
        "pairs": {"top_n": 8},
        "methods": {
            "online_dpo": {"bandit": {"budget": 8}},
            "annotate_all": {"pairs": {"top_n": 12}},
            "sweet_spot": {"bandit": {"budget": 4}},
            **dict.fromkeys(LABELLED_PAIRS, {"bandit": {"budget": 8}}),
            "risk_beta": {"train": {"beta_risk": {"warmup": 2}}},
            "risk_beta_calibrated": {"train": {"beta_risk": {"warmup": 2}}},
        },
    }
    small |= {key: yaml.safe_load((directory.path / "config.yaml").read_text())[key] for key in ("policy", "feedback")}
    settings = [f"{key}={json.dumps(value)}" for key, value in small.items()]
    targets = [f"results/laptop_methods/{method}/seed-0/round-2/policy.pt" for method in PRESETS]
    file = ["--configfile", str(ROOT / "experiments/laptop/methods.yaml"), "--config", *settings]
    done = directory.run(*targets, *file)
    assert done.returncode == 0, done.stdout
    return directory.path / "results/laptop_methods"


def test_laptop_experiment_compares_every_preset():
    assert LAPTOP["compare"] == PRESETS


@pytest.mark.parametrize("method", PRESETS)
def test_preset_trains_for_two_rounds(presets, method):
    run = presets / method / "seed-0"
    for number in (1, 2):
        steps = read_rows(run / f"round-{number}/training.jsonl")
        assert all(math.isfinite(step["loss"]) for step in steps)
        assert any(step["grad_norm"] > 0 for step in steps)
    first, second = (read_policy(run / f"round-{n}/policy.pt")["state_dict"] for n in (1, 2))
    assert any(not torch.equal(first[name], second[name]) for name in first)


def components(presets, method: str, number: int = 2) -> list[list[str]]:
    """Return the components of each prompt's responses, in order."""
    rows = read_rows(presets / method / f"seed-0/round-{number}/step-1/generations.jsonl")
    return pd.DataFrame(rows).groupby("prompt_id", sort=False)["component"].agg(list).tolist()


def test_each_response_names_its_component(presets):
    assert set(map(tuple, components(presets, "gshf"))) == {("policy", "policy", "reference", "reference")}
    assert set(map(tuple, components(presets, "online_dpo"))) == {("policy", "policy")}
    assert set(map(tuple, components(presets, "offline_dpo"))) == {("chosen", "rejected")}
    halves = {half for row in components(presets, "mixp") for half in (tuple(row[:2]), tuple(row[2:]))}
    assert halves <= {("policy", "policy"), ("beyond", "between")}
    assert ("beyond", "between") in halves


def test_offline_pairs_come_from_the_data_set(presets):
    given = {row["prompt_id"]: row for row in read_rows(presets / "prompts/train.jsonl")}
    pairs = read_rows(presets / "offline_dpo/seed-0/round-1/pairs.jsonl")
    assert len(pairs) == 4
    for pair in pairs:
        row = given[pair["prompt_id"]]
        assert (pair["chosen"], pair["rejected"]) == (row["chosen"], row["rejected"])
        assert pair["token_ids_chosen"][-1] == 1 and pair["token_ids_chosen"].count(1) == 1, "one EOS, at the end"  # noqa: PT018


def test_best_worst_makes_one_pair_per_prompt(presets):
    pairs = read_rows(presets / "best_worst/seed-0/round-1/pairs.jsonl")
    assert len({pair["prompt_id"] for pair in pairs}) == len(pairs)
    rewards = pd.DataFrame(read_rows(presets / "best_worst/seed-0/round-1/step-1/rewards.jsonl")).groupby("prompt_id")
    for pair in pairs:
        group = rewards.get_group(pair["prompt_id"])["reward"]
        assert (pair["reward_chosen"], pair["reward_rejected"]) == (group.max(), group.min())


def test_sweet_spot_makes_one_pair_of_eight_responses(presets):
    pairs = read_rows(presets / "sweet_spot/seed-0/round-1/pairs.jsonl")
    assert len({pair["prompt_id"] for pair in pairs}) == len(pairs)
    assert {len(row) for row in components(presets, "sweet_spot", 1)} == {8}


def test_gshf_replay_trains_on_three_origins(presets):
    rows = read_rows(presets / "gshf_replay/seed-0/round-2/mixed_pairs.jsonl")
    counts = pd.Series([row["origin"] for row in rows]).value_counts()
    assert counts["replay"] == counts["dataset"] == round(counts["own"] / 2)


def test_uniform_has_no_gap_filter(presets):
    """The experiment sets no gap, so uniform_filtered gives the same pairs here."""
    pairs = [read_rows(presets / f"{m}/seed-0/round-2/pairs.jsonl") for m in ("uniform", "uniform_filtered")]
    assert pairs[0] == pairs[1]
    settings = checked(merged(yaml.safe_load((ROOT / "experiments/methods.yaml").read_text()), LAPTOP))
    filtered = settings | {"pairs": settings["pairs"] | {"min_gap": 1.0, "min_gap_quantile": 0.5}}
    both = [of_method(filtered, method)["pairs"] for method in ("uniform", "uniform_filtered")]
    assert [(p["metric"], p["min_gap"], p["min_gap_quantile"]) for p in both] == [
        ("random", None, None),
        ("random", 1.0, 0.5),
    ]


def test_xpo_pairs_carry_a_response_of_the_reference(presets):
    rows = read_rows(presets / "xpo/seed-0/round-2/step-1/generations.jsonl")
    sampled = {(r["prompt_id"], tuple(r["token_ids"])) for r in rows if r["component"] == "reference"}
    for pair in read_rows(presets / "xpo/seed-0/round-2/pairs.jsonl"):
        assert (pair["prompt_id"], tuple(pair["token_ids_explored"])) in sampled


def test_beta_rules_change_beta_and_keep_their_state(presets):
    states = {m: read_policy(presets / m / "seed-0/round-2/policy.pt")["beta_state"] for m in PRESETS}
    assert states["uniform"]["rule"] == "constant"
    assert states["beta_dpo"]["rule"] == "batch"
    assert states["risk_beta"]["rule"] == "risk"
    assert states["risk_beta_calibrated"]["rule"] == "risk_calibrated"
    steps = [step for n in (1, 2) for step in read_rows(presets / f"risk_beta/seed-0/round-{n}/training.jsonl")]
    assert states["risk_beta"]["steps"] == len(steps), "the second round continues from the first"
    batch = read_rows(presets / "beta_dpo/seed-0/round-2/training.jsonl")
    assert len({step["beta"] for step in batch}) == len(batch)
    assert {"margins/mean", "margins/sd", "margins/p10", "margins/median", "margins/p90", "beta/m0"} <= batch[0].keys()


def test_annotate_all_takes_all_prompts_and_others_their_budget(presets):
    drawn = {m: len(read_rows(presets / m / "seed-0/round-1/step-1/prompts.jsonl")) for m in PRESETS}
    assert drawn["annotate_all"] == len(read_rows(presets / "prompts/train.jsonl"))
    twice = ("online_dpo", *LABELLED_PAIRS)  # two labels per prompt instead of four
    assert {drawn[m] for m in twice} == {8}
    assert {n for m, n in drawn.items() if m not in ("annotate_all", *twice)} == {4}
    for method in LABELLED_PAIRS:
        assert len(read_rows(presets / method / "seed-0/round-2/step-1/rewards.jsonl")) == 16


def write_pairs(path) -> None:
    """Write forty questions whose chosen answer is long and has many vowels."""
    rows = [
        {
            "prompt": f"question {i} of many?",
            "chosen": "a reason to agree" + " and one more" * (i % 3),
            "rejected": "no" + "!" * (i % 2),
        }
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_fine_tuning_references_judge_and_trained_reward_model(workdir, model_folders):
    """Three methods start from a fine-tuned policy. A tiny model judges and a trained reward model evaluates."""
    write_pairs(workdir.path / "pairs.jsonl")
    (workdir.path / "judge.txt").write_text("{conversation} A: {response_a} B: {response_b} Best?")
    judge = {"template": "judge.txt", "min_label_mass": 0.0}
    workdir.configure(
        compare=["follows", "averages", "judged"],
        rounds=3,
        steps=1,
        pairs={"top_n": None},
        prompts={"source": "pairs.jsonl", "take": None, "eval_fraction": 0.1},
        sft={"enabled": True, "lora": {"r": 4}, "batch_size": 8, "learning_rate": 5e-3, "dtype": "float32"},
        reward_models={
            "mine": {
                "base": str(model_folders["llama"]),
                "source": "pairs.jsonl",
                "learning_rate": 1e-3,
                "batch_size": 16,
                "dtype": "float32",
            }
        },
        methods={
            "follows": {
                "reference": {"kind": "previous"},
                "train": {"beta_rule": "batch", "carry_beta": False},
            },
            "averages": {"reference": {"kind": "ema", "decay": 0.25}, "generation": {"sampler": "mixp", "n": 2}},
            "judged": {"feedback": {"kind": "judge", "model": str(model_folders["qwen"]), "judge": judge}},
        },
        evaluation={"evaluator": {"kind": "reward_model", "model": "trained:mine"}},
    )
    results = workdir.path / "results/tiny"
    tables = [f"results/tiny/tables/{name}.csv" for name in ("results", "costs", "judges", "reward_models")]
    done = workdir.run(*tables, "results/tiny/figures/quality.pdf")
    assert done.returncode == 0, done.stdout

    losses = [row["loss"] for row in read_rows(results / "sft/training.jsonl")]
    assert losses[-1] < losses[0]
    base = json.loads((results / "sft/model/manifest.json").read_text())["sha256"]
    assert read_policy(results / "judged/seed-0/round-1/policy.pt")["base_model"] == base

    def gaps(method: str, number: int) -> list[float]:
        rows = read_rows(results / method / f"seed-0/round-{number}/step-1/logprobs.jsonl")
        return [row["logp"] - row["logp_ref"] for row in rows]

    assert set(gaps("follows", 3)) == {0.0}, "the reference is the policy before the round"
    assert set(gaps("judged", 1)) == {0.0}, "the first reference is the fine-tuned policy"
    assert any(gaps("judged", 3))
    assert any(gaps("averages", 3))
    assert read_policy(results / "averages/seed-0/round-3/reference.pt")["adapter"]["r"] == 8

    run = results / "follows/seed-0/round-3"
    steps = read_rows(run / "training.jsonl")
    assert read_policy(run / "policy.pt")["beta_state"]["batches"] == len(steps), "each round resets the rule"

    rows = read_rows(results / "judged/seed-0/round-1/step-1/rewards.jsonl")
    judged = [(row["prompt_id"], row["response_id"], other[0]) for row in rows for other in row["judged"]]
    assert len(judged) == len(set(judged)) == 4 * 3, "three responses have three pairs"
    table = pd.read_csv(results / "tables/judges.csv")
    assert (table[["A", "B", "tie", "invalid"]].sum(axis=1) == table["pairs"]).all()
    assert set(table["method"]) == {"judged"}
    models = pd.read_csv(results / "tables/reward_models.csv").iloc[0]
    assert models["longer_wins"] == 1.0
    assert "WARNING: mine: the reward model" in done.stdout, "it warns as longer responses always win"
    assert "fine_tune" in set(pd.read_csv(results / "tables/costs.csv")["stage"])
