"""Figures of comparisons match values computed with pandas, and their captions name the limitations."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import prefloop.evaluation.results
from prefloop.config.experiment import ByCheckpoint, ByTemperature, Comparison, Experiment
from prefloop.config.feedback_identity import feedback_identity
from prefloop.config.resolve import flags
from prefloop.core.files import write_json
from prefloop.core.jsonl import write_rows
from prefloop.report.run_facts import run_facts

SCRIPTS = Path(__file__).parents[3] / "workflow/scripts"
METHODS, SEEDS, ROUNDS, PROMPTS = ("good", "plain", "same"), (0, 1, 2), 2, 60
SKILL = {"base": -0.8, "good": 1.2}  # in the last round; all other policies have skill 0
LENGTHS = {1: (6, 8, 7), 2: (10, 10, 10)}  # optimizer steps of each round, one number per seed
POINTS = {"win": 1.0, "tie": 0.5, "loss": 0.0}
ITSELF = "evaluated by the training feedback itself"
SOME_ONE, SOME_OTHER = (
    feedback_identity({"kind": "function", "function": f"some:{name}"}) for name in ("one", "other")
)
JUDGE = feedback_identity(
    {"kind": "judge", "model": "J", "judge": {"template": "T", "tie_margin": 0.0, "min_label_mass": 0.01}}
)
BRACKETS = "Brackets are 95 % CIs over prompts and seeds (crossed random effects)."


def write_comparison(
    experiment: Experiment, comparison: Comparison, ease: np.ndarray, draw: np.random.Generator
) -> None:
    """Write judgments; 5 % are invalid, and a quarter of the prompts have no chosen response."""
    trained = (comparison.round - (comparison.checkpoint is not None) / 2) / ROUNDS if comparison.round else 1
    margins = SKILL.get(comparison.method, 0) * trained + draw.normal(0, 1, PROMPTS)
    words = np.select([margins > 0.2, margins < -0.2], ["win", "loss"], "tie").astype(
        object
    )  # NumPy would truncate longer words
    words[draw.uniform(size=PROMPTS) < 0.05] = "invalid"
    asked = [i for i in draw.permutation(PROMPTS) if comparison.opponent != "chosen" or i % 4]
    write_rows(
        experiment.root / comparison.judgments,
        (
            {"prompt_id": f"p{i}", "outcome": str(words[i])}
            | {"reward": ease[i] + margins[i], "feedback": ease[i] + margins[i] / 2}
            | {"n_tokens": 10 * comparison.round + int(i), "n_tokens_opponent": int(i)}
            for i in asked
        ),
    )
    write_json(experiment.root / comparison.folder / "sample.cost.json", {"truncated": [3 * comparison.round, PROMPTS]})


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    """`good` improves with every round, `plain` and `same` do not; prompts differ more than methods."""
    draw = np.random.default_rng(0)
    found = Experiment(
        root=tmp_path_factory.mktemp("experiment"),
        methods=METHODS,
        seeds=SEEDS,
        rounds=ROUNDS,
        steps=1,
        opponents=("initial", "chosen", "plain"),
        fine_tuned=True,
        baseline="plain",
        evaluator=SOME_ONE,
        trained_by=(SOME_OTHER,) * 3,
        by_temperature=ByTemperature((0.25, 1.0), ("good", "same")),
        by_checkpoint=ByCheckpoint((0.25, 1.0), ("good", "same"), (3, 5)),
    )
    write_rows(found.root / "prompts/eval.jsonl", ({"prompt_id": f"p{i}"} for i in range(PROMPTS)))
    ease = draw.normal(0, 5, PROMPTS)
    for comparison in found.comparisons:
        write_comparison(found, comparison, ease, draw)
    for where, folder in found.folders():
        write_json(folder / "train.cost.json", {"stage": "train", "tokens_out": 0, "flops": 2e12})
        steps = LENGTHS[where["round"]][where["seed"]]
        write_rows(folder / "training.jsonl", ({"step": step, "loss": 0.7} for step in range(steps)))
    for _, folder in found.step_folders():
        for stage in ("generate", "reward", "logprobs"):
            cost = {"stage": stage, "tokens_out": 100, "flops": 1e12, "truncated": [0, 8]}
            write_json(folder / f"{stage}.cost.json", cost)
    return found


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Runs a figure's program: drawn("comparisons", experiment) returns its CSV, its caption and its SVG."""

    @cache
    def run(name: str, words: str) -> tuple[pd.DataFrame, str, str]:
        path = tmp_path_factory.mktemp(name) / "figure.pdf"
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(SCRIPTS))
            patch.setattr(sys, "argv", [name, *shlex.split(words), "--figure", str(path)])
            runpy.run_path(str(SCRIPTS / f"figures/plot_{name}.py"), run_name="__main__")
        assert all(path.with_suffix(f".{kind}").stat().st_size > 1000 for kind in ("pdf", "png"))
        data = pd.read_csv(path.with_suffix(".csv"))
        return data, path.with_suffix(".rst").read_text(), path.with_suffix(".svg").read_text()

    return lambda name, experiment: run(name, flags(asdict(experiment)))


def rows_of(experiment: Experiment, policy: str, temperature: float = 0.7, opponent: str = "initial") -> pd.DataFrame:
    """Read judgments with pandas from one file, or from one per seed if `policy` contains {seed}."""
    seeds = experiment.seeds if "{seed}" in policy else [-1]
    files = [
        experiment.root / policy.format(seed=s) / f"evaluation/temperature-{temperature}/against-{opponent}.jsonl"
        for s in seeds
    ]
    table = pd.concat([pd.read_json(file, lines=True).assign(seed=s) for file, s in zip(files, seeds, strict=True)])
    return table.assign(win=table["outcome"].map(POINTS)).set_index(["seed", "prompt_id"])


def last(method: str) -> str:
    return f"{method}/seed-{{seed}}/round-{ROUNDS}"


def test_differences(experiment, drawn):
    """Means over seeds and per seed use only prompts that are valid on both sides."""
    data, text, _ = drawn("differences", experiment)
    assert data["method"].unique().tolist() == ["good", "same"] and set(data["baseline"]) == {"plain"}
    assert data["measure"].unique().tolist() == ["feedback", "reward", "win"]
    plain = rows_of(experiment, last("plain"))
    for (method, measure), part in data.groupby(["method", "measure"]):
        paired = rows_of(experiment, last(method))[measure] - plain[measure]
        mean = part[part["seed"].isna()].iloc[0]
        assert mean["difference"] == pytest.approx(paired.mean(), rel=1e-4)
        assert mean["low"] < mean["difference"] < mean["high"]
        assert mean["significant"] == (mean["low"] > 0 or mean["high"] < 0) == (method == "good")
        seeds = part.set_index("seed")["difference"]
        for seed in SEEDS:
            assert seeds[seed] == pytest.approx(paired[seed].mean(), rel=1e-4)
    # Skills differ by 1.2. The prompts' sd of 5 cancels.
    reward = data[(data["method"] == "good") & (data["measure"] == "reward")].iloc[0]
    assert reward["low"] > 0.4 and reward["high"] < 2
    assert "these do not differ significantly from plain in win rate: same." in text
    assert "mean reward (config's feedback), mean reward (evaluator), win rate" in text


def test_differences_without_rewards(experiment, drawn, monkeypatch):
    """Without rewards of a judge, win rates are the only panel."""
    read = prefloop.evaluation.results.judgments
    monkeypatch.setattr(
        prefloop.evaluation.results, "judgments", lambda which: read(which).assign(reward=None, feedback=None)
    )
    data, text, _ = drawn("differences", replace(experiment, evaluator=JUDGE))
    assert set(data["measure"]) == {"win"} and "reward" not in text


@pytest.mark.parametrize(("methods", "baseline"), [(METHODS, "best"), (("plain",), "plain")])
def test_differences_need_a_baseline_and_another_method(experiment, drawn, methods, baseline):
    with pytest.raises(SystemExit, match=f"baseline: '{baseline}', expected one of two or more methods: "):
        drawn("differences", replace(experiment, methods=methods, baseline=baseline))


def test_comparisons(experiment, drawn):
    """Shares are fractions of all judgments, including invalid ones. Win rates use valid ones only."""
    data, text, picture = drawn("comparisons", experiment)
    pairs = [(o, m) for o in ("initial", "chosen", "plain") for m in METHODS if o != m]
    assert list(zip(data["opponent"], data["method"], strict=True)) == pairs
    even = []
    for row in data.itertuples():
        rows = rows_of(experiment, last(row.method), opponent=row.opponent)
        assert row.prompts == (PROMPTS * 3 // 4 if row.opponent == "chosen" else PROMPTS)
        for outcome in ("win", "tie", "loss", "invalid"):
            assert getattr(row, outcome) == pytest.approx(100 * (rows["outcome"] == outcome).mean(), rel=1e-4)
        valid = rows[rows["outcome"] != "invalid"]["outcome"]
        assert row.win_rate == pytest.approx(
            ((valid == "win").sum() + (valid == "tie").sum() / 2) / len(valid), rel=1e-4
        )
        assert f"<!-- {100 * row.win_rate:.1f} % [{100 * row.low:.1f}, {100 * row.high:.1f}] -->" in picture
        if row.low <= 0.5 <= row.high:
            even.append((row.method, row.opponent))
    assert set(even) == {(m, o) for o, m in pairs if m != "good"}
    assert "same against plain;" in text and "good against" not in text
    assert "prompts by opponent: the initial policy 60, the chosen responses 45, plain 60." in text
    for opponent in ("the initial policy", "the chosen responses"):
        assert f"these differences in win rate against {opponent} are not significant: plain–same" in text
    assert "all differences in win rate against plain are significant" in text
    assert BRACKETS in text


def test_intervals_of_one_seed(experiment, drawn):
    """With one seed, the interval is close to the normal approximation."""
    data, text, _ = drawn("comparisons", replace(experiment, seeds=(1,)))
    for row in data.itertuples():
        wins = rows_of(replace(experiment, seeds=(1,)), last(row.method), opponent=row.opponent)["win"].dropna()
        assert (row.high - row.low) / 2 == pytest.approx(1.96 * wins.std() / len(wins) ** 0.5, rel=0.12)
    assert "CIs over prompts (t; Wilson for win rates); 1 seed cannot show how runs vary." in text
    assert text.endswith("; this compares the policies of 1 seed, not the methods.\n")
    text = drawn("differences", replace(experiment, seeds=(1,)))[1]
    assert "CIs over prompts (t); 1 seed cannot show how runs vary." in text, "differences have no Wilson intervals"


def test_temperatures(experiment, drawn):
    """The base model, the fine-tuned policy and the configured methods have every temperature."""
    data, text, picture = drawn("temperatures", experiment)
    found = data.set_index(["method", "temperature"])
    assert set(found.index) == {(m, t) for m in ("base", "initial", "good", "same") for t in (0.25, 1.0)}
    for (method, temperature), row in found.iterrows():
        rows = rows_of(experiment, last(method) if method in METHODS else method, temperature)
        assert row["win_rate"] == pytest.approx(rows["win"].mean(), rel=1e-4)
        assert row["low"] < row["win_rate"] < row["high"]
    assert "<!-- SFT -->" in picture and "<!-- initial -->" not in picture
    assert "averaged over temperatures are not significant: SFT–same." in text
    data, text, picture = drawn("temperatures", replace(experiment, fine_tuned=False))
    assert "base" not in set(data["method"]) and "<!-- initial -->" in picture and "initial–same" in text


def test_checkpoints(experiment, drawn):
    """Steps are counted over rounds. If seeds have unequal numbers of steps, the mean is used."""
    data, text, _ = drawn("checkpoints", experiment)
    # Round 1 has 6, 8 and 7 steps, on average 7; round 2 has 10.
    steps = {(1, 3): 3, (1, 5): 5, (1, -1): 7, (2, 3): 10, (2, 5): 12, (2, -1): 17}
    assert len(data) == 2 * (1 + 2 * len(steps))
    for row in data.itertuples():
        policy = row.method
        if row.method != "initial":
            assert row.step == steps[row.round, row.checkpoint]
            policy = f"{row.method}/seed-{{seed}}/round-{row.round}"
            policy += f"/checkpoint-{row.checkpoint}" if row.checkpoint > 0 else ""
        rows = rows_of(experiment, policy, row.temperature)
        assert row.win_rate == pytest.approx(rows["win"].mean(), rel=1e-4)
    assert data.loc[data["method"] == "initial", "step"].tolist() == [0, 0]
    assert "steps are means over seeds" in text
    for temperature in ("0.25", "1"):
        assert f"final win rate at temperature {temperature} are not significant: initial–same" in text
    _, text, _ = drawn("checkpoints", replace(experiment, seeds=(0,)))
    assert "steps are means" not in text


@pytest.mark.parametrize(
    ("name", "without"),
    [("temperatures", {"by_temperature": ByTemperature()}), ("checkpoints", {"by_checkpoint": ByCheckpoint()})],
)
def test_unlisted_figure_has_no_comparisons(experiment, drawn, name, without):
    with pytest.raises(SystemExit, match=f"figures: {name} is not listed"):
        drawn(name, replace(experiment, **without))


def test_quality(experiment, drawn, monkeypatch):
    """Means match the rows, and the caption names the available measures."""
    data, text, picture = drawn("quality", experiment)
    seeds = data[data["seed"].notna()]
    assert len(seeds) == 3 * 3 * len(SEEDS) * ROUNDS and seeds[["low", "high"]].isna().all(axis=None)
    for row in data[data["round"] > 0].itertuples():
        rows = rows_of(experiment, f"{row.method}/seed-{{seed}}/round-{row.round}")
        rows = rows if np.isnan(row.seed) else rows.loc[int(row.seed)]
        assert row.mean == pytest.approx(rows[row.measure].mean(), rel=1e-4)
        assert row.flops == pytest.approx(5e12 * row.round)  # 3 stages with 1 TFLOP and training with 2
        if np.isnan(row.seed):
            assert row.n_tokens == pytest.approx(10 * row.round + (PROMPTS - 1) / 2)
            assert row.truncated == pytest.approx(3 * row.round / PROMPTS)
    assert data.loc[(data["round"] == 0), "truncated"].eq(0).all() and "kl" not in data and "runcated" not in text
    assert "small points are seeds." in text
    assert "mean reward (config's feedback), mean reward (evaluator), win rate against the initial policy" in text
    assert "<!-- (config's feedback) -->" in picture
    read = prefloop.evaluation.results.judgments
    monkeypatch.setattr(
        prefloop.evaluation.results, "judgments", lambda which: read(which).assign(reward=None, feedback=None)
    )
    data, text, _ = drawn("quality", replace(experiment, evaluator=JUDGE, seeds=(0,)))
    assert set(data["measure"]) == {"win"} and "reward" not in text
    assert data["seed"].isna().all() and "seeds" not in text


def test_learning_curves(experiment, drawn):
    """The data are the rows of `quality` for the evaluator's reward and the win rate; lines end in their names."""
    data, text, picture = drawn("learning_curves", experiment)
    assert list(data["measure"].unique()) == ["reward", "win"]
    quality = drawn("quality", experiment)[0]
    pd.testing.assert_frame_equal(data, quality[quality["measure"] != "feedback"].reset_index(drop=True))
    assert all(picture.count(f"<!-- {method} -->") == 2 for method in experiment.methods), "one per panel"
    assert "by number of labels (scored responses or questions to a judge); small points are seeds." in text
    assert "in final mean reward (evaluator)" in text and "in final mean reward (config's feedback)" not in text


@pytest.mark.parametrize("name", ["differences", "comparisons", "temperatures", "checkpoints"])
def test_pictures_name_methods_trained_by_the_evaluator(experiment, drawn, name):
    """The picture names methods trained by the evaluator, and the caption warns about two seeds."""
    _, text, picture = drawn(name, replace(experiment, seeds=(0, 1)))
    assert "with 2 seeds they may be too narrow." in text and ITSELF not in picture
    assert text.count(". ") <= 2, "a caption has at most three sentences"
    assert f"<!-- {ITSELF} -->" in drawn(name, replace(experiment, evaluator=SOME_OTHER))[2]
    of_one = replace(experiment, trained_by=(JUDGE, SOME_ONE, JUDGE))
    assert f"<!-- plain: {ITSELF} -->" in drawn(name, of_one)[2]


def test_facts_of_a_run(experiment):
    size, evaluator, cost, seeds = run_facts(replace(experiment, seeds=(0, 1)), PROMPTS)
    assert size == "2 seeds per method, 2 rounds of 1 step, 60 eval prompts."
    assert evaluator == "Evaluator: the function some:one."
    assert cost.endswith("in TFLOPs: good 10, plain 10, same 10.")  # 2 rounds of 3 · 1 + 2
    assert "fewer than three seeds" in seeds


def test_facts_name_the_policy_from_which_runs_start(experiment):
    facts = run_facts(replace(experiment, start="results/other/dota/seed-0/round-3/policy.pt"), PROMPTS)
    assert facts[1] == (
        "Every run starts from results/other/dota/seed-0/round-3/policy.pt, whose own cost is not counted."
    )
    assert run_facts(replace(experiment, start="/home/someone/policy.pt"), PROMPTS)[1].startswith(
        "Every run starts from policy.pt,"
    )


def test_facts_warn_of_truncated_responses(experiment, tmp_path):
    """The facts warn if more than a tenth of responses are truncated. Here it is 22, 3 and 4 of 32 in training."""
    root = shutil.copytree(experiment.root, tmp_path / "truncated")
    copied = replace(experiment, root=root, seeds=(0, 1))
    for (_, folder), truncated in zip(copied.step_folders(), [8, 8, 3, 3, 3, 0, 0, 0, 1, 1, 1, 1], strict=True):
        cost = json.loads((folder / "generate.cost.json").read_text())
        write_json(folder / "generate.cost.json", cost | {"truncated": [truncated, 8]})
    for method, truncated in {"initial": 60, "good": 7, "plain": 6, "same": 59}.items():
        for comparison in copied.by_round():
            if comparison.method == method:
                write_json(root / comparison.folder / "sample.cost.json", {"truncated": [truncated, PROMPTS]})
    assert run_facts(copied, PROMPTS)[3:5] == [
        "Truncated evaluation samples: initial 100 %, good 12 %, same 98 %; raise evaluation.max_new_tokens.",
        "Truncated responses in training: good 69 %, same 12 %; raise generation.max_new_tokens.",
    ]


def test_quality_and_divergence_are_in_one_csv(experiment, tmp_path, drawn):
    """KL is given per round and is 0 for the initial policy. The caption warns of truncated samples."""
    root = shutil.copytree(experiment.root, tmp_path / "diverging")
    copied = replace(experiment, root=root)
    for where, folder in copied.folders():
        kl = [{"prompt_id": name, "kl": where["round"] + where["seed"] + i} for i, name in enumerate(["p0", "p1"])]
        write_rows(folder / "evaluation/kl.jsonl", kl)
    write_json(root / copied.comparison("initial").folder / "sample.cost.json", {"truncated": [9, 60]})
    path = tmp_path / "figures/quality.pdf"
    command = [sys.executable, str(SCRIPTS / "figures/plot_quality.py"), *shlex.split(flags(asdict(copied)))]
    done = subprocess.run([*command, "--divergence", "True", "--figure", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    data, text = pd.read_csv(path.with_suffix(".csv")), path.with_suffix(".rst").read_text()
    data = data[data["seed"].isna()]
    assert data["kl"].tolist() == pytest.approx([{0: 0, 1: 2.5, 2: 3.5}[number] for number in data["round"]])
    assert text.endswith("Truncated evaluation samples: initial 15 %; raise evaluation.max\\_new\\_tokens.\n")
    assert "WARNING: Truncated evaluation samples: initial 15 %" in done.stdout


@pytest.mark.parametrize(
    ("trained_by", "warning"),
    [((SOME_ONE,) * 3, "also trained the policies"), ((JUDGE, SOME_ONE, JUDGE), "also trained plain: .* not fair")],
)
def test_facts_warn_of_an_evaluator_that_trained(experiment, trained_by, warning):
    facts = run_facts(replace(experiment, trained_by=trained_by), PROMPTS)
    assert re.search(warning, " ".join(facts))
