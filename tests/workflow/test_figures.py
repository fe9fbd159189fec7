"""One tiny experiment makes every figure and table. Their numbers are checked against the rows with pandas only."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from conftest import ROOT, Workdir
from prefloop.config.outputs import FIGURES, OF_ACQUISITION, OF_JUDGES, OF_VALIDATION, TABLES
from prefloop.models.policies import read_policy

METHODS = ["two_arms", "uniform"]
SEEDS = [0, 1]
DRAWN = [name for name in FIGURES if name != "sweep"]  # the experiment has no sweep
MADE = [name for name in TABLES if name != "judge_answers"]  # the experiment has no judge
WIN = {"win": 1, "tie": 0.5, "loss": 0}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, model_folders) -> Workdir:
    """Run an experiment with all outputs. Its evaluator is also the training feedback."""
    directory = Workdir(tmp_path_factory.mktemp("drawn"), model_folders["llama"])
    rows = [
        {"prompt": f"question {i} of many?", "chosen": "a reason" + " and more" * (i % 4), "rejected": "no"}
        for i in range(60)
    ]
    (directory.path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    directory.configure(
        compare=METHODS,
        seeds=SEEDS,
        rounds=1,
        figures=DRAWN,
        tables=MADE,
        methods={
            "two_arms": {"clusters": {"k": 2}, "pairs": {"metric": "pfp"}, "train": {"beta_rule": "batch"}},
        },
        prompts={"source": "pairs.jsonl", "take": None},
        sft={"enabled": True, "lora": {"r": 4}, "dtype": "float32", "learning_rate": 1e-3},
        evaluation={
            "evaluator": {"function": "rewards:vowels"},
            "opponents": ["chosen", "initial", "uniform"],
            "by_temperature": {"temperatures": [0.25, 1.0], "methods": ["two_arms"]},
            "by_checkpoint": {"steps": [1, 2], "temperatures": [0.7], "methods": ["two_arms"]},
            "gradients": {"pairs": 8},
            "perplexity": {"text": "packaged", "max_tokens": 256, "dtype": "float32"},
            "benchmark": {
                "command": "test -f {model}/config.json && echo '{\"score\": [0.5]}' > {output}/score.json",
                "value": ["score", "0"],
            },
        },
        tabular={"seeds": 3, "empirical": {"steps": 40}},
    )
    done = directory.run()
    assert done.returncode == 0, done.stdout
    return directory


@pytest.fixture(scope="module")
def results(drawn):
    return drawn.path / "results/tiny"


def rows_of(results, method, seed, opponent="chosen", temperature=0.7) -> pd.DataFrame:
    path = results / f"{method}/seed-{seed}/round-1/evaluation/temperature-{temperature}/against-{opponent}.jsonl"
    return pd.read_json(path, lines=True)


def test_every_figure_and_table_has_a_program():
    """Rules are made from these names, so a program without a name would never run."""
    for folder, prefix, words in (
        ("figures", "plot", FIGURES),
        ("tables", "tabulate", TABLES | OF_JUDGES | OF_ACQUISITION | OF_VALIDATION),
    ):
        programs = {path.stem for path in (ROOT / "workflow/scripts" / folder).glob("*.py")} - {"plot_own"}
        assert programs == {f"{prefix}_{word}" for word in words}


def test_every_figure_and_table_is_made(results):
    for figure in DRAWN:
        for suffix in ("pdf", "svg", "png", "csv", "rst"):
            assert (results / f"figures/{figure}.{suffix}").stat().st_size > 60, (figure, suffix)
    for table in MADE:
        assert r"\toprule" in (results / f"tables/{table}.tex").read_text()


def test_captions_explain_intervals(results):
    for figure in (
        "quality",
        "differences",
        "comparisons",
        "temperatures",
        "checkpoints",
        "frontier",
        "cluster_counts",
    ):
        caption = (results / f"figures/{figure}.rst").read_text()
        assert "95 % CIs over prompts and seeds (crossed random effects); with 2 seeds" in caption, figure
        stated = caption.split(" Truncated ")[0]
        assert stated.count(". ") <= 2, f"{figure}: captions have at most three sentences besides warnings"


def test_results_match_the_rows(results):
    table = pd.read_csv(results / "tables/results.csv").set_index("method")
    for method in METHODS:
        rows = pd.concat([rows_of(results, method, seed) for seed in SEEDS])
        assert table.loc[method, "reward"] == pytest.approx(rows["reward"].mean(), rel=1e-5)
        assert table.loc[method, "feedback"] == pytest.approx(rows["feedback"].mean(), rel=1e-5)
        assert table.loc[method, "win"] == pytest.approx(rows["outcome"].map(WIN).mean(), rel=1e-5)
        assert table.loc[method, "n_tokens"] == pytest.approx(rows["n_tokens"].mean(), rel=1e-5)
        run = results / method
        paths = [*run.glob("seed-*/round-1/step-*/*.cost.json"), *run.glob("seed-*/round-1/train.cost.json")]
        spent = pd.DataFrame([json.loads(path.read_text()) for path in paths])
        assert table.loc[method, "flops"] == pytest.approx(spent["flops"].sum() / len(SEEDS), rel=1e-5)
        assert table.loc[method, "prompts"] == 8


def test_differences_match_the_rows(results):
    table = pd.read_csv(results / "tables/differences.csv").set_index(["method", "measure"])
    for method in METHODS[:1]:
        gaps = []
        for seed in SEEDS:
            ours, theirs = (rows_of(results, m, seed).set_index("prompt_id")["reward"] for m in (method, "uniform"))
            gaps.append((ours - theirs).mean())
        row = table.loc[(method, "reward")]
        assert row["difference"] == pytest.approx(np.mean(gaps), rel=1e-5, abs=1e-9)
        assert row["low"] <= row["difference"] <= row["high"]


def test_win_rates_match_the_rows(results):
    table = pd.read_csv(results / "tables/win_rates.csv")
    last = table[(table["round"] == 1) & (table["checkpoint"] == -1)]
    index = last.set_index(["method", "opponent", "temperature"])
    for key in [("two_arms", "chosen", 0.25), ("two_arms", "initial", 0.7), ("two_arms", "uniform", 0.7)]:
        method, opponent, temperature = key
        rows = pd.concat([rows_of(results, method, seed, opponent, temperature) for seed in SEEDS])
        counts = rows["outcome"].value_counts()
        for word in ("win", "tie", "loss", "invalid"):
            assert index.loc[key, word] == counts.get(word, 0), (key, word)
        assert index.loc[key, "win_rate"] == pytest.approx(rows["outcome"].map(WIN).mean(), rel=1e-5)
    assert {"base", "initial"} <= set(table["method"])
    assert not len(table[(table["method"] == "uniform") & (table["opponent"] == "uniform")])


def test_lengths_are_the_rows_again(results):
    table = pd.read_csv(results / "tables/length.csv").set_index("method")
    rows = pd.concat([rows_of(results, "two_arms", seed) for seed in SEEDS])
    decided = rows[(rows["outcome"] != "tie") & (rows["n_tokens"] != rows["n_tokens_opponent"])]
    longer = (decided["outcome"] == "win") == (decided["n_tokens"] > decided["n_tokens_opponent"])
    assert table.loc["two_arms", "n_tokens"] == pytest.approx(rows["n_tokens"].mean(), rel=1e-5)
    assert table.loc["two_arms", "longer_won"] == pytest.approx(longer.mean(), rel=1e-5)


def test_costs_table_matches_cost_files(results):
    table = pd.read_csv(results / "tables/costs.csv").set_index(["method", "stage"])
    for stage, file in {"train": "train", "measure_kl": "evaluation/measure_kl"}.items():
        found = [json.loads(p.read_text()) for p in (results / "two_arms").glob(f"seed-*/round-1/{file}.cost.json")]
        assert len(found) == len(SEEDS)
        assert table.loc[("two_arms", stage), "flops"] == pytest.approx(sum(c["flops"] for c in found) / 2, rel=1e-5)
    for method, folder in {"shared": results, "two_arms": results / "two_arms"}.items():
        cost = json.loads((folder / "cluster_prompts.cost.json").read_text())
        assert table.loc[(method, "cluster_prompts"), "tokens_in"] == cost["tokens_in"]
    assert {"fine_tune", "measure_gradients"} <= set(table.loc["shared"].index)


def test_cost_to_reach_interpolates_the_reward_curve(results):
    """With one round, the curve is a line from the initial reward at cost 0 to the final reward at the full cost."""
    table = pd.read_csv(results / "tables/cost_to_reach.csv").query("cost == 'flops'").set_index("method")
    path = results / "initial/evaluation/temperature-0.7/against-chosen.jsonl"
    initial = pd.read_json(path, lines=True)["reward"].mean()
    ends = {m: np.mean([rows_of(results, m, seed)["reward"].mean() for seed in SEEDS]) for m in METHODS}
    best = max(ends.values())
    target = (initial + best) / 2 if best > initial else np.nan  # such a small model may get worse
    assert table["target"].to_numpy() == pytest.approx(target, rel=1e-5, nan_ok=True)
    spent = pd.read_csv(results / "tables/results.csv").set_index("method")["flops"]
    for method, end in ends.items():
        expected = spent[method] * (target - initial) / (end - initial) if end >= target else np.nan
        assert table.loc[method, "value"] == pytest.approx(expected, rel=1e-4, nan_ok=True), method


def test_own_clusters_apply_only_to_their_method(results):
    arms = {m: json.loads((results / m / "seed-0/round-1/step-1/arms.json").read_text())["arms"] for m in METHODS}
    assert {m: len(found) for m, found in arms.items()} == {"two_arms": 2, "uniform": 3}
    eval_prompts = pd.read_csv(results / "clusters_eval.csv")
    assert set(eval_prompts["prompt_id"]) == set(pd.read_json(results / "prompts/eval.jsonl", lines=True)["prompt_id"])


def test_checkpoint_of_the_last_step_equals_the_policy(results):
    run = results / "two_arms/seed-1/round-1"
    ends = [read_policy(path) for path in (run / "policy.pt", run / "checkpoint-2/policy.pt")]
    first = read_policy(run / "checkpoint-1/policy.pt")["state_dict"]
    for name, tensor in ends[0]["state_dict"].items():
        assert tensor.equal(ends[1]["state_dict"][name]), name
    assert any(not tensor.equal(first[name]) for name, tensor in ends[0]["state_dict"].items())


def test_checkpoint_after_the_last_step_is_refused(drawn, copy_of):
    directory = copy_of(drawn)
    directory.configure(evaluation={"by_checkpoint": {"steps": [1, 99]}})
    done = directory.run("results/tiny/two_arms/seed-0/round-1/checkpoint-99/policy.pt")
    assert done.returncode != 0
    assert "evaluation.by_checkpoint.steps: 99, but a round has at most 2 optimizer steps" in done.stdout


def test_only_methods_evaluated_by_checkpoint_keep_checkpoints(results):
    found = {path.relative_to(results).parts[0] for path in results.glob("*/seed-*/round-1/checkpoint-*")}
    assert found == {"two_arms"}


def test_gallery_starts_with_the_comment_of_the_config(drawn, copy_of):
    directory = copy_of(drawn)
    asked = "# Which of two is better?\n#   snakemake --configfile asked.yaml\n"
    (directory.path / "asked.yaml").write_text(asked + (directory.path / "config.yaml").read_text())
    done = directory.run("gallery", "--configfile", "asked.yaml")
    assert done.returncode == 0, done.stdout
    page = (directory.path / "docs/gallery/tiny.md").read_text()
    assert page.startswith("# tiny\n\nWhich of two is better?\n\n```\nsnakemake --configfile asked.yaml\n```\n")
    for figure in DRAWN:
        assert f"(tiny/{figure}.png)" in page
        assert (directory.path / f"docs/gallery/tiny/{figure}.png").stat().st_size < 200_000
    assert "| method |" in page


def test_figures_and_tables_from_rows_have_the_same_bytes(drawn, results, tmp_path):
    """All but the theory's figure, which has no runs, are drawn from a copy of the rows, elsewhere."""
    done = drawn.run("rows")
    assert done.returncode == 0, done.stdout
    shutil.copytree(results / "rows", tmp_path / "rows")
    program = ROOT / "workflow/scripts/redraw.py"
    command = [sys.executable, program, "--rows", "rows", "--output", "redrawn"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("redraw: rows are not enough for tabular\n")
    redrawn = {path.relative_to(tmp_path / "redrawn") for path in (tmp_path / "redrawn").glob("*/*")}
    made = {path.relative_to(results) for name in ("figures", "tables") for path in (results / name).iterdir()}
    assert redrawn == {path for path in made if path.stem != "tabular"}
    for path in sorted(redrawn):
        assert (tmp_path / "redrawn" / path).read_bytes() == (results / path).read_bytes(), path


def test_redrawing_runs_no_other_stage(drawn, copy_of):
    """Existing figures are kept, and an edited figure and those with a deleted file are the only ones drawn again."""
    assert drawn.jobs("figures") == set()
    directory = copy_of(drawn)
    directory.append("workflow/scripts/figures/plot_frontier.py", "EDITED = 1")
    assert directory.jobs() == {"plot_frontier", "all"}
    for name in ("figures/quality.png", "figures/differences.csv", "tables/seeds.tex"):
        (directory.path / "results/tiny" / name).unlink()
    assert directory.jobs() == {"plot_frontier", "plot_quality", "plot_differences", "tabulate_seeds", "all"}


def test_report_has_figures_and_captions(drawn):
    done = drawn.run("--report", "report.html")
    assert done.returncode == 0, done.stdout
    page = (drawn.path / "report.html").read_text()
    for question in ("Which method is better?", "How far did policies move?"):
        assert question in page
    assert "fewer than three seeds" in page
    assert "The evaluator also trained the policies" in page and "in TFLOPs: two" in page
