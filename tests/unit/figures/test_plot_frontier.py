"""Figures of divergence, β, clusters and gradients match values computed with pandas from a made-up experiment."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from prefloop.config.experiment import Experiment
from prefloop.config.feedback_identity import feedback_identity
from prefloop.core.files import write_json
from prefloop.core.jsonl import write_rows
from prefloop.core.ranks import spearman
from prefloop.evaluation.correlations import group_draws, partial, spearman_resampled
from steps import write_step

SCRIPTS = Path(__file__).parents[3] / "workflow/scripts"
PROMPTS, TRAINING_STEPS, WARMUP = 40, 12, 5
RULES = ("constant", "batch", "risk")
METHODS, SEEDS, ROUNDS, STEPS = ("good", "same", "twin", "plain"), (0, 1, 2), 2, 2
EVALUATOR = feedback_identity({"kind": "reward_model", "model": "E"})
CLUSTERS = [0] * 15 + [1] * 15 + [2] * 7 + [3] * 2 + [4]  # clusters of prompts p00, p01, …


def make(root: Path, methods=METHODS, seeds=SEEDS, rounds=ROUNDS, gains=None, rewards=True, opponent="initial"):
    """Write an experiment with rewards that grow by `gains` per round, by default 2 for the first method and else 0.

    Methods with equal gains differ by noise, but `twin` has the same answers as `same`. Methods have 2, 4, 8, … arms.
    """
    draw = np.random.default_rng(0)
    experiment = Experiment(root, methods, seeds, rounds, STEPS, opponents=(opponent,), evaluator=EVALUATOR)
    write_rows(root / "prompts/eval.jsonl", ({"prompt_id": f"p{i:02}"} for i in range(PROMPTS)))
    initial = draw.normal(0, 2, PROMPTS).round(2)
    start = experiment.comparison("initial")
    write_judgments(root / start.judgments, initial, initial if opponent == "initial" else initial + 1, rewards)
    noises = {}
    for where, folder in experiment.folders():
        method, seed, number = where.values()
        run = (method.replace("twin", "same"), seed, number)
        noise = noises.setdefault(run, draw.normal(0, 1, PROMPTS).round(2))
        gain = (gains or {methods[0]: 2.0}).get(method, 0.0) * number
        path = root / experiment.comparison(method, seed, number).judgments
        write_judgments(path, initial + gain + noise, initial if opponent == "initial" else initial + 1, rewards)
        kl = number * (1 + methods.index(run[0])) + draw.exponential(0.5, (PROMPTS, 2)).round(3)
        cells = ((i, j) for i in range(PROMPTS) for j in range(2))  # two responses per prompt
        write_rows(folder / "evaluation/kl.jsonl", ({"prompt_id": f"p{i:02}", "kl": kl[i, j]} for i, j in cells))
        write_rows(folder / "training.jsonl", training_rows(RULES[methods.index(method) % 3], draw))
        write_json(folder / "train.cost.json", {"stage": "train", "flops": 1e12, "tokens_out": 0})
    for where, folder in experiment.step_folders():
        for stage in ("generate", "reward", "logprobs"):
            write_json(folder / f"{stage}.cost.json", {"stage": stage, "flops": 1e12, "tokens_out": 100})
        arms = [{"cluster": c, "pulls": 1} for c in range(2 ** (1 + methods.index(where["method"]) % 4))]
        write_json(folder / "arms.json", {"arms": arms})
    return experiment


def write_judgments(path: Path, values: np.ndarray, opponent: np.ndarray, rewards: bool) -> None:
    words = np.select([values > opponent, values < opponent], ["win", "loss"], "tie")
    rows = [
        {"prompt_id": f"p{i:02}", "outcome": str(words[i]), "reward": None, "feedback": None} for i in range(PROMPTS)
    ]
    if rewards:
        rows = [row | {"reward": values[i], "feedback": values[i] / 10} for i, row in enumerate(rows)]
    write_rows(path, rows)


def training_rows(rule: str, draw: np.random.Generator) -> list[dict]:
    """Return training rows with the fields that a β rule in prefloop.methods.beta_rules logs."""
    rows, beta = [], 0.1
    for step in range(TRAINING_STEPS):
        row = {"step": step, "loss": 0.7, "rewards/margins": step / 5, "rewards/accuracies": 0.6}
        row |= {"grad_norm": float(draw.uniform(1, 2))}
        if rule == "batch":
            beta = round(float(draw.uniform(0.05, 0.2)), 3)
            row |= {"beta/m0": step / 10, "beta/sigma": 1.0, "beta/kept": 0.75}
        if rule == "risk" and step >= WARMUP - 1:
            row |= {"beta/tau": 1.0 + step / 10}
        if rule == "risk" and step >= WARMUP:
            beta = round(beta * 1.05, 4)
            row |= {"beta/p_hat": float(draw.integers(0, 5) / 16)}
        rows.append(row | {"beta": beta})
    return rows


def write_clusters(path: Path) -> Path:
    frame = pd.DataFrame({"prompt_id": [f"p{i:02}" for i in range(PROMPTS)], "cluster": CLUSTERS})
    frame.sample(frac=1, random_state=0).to_csv(path, index=False)
    return path


def write_gradients(path: Path, pairs: int = 240, weight: float | None = None) -> pd.DataFrame:
    """Write norms that depend on length, and on PFP only through length; pairs of a prompt are similar."""
    draw = np.random.default_rng(1)
    rows = []
    for i in range(pairs):
        of_prompt = np.random.default_rng(i // 4)
        length = int(round(10 * of_prompt.normal() + 5 * draw.normal()))
        pfp = 2.0 * length + 20 * draw.normal()
        row = {"prompt_id": f"p{i // 4:02}", "chosen": 0, "rejected": 1, "n_chosen": 40 + length, "n_rejected": 40}
        row |= {"pfp": pfp, "dpo_weight": weight or draw.uniform(0.3, 0.7), "reward_gap": 1.0}
        rows.append(row | {"grad_norm": float(np.exp(length / 10 + 0.3 * draw.normal()))})
    write_rows(path, rows)
    return pd.DataFrame(rows)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Runs a figure's program: made(experiment, "betas", "--flag", …) returns its CSV and its caption."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def run(experiment: Experiment, name: str, *flags) -> tuple[pd.DataFrame, str]:
        path = tmp_path / f"figures/{name}.pdf"
        which = ["--root", experiment.root, "--methods", *experiment.methods, "--seeds", *experiment.seeds]
        which += ["--rounds", experiment.rounds, "--steps", experiment.steps, "--opponents", *experiment.opponents]
        which += ["--evaluator", experiment.evaluator]
        which += ["--trained-by", *experiment.trained_by] if experiment.trained_by else []
        monkeypatch.setattr(sys, "argv", [str(word) for word in [name, *which, *flags, "--figure", path]])
        runpy.run_path(str(SCRIPTS / f"figures/plot_{name}.py"), run_name="__main__")
        for suffix in (".pdf", ".svg", ".png"):
            assert path.with_suffix(suffix).stat().st_size > 1000
        return pd.read_csv(path.with_suffix(".csv")), path.with_suffix(".rst").read_text()

    return run


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    return make(tmp_path_factory.mktemp("experiment"))


def rows_of(experiment: Experiment, method: str, number: int, name: str = "judgments") -> pd.DataFrame:
    """Read the rows of all seeds after a round with pandas."""
    parts = []
    for seed in experiment.seeds if number else [0]:
        folder = experiment.root / (f"{method}/seed-{seed}/round-{number}" if number else "initial")
        judgments = f"evaluation/temperature-0.7/against-{experiment.opponents[0]}.jsonl"
        path = folder / {"judgments": judgments, "kl": "evaluation/kl.jsonl", "training": "training.jsonl"}[name]
        parts.append(pd.read_json(path, lines=True).assign(seed=seed))
    table = pd.concat(parts, ignore_index=True)
    if name == "judgments":
        table["win"] = table["outcome"].map({"win": 1.0, "tie": 0.5, "loss": 0.0})
    return table


def equal_in(text: str, measure: str) -> set[str]:
    """Return the names that a caption's clause about `measure` lists as not significantly different."""
    (names,) = re.findall(rf"(?:differences|from \w+) in {re.escape(measure)}(?: are not significant)?: ([^;.]*)", text)
    return set(names.split(", "))


def test_frontier_by_round(experiment, made):
    data, text = made(experiment, "frontier")
    assert len(data) == 2 * (1 + len(METHODS) * ROUNDS) and data["seed"].isna().all()
    for row in data[data["round"] > 0].itertuples():
        assert row.mean == pytest.approx(rows_of(experiment, row.method, row.round)[row.measure].mean(), rel=1e-4)
        assert row.kl == pytest.approx(rows_of(experiment, row.method, row.round, "kl")["kl"].mean(), rel=1e-4)
        assert row.low < row.mean < row.high and row.kl_low < row.kl < row.kl_high
    start = data[data["round"] == 0]
    assert start["method"].tolist() == ["initial"] * 2 and (start[["kl", "kl_low", "kl_high"]] == 0).all(axis=None)
    assert start["mean"].iloc[0] == pytest.approx(rows_of(experiment, "initial", 0)["reward"].mean(), rel=1e-4)
    assert "exact at every position of responses sampled at temperature 1" in text
    assert "Quality of samples at temperature 0.7" in text and "points are rounds" in text
    by_reward = equal_in(text, "final mean reward (evaluator)")
    assert "same–twin" in by_reward and not any("good" in pair for pair in by_reward)  # its gain is 4, with sd 1
    assert "Crosses are 95 % CIs over prompts and seeds (crossed random effects)." in text


def test_frontier_of_a_sweep_shows_seeds(tmp_path, made):
    experiment = make(tmp_path / "sweep", METHODS[:2], seeds=(0, 1), rounds=1)
    experiment.trained_by = (EVALUATOR,) * 2
    data, text = made(experiment, "frontier")
    dots = data[data["seed"].notna() & (data["measure"] == "reward")].set_index(["method", "seed"])
    assert len(dots) == 4
    rows, kl = rows_of(experiment, "same", 1), rows_of(experiment, "same", 1, "kl")
    assert dots.loc[("same", 1), "mean"] == pytest.approx(rows.loc[rows["seed"] == 1, "reward"].mean(), rel=1e-4)
    assert dots.loc[("same", 1), "kl"] == pytest.approx(kl.loc[kl["seed"] == 1, "kl"].mean(), rel=1e-4)
    assert "small marks are seeds" in text


def test_frontier_of_a_judge_shows_win_rates(tmp_path, made):
    experiment = make(tmp_path / "judged", METHODS[:2], rewards=False, opponent="chosen")
    data, text = made(experiment, "frontier")
    assert set(data["measure"]) == {"win"} and "final win rate" in text
    start = data.set_index("method").loc["initial", "mean"]
    assert start == rows_of(experiment, "initial", 0)["win"].mean() == 0  # every chosen response is better by 1


def test_betas(experiment, made):
    data, text = made(experiment, "betas", "--delta", "0.1")
    assert len(data) == len(METHODS) * len(SEEDS) * ROUNDS * TRAINING_STEPS
    assert data["step"].max() == ROUNDS * TRAINING_STEPS - 1  # counted over rounds
    for method in METHODS:
        found = data[(data["method"] == method) & (data["round"] == 2)].sort_values(["seed", "step"])
        truth = rows_of(experiment, method, 2, "training")
        for name in ("beta", "beta/tau", "beta/m0", "beta/p_hat", "beta/kept"):
            expected = truth[name] if name in truth else np.full(len(truth), np.nan)
            np.testing.assert_allclose(found[name].to_numpy(), expected, rtol=1e-5)
    assert "dotted lines end warm-ups" in text and "δ = 0.1" in text and "pairs that counted" in text
    assert "bootstrap" not in text  # bands are ranges, and there are no eval prompts


def test_betas_leaves_out_panels_without_a_rule(tmp_path, made, capsys):
    experiment = make(tmp_path / "constant", ("constant",), seeds=(0,), rounds=1)
    data, text = made(experiment, "betas", "--delta", "0.1")
    assert list(data) == ["method", "seed", "round", "step", "beta"] and "1 panels" in capsys.readouterr().out
    assert "τ" not in text and "grey lines" not in text and "Lines are one run each." in text


@pytest.mark.parametrize(("count", "seeds", "rounds"), [(3, (0, 1), 2), (3, (0,), 1), (7, (0, 1), 1)])
def test_training_caption_describes_the_lines_shown(tmp_path, made, count, seeds, rounds):
    methods = tuple(f"m{i}" for i in range(count))
    experiment = make(tmp_path / "runs", methods, seeds, rounds)
    data, text = made(experiment, "training")
    truth = rows_of(experiment, "m2", 1, "training")
    found = data[(data["method"] == "m2") & (data["round"] == 1)]
    np.testing.assert_allclose(found["grad_norm"], truth["grad_norm"], rtol=1e-5)
    assert ("Lines are means over seeds" in text) == (len(seeds) > 1)
    assert ("bands their range" in text) == (len(seeds) > 1 and count < 7)
    assert ("grey lines start rounds" in text) == (rounds > 1)
    assert "CIs" not in text


def test_cluster_counts(experiment, made):
    data, text = made(experiment, "cluster_counts", "--at-random", "plain")
    found = data.set_index(["measure", "method"])
    assert found.loc["reward", "clusters"].dropna().to_dict() == {"good": 2, "same": 4, "twin": 8}
    plain = rows_of(experiment, "plain", ROUNDS)
    for method in METHODS:
        rows = rows_of(experiment, method, ROUNDS)
        for measure in ("reward", "feedback", "win"):
            assert found.loc[(measure, method), "mean"] == pytest.approx(rows[measure].mean(), rel=1e-4, abs=1e-9)
            if method != "plain":
                paired = (rows[measure] - plain[measure]).mean()
                assert found.loc[(measure, method), "difference"] == pytest.approx(paired, rel=1e-3, abs=1e-9)
    assert np.isnan(found.loc[("reward", "plain"), "difference"])
    assert "horizontal lines are methods without arms: plain." in text and "Bars and bands are 95 %" in text
    for measure in ("mean reward (evaluator)", "mean reward (config's feedback)", "win rate"):
        assert equal_in(text, measure) == {"same", "twin"}


def test_cluster_counts_needs_known_methods_with_arms(experiment, made):
    with pytest.raises(SystemExit, match="at_random: 'best', expected methods of good, same"):
        made(experiment, "cluster_counts", "--at-random", "best")
    with pytest.raises(SystemExit, match="at_random: names all methods"):
        made(experiment, "cluster_counts", "--at-random", *METHODS)


@pytest.mark.parametrize("opponent", ["initial", "chosen"])
def test_cluster_wins(tmp_path, made, opponent):
    """The change is relative to ½ against the initial policy, or to the initial policy's win against the opponent."""
    experiment = make(tmp_path / "wins", METHODS[:2], opponent=opponent)
    data, text = made(experiment, "cluster_wins", "--clusters", write_clusters(tmp_path / "clusters_eval.csv"))
    found = data.set_index(["method", "cluster"])
    of_prompt = dict(zip((f"p{i:02}" for i in range(PROMPTS)), map(str, CLUSTERS), strict=True))
    initial = rows_of(experiment, "initial", 0).set_index("prompt_id")["win"]
    for method in METHODS[:2]:
        rows = rows_of(experiment, method, ROUNDS)
        rows["cluster"] = rows["prompt_id"].map(of_prompt).replace({"3": "rest", "4": "rest"})
        rows["change"] = rows["win"] - rows["prompt_id"].map(initial)
        means = rows.groupby("cluster")["change"].mean()
        for cluster, mean in means.items():
            assert found.loc[(method, cluster), "mean"] == pytest.approx(mean, rel=1e-4, abs=1e-9)
        assert found.loc[(method, "all"), "mean"] == pytest.approx(rows["change"].mean(), rel=1e-4, abs=1e-9)
    assert found.loc["good", "prompts"].to_dict() == {"0": 15, "1": 15, "2": 7, "rest": 3, "all": 40}
    assert "clusters of fewer than 3 prompts (3, 4) are pooled as rest." in text
    of_clusters = data[data["cluster"] != "all"]
    outside = ((of_clusters["low"] > 0) | (of_clusters["high"] < 0)).sum()
    assert f"Of 8 CIs of clusters, not corrected for their number, {outside} exclude 0" in text


def test_cluster_wins_names_a_prompt_without_a_cluster(experiment, made, tmp_path):
    path = tmp_path / "clusters_eval.csv"
    path.write_text("prompt_id,cluster\np00,0\n")
    with pytest.raises(SystemExit, match="no cluster of prompt p01"):
        made(experiment, "cluster_wins", "--clusters", path)


def test_gradients(experiment, made, capsys):
    path = experiment.root / "good/seed-1/round-2/gradients.jsonl"
    rows = write_gradients(path)
    data, text = made(experiment, "gradients", "--gradients", path)
    assert len(data) == len(rows) and list(data["length_difference"]) == list(rows["n_chosen"] - rows["n_rejected"])
    between = rows.assign(length=rows["n_chosen"] - rows["n_rejected"])[["pfp", "length", "grad_norm"]].corr("spearman")
    assert f"ρ of PFP and length is = {between.loc['pfp', 'length']:.2f} [" in text
    a, b, c = between.loc["grad_norm", "pfp"], between.loc["grad_norm", "length"], between.loc["pfp", "length"]
    assert f"given length = {(a - b * c) / ((1 - b**2) * (1 - c**2)) ** 0.5:.2f} [" in text
    assert "PFP predicts the norm worse than the length difference;" in text and b > a > 0.5
    assert "good, seed 1, before round 2" in text and "240 random pairs of 60 prompts" in text
    assert "brackets are 95 % bootstrap CIs over prompts" in text
    assert "worse than the length difference" in capsys.readouterr().out


def test_constant_weight_has_no_correlation(experiment, made, tmp_path):
    path = experiment.root / "same/seed-0/round-1/gradients.jsonl"
    write_gradients(path, weight=0.5)
    made(experiment, "gradients", "--gradients", path)
    assert (tmp_path / "figures/gradients.svg").read_text().count("<!-- ρ is undefined -->") == 1


def test_equal_predictors_do_not_differ(experiment, made):
    path = experiment.root / "same/seed-0/round-1/gradients.jsonl"
    rows = write_gradients(path)
    write_rows(path, rows.assign(pfp=rows["n_chosen"] - rows["n_rejected"]).to_dict("records"))
    _, text = made(experiment, "gradients", "--gradients", path)
    assert "PFP predicts the norm not significantly better or worse than the length difference;" in text


def test_gradients_of_another_experiment_raise(experiment, made):
    with pytest.raises(SystemExit, match="not in the folder of a round"):
        made(experiment, "gradients", "--gradients", "elsewhere.jsonl")


@pytest.mark.parametrize("at_once", [100, 10**6])
def test_weighted_spearman_equals_repeated_rows(monkeypatch, at_once):
    """Groups are drawn as a whole, ties have their mean rank, and the size of chunks does not matter."""
    monkeypatch.setattr("prefloop.evaluation.correlations.AT_ONCE", at_once)
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 6, 30), draw.integers(0, 6, 30) + draw.integers(0, 6, 30)  # many ties
    draws = group_draws(np.repeat(["b", "a", "c", "d", "e", "f"], 5), draw, 20)
    assert (draws.of_group.sum(axis=1) == 6).all() and draws.group[:10].tolist() == [1] * 5 + [0] * 5
    found = spearman_resampled(x, y, draws)
    assert found.estimate == pytest.approx(spearman(x, y)) and len(found.resamples) == 20
    for value, of_group in zip(found.resamples, draws.of_group, strict=True):
        count = of_group[draws.group]
        assert value == pytest.approx(spearman(np.repeat(x, count), np.repeat(y, count)))
    nothing = spearman_resampled(np.ones(30), y, draws)
    assert np.isnan(nothing.resamples).all() and str(nothing) == "is undefined"


@pytest.mark.parametrize("feedbacks", [(), ("one", "one"), ("one", "other")])
def test_pfp(tmp_path, made, feedbacks):
    """Pairs, ρ and the number of prompts match the rows. The reward gap has a panel only if it has a common unit."""
    experiment = make(tmp_path / "pfp", METHODS[:2], seeds=(0, 1), rounds=1)
    experiment.trained_by = tuple(feedback_identity({"kind": name}) for name in feedbacks)
    draw, expected = np.random.default_rng(0), []
    for _, folder in experiment.step_folders():
        responses = []
        for i in range(PROMPTS):
            gap, pfp = draw.normal(size=2)
            gap = abs(gap)
            for response, reward, logp in ((0, gap, 0.0), (1, 0.0, pfp)):
                key = {"prompt_id": f"p{i:02}", "response_id": response}
                responses.append(key | {"reward": reward, "n_tokens": 3 + response * i, "logp": logp - 5})
            expected.append((pfp, gap, -i))
        write_step(folder, responses)
    data, text = made(experiment, "pfp")
    found = data[["pfp", "reward_gap", "length_difference"]].to_numpy()
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-4, atol=1e-6)
    assert f"320 pairs of annotated responses of {PROMPTS} prompts" in text
    assert "brackets are 95 % bootstrap CIs over prompts" in text
    several = feedbacks == ("one", "other")
    picture = (tmp_path / "figures/pfp.svg").read_text()
    assert ("<!-- reward gap -->" not in picture) == several
    assert ("reward gaps have no common unit, because 2 feedbacks trained" in text) == several
    rho = spearman(data["length_difference"], data["pfp"])
    assert f"ρ = {rho:.2f} [" in picture.replace("−", "-")


def test_partial_correlation_equals_that_of_residuals():
    draw = np.random.default_rng(0)
    z = draw.normal(size=500)
    x, y = z + draw.normal(size=500), z - draw.normal(size=500) + 0.3 * draw.normal(size=500)
    residual = [values - np.polyval(np.polyfit(z, values, 1), z) for values in (x, y)]
    r = np.corrcoef([x, y, z])
    assert partial(r[0, 1], r[0, 2], r[1, 2]) == pytest.approx(np.corrcoef(residual)[0, 1])
    assert np.isnan(partial(np.array(0.5), np.array(1.0), np.array(0.5)))
