"""Tables and figures for several samples per prompt: samples of a prompt are averaged first."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from prefloop.config.experiment import Comparison, Experiment
from prefloop.core.files import write_json
from prefloop.core.jsonl import write_rows
from prefloop.evaluation.comparisons import arrays, differences, last_round, mean_over_samples, mean_over_temperatures
from prefloop.evaluation.results import comparisons, interval_by_round, judge_answers, judgments
from prefloop.evaluation.summaries import final_seeds, length_effects, longer_won, outcome_counts
from prefloop.report.frontier import frontier_points, seed_points
from prefloop.report.run_facts import prompts_and_samples

SEEDS = (0, 1)
# Outcomes of prompts p, q and r with two samples each. The mean win rates are 1, ½ and, from one valid judgment, 0.
WORDS = [("p", 0, "win"), ("p", 1, "win"), ("q", 0, "win"), ("q", 1, "loss"), ("r", 0, "loss"), ("r", 1, "invalid")]
REWARDS = {"initial": 0.0, "uniform": 1.0, "dota": 3.0}


def rows_of(method: str, seed: int) -> list[dict]:
    """Return judgments with reward `REWARDS[method] + seed + sample`; the initial policy ties with itself."""
    return [
        {"prompt_id": prompt, "sample": sample, "outcome": "tie" if method == "initial" else word}
        | {"reward": REWARDS[method] + max(seed, 0) + sample, "feedback": None}
        | {"n_tokens": 10 + 4 * sample, "n_tokens_opponent": 12, "answers": [["A", ""], ["B", ""]]}
        for prompt, sample, word in WORDS
    ]


@pytest.fixture
def experiment(tmp_path) -> Experiment:
    made = Experiment(tmp_path, ("uniform", "dota"), SEEDS, rounds=1, steps=0, samples=2, baseline="uniform")
    write_rows(tmp_path / "prompts/eval.jsonl", ({"prompt_id": name} for name in "pqr"))
    for comparison in made.by_round():
        write_rows(tmp_path / comparison.judgments, rows_of(comparison.method, comparison.seed))
        write_json(tmp_path / comparison.folder / "sample.cost.json", {"truncated": [1, 6]})
    return made


def test_samples_of_a_prompt_are_averaged(experiment):
    last = last_round(judgments(experiment), experiment)
    assert {name: len(part) for name, part in last.items()} == {"initial": 6, "uniform": 12, "dota": 12}
    wins = arrays(last, "win")
    np.testing.assert_array_equal(wins["dota"], [[1, 0.5, 0], [1, 0.5, 0]])
    np.testing.assert_array_equal(wins["initial"], [[0.5, 0.5, 0.5]])
    np.testing.assert_array_equal(arrays(last, "reward")["dota"], [[3.5] * 3, [4.5] * 3])
    by_round = interval_by_round(judgments(experiment), "reward").set_index(["method", "round"])["mean"]
    assert by_round.to_dict() == {("uniform", 0): 0.5, ("uniform", 1): 2.0, ("dota", 0): 0.5, ("dota", 1): 4.0}


def test_prompt_without_a_valid_sample_has_no_value():
    rows = pd.DataFrame({"seed": [0, 0, 0], "prompt_id": ["p", "p", "q"], "win": [None, None, 1.0]})
    np.testing.assert_array_equal(mean_over_samples(rows, "win"), [[np.nan, 1.0]])


def test_differences_are_paired_by_prompt(experiment):
    table = differences(judgments(experiment), experiment, ["reward"])
    assert table.loc[table["seed"].isna(), ["difference", "low", "high"]].to_numpy().tolist() == [[2.0, 2.0, 2.0]]
    assert table.loc[table["seed"].notna(), "difference"].tolist() == [2.0, 2.0]


def test_table_of_seeds_counts_prompts_instead_of_samples(experiment):
    table = final_seeds(judgments(experiment), experiment, ["win"]).set_index(["method", "seed"])
    assert table["prompts"].tolist() == [3] * 4
    assert table.loc[("dota", 0), "mean"] == 0.5
    experiment = replace(experiment, methods=("dota",))
    rows = judgments(experiment)
    rows.loc[(rows["prompt_id"] == "p") & (rows["method"] == "dota"), "win"] = np.nan
    assert final_seeds(rows, experiment, ["win"])["prompts"].tolist() == [2, 2]


def test_outcomes_count_every_sample(experiment):
    table = outcome_counts(judgments(experiment)).set_index(["method", "round"])
    row = table.loc[("dota", 1)]
    assert row[["seeds", "prompts", "win", "tie", "loss", "invalid"]].tolist() == [2, 3, 6, 0, 4, 2]
    assert row["win_rate"] == 0.5  # over prompts; over valid judgments it would be 0.6


def test_length_of_every_sample_counts(experiment):
    """Samples 0 are shorter than the opponent's response, and samples 1 are longer."""
    table, _ = length_effects(judgments(experiment), experiment)
    row = table.set_index("method").loc["dota"]
    assert (row["n_tokens"], row["n_tokens_opponent"]) == (12.0, 12.0)
    assert row["longer_won"] == pytest.approx((0.5 + 0 + 1) / 3)  # p: shorter, longer; q: shorter, shorter; r: longer
    assert np.isnan(table.set_index("method").loc["initial", "longer_won"])  # only ties


def test_longer_won_leaves_out_ties_and_equal_lengths():
    wins, longer_by = pd.Series([1, 1, 0, 0, 0.5, np.nan, 1]), pd.Series([3, -3, 3, -3, 3, 3, 0])
    np.testing.assert_array_equal(longer_won(wins, longer_by), [1, 0, 0, 1, np.nan, np.nan, np.nan])


def test_temperatures_count_equally(experiment):
    """An invalid sample is ignored. If a temperature has no valid sample, the prompt has no mean."""
    rows = pd.DataFrame(
        {"method": "m", "seed": 0, "prompt_id": prompt, "temperature": temperature, "win": win}
        for prompt, temperature, win in [
            *[("p", 0.5, 1.0), ("p", 0.5, None), ("p", 1.0, 0.0), ("p", 1.0, 1.0)],
            *[("q", 0.5, None), ("q", 0.5, None), ("q", 1.0, 1.0), ("q", 1.0, 1.0)],
        ]
    )
    np.testing.assert_array_equal(mean_over_temperatures(rows)["m"]["win"], [0.75, np.nan])


def test_frontier_has_means_over_samples(experiment):
    rows = judgments(experiment)
    kl = [(m, seed, p) for m in experiment.methods for seed in SEEDS for p in "pqr"]
    kl = pd.DataFrame(kl, columns=["method", "seed", "prompt_id"]).assign(round=1, kl=2.0)
    points = frontier_points(rows, kl, ["win"]).set_index(["method", "round"])
    assert points["mean"].to_dict() == {("initial", 0): 0.5, ("uniform", 1): 0.5, ("dota", 1): 0.5}
    assert seed_points(rows, kl, ["win"])["mean"].tolist() == [0.5] * 4


def test_judge_answers_name_the_sample(experiment):
    answers = judge_answers(experiment)
    assert answers.loc[answers["method"] == "dota", "sample"].tolist() == [0, 0, 1, 1] * 3 * len(SEEDS)


def test_facts_state_the_samples(experiment):
    assert prompts_and_samples(experiment, 3) == "3 eval prompts with 2 samples each"


def test_single_sample_has_number_0(tmp_path):
    write_rows(tmp_path / "prompts/eval.jsonl", [{"prompt_id": "p"}])
    write_rows(
        tmp_path / "initial/evaluation/temperature-0.7/against-initial.jsonl", [{"prompt_id": "p", "outcome": "win"}]
    )
    experiment = Experiment(tmp_path, (), (), 1, 1)
    table = comparisons(experiment, [Comparison("initial", -1, 0, 0.7, "initial")])
    assert table[["prompt_id", "sample", "win"]].to_numpy().tolist() == [["p", 0, 1.0]]
