"""How far an experiment is, told from folders made by hand, with figures worked out by hand."""

import json
import os
import subprocess
import sys
import time

import pytest

from conftest import ROOT
from prefloop.rows import InputError, write_json, write_rows
from prefloop.status import as_dict, experiments, look, parallelism, time_left
from prefloop.status_text import WIDTH, headline, table, with_prefix

START = 1_000_000.0
COST = "generate.cost.json"
VERDICTS = "evaluation/temperature-0.7/against-initial.jsonl"


class Made:
    """A project's folder whose files have the ages that the test gives them, in seconds after the plan's."""

    def __init__(self, path, name="tiny", methods=("a", "b"), rounds=2, steps=1):
        self.path, self.name, self.root, self.jobs = path, name, f"results/{name}", []
        self.shape = {"root": self.root, "methods": methods, "seeds": [0], "rounds": rounds, "steps": steps}
        self.shape |= {"shards": 1, "verdicts": VERDICTS}

    def job(self, stage, folder, output, at=None, log=None, told="", to_do=True, temporary=False):
        """A job; its output is there if it was made `at` a time, its log if it was last written at `log`."""
        entry = {"stage": stage, "wildcards": {}, "output": f"{self.root}/{folder}{output}", "temporary": temporary}
        entry |= {"log": f"results/logs/{self.name}/{folder}{stage}.log", "to_do": to_do}
        self.jobs.append(entry)
        if at is not None:
            cost = {"tokens_in": 100, "tokens_out": 20, "flops": 2e12, "seconds": 5.0}
            self.file(entry["output"], json.dumps(cost) if output.endswith(".cost.json") else "{}\n", at)
        if log is not None:
            self.file(entry["log"], told, log)

    def file(self, name, text, at):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (START + at, START + at))

    def planned(self):
        plan = self.path / f"results/logs/{self.name}/plan.json"
        write_json(plan, self.shape | {"jobs": self.jobs})
        os.utime(plan, (START, START))
        return self

    def lock(self):
        self.file(".snakemake/locks/0.output.lock", f"results/models/m/manifest.json\n{self.root}/clusters.pkl\n", 0)

    def look(self):
        return look(self.path, self.name)


def half_done(path) -> Made:
    """Two methods side by side: of both round 1 is done, of `a` round 2 generates, of `b` it has failed.

    Each generated 10 s, up to 10, and trained 20 s, up to 30: two at once all the time.
    """
    made = Made(path)
    for method in "ab":
        first, second = (f"{method}/seed-0/round-{number}/" for number in (1, 2))
        made.job("generate", f"{first}step-1/", COST, 10, 10, "generate: 4 prompts in 10 s (9 tokens/s)")
        made.job("train", first, "train.cost.json", 30, 30, "train: round 1, 8 pairs in 20 s (0.4 pairs/s), loss 1")
        for name in ("policy.pt", "step-1/pfp.jsonl", "step-1/rewards.jsonl"):
            made.file(f"{made.root}/{first}{name}", "{}\n", 10)
        write_rows(path / made.root / f"{first}step-1/prompts.jsonl", [{"prompt_id": str(i)} for i in range(4)])
        if method == "a":
            made.job("generate", f"{second}step-1/", COST, None, 35, "")
        else:
            told = "reading\nerror: rewards.jsonl: empty file\n"
            made.job("generate", f"{second}step-1/", COST, None, 35, told)
        made.job("train", second, "train.cost.json")
    return made.planned()


def test_what_is_done_runs_failed_and_waits(tmp_path):
    made = half_done(tmp_path)
    made.lock()
    status = made.look()
    assert status.counts == {"done": 4, "running": 1, "failed": 1, "waiting": 2}
    assert status.word == "running"
    run = status.runs["a", 0]
    assert (run.rounds, run.steps, run.evaluated, run.prompts) == (1, 1, 0, 4)
    assert run.amounts == {"tokens": 240, "flops": 4e12, "seconds": 10.0}
    assert not status.shared.amounts


def test_time_left_is_what_stages_took_by_how_many_were_at_work(tmp_path):
    """Twice 10 s of generating and twice 20 s of training are ahead, 60 s, two at a time."""
    made = half_done(tmp_path)
    made.lock()
    assert time_left(made.look(), START + 40) == (30.0, [])
    running = "generate: 1/4 responses, 31 s, 9 tokens/s, about 56 s left"
    made.file("results/logs/tiny/a/seed-0/round-2/step-1/generate.log", running, 36)
    assert time_left(made.look(), START + 40) == (51.0, []), "56 − 4 s for the one that says so: 52 + 10 + 40, by two"


def test_a_stage_that_never_ended_is_left_out_and_named(tmp_path):
    made = half_done(tmp_path)
    made.job("judge", "a/seed-0/round-2/", VERDICTS.replace(".jsonl", ".cost.json"))
    made.planned().lock()
    status = made.look()
    assert time_left(status, START + 40) == (30.0, ["judge"])
    assert headline(status, START + 40) == ("tiny: running, 4 of 9 jobs done, 1 running, 1 failed; at least 30 s left")
    assert "not in that time, as none has ended yet: judge" in table(status, START + 40)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(0, 10)], 1.0),
        ([(0, 10), (0, 10), (5, 10)], 2.5),
        ([(0, 10), (20, 30)], 20 / 30),  # ten seconds between two stages are their start
        ([(0, 10), (1000, 1010)], 1.0),  # nobody worked in between
        ([(5, 5)], 1.0),
        ([], 1.0),
    ],
)
def test_parallelism(spans, expected):
    assert parallelism(spans) == pytest.approx(expected)


def test_without_a_lock_nothing_runs(tmp_path):
    status = half_done(tmp_path).look()
    assert status.counts == {"done": 4, "stopped": 1, "failed": 1, "waiting": 2}
    assert status.word == "failed"


def test_another_experiments_lock_is_not_this_ones(tmp_path):
    made = half_done(tmp_path)
    made.file(".snakemake/locks/0.output.lock", "results/tiny_too/clusters.pkl\n", 0)
    assert not made.look().alive


def test_what_is_to_be_made_again_is_not_done(tmp_path):
    """Outputs, logs and errors of before the start count for nothing, and neither does the policy they lead to."""
    made = Made(tmp_path, methods=["a"], rounds=1)
    made.job("train", "a/seed-0/round-1/", "train.cost.json", -50, -50, "error: diverged\n")
    step = "a/seed-0/round-1/step-1/"
    for stage, rows in {"reward": "rewards.jsonl", "perplexity": "pfp.jsonl"}.items():
        made.job(stage, step, f"{stage}.cost.json", -60, -60, f"{stage}: 4 responses in 0.1 s", to_do=False)
        made.file(f"results/tiny/{step}{rows}", "{}\n", -60)
    made.file(f"results/tiny/{step}prompts.jsonl", "{}\n", -60)
    made.file("results/tiny/a/seed-0/round-1/policy.pt", "", -50)
    status = made.planned().look()
    assert status.counts == {"waiting": 1, "done": 2}
    assert (status.runs["a", 0].rounds, status.runs["a", 0].steps) == (0, 1)


def test_a_traceback_is_a_failure_whatever_stands_in_its_last_line(tmp_path):
    made = Made(tmp_path, methods=["a"], rounds=1)
    told = "Traceback (most recent call last):\n  File …\nKeyError: 'x'\n"
    made.job("train", "a/seed-0/round-1/", "train.cost.json", None, 5, told)
    status = made.planned().look()
    assert status.word == "failed" and "KeyError: 'x'" in table(status, START + 9)


def test_a_job_that_was_killed_has_failed_until_snakemake_starts_it_again(tmp_path):
    made = Made(tmp_path, methods=["a"], rounds=1)
    made.job("train", "a/seed-0/round-1/", "train.cost.json", None, 5, "goes on after step 3\n")
    made.planned().lock()
    log = made.jobs[0]["log"]
    began = f"rule train:\n    input: a\n    log: {log}\n    jobid: 3\n"
    wrong = f"Error in rule train:\n    jobid: 3\n    log: {log} (check log file(s) for error details)\n"
    for text, at, expected in [
        (began, 5, "running"),
        (began + wrong, 6, "failed"),
        (began + wrong + began, 7, "running"),
        (began + wrong, -9, "running"),  # of a run before
    ]:
        made.file(".snakemake/log/2026.snakemake.log", text, at)
        (job,) = made.look().jobs
        assert job.state == expected


def test_figures_are_one_stage_and_tables_another(tmp_path):
    made = Made(tmp_path, methods=["a"], rounds=1)
    made.job("figure_arms", "figures/", "arms.png", 3, 3, "figure_arms: 2 clusters -> arms.pdf in 3.0 s")
    for name in ("figure_pfp", "figure_quality", "table_costs", "table_length"):
        made.job(name, "figures/", f"{name}.png")
    assert time_left(made.planned().look(), START) == (6.0, ["table"])


def test_shards_whose_rows_are_gathered_and_gone_are_done(tmp_path):
    made = Made(tmp_path, methods=["a"], rounds=1)
    place = "a/seed-0/round-1/step-1/"
    made.job("generate_shard", f"{place}shard-0/", COST, None, 9, "generate: 4 in 4.0 s", temporary=True)
    made.job("generate_shard", f"{place}shard-1/", COST, 12, 12, "generate: 4 in 6.0 s", temporary=True)
    made.job("generate_shard", f"{place}shard-2/", COST, None, 12, "", temporary=True)
    made.planned().lock()
    status = made.look()
    assert status.counts == {"done": 2, "running": 1}
    assert not status.runs["a", 0].amounts, "a shard's cost is counted where shards are gathered"
    assert time_left(status, START + 12)[0] == pytest.approx(5 / (10 / 7)), "4 s up to 9 and 6 s up to 12 are 7 s"


def test_before_anything_is_known(tmp_path):
    made = Made(tmp_path, methods=["a"], rounds=1)
    made.job("cluster", "", "cluster.cost.json")
    made.planned().lock()
    status = made.look()
    assert time_left(status, START) == (None, ["cluster"])
    assert headline(status, START) == "tiny: running, 0 of 1 jobs done; time left: unknown"


def test_a_running_stage_is_known_before_any_has_ended(tmp_path):
    made = Made(tmp_path, methods=["a"], rounds=1)
    told = "cluster: 40/80 prompts, 5 s, 8 prompts/s, about 5 s left"
    made.job("cluster", "", "cluster.cost.json", None, 1, told)
    made.job("generate", "a/seed-0/round-1/step-1/", COST)
    made.planned().lock()
    status = made.look()
    assert time_left(status, START + 2) == (4.0, ["generate"])
    assert headline(status, START + 2) == "tiny: running, 0 of 2 jobs done, 1 running; at least 4 s left"


def test_all_done(tmp_path):
    made = Made(tmp_path, methods=["a"], rounds=1)
    made.job("cluster", "", "cluster.cost.json", 3, 3, "cluster: 9 prompts, 2 clusters in 3.0 s")
    made.job("judge", "a/seed-0/round-1/", VERDICTS.replace(".jsonl", ".cost.json"), 9, 9, "judge: 6 samples in 6.0 s")
    made.file(f"results/tiny/a/seed-0/round-1/{VERDICTS}", "{}\n", 9)
    status = made.planned().look()
    assert headline(status, START) == "tiny: done, 2 of 2 jobs done"
    assert status.runs["a", 0].evaluated == 1
    assert status.shared.amounts == {"tokens": 120, "flops": 2e12, "seconds": 5.0}
    assert [line.split() for line in table(status, START).splitlines()[2:]] == [
        ["method", "seed", "rounds", "steps", "evaluated", "prompts", "tokens", "FLOP", "stage", "time"],
        ["a", "0", "0/1", "0/1", "1/1", "0", "120", "2", "T", "5.0", "s"],
        ["shared", "120", "2", "T", "5.0", "s"],
        ["all", "0", "240", "4", "T", "10", "s"],
    ]


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0"), (999, "999"), (1e3, "1 K"), (4.59e8, "459 M"), (3.12e13, "31.2 T")]
)
def test_operations_are_told_in_units(number, expected):
    assert with_prefix(number) == expected


def test_a_table_fits_a_hundred_columns(tmp_path):
    made = Made(tmp_path, methods=["m" * 120], rounds=1)
    made.job("train", "deep/" * 30, "train.cost.json", None, 1, "error: " + "long " * 50)
    text = table(made.planned().look(), START + 7200)
    assert max(map(len, text.splitlines())) == WIDTH
    assert "(2.0 h ago)" not in text and text.count("…") == 2


def test_an_unknown_experiment_is_named_with_those_that_are_there(tmp_path):
    half_done(tmp_path)
    assert experiments(tmp_path) == ["tiny"]
    with pytest.raises(InputError, match="has not started an experiment tinny; started: tiny"):
        look(tmp_path, "tinny")


def ask(folder, *words) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "workflow/scripts/status.py"), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_program_tells_one_in_full_and_several_in_short(tmp_path):
    assert ask(tmp_path).stdout == "no experiment has been started here\n"
    half_done(tmp_path)
    assert "evaluated" in ask(tmp_path).stdout
    other = Made(tmp_path, name="other", methods=[])
    other.job("tabular", "", "tabular.cost.json", 1, 1, "tabular: 3 seeds in 1.0 s")
    other.planned()
    lines = ask(tmp_path).stdout.splitlines()
    assert lines[0] == "other: done, 1 of 1 jobs done"
    assert lines[1].startswith("tiny: failed, 4 of 8 jobs done, 1 failed, 1 stopped; about ")
    told = json.loads(ask(tmp_path, "results/tiny", "--json").stdout)
    assert told["jobs"] == {"all": 8, "done": 4, "running": 0, "failed": 1, "stopped": 1, "waiting": 2}
    assert told["runs"][0] == {"method": "a", "seed": 0, "rounds": 1, "steps": 1, "evaluated": 0, "prompts": 4} | {
        "tokens": 240,
        "flops": 4e12,
        "seconds": 10.0,
    }
    assert told["failed"][0]["last"] == "error: rewards.jsonl: empty file" and told["seconds_left"] == 30.0
    assert told == as_dict(look(tmp_path, "tiny"), time.time()) | {
        state: told[state] for state in ("failed", "stopped")
    }
    wrong = ask(tmp_path, "results/nothing")
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: ") and wrong.stderr.count("\n") == 1


def test_nothing_heavy_is_loaded():
    heavy = {"torch", "numpy", "pandas", "tqdm", "yaml"}
    program = f"import sys, prefloop.status_text; print(sorted({heavy} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow/scripts")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
