"""Two rounds of every setting of section pairs on the tiny model."""

import pytest

from conftest import Workdir
from prefloop.core.jsonl import read_rows


@pytest.fixture(scope="module")
def selected(tmp_path_factory, model_folders):
    """Methods that differ in how pairs are formed and selected."""
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


def test_the_seed_policy_is_that_of_random_pairs(selected):
    assert pairs_of(selected, "seeded", 1) == pairs_of(selected, "random", 1)
    policies = [(selected / f"{method}/seed-0/round-1/policy.pt").read_bytes() for method in ("seeded", "random")]
    assert policies[0] == policies[1]
    second = pairs_of(selected, "seeded", 2)
    assert {row["metric"] for row in second} == {"less_is_more"}
    assert len({row["score"] for row in second}) > 1, "its margin against the initial policy decides"


def test_sweet_spot_makes_one_pair_a_prompt(selected):
    for number in (1, 2):
        pairs = pairs_of(selected, "sweet", number)
        rows = read_rows(selected / f"sweet/seed-0/round-{number}/step-1/pfp.jsonl")
        best = {row["prompt_id"]: max(r["reward"] for r in row["responses"]) for row in rows}
        assert len({row["prompt_id"] for row in pairs}) == len(pairs) <= len(rows) == 4
        assert all(row["reward_chosen"] == best[row["prompt_id"]] > row["reward_rejected"] for row in pairs)


def test_implicit_margin_is_that_against_the_initial_policy(selected):
    pairs = pairs_of(selected, "easy", 2)
    for row in pairs:
        ratios = [row[f"logp_{side}"] - row[f"logp_ref_{side}"] for side in ("chosen", "rejected")]
        assert row["score"] == pytest.approx(ratios[0] - ratios[1])
    assert [row["score"] for row in pairs] == sorted((row["score"] for row in pairs), reverse=True)
    assert any(row["score"] for row in pairs)


def test_pvar_selects_prompts(selected):
    pairs = pairs_of(selected, "variance", 1)
    scores = {}
    for row in pairs:
        scores.setdefault(row["prompt_id"], set()).add(row["score"])
    assert all(len(values) == 1 for values in scores.values())
    assert 0 < max(row["score"] for row in pairs) <= 0.25
