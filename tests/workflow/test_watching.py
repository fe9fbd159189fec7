"""Stages and `make status` report a tiny experiment while it runs, after a failure and at its end."""

import json
import subprocess
import time

import pytest

from conftest import ROOT
from prefloop.core.stage_status import read_status
from prefloop.monitor.status import experiment_status, time_left
from prefloop.monitor.status_text import status_table

RUN = "results/tiny/dota/seed-0"


def test_every_stage_ends_with_a_summary_line(finished):
    logs = sorted((finished.path / "results/logs/tiny").rglob("*.log"))
    last_lines = {
        log: log.read_text().splitlines()[-1] for log in [*logs, *(finished.path / "results/logs/models").glob("*.log")]
    }
    statuses = {log: read_status(log) for log in last_lines}
    assert [str(log) for log, status in statuses.items() if (status or {}).get("state") != "done"] == []
    assert all(status["seconds"] > 0 for status in statuses.values())
    programs = {line.split(":")[0] for line in last_lines.values()}
    stages = {"fetch_model", "prepare_prompts", "cluster_prompts", "allocate", "generate", "reward", "logprobs"}
    assert programs >= stages | {
        "update_arms",
        "select_pairs",
        "train",
        "compare_samples",
        "plot_quality",
        "tabulate_results",
    }
    rated = {line.split(":")[0] for line in last_lines.values() if "/s)" in line}
    assert rated >= {"cluster_prompts", "generate", "reward", "logprobs", "select_pairs", "train", "compare_samples"}


def test_status_of_a_finished_experiment(finished):
    status = experiment_status(finished.path, "tiny")
    assert status.state == "done" and time_left(status, time.time()) == (0.0, [])
    assert list(status.runs) == [("dota", 0), ("uniform", 0)]
    for run in status.runs.values():
        assert (run.rounds, run.steps, run.evaluated, run.prompts) == (2, 4, 2, 16)
    costs = [json.loads(path.read_text()) for path in (finished.path / "results/tiny").rglob("*.cost.json")]
    runs = [*status.runs.values(), status.shared]
    assert sum(run.amounts["flops"] for run in runs) == sum(cost["flops"] for cost in costs) > 0
    assert sum(run.amounts["seconds"] for run in runs) == pytest.approx(sum(cost["seconds"] for cost in costs))
    assert status.shared.amounts["flops"] > 0, "clusters and samples of the initial policy are shared"


def test_runs_without_jobs_write_no_plan(workdir, finished):
    assert workdir.jobs()
    assert not (workdir.path / "results").exists()
    plan = finished.path / "results/logs/tiny/plan.json"
    before = plan.stat().st_mtime_ns
    done = finished.run()
    assert done.returncode == 0 and plan.stat().st_mtime_ns == before


def test_status_of_a_running_and_a_failed_experiment(workdir):
    """The run makes the first policy of one method. Then a reward function raises."""
    command = workdir.command(f"{RUN}/round-1/policy.pt")
    running = subprocess.Popen(**command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen = []
    while running.poll() is None:
        if (workdir.path / "results/logs/tiny/plan.json").is_file():
            seen.append(experiment_status(workdir.path, "tiny"))
        time.sleep(0.3)
    assert running.returncode == 0
    done = [status.counts["done"] for status in seen]
    assert done == sorted(done) and len(set(done)) > 5, "jobs finish one by one"
    atwork = {job.stage for status in seen if status.alive for job in status.jobs if job.state == "running"}
    assert atwork >= {"cluster_prompts", "generate", "train"}
    assert time_left(seen[0], time.time())[0] is None, "no estimate exists at the start"
    status = experiment_status(workdir.path, "tiny")
    run = status.runs["dota", 0]
    assert (status.state, run.rounds, run.steps, run.prompts) == ("done", 1, 2, 8)
    assert (status.runs["uniform", 0].steps, status.runs["uniform", 0].amounts["flops"]) == (0, 0)

    workdir.configure(feedback={"function": "rewards:raising"})
    assert workdir.run(f"{RUN}/round-1/policy.pt").returncode != 0
    status = experiment_status(workdir.path, "tiny")
    assert status.state == "failed" and status.runs["dota", 0].rounds == 0, "the policy was trained on other rewards"
    failed = [job for job in status.jobs if job.state == "failed"]
    assert failed and {job.stage for job in failed} == {"reward"}
    assert failed[0].last_line.startswith("error: feedback raising raised KeyError")
    assert "error: feedback raising" in status_table(status, time.time())


def test_shards_are_done_after_their_files_are_deleted(workdir):
    workdir.configure(shards=2)
    done = workdir.run(f"{RUN}/round-1/step-1/rewards.jsonl")
    assert done.returncode == 0, done.stdout
    status = experiment_status(workdir.path, "tiny")
    assert status.state == "done"
    shards = [entry for entry in status.plan["jobs"] if entry["temporary"]]
    assert sorted(entry["stage"] for entry in shards) == ["generate_shard"] * 2 + ["reward_shard"] * 2
    assert not any((workdir.path / entry["output"]).exists() for entry in shards)
    assert all(job.seconds is not None for job in status.jobs)


def test_make_status_prints_the_status(finished):
    shown = subprocess.run(
        ["make", "--no-print-directory", "-f", ROOT / "Makefile", "status"],
        cwd=finished.path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.startswith("tiny: done, ")
