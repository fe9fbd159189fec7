"""Tables and figures show each named evaluator, with hand-computed values of a made-up experiment."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from made_up import drawn, experiment_in
from prefloop.config.experiment import Experiment
from prefloop.config.feedback_identity import feedback_identity
from prefloop.core.errors import InputError
from prefloop.core.files import write_json
from prefloop.core.jsonl import write_rows
from prefloop.evaluation.results import JUDGED, judge_answers, judges, judgments
from prefloop.report.run_facts import evaluator_facts

PROMPTS = ("x", "y", "z")
WORDS = feedback_identity({"kind": "function", "function": "mine:polite"})
MODEL = feedback_identity({"kind": "reward_model", "model": "trained:small"})
JUDGE = {"template": "judge.txt", "tie_margin": 0.0, "min_label_mass": 0.01}
STRICT = feedback_identity({"kind": "judge", "model": "owner/judge", "judge": JUDGE})
COST = {"device": "cpu", "seconds": 2.0, "tokens_in": 5, "tokens_out": 9, "flops": 1e9, "truncated": [0, 3]}
# The difference of `good` and `plain` in each measure, for every prompt and seed.
LEAD = {"reward": 1.0, "polite_reward": -2.0}


@pytest.fixture
def experiment(tmp_path) -> Experiment:
    """`good` is better by the evaluator and worse by `polite`. The judge `strict` prefers `good`; z is invalid."""
    found = experiment_in(
        tmp_path,
        methods=("good", "plain"),
        seeds=(0, 1),
        baseline="plain",
        evaluator=MODEL,
        evaluators=("polite", "strict"),
        evaluated_by=(WORDS, STRICT),
        trained_by=(WORDS, MODEL),
    )
    write_rows(tmp_path / "prompts/eval.jsonl", ({"prompt_id": p} for p in PROMPTS))
    for where, folder in found.step_folders():
        write_rows(folder / "prompts.jsonl", [{"prompt_id": "t", "cluster": 0}])
        write_rows(folder / "rewards.jsonl", [{"prompt_id": "t", "response_id": 0, "reward": where["seed"]}])
        for stage in ("generate", "reward", "logprobs"):
            write_json(folder / f"{stage}.cost.json", COST | {"stage": stage, "labels": 1})
    for _, folder in found.folders():
        write_rows(folder / "training.jsonl", [{"step": 1, "loss": 0.5}])
        write_json(folder / "train.cost.json", COST | {"stage": "train"})
    for comparison in found.comparisons:
        good = comparison.method == "good"
        write_json(tmp_path / comparison.folder / "sample.cost.json", COST)
        for name in ("", *found.evaluators):
            path = tmp_path / (comparison.judged_by(name) if name else comparison.judgments)
            write_rows(path, (judged(name, prompt, good, comparison.seed) for prompt in PROMPTS))
            notes = {"judge": {"pairs": 3, "outcomes": {"A": 2, "B": 0, "tie": 0, "invalid": 1}}}
            write_json(path.with_suffix(".cost.json"), COST | (notes if name == "strict" else {}))
    return found


def judged(name: str, prompt: str, good: bool, seed: int) -> dict:
    """Return a row of a judgment file; the name "" is the evaluator."""
    base = {"x": 1.0, "y": 2.0, "z": 6.0}[prompt] + seed
    if name == "strict":
        outcome = "invalid" if prompt == "z" else "win" if good else "loss"
        answers = [["A", ""], ["", "empty"] if prompt == "z" else ["B", ""]]
        return {"prompt_id": prompt, "outcome": outcome, "reward": None, "reward_opponent": None, "answers": answers}
    if name == "polite":
        outcome = "loss" if good else "tie"
        return {"prompt_id": prompt, "outcome": outcome, "reward": base + good * LEAD["polite_reward"]}
    more = {"feedback": 1.0, "n_tokens": 3, "n_tokens_opponent": 3}
    return {"prompt_id": prompt, "outcome": "win", "reward": base + good * LEAD["reward"]} | more


def test_results_have_columns_of_each_evaluator(experiment):
    data, text = drawn("tabulate_results", experiment)
    rows = data.set_index("method")
    assert rows.loc["good", ["reward", "polite_reward", "polite_win", "strict_win"]].tolist() == [4.5, 1.5, 0, 1]
    assert rows.loc["plain", ["reward", "polite_reward", "polite_win", "strict_win"]].tolist() == [3.5, 3.5, 0.5, 0]
    assert rows.loc["good", ["invalid", "polite_invalid", "strict_invalid"]].tolist() == [0, 0, 2]
    assert "strict_reward" not in data, "a judge gives no rewards"
    assert rows.loc["plain", ["strict_win_low", "strict_win_high"]].between(0, 1).all()
    latex = (experiment.root / "tables/results.tex").read_text()
    assert "reward (polite)" in latex and "win rate (strict)" in latex
    assert (
        "The evaluator is the reward model trained:small; polite is the function mine:polite, strict is the judge"
        in text
    )


def test_results_without_names_have_no_further_column(experiment):
    """Without names in the experiment, the files of named evaluators are not read."""
    names = ["good", "plain"]
    without = replace(experiment, evaluators=(), evaluated_by=())
    data, text = drawn("tabulate_results", without)
    assert not [name for name in data if "polite" in name or "strict" in name] and "The evaluator is" not in text
    assert data["method"].tolist() == ["initial", *names]


def test_differences_by_each_evaluator(experiment):
    primary = replace(experiment.primary, method="good", measure="polite_reward")
    data, text = drawn("tabulate_differences", replace(experiment, primary=primary))
    rows = data.set_index("measure")
    for measure, lead in LEAD.items():
        assert rows.loc[measure, "difference"] == lead
    assert rows.loc["strict_win", "difference"] == 1 and rows.loc["polite_win", "difference"] == -0.5
    assert rows.index[rows["contrast"] == "primary"].tolist() == ["polite_reward"]
    assert "good in reward (polite)" in text


def test_seeds_by_each_evaluator(experiment):
    data, _ = drawn("tabulate_seeds", experiment)
    rows = data.set_index(["method", "seed", "measure"])
    assert rows.loc[("good", 1, "polite_reward"), "mean"] == 2.0
    assert rows.loc[("good", 1, "strict_win"), ["mean", "prompts"]].tolist() == [1, 2]


def test_power_by_each_evaluator(experiment):
    """A run's seconds are the sum over generate, reward, logprobs, train, sample and three evaluators."""
    data, _ = drawn("tabulate_power", experiment)
    assert set(data["measure"]) >= {"reward", "polite_reward", "polite_win", "strict_win"}
    as_run = data[data["as_run"] & (data["measure"] == "reward")].iloc[0]
    assert as_run["cpu_seconds"] == 2 * 2 * (4 + 1 + 3) * 2.0, "two methods with two seeds each"


def test_win_rates_have_a_row_per_evaluator(experiment):
    data, _ = drawn("tabulate_win_rates", experiment)
    assert data.columns[0] == "evaluator"
    rows = data[data["method"] == "good"].set_index("evaluator")
    assert rows.index.tolist() == ["main", "polite", "strict"]
    assert rows[["win", "tie", "loss", "invalid"]].to_numpy().tolist() == [[6, 0, 0, 0], [0, 0, 6, 0], [4, 0, 0, 2]]
    without, _ = drawn("tabulate_win_rates", replace(experiment, evaluators=(), evaluated_by=()))
    assert "evaluator" not in without


def test_costs_and_judges_have_a_stage_per_evaluator(experiment):
    """Each run has one comparison of 2 s per evaluator."""
    data, _ = drawn("tabulate_costs", experiment)
    of_good = data[data["method"] == "good"].set_index("stage")
    assert of_good.loc[["compare_samples", "evaluate_samples: polite"], "seconds"].tolist() == [2.0, 2.0]
    stages = of_good.index.tolist()
    assert stages[-4:] == ["sample", "compare_samples", "evaluate_samples: polite", "evaluate_samples: strict"]
    answers = judge_answers(experiment)
    assert set(answers["stage"]) == {"evaluate_samples: strict"}
    assert (answers["problem"] == "empty").sum() == 5, "one for every run and the initial policy"


def test_judges_name_the_opponent_if_there_are_several(experiment):
    assert not {"opponent", "temperature"} & set(judges(experiment).columns)
    experiment = replace(experiment, opponents=("initial", "plain"))
    for comparison in experiment.comparisons:
        for name in ("", *experiment.evaluators):
            path = experiment.root / (comparison.judged_by(name) if name else comparison.judgments)
            notes = {"judge": {"pairs": 3, "outcomes": {"A": 2, "B": 0, "tie": 0, "invalid": 1}}}
            write_json(path.with_suffix(".cost.json"), COST | (notes if name == "strict" else {}))
    table = judges(experiment)
    assert not table.duplicated([*JUDGED, "opponent"]).any() and "temperature" not in table
    assert set(table.loc[table["method"] == "good", "opponent"]) == {"initial", "plain"}


def test_cost_to_reach_of_a_named_evaluator(experiment):
    data, text = drawn("tabulate_cost_to_reach", experiment, "--measure", "polite_reward", "--target", "1.5")
    assert set(data["measure"]) == {"polite_reward"} and "mean reward (polite) first reaches 1.5" in text
    with pytest.raises(SystemExit):
        drawn("tabulate_cost_to_reach", experiment, "--measure", "rude_reward")


@pytest.mark.parametrize("name", ["quality", "differences", "learning_curves"])
def test_figures_have_the_values_of_each_evaluator(experiment, name):
    data, text = drawn(f"plot_{name}", experiment)
    assert {"reward", "win", "polite_reward", "polite_win", "strict_win"} <= set(data["measure"])
    if name == "differences":
        rows = data[data["seed"].isna()].set_index("measure")["difference"]
        assert rows[list(LEAD)].tolist() == list(LEAD.values())
    else:
        last = data[(data["round"] == 1) & (data["method"] == "good") & data["seed"].isna()].set_index("measure")
        assert last.loc[["polite_reward", "strict_win"], "mean"].tolist() == [1.5, 1.0]
    assert "mean reward (polite)" in text and "win rate (strict)" in text
    assert "polite is the function mine:polite, strict is the judge owner/judge with judge.txt" in text


def test_pictures_say_which_evaluator_trained_a_method(experiment):
    drawn("plot_differences", experiment)
    picture = (experiment.root / "figures/differences.svg").read_text()
    assert "plain: evaluated by the training feedback itself; polite is the training feedback of good" in picture


def test_facts_name_each_evaluator(experiment):
    facts = evaluator_facts(experiment)
    assert "Evaluator polite: the function mine:polite." in facts
    assert "Evaluator polite also trained good: its numbers show what was optimized." in facts
    assert not [fact for fact in facts if fact.startswith("Evaluator strict also trained")]


def test_judgments_of_other_samples_raise(experiment):
    """A named evaluator's file without one of the samples is refused."""
    path = experiment.root / experiment.comparison("initial").judged_by("polite")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:2]) + "\n")
    with pytest.raises(InputError, match=f"polite/against-initial.jsonl: prompt {json.loads(lines[2])['prompt_id']}"):
        judgments(experiment)


def test_invalid_judgment_is_a_missing_value(experiment):
    table = judgments(experiment)
    assert table.loc[table["prompt_id"] == "z", "strict_win"].isna().all()
    assert pd.api.types.is_float_dtype(table["strict_win"]) and table["strict_reward"].isna().all()
