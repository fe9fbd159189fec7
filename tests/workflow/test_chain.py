"""The whole pipeline on a tiny model makes all outputs, gives the same bytes twice, and reruns only what changed."""

import filecmp
import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

import tiny
from conftest import SHARED_DATA
from prefloop.core.jsonl import read_rows

FIGURES = ["quality", "differences", "arms", "prompts", "training", "pfp"]
TABLES = ["results", "differences", "length", "costs", "cost_to_reach"]
JUDGMENTS = "evaluation/temperature-0.7/against-initial.jsonl"
ROWS = ["prompts.jsonl", "generations.jsonl", "rewards.jsonl", "logprobs.jsonl", "pfp.jsonl"]


def test_figures_tables_and_policies_exist(finished):
    results = finished.path / "results/tiny"
    for figure in FIGURES:
        for suffix in ("pdf", "svg", "png", "csv", "rst"):
            assert (results / f"figures/{figure}.{suffix}").stat().st_size > 100, figure
    for table in TABLES:
        assert (results / f"tables/{table}.csv").stat().st_size > 100
        assert r"\toprule" in (results / f"tables/{table}.tex").read_text()
    for method in ("dota", "uniform"):
        assert (results / method / "seed-0/round-2/policy.pt").is_file()
        assert (results / method / "seed-0/round-2/adapter/adapter_config.json").is_file()


def test_second_run_does_nothing(finished):
    """It is a new process, whose hashes of text differ from those of the first run."""
    done = subprocess.run(**finished.command("--dry-run"), capture_output=True, text=True)
    assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr, done


def test_prompt_id_and_cluster_are_carried_through_every_file(finished):
    results = finished.path / "results/tiny"
    clusters = pd.read_csv(results / "clusters.csv").set_index("prompt_id")["cluster"]
    for step in sorted(results.glob("dota/seed-0/round-*/step-*")):
        for name in ROWS:
            for row in read_rows(step / name, ["prompt_id", "cluster"]):
                assert row["cluster"] == clusters[row["prompt_id"]], (step, name)
    for row in read_rows(results / "dota/seed-0/round-1/pairs.jsonl"):
        assert row["cluster"] == clusters[row["prompt_id"]]
        assert row["reward_chosen"] > row["reward_rejected"]


def test_no_prompt_is_annotated_twice_in_a_run(finished):
    for method in ("dota", "uniform"):
        files = (finished.path / f"results/tiny/{method}/seed-0").glob("round-*/step-*/prompts.jsonl")
        ids = [row["prompt_id"] for file in files for row in read_rows(file)]
        assert len(ids) == len(set(ids)) == 16


def test_arms_count_every_step(finished):
    run = finished.path / "results/tiny/dota/seed-0"
    steps = [json.loads((run / f"round-{r}/step-{s}/arms.json").read_text()) for r in (1, 2) for s in (1, 2)]
    assert [sum(arm["pulls"] for arm in step["arms"]) for step in steps] == [4, 8, 12, 16]


def test_results_table_matches_the_rows(finished):
    """The expected values are computed from the rows with pandas only."""
    results = finished.path / "results/tiny"
    table = pd.read_csv(results / "tables/results.csv").set_index("method")
    for method in ("dota", "uniform"):
        rows = pd.read_json(results / method / "seed-0/round-2" / JUDGMENTS, lines=True)
        assert table.loc[method, "reward"] == pytest.approx(rows["reward"].mean(), rel=1e-5)
        wins = rows["outcome"].map({"win": 1, "tie": 0.5, "loss": 0}).mean()
        assert table.loc[method, "win"] == pytest.approx(wins, rel=1e-5)
        costs = [json.loads(p.read_text()) for p in (results / method).glob("seed-0/round-*/step-*/*.cost.json")]
        costs += [json.loads(p.read_text()) for p in (results / method).glob("seed-0/round-*/train.cost.json")]
        assert table.loc[method, "flops"] == pytest.approx(sum(c["flops"] for c in costs), rel=1e-5)
    assert table.loc["initial", "win"] == 0.5


def test_two_runs_are_byte_identical(finished, workdir):
    """A run in another folder gives the same JSONL files and arms.json, and redrawn figures are the same."""
    target = f"results/tiny/dota/seed-0/round-1/{JUDGMENTS}"
    done = workdir.run(target, "results/tiny/dota/seed-0/round-1/step-2/arms.json")
    assert done.returncode == 0, done.stdout
    made = [p for p in workdir.path.glob("results/tiny/**/*") if p.suffix == ".jsonl" or p.name == "arms.json"]
    assert len(made) == 19
    for path in made:
        assert filecmp.cmp(path, finished.path / path.relative_to(workdir.path), shallow=False), path
    figures = finished.path / "results/tiny/figures"
    shutil.copytree(figures, workdir.path / "figures")
    done = finished.run("--forcerun", *(f"plot_{name}" for name in FIGURES))
    assert done.returncode == 0, done.stdout
    for path in figures.iterdir():
        assert filecmp.cmp(path, workdir.path / "figures" / path.name, shallow=False), path


def test_editing_a_loss_reruns_only_training_and_later_stages(finished, copy_of):
    """Evaluation, later rounds and figures of results run again, but no step of round 1."""
    directory = copy_of(finished)
    assert directory.jobs() == set()
    directory.append("workflow/scripts/prefloop/methods/losses.py", "EDITED = 1")
    listed = directory.run("--dry-run", "--printshellcmds").stdout
    outputs = [line for line in listed.splitlines() if line.strip().startswith("output:")]
    assert outputs
    assert not any("round-1/step-" in line or "clusters" in line or "/initial/" in line for line in outputs)
    for method in ("dota", "uniform"):
        assert any(f"{method}/seed-0/round-1/policy.pt" in line for line in outputs)


@pytest.mark.parametrize(
    ("edited", "expected"),
    [
        ("figures/plot_quality.py", {"plot_quality", "all"}),
        ("prefloop/report/plotting.py", {f"plot_{name}" for name in FIGURES} | {"all"}),
    ],
)
def test_editing_plots_only_redraws_figures(finished, copy_of, edited, expected):
    directory = copy_of(finished)
    directory.append(f"workflow/scripts/{edited}", "EDITED = 1")
    assert directory.jobs() == expected


def test_comments_and_formatting_rerun_nothing(finished, copy_of):
    """The edits are in two common modules, programs and rules, and all files get new times."""
    directory = copy_of(finished)
    for file in ["prefloop/core/errors.py", "prefloop/core/jsonl.py", "_program.py", "train.py"]:
        path = directory.path / "workflow/scripts" / file
        path.write_text(
            path.read_text().replace('"""', '"""Edited. ', 1).replace("\n\n\n", "\n\n\n\n") + "\n# edited\n"
        )
    directory.append("rules/common.smk", "# edited")
    for path in directory.path.glob("workflow/**/*"):
        path.touch()
    assert directory.jobs() == set()


def test_editing_fetch_keeps_fetched_models(finished, copy_of):
    directory = copy_of(finished)
    directory.append("workflow/scripts/prefloop/models/fetch.py", "EDITED = 1")
    assert "fetch_model" not in directory.jobs()


def test_writing_defaults_into_the_config_reruns_nothing(finished, copy_of):
    directory = copy_of(finished)
    directory.configure(pairs={"min_gap": None}, train={"loss": "dpo"})
    assert directory.jobs() == set()


def test_editing_a_reward_function_scores_again(finished, copy_of):
    directory = copy_of(finished)
    directory.append("rewards.py", "# edited")
    assert directory.jobs() == set()
    directory.append("rewards.py", "EDITED = 1")
    assert {"reward", "update_arms", "select_pairs", "compare_samples"} <= directory.jobs()
    assert not {"cluster_prompts", "prepare_prompts", "fetch_model"} & directory.jobs()


def test_adding_a_seed_runs_only_that_seed(finished, copy_of):
    directory = copy_of(finished)
    listed = directory.run("--dry-run", "--printshellcmds", "--config", "seeds=[0,1]").stdout
    outputs = [line for line in listed.splitlines() if line.strip().startswith("output:")]
    assert any("seed-1" in line for line in outputs)
    assert not any("seed-0" in line for line in outputs)
    assert not {"fetch_model", "prepare_prompts", "cluster_prompts"} & directory.jobs("--config", "seeds=[0,1]")


def test_raising_rounds_runs_only_the_new_round(finished, copy_of):
    directory = copy_of(finished)
    listed = directory.run("--dry-run", "--printshellcmds", "--config", "rounds=3").stdout
    outputs = [line for line in listed.splitlines() if line.strip().startswith("output:")]
    assert any("round-3" in line for line in outputs)
    assert not any("round-1" in line or "round-2" in line or "clusters" in line for line in outputs)


def test_report_is_one_file_with_captions(finished):
    done = finished.run("--report", "report.html")
    assert done.returncode == 0, done.stdout
    report = (finished.path / "report.html").read_text()
    assert "95 % CIs over prompts" in report


def test_other_methods_and_models_work(workdir, model_folders):
    """The run has methods all, offline and top_k, full training, elbow, and a reward model and an encoder."""
    judge, encoder = tiny.make_reward_model(workdir.path / "rm"), tiny.make_model(workdir.path / "encoder", seed=5)
    workdir.configure(
        policy={"model": str(model_folders["gpt_neox"])},
        compare=["all", "offline", "full"],
        rounds=2,
        steps=1,
        prompts={"take": 16, "eval_fraction": 0.25},
        clusters={"k": "elbow", "k_max": 4, "embedding": str(encoder)},
        methods={
            "all": {"bandit": {"allocation": "all"}},
            "offline": {"generation": {"sampler": "reference"}},
            "full": {
                "bandit": {"allocation": "top_k", "top_k": 1},
                "pairs": {"metric": "best_worst"},
                "train": {"parameters": "full"},
            },
        },
        evaluation={"evaluator": {"kind": "reward_model", "model": str(judge)}},
    )
    results = workdir.path / "results/tiny"
    done = workdir.run(
        "results/tiny/all/seed-0/round-1/step-1/prompts.jsonl",
        "results/tiny/offline/seed-0/round-2/step-1/generations.jsonl",
        f"results/tiny/full/seed-0/round-2/{JUDGMENTS}",
    )
    assert done.returncode == 0, done.stdout
    train = {row["prompt_id"] for row in read_rows(results / "prompts/train.jsonl")}
    assert {row["prompt_id"] for row in read_rows(results / "all/seed-0/round-1/step-1/prompts.jsonl")} == train
    samplers = {row["sampler"] for row in read_rows(results / "offline/seed-0/round-2/step-1/generations.jsonl")}
    assert samplers == {"reference"}
    assert not (results / "offline/seed-0/round-1/policy.pt").exists(), "sampling from the reference needs no training"
    assert not (results / "full/seed-0/round-1/adapter").exists()
    judgments = read_rows(results / "full/seed-0/round-2" / JUDGMENTS)
    assert any(row["reward"] != row["reward_opponent"] for row in judgments)
    scored = read_rows(results / "full/seed-0/round-2/step-1/logprobs.jsonl")
    assert any(row["logp"] != row["logp_ref"] for row in scored), "the reference stays the initial policy"


def test_planted_cluster_gains_share(workdir):
    """The bandit finds a cluster with large PFP. It could not if a stage lost the column `cluster`.

    Long responses win in the planted cluster. Chosen responses are then improbable and have large PFP.
    Short responses win in the other clusters.
    """
    topics = ["zzz zzz zzz", "Q: 12 + 34 = 56?", "the reply is good"]
    prompts = [
        {"prompt_id": f"{t}{i:02d}", "prompt": f"{topic} {i}"} for t, topic in enumerate(topics) for i in range(40)
    ]
    assert prompts[7]["prompt_id"] == "007", "numeric ids stay text"
    (workdir.path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    (workdir.path / "planted.py").write_text(
        "def reward(prompts, responses):\n"
        "    signs = [1 if 'zzz' in p[-1]['content'] else -1 for p in prompts]\n"
        "    return [s * len(r) for s, r in zip(signs, responses)]\n"
    )
    workdir.configure(
        compare=["dota"],
        rounds=1,
        steps=4,
        prompts={"source": "prompts.jsonl", "take": None, "eval_fraction": 0.05},
        clusters={"k": 3},
        bandit={"budget": 12, "alpha": 0.1},
        generation={"max_new_tokens": 40},
        feedback={"function": "planted:reward"},
    )
    done = workdir.run("results/tiny/dota/seed-0/round-1/step-4/prompts.jsonl", "results/tiny/clusters.csv")
    assert done.returncode == 0, done.stdout
    run = workdir.path / "results/tiny/dota/seed-0/round-1"
    shares = []
    for step in (1, 2, 3, 4):
        rows = read_rows(run / f"step-{step}/prompts.jsonl")
        shares.append(sum(row["prompt_id"].startswith("0") for row in rows) / len(rows))
    arms = json.loads((run / "step-3/arms.json").read_text())["arms"]
    clusters = pd.read_csv(workdir.path / "results/tiny/clusters.csv", dtype={"prompt_id": str})
    planted = clusters[clusters["prompt_id"].str.startswith("0")]["cluster"]
    assert planted.nunique() == 1
    assert max(arms, key=lambda arm: arm["mean"])["cluster"] == planted.iloc[0]
    assert shares[0] == pytest.approx(1 / 3)
    assert shares[3] > 0.45


@pytest.mark.skipif(not Path(SHARED_DATA).is_file(), reason="the HH-RLHF pairs are not on this machine")
def test_real_preference_pairs_as_prompts(workdir, model_folders):
    workdir.configure(policy={"model": str(model_folders["qwen"])})
    done = workdir.run(
        f"results/tiny/dota/seed-0/round-1/{JUDGMENTS}",
        "--config",
        "rounds=1",
        "steps=1",
        "train={learning_rate: 1.0e-3}",
        f'prompts={{"source": "{SHARED_DATA}", "take": 40, "max_prompt_tokens": 120}}',
    )
    assert done.returncode == 0, done.stdout
    assert "dropped" in (workdir.path / "results/logs/tiny/prepare_prompts.log").read_text()
