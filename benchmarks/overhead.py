"""Overhead of a run in addition to the work of its stages: start-up of programs, planning, Snakemake between jobs.

    python benchmarks/overhead.py [--run FOLDER] [--profile profiles/cpu]
    python benchmarks/overhead.py --scheduler JOBS

Numbers are medians of five runs. With --run, the default experiment runs in FOLDER (new, or with a copy of
`results/models`) with `snakemake --cores all`, and with the workflow profile if one is given. The start and end of each
job are from Snakemake's records. The work of a stage starts with its cost meter, after Python has started and torch is
imported. The stage then imports transformers, which counts as start-up here.

With --scheduler, Snakemake runs JOBS jobs that wait for 2 s, two at a time, with 20 inputs each. The table has the
CPU time of its main process as the number of finished jobs grows, with Snakemake's default limit of jobs per second and
without it (rate_limit.py).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ["Snakefile", "config.yaml", "rules", "workflow", "experiments", "environment.yml", "profiles"]
OURS = "import torch; from prefloop.models.startup import import_transformers as get; get()"
STARTS = {
    "Python": "",
    "torch": "import torch",
    "torch, transformers": "import torch; from transformers import AutoModelForCausalLM",
    "the same by prefloop.models.startup": OURS,
    "and peft": OURS + "; import peft",
    "and accelerate": OURS + "; import peft; from accelerate import Accelerator; Accelerator(cpu=True)",
}
PROGRAMS = ["allocate", "update_arms", "select_pairs", "prepare_prompts", "reward", "generate", "logprobs", "train"]
PROGRAMS += ["figures/plot_arms"]

WAITING = """
import sys
sys.path.insert(0, {scripts!r})
from prefloop.monitor.rate_limit import remove_default_limit

onstart:
    {onstart}

rule all:
    input: [f"out/{{i}}" for i in range({jobs})]

rule wait:
    input: [f"input/{{i}}" for i in range(20)]
    output: "out/{{i}}"
    shell: "sleep 2; touch {{output}}"
"""
ONSTART = {"default limit": "pass", "without": "remove_default_limit(workflow.scheduler)"}


def seconds(command: list[str], **where) -> float:
    """Median seconds of five runs of a command."""
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, **where)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def workdir(path: Path) -> Path:
    """A folder with links to the project's sources."""
    path.mkdir(parents=True, exist_ok=True)
    for name in SOURCES:
        if not (path / name).exists():
            (path / name).symlink_to(ROOT / name)
    return path


def jobs_of(path: Path) -> list[tuple[str, float, float]]:
    """(rule, start, end) of every job. Snakemake has one record per output; outputs of a job have the same log."""
    jobs: dict[tuple, list[tuple[float, float]]] = defaultdict(list)
    for file in (path / ".snakemake/metadata").iterdir():
        record = json.loads(file.read_text())
        jobs[record["rule"], *record["log"]].append((record["starttime"], record["endtime"]))
    return [
        (rule, min(start for start, _ in times), max(end for _, end in times)) for (rule, *_), times in jobs.items()
    ]


def covered(intervals: list[tuple[float, float]]) -> float:
    """Total length of the union of intervals."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def run(path: Path, profile: str | None, start_up: float) -> None:
    began = time.time()
    command = [sys.executable, "-m", "snakemake", "--cores", "all", "--quiet", "all"]
    command += ["--workflow-profile", profile] if profile else []
    subprocess.run(command, cwd=workdir(path), check=True)
    report(path, time.time() - began, start_up)


def report(path: Path, wall: float, start_up: float) -> None:
    """Print how a run spent its `wall` seconds; a stage with a model imports transformers in `start_up` seconds."""
    jobs = jobs_of(path)
    metered = {file.stat().st_mtime: json.loads(file.read_text())["seconds"] for file in path.rglob("*.cost.json")}
    by_rule: dict[str, list[float]] = defaultdict(list)
    for rule, start, end in jobs:
        by_rule[rule].append(end - start)
    work = [(end - max(0.0, spent - start_up), end) for end, spent in metered.items()]
    inside = covered([(start, end) for _, start, end in jobs])
    print(f"\n{len(jobs)} jobs in {wall:.0f} s; no job was running in {(wall - inside) / wall:.0%} of the time")
    print(f"{len(metered)} stages with a meter worked for {covered(work):.0f} s ({covered(work) / wall:.0%})\n")
    print("| rule | jobs | seconds per job (median) | seconds in all |\n|---|---:|---:|---:|")
    for rule, taken in sorted(by_rule.items(), key=lambda item: -sum(item[1])):
        print(f"| {rule} | {len(taken)} | {statistics.median(taken):.1f} | {sum(taken):.1f} |")


def scheduler(jobs: int, onstart: str) -> Iterator[tuple[int, float, float]]:
    """(finished jobs, share of a core, CPU seconds per job) of Snakemake's main process, about eight times per run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        for name in ("input", "out"):
            (path / name).mkdir()
        for i in range(20):
            (path / f"input/{i}").touch()
        text = WAITING.format(scripts=str(ROOT / "workflow/scripts"), onstart=onstart, jobs=jobs)
        (path / "Snakefile").write_text(text)
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--quiet", "all"]
        with psutil.Popen(command, cwd=path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            last = None
            while process.poll() is None:
                done = len(os.listdir(path / "out"))  # noqa: PTH208 - only their number is needed
                if done and (last is None or done >= last[0] + jobs // 8):
                    now, times = time.monotonic(), process.cpu_times()
                    spent = times.user + times.system
                    if last is not None:
                        yield done, (spent - last[2]) / (now - last[1]), (spent - last[2]) / (done - last[0])
                    last = done, now, spent
                time.sleep(0.1)
        assert process.returncode == 0, "Snakemake failed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--profile")
    parser.add_argument("--scheduler", type=int, metavar="JOBS")
    given = parser.parse_args()
    if given.scheduler:
        print("| limit | finished jobs | share of a core | CPU ms per job |\n|---|---:|---:|---:|")
        for name, onstart in ONSTART.items():
            for done, share, each in scheduler(given.scheduler, onstart):
                print(f"| {name} | {done} | {share:.1%} | {1000 * each:.0f} |", flush=True)
        return
    where = {"env": os.environ | {"PYTHONPATH": str(ROOT / "workflow/scripts")}}
    print("| what | seconds |\n|---|---:|")
    starts = {name: seconds([sys.executable, "-c", code], **where) for name, code in STARTS.items()}
    for name, taken in starts.items():
        print(f"| {name} | {taken:.2f} |", flush=True)
    for name in PROGRAMS:
        taken = seconds([sys.executable, str(ROOT / f"workflow/scripts/{name}.py"), "--help"])
        print(f"| {name}.py --help | {taken:.2f} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        plan = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "2", "--quiet", "all"]
        print(f"| snakemake --dry-run of the default | {seconds(plan, cwd=workdir(Path(folder))):.2f} |", flush=True)
        version = [sys.executable, "-m", "snakemake", "--version"]
        print(f"| snakemake --version | {seconds(version):.2f} |", flush=True)
    if given.run:
        run(given.run, given.profile, starts["and peft"] - starts["torch"])


if __name__ == "__main__":
    main()
