"""The power table has the variance parts, costs and numbers of seeds of a made-up experiment."""

import numpy as np
import pandas as pd
import pytest

from made_up import drawn, experiment_in
from prefloop.config.experiment import Experiment
from prefloop.core.files import write_json
from prefloop.core.jsonl import read_rows, write_rows
from prefloop.evaluation.power import Design, detectable_difference, seeds_needed, variance_parts

PROMPTS, SEEDS = 30, (0, 1, 2, 3)


def write_cost(path, device: str, seconds: float, tokens: int) -> None:
    amounts = {"tokens_in": tokens, "tokens_out": 10, "flops": 1, "truncated": [0, 10]}
    write_json(path, {"stage": path.name, "device": device, "seconds": seconds} | amounts)


def with_judgments(root, seeds=SEEDS) -> tuple[Experiment, np.ndarray]:
    """Write an experiment in which `new` has planted gains over `uniform`; return it and the gains [seeds, prompts].

    A run takes 7 s on a GPU and 3 x 2 s on a CPU, and its evaluation 5 s on a GPU and 1 s on a CPU.
    """
    experiment = experiment_in(root, methods=("new", "uniform"), seeds=seeds, baseline="uniform")
    draw = np.random.default_rng(5)
    shape = (len(seeds), PROMPTS)
    gains = 0.5 + draw.normal(0, 0.1, (len(seeds), 1)) + draw.normal(0, 0.3, shape[1]) + draw.normal(0, 0.5, shape)
    starts = draw.normal(0, 1, PROMPTS)
    write_rows(root / "prompts/eval.jsonl", ({"prompt_id": f"p{i}"} for i in range(PROMPTS)))
    for comparison in experiment.by_round():
        gain = gains[seeds.index(comparison.seed)] if comparison.method == "new" else np.zeros(PROMPTS)
        rows = [
            {"prompt_id": f"p{i}", "outcome": "tie", "reward": starts[i] + gain[i], "feedback": None, "n_tokens": 9}
            for i in draw.permutation(PROMPTS)
        ]
        write_rows(root / comparison.judgments, rows)
        write_cost(root / comparison.folder / "sample.cost.json", "cuda:0", 5.0, 90)
        write_cost(root / comparison.judgments.replace(".jsonl", ".cost.json"), "cpu", 1.0, 0)
    for _, folder in experiment.folders():
        write_cost(folder / "train.cost.json", "cuda", 7.0, 190)
    for _, folder in experiment.step_folders():
        for stage in ("generate", "reward", "logprobs"):
            write_cost(folder / f"{stage}.cost.json", "cpu", 2.0, 40)
    return experiment, gains


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[pd.DataFrame, str, np.ndarray, str]:
    """The table, its caption, the planted differences and the LaTeX text."""
    root = tmp_path_factory.mktemp("power")
    experiment, gains = with_judgments(root)
    data, text = drawn("tabulate_power", experiment)
    return data, text, gains, (root / "tables/power.tex").read_text()


def test_row_of_the_run_has_the_planted_variance_parts(made):
    data, text, gains, _ = made
    row = data.query("measure == 'reward' and as_run").squeeze()
    parts = variance_parts(gains[:, :, None])
    assert row[["method", "baseline", "seeds", "prompts", "samples"]].tolist() == ["new", "uniform", 4, PROMPTS, 1]
    assert row["difference"] == pytest.approx(gains.mean(), rel=1e-5)
    assert row["seed_sd"] == pytest.approx(gains.mean(axis=1).std(ddof=1), rel=1e-5)
    shown = row[["seed_variance", "prompt_variance", "sample_variance"]].tolist()
    assert shown == pytest.approx([parts.seed, parts.prompt, parts.sample], rel=1e-5)
    assert np.isnan(row["interaction_variance"])
    assert "one sample cannot separate sampling noise" in text


def test_designs_have_detectable_differences_and_seeds_needed(made):
    data, _, gains, latex = made
    parts, rows = variance_parts(gains[:, :, None]), data[data["measure"] == "reward"]
    grid = {(seeds, prompts, k) for seeds in (3, 5, 8, 12, 16) for prompts in (PROMPTS, 200) for k in (1, 4)}
    assert set(zip(rows["seeds"], rows["prompts"], rows["samples"], strict=True)) == grid | {(4, PROMPTS, 1)}
    for row in rows.itertuples():
        design = Design(row.seeds, row.prompts, row.samples)
        assert row.detectable == pytest.approx(detectable_difference(parts, design), rel=1e-4)
        assert row.seeds_needed == seeds_needed(parts, gains.mean(), design)
    assert f"{rows['detectable'].iloc[0]:.3g}" in latex


def test_samples_of_a_prompt_are_paired_by_number(tmp_path):
    """Rows may be in any order. With several samples the sampling noise is known, so no row is a best case."""
    experiment, gains = with_judgments(tmp_path)
    noise = np.random.default_rng(6).normal(0, 0.4, (len(SEEDS), PROMPTS, 2))
    draw = np.random.default_rng(7)
    for comparison in experiment.by_round():
        rows = read_rows(tmp_path / comparison.judgments)
        several = [row | {"sample": k, "reward": row["reward"] + 10 * k} for row in rows for k in (0, 1)]
        if comparison.method == "new":
            for row in several:
                prompt = int(row["prompt_id"][1:])
                row["reward"] += noise[SEEDS.index(comparison.seed), prompt, row["sample"]]
        draw.shuffle(several)
        write_rows(tmp_path / comparison.judgments, several)
    data, text = drawn("tabulate_power", experiment)
    row = data.query("measure == 'reward' and as_run").squeeze()
    parts = variance_parts(gains[:, :, None] + noise)
    assert row["samples"] == 2 and "best case" not in text
    shown = row[["seed_variance", "prompt_variance", "interaction_variance", "sample_variance"]].tolist()
    assert shown == pytest.approx(parts[:4], rel=1e-4)


def test_families_of_the_prompts_are_clusters(tmp_path):
    """The eval prompts have five families of six prompts in `meta.family`."""
    experiment, gains = with_judgments(tmp_path)
    rows = ({"prompt_id": f"p{i}", "meta": {"family": i % 5}} for i in range(PROMPTS))
    write_rows(tmp_path / "prompts/eval.jsonl", rows)
    data, text = drawn("tabulate_power", experiment)
    parts = variance_parts(gains[:, :, None], np.arange(PROMPTS) % 5)
    data = data.query("measure == 'reward'")
    assert (data["families"] == 5).all() and "30 prompts of 5 families" in text
    assert data[["family_variance", "family_interaction_variance"]].iloc[0].tolist() == pytest.approx(
        parts[4:], rel=1e-5
    )
    for row in data.itertuples():
        design = Design(row.seeds, row.prompts, row.samples, 5)
        assert row.detectable == pytest.approx(detectable_difference(parts, design), rel=1e-4)


def test_costs_grow_with_seeds_and_evaluation(made):
    """Training of both methods counts once per seed. 200 prompts x 4 samples cost 26.67 evaluations of 30 x 1."""
    data = made[0].query("measure == 'reward'").set_index(["seeds", "prompts", "samples"])
    size = 200 * 4 / PROMPTS
    amounts = ["gpu_seconds", "cpu_seconds", "tokens"]
    assert data.loc[(4, PROMPTS, 1), amounts].tolist() == [4 * 2 * 12, 4 * 2 * 7, 4 * 2 * (200 + 3 * 50 + 110)]
    of_seed = [7 + size * 5, 6 + size * 1, 350 + size * 110]
    assert data.loc[(8, 200, 4), amounts].tolist() == pytest.approx([16 * amount for amount in of_seed], rel=1e-5)


def test_measure_that_never_differs_needs_no_seeds(made):
    """If all outcomes are ties, any difference in win rate would be detected, but the observed one is 0."""
    data, _, _, latex = made
    rows = data[data["measure"] == "win"]
    assert (rows["detectable"] == 0).all() and rows["seeds_needed"].isna().all()
    assert "feedback" not in set(data["measure"]) and "--" in latex


def test_one_seed_has_costs_and_no_power(tmp_path):
    experiment, gains = with_judgments(tmp_path, seeds=(0,))
    data, text = drawn("tabulate_power", experiment)
    row = data.query("measure == 'reward'").squeeze()
    assert row["difference"] == pytest.approx(gains.mean(), rel=1e-5) and row["gpu_seconds"] == 24
    unknown = ["seed_sd", "seed_variance", "prompt_variance", "sample_variance", "detectable", "seeds_needed"]
    assert row[unknown].isna().all()
    assert "power needs at least two seeds" in text
