"""All settings of section pairs work for two rounds on the tiny model."""

import pandas as pd
import pytest
import torch

from conftest import Workdir
from prefloop.core.files import sha256_of
from prefloop.core.jsonl import read_rows
from prefloop.models.chat import prompt_ids, read_format
from prefloop.models.loading import load_scorers
from prefloop.models.policies import read_policy
from prefloop.models.response_logprobs import response_logprobs


@pytest.fixture(scope="module")
def selected(tmp_path_factory, model_folders):
    """Run methods that form and select pairs differently."""
    directory = Workdir(tmp_path_factory.mktemp("pairs"), model_folders["llama"])
    uniform = {"allocation": "uniform"}
    directory.configure(
        name="pairs",
        steps=1,
        methods={
            "random": {"bandit": uniform, "pairs": {"metric": "random"}},
            "seeded": {"bandit": uniform, "pairs": {"metric": "less_is_more", "first_metric": "random"}},
            "sweet": {
                "bandit": uniform,
                "generation": {"n": 8},
                "pairs": {"pairing": "sweet_spot", "metric": "random", "top_n": None},
            },
            "easy": {"bandit": uniform, "pairs": {"metric": "implicit_margin"}},
            "variance": {"bandit": {"allocation": "top_k", "top_k": 1, "metric": "pvar"}, "pairs": {"metric": "pvar"}},
        },
    )
    directory.configure(compare=["random", "seeded", "sweet", "easy", "variance"])
    targets = [f"results/pairs/{method}/seed-0/round-2/policy.pt" for method in ("random", "seeded", "sweet", "easy")]
    done = directory.run(*targets, "results/pairs/variance/seed-0/round-2/policy.pt")
    assert done.returncode == 0, done.stdout
    return directory.path / "results/pairs"


def pairs_of(selected, method: str, number: int) -> list[dict]:
    return read_rows(selected / f"{method}/seed-0/round-{number}/pairs.jsonl")


def test_first_round_of_less_is_more_trains_on_random_pairs(selected):
    assert pairs_of(selected, "seeded", 1) == pairs_of(selected, "random", 1)
    policies = [(selected / f"{method}/seed-0/round-1/policy.pt").read_bytes() for method in ("seeded", "random")]
    assert policies[0] == policies[1]
    second = pairs_of(selected, "seeded", 2)
    assert {row["metric"] for row in second} == {"less_is_more"}
    assert len({row["score"] for row in second}) > 1, "scores are margins against the initial policy"


def test_sweet_spot_makes_at_most_one_pair_per_prompt(selected):
    for number in (1, 2):
        pairs = pairs_of(selected, "sweet", number)
        rows = read_rows(selected / f"sweet/seed-0/round-{number}/step-1/pfp.jsonl")
        best = {row["prompt_id"]: max(r["reward"] for r in row["responses"]) for row in rows}
        assert len({row["prompt_id"] for row in pairs}) == len(pairs) <= len(rows) == 4
        assert all(row["reward_chosen"] == best[row["prompt_id"]] > row["reward_rejected"] for row in pairs)


def test_implicit_margin_is_against_the_initial_policy(selected):
    pairs = pairs_of(selected, "easy", 2)
    for row in pairs:
        ratios = [row[f"logp_{side}"] - row[f"logp_ref_{side}"] for side in ("chosen", "rejected")]
        assert row["score"] == pytest.approx(ratios[0] - ratios[1])
    assert [row["score"] for row in pairs] == sorted((row["score"] for row in pairs), reverse=True)
    assert any(row["score"] for row in pairs)


def test_pairs_of_a_prompt_share_its_pvar(selected):
    pairs = pairs_of(selected, "variance", 1)
    scores = {}
    for row in pairs:
        scores.setdefault(row["prompt_id"], set()).add(row["score"])
    assert all(len(values) == 1 for values in scores.values())
    assert 0 < max(row["score"] for row in pairs) <= 0.25


REFERENCES = {
    "fixed": {"kind": "initial"},
    "previous": {"kind": "previous"},
    "averaged": {"kind": "ema", "decay": 0.25},
}
SHARES = {"replay": {"share": 0.25}, "offline_share": 0.25}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, model_folders):
    """Run methods with replayed and data set pairs for each kind of reference, and one method without them."""
    directory = Workdir(tmp_path_factory.mktemp("mixed"), model_folders["llama"])
    uniform = {"bandit": {"allocation": "uniform"}, "pairs": {"metric": "random"}}
    methods = {
        name: {"bandit": uniform["bandit"], "reference": reference, "pairs": {"metric": "random"} | SHARES}
        for name, reference in REFERENCES.items()
    }
    directory.configure(name="mixed", steps=1, methods=methods | {"plain": uniform})
    directory.configure(compare=[*REFERENCES, "plain"], train={"learning_rate": 1e-2}, tables=["costs"], figures=[])
    policies = [f"results/mixed/{kind}/seed-0/round-2/policy.pt" for kind in REFERENCES]
    done = directory.run(*policies, "results/mixed/plain/seed-0/round-1/policy.pt", "results/mixed/tables/costs.csv")
    assert done.returncode == 0, done.stdout
    return directory.path / "results/mixed"


def mixed_rows(mixed, method: str, number: int) -> dict[str, list[dict]]:
    """Return the training rows of a round by origin."""
    rows = read_rows(mixed / f"{method}/seed-0/round-{number}/mixed_pairs.jsonl")
    origins = ("own", "replay", "dataset")
    assert [row["origin"] for row in rows] == sorted((row["origin"] for row in rows), key=origins.index)
    return {origin: [row for row in rows if row["origin"] == origin] for origin in origins}


@pytest.mark.parametrize("kind", REFERENCES)
def test_added_pairs_have_their_share(mixed, kind):
    given = {row["prompt_id"]: row for row in read_rows(mixed / "prompts/train.jsonl")}
    for number in (1, 2):
        run = mixed / f"{kind}/seed-0/round-{number}"
        rows, own = mixed_rows(mixed, kind, number), read_rows(run / "pairs.jsonl")
        assert [{k: v for k, v in row.items() if k not in ("origin", "round")} for row in rows["own"]] == own
        active = 1 if number == 1 else 2
        assert len(rows["dataset"]) == round(0.25 * len(own) / (1 - 0.25 * active))
        assert len(rows["replay"]) == (0 if number == 1 else len(rows["dataset"]))
        for row in rows["dataset"]:
            assert (row["chosen"], row["rejected"]) == tuple(given[row["prompt_id"]][s] for s in ("chosen", "rejected"))
        earlier = {tuple(row["token_ids_chosen"]) for row in read_rows(run.parent / "round-1/pairs.jsonl")}
        assert all(tuple(row["token_ids_chosen"]) in earlier and row["round"] == 1 for row in rows["replay"])
        total = sum(map(len, rows.values()))
        assert len(read_rows(run / "training.jsonl")) == -(-total // 4)
        assert read_policy(run / "policy.pt")["pairs_sha256"] == sha256_of(run / "mixed_pairs.jsonl")


@pytest.mark.parametrize("kind", REFERENCES)
def test_added_pairs_are_scored_by_the_current_policy_and_reference(mixed, kind):
    """The test loads both models and scores each response alone."""
    run, (base,) = mixed / f"{kind}/seed-0", mixed.parent.glob("models/*/manifest.json")
    before = run / "round-1/policy.pt"
    reference = {"fixed": base, "previous": before, "averaged": run / "round-2/reference.pt"}[kind]
    scorers, tokenizer = load_scorers(base, before, reference, torch.float32, "cpu")
    chat, rows = read_format(mixed / "prompts/chat.json"), mixed_rows(mixed, kind, 2)
    for row in rows["replay"] + rows["dataset"]:
        for side in ("chosen", "rejected"):
            texts = [prompt_ids(tokenizer, row["messages"], chat)], [row[f"token_ids_{side}"]]
            logp, logp_ref = scorers.read(lambda scorer, texts=texts: response_logprobs(scorer, *texts))
            assert row[f"logp_{side}"] == pytest.approx(logp.item(), abs=1e-3)
            assert row[f"logp_ref_{side}"] == pytest.approx(logp_ref.item(), abs=1e-3)
    moved = [abs(row["logp_ref_chosen"] - row["logp_chosen"]) for row in rows["replay"]]
    if kind == "fixed":
        same = {
            tuple(row["token_ids_chosen"]): row["logp_ref_chosen"] for row in read_rows(run / "round-1/pairs.jsonl")
        }
        for row in rows["replay"]:
            assert row["logp_ref_chosen"] == pytest.approx(same[tuple(row["token_ids_chosen"])], abs=1e-3)
    assert max(moved) == 0 if kind == "previous" else max(moved) > 1e-3


def test_margins_start_at_0_if_the_reference_is_the_policy(mixed):
    """Log-probabilities of an older reference would give margins before the first update."""
    first = read_rows(mixed / "previous/seed-0/round-2/training.jsonl")[0]
    assert max(abs(first["margins/min"]), abs(first["margins/max"])) < 1e-3


def test_costs_include_mixing_pairs(mixed):
    costs = pd.read_csv(mixed / "tables/costs.csv").set_index(["method", "stage"])
    assert all(costs.loc[(kind, "mix_pairs"), "flops"] > 0 for kind in REFERENCES)
    assert ("plain", "mix_pairs") not in costs.index


def test_without_shares_no_pairs_are_added(mixed):
    run = mixed / "plain/seed-0/round-1"
    assert not (run / "mixed_pairs.jsonl").exists()
    assert read_policy(run / "policy.pt")["pairs_sha256"] == sha256_of(run / "pairs.jsonl")
    assert mixed_rows(mixed, "fixed", 1)["own"] == [
        row | {"origin": "own", "round": 1} for row in read_rows(run / "pairs.jsonl")
    ], "own pairs equal those of a method without added pairs"
