"""Two experiments are compared on their common prompts and seeds, or refused with the reason."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from conftest import ROOT, TINY, merge
from prefloop.config.experiment import experiment_of
from prefloop.config.recorded_settings import differing_settings, read_settings, write_settings
from prefloop.config.validation import checked
from prefloop.core.errors import InputError
from prefloop.core.files import write_json
from prefloop.core.jsonl import write_rows
from prefloop.evaluation.paired_experiments import (
    check_comparable,
    common_evaluators,
    experiment_differences,
    method_pairs,
)

PROMPTS = ("x", "y", "z")
REWARDS = {"x": 1.0, "y": 2.0, "z": 6.0}
MINE = {"methods": {"mine": {"like": "dota", "train": {"beta": 0.3}}}, "compare": ["mine", "uniform"]}


NAMED = {"words": {"function": "prefloop.feedback.lexicons:vader"}}  # gives ten times the evaluator's rewards


def with_evaluators(named: dict, **evaluation) -> dict:
    """Return the evaluation settings of the tiny config with these named evaluators."""
    return {"evaluation": merge(TINY["evaluation"], {"evaluators": named} | evaluation)}


def experiment_at(root: Path, prompts=PROMPTS, text="a question", sample="an answer", initial=0.0, gain=0.0, **changes):
    """Write an experiment whose methods have rewards REWARDS plus `gain` plus the seed."""
    config = checked(merge(TINY, {"policy": {"model": "some/model"}, "name": root.name, "rounds": 1} | changes))
    experiment = experiment_of(config, str(root))
    write_settings(config, experiment)
    messages = [{"role": "user", "content": text}]
    write_rows(root / "prompts/eval.jsonl", ({"prompt_id": p, "messages": messages} for p in prompts))
    start = experiment.comparison("initial")
    numbers = range(experiment.samples)
    samples = [{"prompt_id": p, "response_id": k, "response": f"{sample}{'!' * k}"} for p in prompts for k in numbers]
    write_rows(root / start.folder / "samples.jsonl", samples)
    for comparison in experiment.by_round():
        plus = initial if comparison.method == "initial" else gain + comparison.seed
        rows = [
            {"prompt_id": p, "sample": k, "outcome": "tie", "reward": REWARDS.get(p, 0.0) + plus + k}
            | {"feedback": 1.0, "n_tokens": 3}
            for p in prompts
            for k in numbers
        ]
        write_rows(root / comparison.judgments, rows)
        for name in experiment.evaluators:
            write_rows(root / comparison.judged_by(name), [row | {"reward": 10 * row["reward"]} for row in rows])
    return read_settings(root)


def test_differences_by_hand(tmp_path):
    """Every prompt and common seed differs by 2.5. Seeds in only one experiment do not count."""
    a = experiment_at(tmp_path / "a", gain=2.5, seeds=[0, 1, 7])
    b = experiment_at(tmp_path / "b", seeds=[1, 0, 2], train={"beta": 0.2})
    check_comparable(a, b)
    pairs = method_pairs(a.experiment, b.experiment, [])
    assert pairs == [("dota", "dota"), ("uniform", "uniform")]
    data = experiment_differences(a, b, pairs).set_index(["method_a", "measure"])
    row = data.loc[("dota", "reward")]
    assert (row["seeds"], row["prompts"], row["mean_a"], row["mean_b"]) == (2, 3, 6.0, 3.5)
    assert (row["difference"], row["low"], row["high"]) == (2.5, 2.5, 2.5) and row["significant"]
    assert data.loc[("uniform", "win"), "difference"] == 0 and not data.loc[("uniform", "win"), "significant"]
    assert differing_settings(a.config, b.config, pairs) == [
        ("seeds", "[0, 1, 7]", "[1, 0, 2]"),
        ("train.beta", "0.1", "0.2"),
    ]


def test_different_settings_of_compared_methods_are_named(tmp_path):
    """A difference between the experiments that does not apply to a method is named, too."""
    a = experiment_at(tmp_path / "a")
    b = experiment_at(tmp_path / "b", **MINE)
    c = experiment_at(tmp_path / "c", **(MINE | {"train": {"beta": 0.2}}))
    assert differing_settings(a.config, b.config, [("dota", "mine")]) == [("dota and mine: train.beta", "0.1", "0.3")]
    found = differing_settings(b.config, c.config, [("mine", "mine")])
    assert found == [("train.beta", "0.1", "0.2"), ("mine: train.beta", "equal", "equal")]
    assert method_pairs(a.experiment, b.experiment, [("dota", "mine")]) == [("dota", "mine")]
    with pytest.raises(InputError, match="pairs: dota is not a method of .*: mine, uniform"):
        method_pairs(a.experiment, b.experiment, [("dota", "dota")])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompts": ("u", "v")}, "3 and 2 eval prompts, of which 0 are in both"),
        ({"prompts": ("x", "y", "v")}, "3 and 3 eval prompts, of which 2 are in both"),
        ({"text": "another"}, "eval prompt x has different texts"),
        ({"evaluation": {"evaluator": {"function": "prefloop.feedback.lexicons:vader"}}}, "the evaluators differ"),
        ({"evaluation": {"temperature": 1.0}}, "evaluation.temperature differs: 0.7 and 1.0"),
        ({"evaluation": {"stop": ["\n"]}}, "evaluation.stop differs"),
        ({"evaluation": {"samples": 2}}, "evaluation.samples differs: 1 and 2"),
        ({"seeds": [3]}, r"no seed in common: \(0,\) and \(3,\)"),
        ({"sample": "other words"}, "the initial policies, which are the opponents, have different samples"),
        ({"initial": 0.5}, "the evaluators give different rewards to the same samples"),
    ],
)
def test_experiments_that_cannot_be_paired_are_refused(tmp_path, changes, reason):
    evaluation = merge(TINY["evaluation"], changes.pop("evaluation", {}))
    a, b = experiment_at(tmp_path / "a"), experiment_at(tmp_path / "b", **changes, evaluation=evaluation)
    with pytest.raises(InputError, match=f"a and .*b cannot be compared: {reason}") as error:
        check_comparable(a, b)
    assert len(str(error.value).splitlines()) == 1


def test_several_samples_per_prompt(tmp_path):
    """All samples of the initial policy must be equal. Differences are between means per prompt."""
    several = {"evaluation": merge(TINY["evaluation"], {"samples": 2})}
    a, b = experiment_at(tmp_path / "a", gain=2.5, **several), experiment_at(tmp_path / "b", **several)
    check_comparable(a, b)
    data = experiment_differences(a, b, [("dota", "dota")]).set_index("measure")
    assert data.loc["reward", ["mean_a", "mean_b", "difference"]].tolist() == [6.0, 3.5, 2.5]
    path = b.experiment.root / b.experiment.comparison("initial").folder / "samples.jsonl"
    path.write_text(path.read_text().replace('"an answer"', '"another"', 1))
    with pytest.raises(InputError, match="the initial policies, which are the opponents, have different samples"):
        check_comparable(a, b)


def test_other_opponents_are_refused(tmp_path):
    a, b = experiment_at(tmp_path / "a"), experiment_at(tmp_path / "b")
    b = replace(b, experiment=replace(b.experiment, opponents=("chosen",)))
    with pytest.raises(InputError, match="the first opponents differ: initial and chosen"):
        check_comparable(a, b)


def test_evaluators_trained_in_each_experiment_need_equal_weights(tmp_path):
    model = {"reward_models": {"mine": {"base": "o/base", "source": "packaged"}}}
    changes = model | {"evaluation": {"evaluator": {"kind": "reward_model", "model": "trained:mine"}}}
    recorded = [experiment_at(tmp_path / name, **merge({"evaluation": TINY["evaluation"]}, changes)) for name in "ab"]
    for name, digest in (("a", "1"), ("b", "2")):
        write_json(tmp_path / name / "reward_models/mine/manifest.json", {"sha256": digest})
    with pytest.raises(InputError, match="each trained its own evaluator trained:mine"):
        check_comparable(*recorded)
    write_json(tmp_path / "b/reward_models/mine/manifest.json", {"sha256": "1"})
    check_comparable(*recorded)


def test_named_evaluators_in_both_experiments_are_compared(tmp_path):
    """The difference is ten times the evaluator's difference of 2.5."""
    a = experiment_at(tmp_path / "a", gain=2.5, **with_evaluators(NAMED))
    b = experiment_at(tmp_path / "b", **with_evaluators(NAMED))
    check_comparable(a, b)
    assert common_evaluators(a, b) == (["words"], {})
    data = experiment_differences(a, b, [("dota", "dota")], ["words"]).set_index("measure")
    assert data.loc[["reward", "words_reward", "words_win"], "difference"].tolist() == [2.5, 25.0, 0.0]
    (tmp_path / "b" / b.experiment.at_the_end(("dota",))[0].judged_by("words")).unlink()
    with pytest.raises(InputError, match="words/against-initial.jsonl: missing; finish the experiment"):
        experiment_differences(a, b, [("dota", "dota")], ["words"])
    assert set(experiment_differences(a, b, [("dota", "dota")])["measure"]) == {"feedback", "reward", "win"}


def test_named_evaluators_that_differ_are_left_out(tmp_path):
    """They may differ in settings, weights or rewards, or be in one experiment only."""
    mine = {"kind": "reward_model", "model": "trained:mine"}
    model = {"reward_models": {"mine": {"base": "o/base", "source": "packaged"}}}
    same = NAMED | {"other": {"function": "prefloop.feedback.lexicons:vader"}, "own": mine}
    a = experiment_at(tmp_path / "a", **model, **with_evaluators(same | {"alone": NAMED["words"]}))
    changed = same | {"other": {"function": "prefloop.feedback.lexicons:afinn"}}
    b = experiment_at(tmp_path / "b", **model, **with_evaluators(changed))
    for name in "ab":
        write_json(tmp_path / name / "reward_models/mine/manifest.json", {"sha256": name})
    path = tmp_path / "b" / b.experiment.comparison("initial").judged_by("words")
    path.write_text(path.read_text().replace('"reward": 10.0', '"reward": 11.0'))
    common, left_out = common_evaluators(a, b)
    assert common == [] and list(left_out) == ["words", "other", "own", "alone"]
    for name, reason in {
        "words": "it gives different rewards to the same samples",
        "other": "the settings differ",
        "own": "each trained its own evaluator trained:mine, and their weights differ",
        "alone": f"{tmp_path / 'b'} has no evaluator of this name",
    }.items():
        assert left_out[name].startswith(reason)


def test_missing_files_raise(tmp_path):
    a, b = experiment_at(tmp_path / "a"), experiment_at(tmp_path / "b")
    (path,) = (tmp_path / "b/dota").rglob("against-initial.jsonl")
    path.unlink()
    with pytest.raises(InputError, match="against-initial.jsonl: missing; finish the experiment"):
        experiment_differences(a, b, [("dota", "dota")])
    with pytest.raises(InputError, match="settings.json: missing; Snakemake writes it"):
        read_settings(tmp_path)
    write_json(tmp_path / "a/settings.json", {"settings": {}})
    with pytest.raises(InputError, match="settings.json: not the settings that this version writes"):
        read_settings(tmp_path / "a")


def test_no_measure_with_values_on_both_sides_raises(tmp_path):
    """Every judgment of one side is invalid."""
    a, b = experiment_at(tmp_path / "a"), experiment_at(tmp_path / "b")
    (path,) = (tmp_path / "b/dota").rglob("against-initial.jsonl")
    rows = [{"prompt_id": p, "sample": 0, "outcome": "invalid", "reward": None, "feedback": None} for p in PROMPTS]
    write_rows(path, [row | {"n_tokens": 3} for row in rows])
    with pytest.raises(InputError, match="b: no measure has values of both methods of a pair"):
        experiment_differences(a, b, [("dota", "dota")])


def test_program_prints_settings_and_differences(tmp_path, monkeypatch, capsys):
    experiment_at(tmp_path / "a", gain=1.0)
    experiment_at(tmp_path / "b", **MINE)
    scripts = ROOT / "workflow/scripts"
    monkeypatch.syspath_prepend(str(scripts))
    words = ["--a", tmp_path / "a", "--b", tmp_path / "b", "--pairs", "dota:mine", "--output", tmp_path / "d.csv"]
    monkeypatch.setattr(sys, "argv", ["compare_experiments", *map(str, words)])
    runpy.run_path(str(scripts / "compare_experiments.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "dota and mine: train.beta: 0.1 and 0.3" in printed and "+1 [1, 1]" in printed
    data = pd.read_csv(tmp_path / "d.csv")
    assert data.loc[data["measure"] == "reward", "difference"].tolist() == [1.0]
