"""Tables match values computed with pandas from the rows of a made-up experiment."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import prefloop.evaluation.results
from prefloop.config.experiment import ByCheckpoint, ByTemperature, Experiment
from prefloop.core.files import write_json
from prefloop.core.jsonl import read_rows, write_rows
from prefloop.evaluation.comparisons import arrays, probability_of_improvement
from prefloop.evaluation.random_effects import crossed_mean
from prefloop.evaluation.results import OUTCOMES, interval_by_round, judgments, spent, spent_by_seed

SCRIPTS = Path(__file__).parents[3] / "workflow/scripts"
METHODS, SEEDS, ROUNDS, STEPS, PROMPTS = ("good", "plain"), (0, 1, 2), 2, 2, 60
HOW = "evaluation/temperature-0.7/against-initial.jsonl"
SAMPLED = "evaluation/temperature-0.7/sample.cost.json"
OUTCOMES_ALL = ["win", "tie", "loss", "invalid"]
LIFT = {"good": 1.5, "plain": 0.0}  # increase of the reward per round


def write_cost(path: Path, stage: str, draw: np.random.Generator) -> None:
    amounts = {"tokens_in": 0, "tokens_out": int(draw.integers(900, 1100)), "flops": int(draw.integers(9e11, 1e12))}
    labels = {"labels": amounts["tokens_out"] // 100} if stage == "reward" else {}
    write_json(path, {"stage": stage, "seconds": 1.0, "truncated": [3, 10]} | amounts | labels)


def write_judgments(folder: Path, rewards: np.ndarray, initial: np.ndarray, draw: np.random.Generator) -> None:
    """Write judgments; about 1 % are invalid, and better answers are longer."""
    words = np.select([rewards > initial, rewards < initial], ["win", "loss"], "tie").astype(object)
    words[draw.uniform(size=PROMPTS) < 0.01] = "invalid"
    lengths = [np.round(30 + values + 100 * values % 4).astype(int) for values in (rewards, initial)]
    write_rows(
        folder / HOW,
        (
            {"prompt_id": f"p{i}", "outcome": words[i], "reward": rewards[i], "feedback": rewards[i] / 10}
            | {"n_tokens": int(lengths[0][i]), "n_tokens_opponent": int(lengths[1][i])}
            for i in draw.permutation(PROMPTS)
        ),
    )


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    """Two methods, three seeds and two rounds: `good` gains 1.5 per round, `plain` 0; prompts differ by more."""
    root, draw = tmp_path_factory.mktemp("experiment"), np.random.default_rng(0)
    initial = draw.normal(0, 4, PROMPTS).round(2)
    write_judgments(root / "initial", initial, initial, draw)
    write_json(root / "initial" / SAMPLED, {"truncated": [30, PROMPTS]})
    write_rows(root / "prompts/eval.jsonl", ({"prompt_id": f"p{i}"} for i in range(PROMPTS)))
    found = Experiment(root, METHODS, SEEDS, ROUNDS, STEPS)
    for where, folder in found.folders():
        gain = where["round"] * LIFT[where["method"]] + draw.normal(0, 3, PROMPTS).round(2)
        write_judgments(folder, initial + gain, initial, draw)
        write_json(folder / SAMPLED, {"truncated": [10 * where["round"] + where["seed"], PROMPTS]})
        write_cost(folder / "train.cost.json", "train", draw)
        write_rows(folder / "training.jsonl", ({"step": step, "loss": 0.5} for step in range(1, 4)))
    for _, folder in found.step_folders():
        for stage in ("generate", "reward", "logprobs"):
            write_cost(folder / f"{stage}.cost.json", stage, draw)
        write_rows(folder / "prompts.jsonl", ({"prompt_id": f"t{i}", "cluster": 0} for i in range(5)))
        count = int(draw.integers(8, 12))
        write_rows(folder / "rewards.jsonl", ({"prompt_id": f"t{i}", "reward": 0.0} for i in range(count)))
    return found


@pytest.fixture
def made(experiment, tmp_path, monkeypatch):
    """Runs a table's program: made("length", "--flag", …) returns its CSV and its LaTeX; files are in tmp_path."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def run(name: str, *flags) -> tuple[pd.DataFrame, str]:
        path = tmp_path / f"{name}.csv"
        which = flags if "--root" in flags else ["--root", experiment.root, "--methods", *METHODS, *flags]
        which = [*which, "--seeds", *SEEDS, "--rounds", ROUNDS, "--steps", STEPS, "--table", path]
        monkeypatch.setattr(sys, "argv", [str(word) for word in [name, *which]])
        runpy.run_path(str(SCRIPTS / f"tables/tabulate_{name}.py"), run_name="__main__")
        return pd.read_csv(path), path.with_suffix(".tex").read_text()

    return run


def rows_of(experiment: Experiment, method: str, number: int) -> pd.DataFrame:
    """Read judgments of all seeds after a round with pandas, in the order of seeds and prompts."""
    parts = []
    for seed in SEEDS:
        folder = experiment.root / (f"{method}/seed-{seed}/round-{number}" if number else "initial")
        part = pd.read_json(folder / HOW, lines=True)
        parts.append(part.sort_values("prompt_id").assign(seed=seed))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(win=table["outcome"].map(OUTCOMES))


def test_arrays_align_prompts_and_seeds():
    """Rows may be in any order. Missing cells are NaN, and a single seed stays a single row."""
    a = pd.DataFrame({"seed": [1, 0, 1, 0], "prompt_id": ["y", "x", "x", "z"], "win": [3.0, 1.0, 2.0, 4.0]})
    b = pd.DataFrame({"seed": [0, 2], "prompt_id": ["z", "y"], "win": [5.0, 6.0]})
    lone = pd.DataFrame({"seed": [-1], "prompt_id": ["y"], "win": [None]}, dtype=object)
    nan = np.nan
    found = arrays({"a": a, "b": b, "lone": lone}, "win")
    np.testing.assert_array_equal(found["a"], [[1, nan, 4], [2, 3, nan], [nan, nan, nan]])
    np.testing.assert_array_equal(found["b"], [[nan, nan, 5], [nan, nan, nan], [nan, 6, nan]])
    np.testing.assert_array_equal(found["lone"], [[nan, nan, nan]])


def test_length(experiment, made):
    data, latex = made("length")
    assert data["method"].tolist() == ["initial", *METHODS] and data["seeds"].tolist() == [1, 3, 3]
    table = data.set_index("method")
    for method in METHODS:
        rows, row = rows_of(experiment, method, ROUNDS), table.loc[method]
        assert row["n_tokens"] == pytest.approx(rows["n_tokens"].mean(), rel=1e-5)
        assert row["n_tokens_opponent"] == pytest.approx(rows["n_tokens_opponent"].mean(), rel=1e-5)
        assert row["win"] == pytest.approx(rows["win"].mean(), rel=1e-5)
        longer_by = rows["n_tokens"] - rows["n_tokens_opponent"]
        decided = rows["outcome"].isin(["win", "loss"]) & (longer_by != 0)
        assert row["longer_won"] == pytest.approx(((longer_by > 0) == (rows["win"] == 1))[decided].mean(), rel=1e-5)
        for measure in ("n_tokens", "win", "length_controlled_win", "longer_won"):
            assert row[f"{measure}_low"] <= row[measure] <= row[f"{measure}_high"]
    # Longer is better here by construction, so at equal length the good method wins less often.
    assert table.loc["good", "length_controlled_win"] < table.loc["good", "win"] - 0.05
    assert table.loc["initial", ["win", "length_controlled_win"]].tolist() == [0.5, 0.5]
    # Over all seeds; after the second round, 20, 21 and 22 samples are truncated.
    assert table["truncated"].tolist() == pytest.approx([0.5, 63 / 180, 63 / 180])
    assert table.loc["initial", ["longer_won", "longer_won_low", "longer_won_high"]].isna().all()
    assert latex.count("textbf") == 1 and "textbf" in next(line for line in latex.splitlines() if "good" in line)
    assert "nan" not in latex


def test_differences(experiment, made):
    data, latex = made("differences", "--baseline", "plain")
    assert data[["method", "baseline"]].drop_duplicates().to_numpy().tolist() == [["good", "plain"]]
    good, plain = (rows_of(experiment, method, ROUNDS) for method in METHODS)
    for row in data.itertuples():
        paired = good[row.measure] - plain[row.measure]  # rows have the same order of seeds and prompts
        assert row.difference == pytest.approx(paired.mean(), rel=1e-4)
        assert row.significant == (row.low > 0 or row.high < 0)
    # The difference is 2 · 1.5, and prompt effects cancel.
    reward = data.set_index("measure").loc["reward"]
    assert 1.5 < reward["low"] < 3 < reward["high"] < 4.5 and reward["significant"]
    assert "textbf" not in latex and "& reward (config's feedback) &" in latex
    assert set(data["contrast"]) == {"exploratory"} and (data["p_holm"] == data["p"]).all()  # a single method


def test_differences_are_tested(experiment, made, tmp_path):
    """Two methods are compared with `plain`. `good` gains in all seeds and is the primary contrast; `twin` is equal."""
    root = shutil.copytree(experiment.root, tmp_path / "three")
    shutil.copytree(root / "plain", root / "twin")
    flags = ["--root", root, "--methods", *METHODS, "twin", "--baseline", "plain"]
    data, latex = made("differences", *flags, "--primary.method", "good", "--primary.measure", "reward")
    found = data.set_index(["method", "measure"])
    for measure in ("feedback", "reward", "win", "n_tokens"):
        good, twin = found.loc[("good", measure)], found.loc[("twin", measure)]
        assert good["p_holm"] == pytest.approx(2 * good["p"], rel=1e-4)  # the smaller of two p-values
        assert (twin["p"], twin["p_holm"], twin["improved"], twin["low"]) == (1, 1, 0.5, 0)
    values = [
        rows_of(experiment, method, ROUNDS).pivot(index="seed", columns="prompt_id", values="reward")
        for method in METHODS
    ]
    reward = found.loc[("good", "reward")]
    assert reward["p"] == pytest.approx(crossed_mean((values[0] - values[1]).to_numpy()).p_value, rel=1e-4)
    assert reward["improved"] == ((values[0] - values[1]).mean(axis=1) > 0).mean() == 1
    assert data.loc[data["contrast"] == "primary", ["method", "measure"]].to_numpy().tolist() == [["good", "reward"]]
    text = (tmp_path / "differences.rst").read_text()
    assert "the primary contrast, named in the config, is good in reward (evaluator)" in text
    assert "& primary" in latex and "nan" not in latex


def test_probability_of_improvement_by_hand():
    assert probability_of_improvement(np.array([0.2, 0.0, -1.0, 3.0, np.nan])) == (1 + 0.5 + 0 + 1) / 4
    assert np.isnan(probability_of_improvement(np.array([np.nan])))


def test_seeds(experiment, made):
    """Means of every run are over valid judgments."""
    data, latex = made("seeds")
    assert data.groupby("method")["seed"].unique().map(list).to_dict() == {m: list(SEEDS) for m in METHODS}
    found = data.set_index(["method", "seed", "measure"])
    assert found.index.is_unique and len(found) == 2 * 3 * 4
    for method in METHODS:
        rows = rows_of(experiment, method, ROUNDS)
        for seed, part in rows.groupby("seed"):
            for measure in ("feedback", "reward", "win", "n_tokens"):
                row = found.loc[(method, seed, measure)]
                assert row["mean"] == pytest.approx(part[measure].mean(), rel=1e-5)
                assert row["prompts"] == part[measure].notna().sum()
    assert latex.count("good & ") == 3 and "& reward (evaluator) &" in latex


@pytest.mark.parametrize("baseline", ["best", "initial"])
def test_unknown_baseline_raises(made, baseline):
    with pytest.raises(SystemExit, match=f"baseline: '{baseline}', expected one of two or more methods: good, plain"):
        made("differences", "--baseline", baseline)


@pytest.mark.parametrize(
    ("name", "flags", "kind"),
    [
        ("results", [], "CIs over prompts and seeds (crossed random effects)."),
        (
            "length",
            [],
            "CIs over prompts and seeds (crossed random effects; bootstrap for length-controlled win rates).",
        ),
        ("differences", ["--baseline", "plain"], "CIs over prompts and seeds (crossed random effects)."),
        ("cost_to_reach", [], "bootstrap CIs over prompts and seeds; 3 seeds cannot cover"),
    ],
)
def test_captions_say_what_brackets_are(made, tmp_path, name, flags, kind):
    made(name, *flags)
    text = (tmp_path / f"{name}.rst").read_text()
    assert f"Brackets are 95 % {kind}" in text
    assert text.split("Truncated")[0].count(". ") <= 3, "a caption has at most three sentences and a warning"
    truncated = (
        "Truncated evaluation samples: initial 50 %, good 35 %, plain 35 %; raise evaluation.max\\_new\\_tokens."
    )
    assert (truncated in text) == (name in ("results", "length"))


def test_the_same_quantity_has_the_same_interval(experiment, made, tmp_path):
    """Compares three tables and the values by round, in which every run starts with the initial policy."""
    columns = ["win", "win_low", "win_high"]
    results = made("results")[0].set_index("method")[columns]
    length = made("length")[0].set_index("method")[columns]
    pd.testing.assert_frame_equal(results, length)
    rates = made("win_rates", *with_comparisons(experiment, tmp_path / "more", METHODS))[0]
    rates = rates.query("opponent == 'initial' and temperature == 0.7 and checkpoint == -1").set_index("method")
    by_round = interval_by_round(judgments(experiment), "win").set_index(["method", "round"])
    for method, number, run in [("good", ROUNDS, "good"), ("plain", ROUNDS, "plain"), ("initial", 0, "good")]:
        expected = results.loc[method].tolist()
        rate = rates[rates["round"] == number].loc[method]
        assert rate[["win_rate", "win_rate_low", "win_rate_high"]].tolist() == expected
        assert by_round.loc[run, number].tolist() == pytest.approx(expected, rel=1e-5)


def test_reward_models_need_no_experiment(tmp_path, monkeypatch):
    found = {"trained_pairs": 90, "eval_pairs": 30, "longer_wins": 0.6, "shorter_wins": 0.4, "warning": None}
    found |= {"accuracy": [0.7, 0.5, 0.9], "lead_over_length": [0.1, -0.1, 0.3]}
    write_json(tmp_path / "kind.report.json", found | {"log_loss": 0.6, "calibration_error": 0.05})
    monkeypatch.syspath_prepend(str(SCRIPTS))
    words = ["", "--reports", tmp_path / "kind.report.json", "--table", tmp_path / "reward_models.csv"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    runpy.run_path(str(SCRIPTS / "tables/tabulate_reward_models.py"), run_name="__main__")
    assert pd.read_csv(tmp_path / "reward_models.csv").loc[0, "lead_over_length_low"] == -0.1
    assert "kind & 90 & 30 & 0.7 [0.5, 0.9]" in (tmp_path / "reward_models.tex").read_text()
    assert "CIs over eval pairs" in (tmp_path / "reward_models.rst").read_text()


def by_hand(experiment: Experiment, method: str) -> pd.DataFrame:
    """Return the mean reward and cumulative costs per round, computed from the files."""
    points = [(rows_of(experiment, method, 0)["reward"].mean(), 0.0, 0.0, 0.0, 0.0)]
    for number in range(1, ROUNDS + 1):
        flops = tokens = responses = labels = 0
        for seed in SEEDS:
            folder = experiment.root / f"{method}/seed-{seed}/round-{number}"
            for path in [*folder.glob("step-*/*.cost.json"), folder / "train.cost.json"]:
                cost = json.loads(path.read_text())
                flops, tokens = flops + cost["flops"], tokens + cost["tokens_out"]
                labels += cost.get("labels", 0)
            responses += sum(len(path.read_text().splitlines()) for path in folder.glob("step-*/rewards.jsonl"))
        amounts = [total / len(SEEDS) for total in (flops, tokens, responses, labels)]
        before = points[-1][1:]
        mean = rows_of(experiment, method, number)["reward"].mean()
        points.append((mean, *(b + a for b, a in zip(before, amounts, strict=True))))
    return pd.DataFrame(points, columns=["reward", "flops", "generated_tokens", "annotated_responses", "labels"])


def test_cost_to_reach(experiment, made):
    """The default target is halfway between the initial mean and the best final mean, interpolated linearly."""
    data, latex = made("cost_to_reach")
    curve, other = by_hand(experiment, "good"), by_hand(experiment, "plain")
    target = (curve["reward"][0] + max(curve["reward"][ROUNDS], other["reward"][ROUNDS])) / 2
    assert data["target"].to_numpy() == pytest.approx(target, rel=1e-4)
    found = data.set_index(["method", "cost"])
    for amount in ("flops", "generated_tokens", "annotated_responses", "labels"):
        row = found.loc[("good", amount)]
        assert row["value"] == pytest.approx(np.interp(target, curve["reward"], curve[amount]), rel=1e-4)
        assert row["low"] < row["value"] < row["high"] and row["reached"] > 0.95
        assert found.loc[("plain", amount), ["value", "high"]].isna().all()  # not reached
    assert found["reached"].groupby("method").nunique().tolist() == [1, 1]  # the same draws for every cost
    assert "PFLOP" in latex


def test_cost_to_reach_a_given_target(experiment, made):
    curve = by_hand(experiment, "good")
    data, _ = made("cost_to_reach", "--measure", "reward", "--target", "2.5")
    row = data.set_index(["method", "cost"]).loc[("good", "flops")]
    assert row["target"] == 2.5
    assert row["value"] == pytest.approx(np.interp(2.5, curve["reward"], curve["flops"]), rel=1e-4)
    data, _ = made("cost_to_reach", "--measure", "reward", "--target", "100")
    assert data[["value", "low", "high"]].isna().all(axis=None) and (data["reached"] == 0).all()


def test_no_target_without_improvement(made, monkeypatch, tmp_path, capsys):
    """If no method improves, the halfway point would cost nothing, so there is no target."""
    read = prefloop.evaluation.results.judgments
    monkeypatch.setattr(prefloop.evaluation.results, "judgments", lambda which: read(which).assign(reward=1.0))
    data, _ = made("cost_to_reach")
    assert data["target"].isna().all() and data["value"].isna().all()
    assert (
        "no target" in capsys.readouterr().out and "there is no target" in (tmp_path / "cost_to_reach.rst").read_text()
    )


def test_spending_is_the_sum_over_cost_files(experiment):
    mean = spent(experiment).set_index(["method", "round"])
    for method in METHODS:
        expected = by_hand(experiment, method)[["flops", "generated_tokens", "labels"]]
        np.testing.assert_allclose(mean.loc[method, ["flops", "generated_tokens", "labels"]], expected)
    assert spent_by_seed(experiment).groupby(["method", "seed"]).size().tolist() == [ROUNDS + 1] * 6


def with_comparisons(experiment: Experiment, root: Path, methods: tuple[str, ...]) -> list:
    """Write an experiment with two opponents, two temperatures and a checkpoint; return its flags.

    At temperature 1 no judgment of `plain` is valid. Checkpoints have the judgments of the ends of their rounds.
    """
    found = Experiment(root, methods, SEEDS, ROUNDS, STEPS, opponents=("initial", "chosen"), fine_tuned=True)
    shutil.copytree(experiment.root, root)
    found.by_temperature = ByTemperature((0.7, 1.0), methods)
    found.by_checkpoint = ByCheckpoint((0.7,), ("plain",), (20,))
    for comparison in found.comparisons:
        source = (
            "initial"
            if comparison.round == 0
            else f"{comparison.method}/seed-{comparison.seed}/round-{comparison.round}"
        )
        rows = read_rows(experiment.root / source / HOW)
        if comparison.temperature == 1.0 and comparison.method == "plain":
            rows = [row | {"outcome": "invalid"} for row in rows]
        write_rows(root / comparison.judgments, rows)
    flags = ["--root", root, "--methods", *methods, "--opponents", "initial", "chosen", "--fine-tuned", "True"]
    flags += ["--by-temperature.temperatures", 0.7, 1.0, "--by-temperature.methods", *methods]
    return [
        *flags,
        "--by-checkpoint.temperatures",
        0.7,
        "--by-checkpoint.methods",
        "plain",
        "--by-checkpoint.steps",
        20,
    ]


def test_win_rates(experiment, made, tmp_path):
    data, latex = made("win_rates", *with_comparisons(experiment, tmp_path / "more", METHODS))
    table = data.set_index(["opponent", "temperature", "method", "round", "checkpoint"]).sort_index()
    assert table.index.is_unique
    ends = [("initial", 0.7, 1), ("initial", 0.7, 2), ("chosen", 0.7, 2), ("initial", 1.0, 2)]
    for opponent, temperature, number in ends:
        rows, row = rows_of(experiment, "good", number), table.loc[(opponent, temperature, "good", number, -1)]
        assert row[OUTCOMES_ALL].tolist() == [(rows["outcome"] == word).sum() for word in OUTCOMES_ALL]
        assert row["win_rate"] == pytest.approx(rows["win"].mean(), rel=1e-5)
        assert row["win_rate_low"] < row["win_rate"] < row["win_rate_high"]
        assert row[["seeds", "prompts"]].tolist() == [len(SEEDS), PROMPTS]
    checkpoints = [("initial", 0.7, "plain", number, 20) for number in (1, 2)]
    untrained = [("initial", temperature, name, 0, -1) for temperature in (0.7, 1.0) for name in ("base", "initial")]
    trained = [(o, t, method, number, -1) for o, t, number in ends for method in METHODS]
    assert set(table.index) == {*checkpoints, *untrained, *trained}
    assert table.loc[untrained, "seeds"].eq(1).all() and table.loc[untrained, "win_rate"].eq(0.5).all()
    invalid = table.loc[("initial", 1.0, "plain", 2, -1)]
    assert invalid["invalid"] == len(SEEDS) * PROMPTS and np.isnan(invalid["win_rate"])
    assert "nan" not in latex and "& 20 &" in latex


def test_best_win_rate_is_bold_at_every_stage(experiment, made, tmp_path):
    data, latex = made("win_rates", *with_comparisons(experiment, tmp_path / "more", METHODS))
    bold = data[data["best"]]
    last = bold[bold["round"] == ROUNDS]
    assert last[["opponent", "temperature"]].to_numpy().tolist() == [
        ["initial", 0.7],
        ["chosen", 0.7],
        ["initial", 1.0],
    ]
    assert (bold["method"] == "good").all() and len(bold) == latex.count("textbf")


def test_nothing_is_bold_without_a_significant_difference(experiment, made, tmp_path):
    data, latex = made("win_rates", *with_comparisons(experiment, tmp_path / "more", ("plain",)))
    assert "textbf" not in latex and not data["best"].any()
