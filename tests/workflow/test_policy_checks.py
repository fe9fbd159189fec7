"""Perplexity of plain text and the best round are off by default and match their rows."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from conftest import Workdir
from prefloop.evaluation.best_rounds import draw_validation_prompts

SETTINGS = {
    "compare": ["uniform"],
    "seeds": [0, 1],
    "rounds": 2,
    "steps": 1,
    "figures": ["quality"],
    "tables": ["results", "costs"],
    "prompts": {"eval_fraction": 0.3},
}
ASKED = {
    "perplexity": {"text": "own text.jsonl", "max_tokens": 32, "dtype": "float32"},
    "validation": {"fraction": 0.4, "measure": "reward"},
}
TEXTS = ["the reply is good and the answer is bad " * 4, "why not?"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory, model_folders) -> Workdir:
    """Run an experiment without the two checks."""
    directory = Workdir(tmp_path_factory.mktemp("plain"), model_folders["llama"])
    (directory.path / "own text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    directory.configure(**SETTINGS)
    done = directory.run()
    assert done.returncode == 0, done.stdout
    return directory


@pytest.fixture(scope="module")
def checked_run(plain) -> tuple[set[str], Workdir, pd.DataFrame]:
    """Run the experiment again with both checks; return the added jobs, the directory and the earlier results."""
    before = pd.read_csv(plain.path / "results/tiny/tables/results.csv")
    plain.configure(evaluation=ASKED, figures=["quality", "perplexity"])
    jobs = plain.jobs()
    done = plain.run()
    assert done.returncode == 0, done.stdout
    return jobs, plain, before


def test_checks_rerun_no_other_stages(checked_run):
    jobs, _, _ = checked_run
    added = {"measure_perplexity", "plot_perplexity", "tabulate_best_round"}
    assert jobs == added | {"tabulate_results", "tabulate_costs", "all"}


def test_perplexity_matches_the_rows(checked_run):
    _, directory, before = checked_run
    results = directory.path / "results/tiny"
    rows = {
        path.parents[1].relative_to(results).as_posix(): pd.read_json(path, lines=True)
        for path in results.glob("**/evaluation/perplexity.jsonl")
    }
    runs = [f"uniform/seed-{seed}/round-{number}" for seed in (0, 1) for number in (1, 2)]
    assert rows.keys() == {"initial", *runs}
    assert all(table["n_bytes"].tolist() == [160, 8] for table in rows.values())
    values = {run: math.exp(-table["logp"].sum() / table["n_tokens"].sum()) for run, table in rows.items()}
    assert len(set(values.values())) == len(values), "policies differ"
    table = pd.read_csv(results / "tables/results.csv").set_index("method")
    ends = [values[f"uniform/seed-{seed}/round-2"] for seed in (0, 1)]
    assert table.loc["initial", "perplexity"] == pytest.approx(values["initial"], rel=1e-5)
    assert table.loc["uniform", "perplexity"] == pytest.approx(np.mean(ends), rel=1e-5)
    pd.testing.assert_frame_equal(table.reset_index()[before.columns], before)
    drawn = pd.read_csv(results / "figures/perplexity.csv").query("round > 0")
    assert drawn["perplexity"].tolist() == pytest.approx([values[run] for run in runs], rel=1e-5)
    assert "own text.jsonl" in (results / "figures/perplexity.rst").read_text()
    costs = pd.read_csv(results / "tables/costs.csv").set_index(["method", "stage"])["tokens_in"]
    assert costs["uniform", "measure_perplexity"] == 2 * costs["shared", "measure_perplexity"] > 0


def test_best_round_matches_the_rows(checked_run):
    """The expected round is chosen with pandas on validation prompts, and rewards come from the other prompts."""
    _, directory, _ = checked_run
    results = directory.path / "results/tiny"
    rows = [json.loads(line) for line in (results / "prompts/eval.jsonl").read_text().splitlines()]
    prompts = pd.DataFrame({"prompt_id": r["prompt_id"], "family": f"family {r['meta']['family']}"} for r in rows)
    validation = draw_validation_prompts(prompts, 0.4, 0)
    families = prompts.assign(chooses=prompts["prompt_id"].isin(validation)).groupby("family")["chooses"]
    assert families.nunique().eq(1).all() and 1 < len(families) < len(prompts), "no family is split"
    caption = (results / "tables/best_round.rst").read_text()
    assert f"({len(validation)} eval prompts drawn at random)" in caption
    assert f"the {len(prompts) - len(validation)} other eval prompts" in caption
    table = pd.read_csv(results / "tables/best_round.csv").set_index(["measure", "seed"])
    for seed in (0, 1):
        chose, test = {}, {}
        for number in (1, 2):
            folder = results / f"uniform/seed-{seed}/round-{number}/evaluation/temperature-0.7"
            rows = pd.read_json(folder / "against-initial.jsonl", lines=True)
            chooses = rows["prompt_id"].isin(validation)
            chose[number], test[number] = rows[chooses]["reward"].mean(), rows[~chooses]["reward"].mean()
        best = 1 if chose[1] >= chose[2] else 2
        row = table.loc[("reward", seed)]
        assert int(row["rounds"].strip()) == best
        assert row[["best", "last"]].astype(float).tolist() == pytest.approx([test[best], test[2]], rel=1e-5)
    whole = pd.read_csv(results / "tables/best_round.csv").query("seed.isna() and measure == 'reward'").iloc[0]
    of_seeds = [table.loc[("reward", seed)] for seed in (0, 1)]
    assert whole["rounds"] == " ".join(row["rounds"] for row in of_seeds)
    assert whole["best"] == pytest.approx(np.mean([row["best"] for row in of_seeds]), rel=1e-5)
