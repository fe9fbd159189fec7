"""The state of an experiment: made-up folders and hand-computed numbers."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from conftest import ROOT
from prefloop.core.errors import InputError
from prefloop.core.files import write_json
from prefloop.core.jsonl import write_rows
from prefloop.core.stage_status import status_file
from prefloop.monitor.status import as_dict, experiment_status, experiments, parallelism, time_left
from prefloop.monitor.status_text import WIDTH, headline, status_table, with_prefix

START = 1_000_000.0
COST = "generate.cost.json"
JUDGMENTS = "evaluation/temperature-0.7/against-initial.jsonl"


class Project:
    """A project folder whose files have given modification times, in seconds after the plan."""

    def __init__(self, path, name="tiny", methods=("a", "b"), rounds=2, steps=1):
        self.path, self.name, self.root, self.jobs = path, name, f"results/{name}", []
        self.shape = {"root": self.root, "methods": methods, "seeds": [0], "rounds": rounds, "steps": steps}
        self.shape["judgments"] = JUDGMENTS

    def add(self, stage, folder, output, at=None, log=None, text="", to_do=True, temporary=False, **status):
        """Add a job whose output was written at time `at`, and its log (with `text`) and status at time `log`."""
        entry = {"stage": stage, "output": f"{self.root}/{folder}{output}", "temporary": temporary}
        entry |= {"log": f"results/logs/{self.name}/{folder}{stage}.log", "to_do": to_do}
        self.jobs.append(entry)
        if at is not None:
            cost = {"tokens_in": 100, "tokens_out": 20, "flops": 2e12, "seconds": 5.0}
            self.write(entry["output"], json.dumps(cost) if output.endswith(".cost.json") else "{}\n", at)
        if log is not None:
            self.write(entry["log"], text, log)
        if status:
            self.report(entry["log"], log, **status)
        return entry["log"]

    def report(self, log, at, **status):
        """Write the status file of a job."""
        self.write(status_file(log), json.dumps(status), at)

    def write(self, name, text, at):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (START + at, START + at))

    def plan(self):
        plan = self.path / f"results/logs/{self.name}/plan.json"
        write_json(plan, self.shape | {"jobs": self.jobs})
        os.utime(plan, (START, START))
        return self

    def lock(self):
        self.write(".snakemake/locks/0.output.lock", f"results/models/m/manifest.json\n{self.root}/clusters.pkl\n", 0)

    def status(self):
        return experiment_status(self.path, self.name)


def done(seconds):
    return {"state": "done", "seconds": seconds}


@pytest.fixture
def half_done(tmp_path) -> Project:
    """Two methods run in parallel. Round 1 is done; in round 2, `a` is generating and `b` has failed.

    In round 1 each method generated for 10 s, until 10, and trained for 20 s, until 30.
    """
    project = Project(tmp_path)
    for method in "ab":
        first, second = (f"{method}/seed-0/round-{index}/" for index in (1, 2))
        project.add("generate", f"{first}step-1/", COST, 10, 10, **done(10.0))
        project.add("train", first, "train.cost.json", 30, 30, **done(20.0))
        for name in ("policy.pt", "step-1/pfp.jsonl", "step-1/rewards.jsonl"):
            project.write(f"{project.root}/{first}{name}", "{}\n", 10)
        write_rows(tmp_path / project.root / f"{first}step-1/prompts.jsonl", [{"prompt_id": str(i)} for i in range(4)])
        if method == "a":
            project.add("generate", f"{second}step-1/", COST, None, 35, state="running")
        else:
            text = "reading\nerror: rewards.jsonl: empty file\n"
            project.add("generate", f"{second}step-1/", COST, None, 35, text, state="failed")
        project.add("train", second, "train.cost.json")
    return project.plan()


def test_jobs_are_counted_by_state(half_done):
    half_done.lock()
    status = half_done.status()
    assert status.counts == {"done": 4, "running": 1, "failed": 1, "waiting": 2}
    assert status.state == "running"
    run = status.runs["a", 0]
    assert (run.rounds, run.steps, run.evaluated, run.prompts) == (1, 1, 0, 4)
    assert run.amounts == {"tokens": 240, "flops": 4e12, "seconds": 10.0}
    assert not status.shared.amounts


def test_time_left_is_duration_over_parallelism(half_done):
    """Two times 10 s of generation and two times 20 s of training remain: 60 s, two jobs in parallel."""
    half_done.lock()
    assert time_left(half_done.status(), START + 40) == (30.0, [])
    log = "results/logs/tiny/a/seed-0/round-2/step-1/generate.log"
    half_done.report(log, 36, state="running", seconds=31.0, seconds_left=56.0)
    assert time_left(half_done.status(), START + 40) == (52.0, []), "the running job needs 56 − 4 s"
    half_done.report(log, 36, state="running", seconds=31.0, seconds_left=34.0)
    assert time_left(half_done.status(), START + 40) == (40.0, []), "(30 + 10 + 40) / 2"


def test_stage_without_a_finished_job_has_no_estimate(half_done):
    half_done.add("compare_samples", "a/seed-0/round-2/", JUDGMENTS.replace(".jsonl", ".cost.json"))
    half_done.plan().lock()
    status = half_done.status()
    assert time_left(status, START + 40) == (30.0, ["compare_samples"])
    assert headline(status, START + 40) == ("tiny: running, 4 of 9 jobs done, 1 running, 1 failed; at least 30 s left")
    assert "without an estimate, because none of them has finished: compare_samples" in status_table(status, START + 40)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(0, 10)], 1.0),
        ([(0, 10), (0, 10), (5, 10)], 2.5),
        ([(0, 10), (20, 30)], 20 / 30),  # ten seconds between two stages are start-up time
        ([(0, 10), (1000, 1010)], 1.0),  # nothing ran in between
        ([(5, 5)], 1.0),
        ([], 1.0),
    ],
)
def test_parallelism(spans, expected):
    assert parallelism(spans) == pytest.approx(expected)


def test_without_a_lock_nothing_runs(half_done):
    status = half_done.status()
    assert status.counts == {"done": 4, "stopped": 1, "failed": 1, "waiting": 2}
    assert status.state == "failed"


def test_lock_of_another_experiment_does_not_count(half_done):
    half_done.write(".snakemake/locks/0.output.lock", "results/tiny_too/clusters.pkl\n", 0)
    assert not half_done.status().alive


def test_outdated_outputs_are_not_done(tmp_path):
    """Outputs, logs and failures from before the start do not count, nor does the resulting policy."""
    project = Project(tmp_path, methods=["a"], rounds=1)
    project.add("train", "a/seed-0/round-1/", "train.cost.json", -50, -50, "error: diverged\n", state="failed")
    step = "a/seed-0/round-1/step-1/"
    project.add("reward", step, "reward.cost.json", -60, -60, to_do=False, **done(0.1))
    project.add("pfp", step, "pfp.jsonl", -60, -60, to_do=False, **done(0.1))
    project.write(f"results/tiny/{step}rewards.jsonl", "{}\n", -60)
    project.write(f"results/tiny/{step}prompts.jsonl", "{}\n", -60)
    project.write("results/tiny/a/seed-0/round-1/policy.pt", "", -50)
    status = project.plan().status()
    assert status.counts == {"waiting": 1, "done": 2}
    assert (status.runs["a", 0].rounds, status.runs["a", 0].steps) == (0, 1)


@pytest.mark.parametrize(
    ("state", "reported", "expected"),
    [
        ("running", 5, "running"),
        ("failed", 5, "failed"),
        ("stopped", 5, "stopped"),
        ("failed", -9, "running"),  # failed in an earlier run; the process has just started again
        ("done", 5, "running"),  # Snakemake has not yet seen its output
    ],
)
def test_unfinished_job_has_the_state_in_its_status_file(tmp_path, state, reported, expected):
    project = Project(tmp_path, methods=["a"], rounds=1)
    log = project.add("train", "a/seed-0/round-1/", "train.cost.json", None, 5)
    project.report(log, reported, state=state)
    project.plan().lock()
    (job,) = project.status().jobs
    assert job.state == expected


def test_failed_job_is_shown_with_the_last_line_of_its_log(tmp_path):
    project = Project(tmp_path, methods=["a"], rounds=1)
    text = "Traceback (most recent call last):\n  File …\nKeyError: 'x'\n\n"
    project.add("train", "a/seed-0/round-1/", "train.cost.json", None, 5, text, state="failed")
    status = project.plan().status()
    assert status.state == "failed" and "KeyError: 'x'" in status_table(status, START + 9)


def test_warnings_of_finished_jobs_are_shown(tmp_path):
    """For example, unusable answers of a judge are visible without reading the logs. Long ones take several lines."""
    project = Project(tmp_path, methods=["a"], rounds=1)
    warning = "9 of 9 answers are unusable; " + "the first " * 9
    project.add("reward", "a/seed-0/round-1/step-1/", "reward.cost.json", 10, 10, warning=warning, **done(1.0))
    project.add("train", "a/seed-0/round-1/", "train.cost.json", 20, 20, **done(1.0))
    status = project.plan().status()
    assert headline(status, START + 30) == "tiny: done, 2 of 2 jobs done, 1 with a warning"
    lines = status_table(status, START + 30).splitlines()
    log = "results/logs/tiny/a/seed-0/round-1/step-1/reward.log"
    assert lines[-4:-2] == ["warnings:", f"  {log}"]
    assert all(line.startswith(" " * 4) and len(line) <= 100 for line in lines[-2:])
    assert " ".join(lines[-2:]).split() == warning.split()
    assert as_dict(status, START + 30)["warnings"] == [{"log": log, "warning": warning}]


def test_figures_are_one_stage_and_tables_another(tmp_path):
    project = Project(tmp_path, methods=["a"], rounds=1)
    project.add("plot_arms", "figures/", "arms.png", 3, 3, **done(3.0))
    for name in ("plot_pfp", "plot_quality", "tabulate_costs", "tabulate_length"):
        project.add(name, "figures/", f"{name}.png")
    assert time_left(project.plan().status(), START) == (6.0, ["tables"])


def test_gathered_shards_are_done(tmp_path):
    project = Project(tmp_path, methods=["a"], rounds=1)
    step = "a/seed-0/round-1/step-1/"
    project.add("generate_shard", f"{step}shard-0/", COST, None, 9, temporary=True, **done(4.0))
    project.add("generate_shard", f"{step}shard-1/", COST, 12, 12, temporary=True, **done(6.0))
    project.add("generate_shard", f"{step}shard-2/", COST, None, 12, temporary=True, state="running")
    project.plan().lock()
    status = project.status()
    assert status.counts == {"done": 2, "running": 1}
    assert not status.runs["a", 0].amounts, "costs of shards are counted after gathering"
    assert time_left(status, START + 12)[0] == 5.0, "the mean of 4 s and 6 s, which no parallelism shortens"


def test_time_left_is_unknown_at_the_start(tmp_path):
    project = Project(tmp_path, methods=["a"], rounds=1)
    project.add("cluster_prompts", "", "cluster_prompts.cost.json")
    project.plan().lock()
    status = project.status()
    assert time_left(status, START) == (None, ["cluster_prompts"])
    assert headline(status, START) == "tiny: running, 0 of 1 jobs done; time left: unknown"


def test_running_stage_has_an_estimate_before_any_job_has_finished(tmp_path):
    project = Project(tmp_path, methods=["a"], rounds=1)
    project.add(
        "cluster_prompts",
        "",
        "cluster_prompts.cost.json",
        None,
        1,
        state="running",
        done=40,
        total=80,
        seconds_left=5.0,
    )
    project.add("generate", "a/seed-0/round-1/step-1/", COST)
    project.plan().lock()
    status = project.status()
    assert time_left(status, START + 2) == (4.0, ["generate"])
    assert headline(status, START + 2) == "tiny: running, 0 of 2 jobs done, 1 running; at least 4 s left"
    assert as_dict(status, START + 2)["running"][0]["done"] == 40


def test_finished_experiment_has_a_table_of_totals(tmp_path):
    project = Project(tmp_path, methods=["a"], rounds=1)
    project.add("cluster_prompts", "", "cluster_prompts.cost.json", 3, 3, **done(3.0))
    project.add("compare_samples", "a/seed-0/round-1/", JUDGMENTS.replace(".jsonl", ".cost.json"), 9, 9, **done(6.0))
    project.write(f"results/tiny/a/seed-0/round-1/{JUDGMENTS}", "{}\n", 9)
    planned = project.plan()
    earlier = tmp_path / "results/tiny/a/seed-1"  # a seed that the plan does not have
    shutil.copytree(earlier.with_name("seed-0"), earlier)
    status = planned.status()
    assert headline(status, START) == "tiny: done, 2 of 2 jobs done"
    assert status.runs["a", 0].evaluated == 1
    assert status.shared.amounts == {"tokens": 120, "flops": 2e12, "seconds": 5.0}
    assert [line.split() for line in status_table(status, START).splitlines()[2:]] == [
        ["method", "seed", "rounds", "steps", "evaluated", "prompts", "tokens", "FLOPs", "stage", "time"],
        ["a", "0", "0/1", "0/1", "1/1", "0", "120", "2", "T", "5.0", "s"],
        ["shared", "120", "2", "T", "5.0", "s"],
        ["all", "0", "240", "4", "T", "10", "s"],
    ]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0"),
        (999, "999"),
        (1e3, "1 K"),
        (4.59e8, "459 M"),
        (3.12e13, "31.2 T"),
        (999.4e9, "999 G"),
        (999.6e9, "1 T"),
    ],
)
def test_flops_have_a_prefix(number, expected):
    assert with_prefix(number) == expected


def test_table_fits_into_its_width(tmp_path):
    project = Project(tmp_path, methods=["m" * 120], rounds=1)
    project.add("train", "deep/" * 30, "train.cost.json", None, 1, "error: " + "long " * 50, state="failed")
    text = status_table(project.plan().status(), START + 7200)
    assert max(map(len, text.splitlines())) == WIDTH
    assert "(2.0 h ago)" not in text and text.count("…") == 2


def test_unknown_experiment_raises_with_the_known_ones(half_done, tmp_path):
    assert experiments(tmp_path) == ["tiny"]
    with pytest.raises(InputError, match="has not started an experiment tinny; started: tiny"):
        experiment_status(tmp_path, "tinny")


def test_plan_of_another_version_raises(tmp_path):
    write_json(tmp_path / "results/logs/old/plan.json", {"root": "results/old", "jobs": []})
    with pytest.raises(InputError, match="plan.json: no judgments, because another version wrote it"):
        experiment_status(tmp_path, "old")


def show_status(folder, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "workflow/scripts/show_status.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_program_without_experiments(tmp_path):
    assert show_status(tmp_path).stdout == "no experiment has been started in this folder\n"


def test_program_shows_one_line_per_experiment(half_done, tmp_path):
    assert "evaluated" in show_status(tmp_path).stdout
    other = Project(tmp_path, name="other", methods=[])
    other.add("simulate_tabular", "", "tabular.cost.json", 1, 1, **done(1.0))
    other.plan()
    lines = show_status(tmp_path).stdout.splitlines()
    assert lines[0] == "other: done, 1 of 1 jobs done"
    assert lines[1].startswith("tiny: failed, 4 of 8 jobs done, 1 failed, 1 stopped; about ")
    unknown = show_status(tmp_path, "results/nothing")
    assert unknown.returncode == 1 and unknown.stderr.startswith("error: ") and unknown.stderr.count("\n") == 1


def test_plan_of_another_version_does_not_hide_other_experiments(half_done, tmp_path):
    write_json(tmp_path / "results/logs/old/plan.json", {"root": "results/old", "jobs": []})
    lines = show_status(tmp_path).stdout.splitlines()
    assert lines[0].startswith("old: ") and "plan.json: no judgments, because another version wrote it" in lines[0]
    assert lines[1].startswith("tiny: failed, 4 of 8 jobs done")
    old, tiny = json.loads(show_status(tmp_path, "--json").stdout)
    assert old["experiment"] == "old" and "another version" in old["error"]
    assert tiny["experiment"] == "tiny" and tiny["state"] == "failed"
    shutil.rmtree(tmp_path / "results/logs/tiny")
    assert show_status(tmp_path).returncode == 1


def test_program_writes_json(half_done, tmp_path):
    shown = json.loads(show_status(tmp_path, "results/tiny", "--json").stdout)
    assert shown["jobs"] == {"all": 8, "done": 4, "running": 0, "failed": 1, "stopped": 1, "waiting": 2}
    assert shown["runs"][0] == {"method": "a", "seed": 0, "rounds": 1, "steps": 1, "evaluated": 0, "prompts": 4} | {
        "tokens": 240,
        "flops": 4e12,
        "seconds": 10.0,
    }
    assert shown["failed"][0]["last"] == "error: rewards.jsonl: empty file" and shown["seconds_left"] == 30.0
    by_library = as_dict(experiment_status(tmp_path, "tiny"), time.time())
    assert shown == by_library | {state: shown[state] for state in ("failed", "stopped")}


def test_heavy_packages_are_not_loaded():
    heavy = {"torch", "numpy", "pandas", "tqdm", "yaml"}
    program = f"import sys, prefloop.monitor.status_text; print(sorted({heavy} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow/scripts")}
    command = [sys.executable, "-c", program]
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert completed.stdout == "[]\n"
