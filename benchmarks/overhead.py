"""What a run takes besides its stages' own work: start-up of programs, planning, Snakemake between jobs.

    python benchmarks/overhead.py [--run FOLDER] [--profile profiles/cpu]

Medians of five. With --run the default experiment runs in FOLDER (new; a `results/models` put there beforehand spares
the download) as `snakemake --cores all`, with the workflow profile if one is given, and Snakemake's own records say
when each job began and ended. A stage's work begins when its cost meter does, after Python has started and torch has
been imported; in it transformers is imported, which takes the seconds given above and counts as start-up here.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ["Snakefile", "config.yaml", "rules", "workflow", "experiments", "environment.yml", "profiles"]
OURS = "import torch; from prefloop.startup import import_transformers as get; get()"
STARTS = {
    "Python": "",
    "torch": "import torch",
    "torch, transformers": "import torch; from transformers import AutoModelForCausalLM",
    "the same by prefloop.startup": OURS,
    "and peft": OURS + "; import peft",
    "and accelerate": OURS + "; import peft; from accelerate import Accelerator; Accelerator(cpu=True)",
}
PROGRAMS = ["allocate", "arms", "pairs", "prompts", "reward", "generate", "perplexity", "train", "figure_arms"]


def seconds(command: list[str], **where) -> float:
    """Median of five."""
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
    """(rule, start, end) of every job that Snakemake has a record of: one for each output, of which a job has a log."""
    jobs: dict[tuple, list[tuple[float, float]]] = defaultdict(list)
    for file in (path / ".snakemake/metadata").iterdir():
        record = json.loads(file.read_text())
        jobs[record["rule"], *record["log"]].append((record["starttime"], record["endtime"]))
    return [
        (rule, min(start for start, _ in times), max(end for _, end in times)) for (rule, *_), times in jobs.items()
    ]


def covered(intervals: list[tuple[float, float]]) -> float:
    """Length of the union."""
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
    """What a run spent its `wall` seconds on; a stage with a model takes `start_up` of them to import transformers."""
    jobs = jobs_of(path)
    metered = {file.stat().st_mtime: json.loads(file.read_text())["seconds"] for file in path.rglob("*.cost.json")}
    by_rule: dict[str, list[float]] = defaultdict(list)
    for rule, start, end in jobs:
        by_rule[rule].append(end - start)
    work = [(end - max(0.0, spent - start_up), end) for end, spent in metered.items()]
    inside = covered([(start, end) for _, start, end in jobs])
    print(f"\n{len(jobs)} jobs in {wall:.0f} s; some job ran in {inside:.0f} s of them, so that Snakemake alone took "
          f"{(wall - inside) / wall:.0%}")  # fmt: skip
    print(f"{len(metered)} stages with a meter worked for {covered(work):.0f} s ({covered(work) / wall:.0%})\n")
    print("| rule | jobs | seconds a job (median) | seconds in all |\n|---|---:|---:|---:|")
    for rule, taken in sorted(by_rule.items(), key=lambda item: -sum(item[1])):
        print(f"| {rule} | {len(taken)} | {statistics.median(taken):.1f} | {sum(taken):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--profile")
    given = parser.parse_args()
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
