"""A run has two named evaluators. The second is added later."""

import pandas as pd
import pytest

from conftest import Workdir
from prefloop.core.files import read_json
from prefloop.core.jsonl import read_rows

EVALUATION = "evaluation/temperature-0.7"
LETTERS = {"function": "rewards:vowels"}
SMALL = {"kind": "reward_model", "model": "trained:small", "batch_size": 8}
TABLES = ["results", "differences", "seeds", "win_rates", "costs", "power"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory, model_folders) -> Workdir:
    """Run one round with the function `letters` as an evaluator."""
    found = Workdir(tmp_path_factory.mktemp("evaluators"), model_folders["llama"])
    small = {"base": str(model_folders["llama"]), "source": "packaged", "take": 24, "max_tokens": 64}
    found.configure(
        rounds=1,
        steps=1,
        figures=["quality", "differences", "learning_curves", "comparisons"],
        tables=TABLES,
        reward_models={"small": small | {"epochs": 1, "dtype": "float32"}},
        evaluation={
            "evaluators": {"letters": LETTERS},
            "primary": {"method": "dota", "measure": "letters"},
            "validation": {"fraction": 0.5, "measure": "letters"},
        },
    )
    done = found.run()
    assert done.returncode == 0, done.stdout
    assert not (found.path / "results/tiny/reward_models").exists(), "no evaluator uses it"
    return found


def test_evaluator_scores_the_samples_of_the_run(directory):
    """The function counts vowels in samples of the policy and the opponent."""
    results = directory.path / "results/tiny"
    policy, initial = "dota/seed-0/round-1", "initial"
    samples = [read_rows(results / name / EVALUATION / "samples.jsonl") for name in (policy, initial)]
    texts = [{row["prompt_id"]: row["response"] for row in rows} for rows in samples]
    rows = read_rows(results / policy / EVALUATION / "letters/against-initial.jsonl")
    assert [row["prompt_id"] for row in rows] == [row["prompt_id"] for row in samples[0]]
    for row in rows:
        ours, theirs = (sum(letter in "aeiou" for letter in side[row["prompt_id"]]) for side in texts)
        assert (row["reward"], row["reward_opponent"]) == (ours, theirs)
        assert row["outcome"] == ("win" if ours > theirs else "loss" if ours < theirs else "tie")
    table = pd.read_csv(results / "tables/results.csv").set_index("method")
    assert table.loc["dota", "letters_reward"] == pytest.approx(
        sum(row["reward"] for row in rows) / len(rows), rel=1e-5
    )
    differences = pd.read_csv(results / "tables/differences.csv")
    assert differences.loc[differences["contrast"] == "primary", "measure"].tolist() == ["letters_reward"]
    assert "letters_reward" in set(pd.read_csv(results / "tables/best_round.csv")["measure"])
    assert "best mean reward (letters) on the validation" in " ".join(
        (results / "tables/best_round.rst").read_text().split()
    )


def test_added_evaluator_reruns_only_what_uses_it(directory):
    """Its reward model, scores, figures and tables are made. Samples and other evaluations are kept."""
    results = directory.path / "results/tiny"
    kept = [path for path in results.rglob("*.jsonl")] + [results / "figures/comparisons.csv"]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept}
    directory.configure(evaluation={"evaluators": {"letters": LETTERS, "small": SMALL}})
    shown = {f"plot_{name}" for name in ("quality", "differences", "learning_curves")}
    expected = {"train_reward_model", "evaluate_samples", "describe_run", "tabulate_reward_models", "all"}
    assert directory.jobs() == expected | shown | {f"tabulate_{name}" for name in [*TABLES, "best_round"]}
    done = directory.run()
    assert done.returncode == 0, done.stdout
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept} == before
    assert not directory.jobs()

    judged = sorted(results.rglob("small/against-*.jsonl"))
    assert len(judged) == 3, "the initial policy and two runs"
    row = read_rows(judged[0])[0]
    assert row.keys() == {"prompt_id", "outcome", "reward", "reward_opponent"} and isinstance(row["reward"], float)
    cost = read_json(judged[0].with_suffix(".cost.json"))
    assert cost["stage"] == "evaluate_samples" and cost["tokens_in"] > 0 and cost["flops"] > 0
    costs = pd.read_csv(results / "tables/costs.csv")
    assert {"compare_samples", "evaluate_samples: letters", "evaluate_samples: small"} <= set(costs["stage"])
    table = pd.read_csv(results / "tables/results.csv")
    assert table[["letters_reward", "letters_win", "small_reward", "small_win"]].notna().all(axis=None)
    rates = pd.read_csv(results / "tables/win_rates.csv")
    assert rates.groupby("evaluator").size().to_dict() == {"letters": 3, "main": 3, "small": 3}
    for name in ("quality", "differences", "learning_curves"):
        measures = set(pd.read_csv(results / f"figures/{name}.csv")["measure"])
        assert {"letters_reward", "letters_win", "small_reward", "small_win"} <= measures
        caption = (results / f"figures/{name}.rst").read_text()
        assert "letters is the function rewards:vowels, small is the reward model trained:small" in caption
    assert "evaluator" not in (results / "figures/comparisons.csv").read_text()
