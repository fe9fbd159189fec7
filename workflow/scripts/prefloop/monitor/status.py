"""The state of an experiment, read from its files: the plan of its last start, outputs, costs and status files.

Nothing is locked or written, so the state can be read at any time and on any machine that has access to the files.
"""

import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from prefloop.core.errors import InputError
from prefloop.core.files import read_json
from prefloop.core.stage_status import read_status, status_file
from prefloop.monitor.plan import PLAN_FILE, read_plan

TAIL_BYTES = 4096  # at the end of a log, read to find its last line
MAX_PAUSE = 60.0  # seconds; a longer pause between stages means that nothing ran
STATES = ("done", "running", "failed", "stopped", "waiting")
AMOUNTS = ("tokens", "flops", "seconds")


@dataclass
class Job:
    """One job of the plan and its state."""

    stage: str
    """The name of its rule."""
    log: Path
    state: str
    """One of STATES."""
    last_line: str
    """The last line of its log."""
    changed: float
    """Modification time of its log, in seconds since the epoch; 0 if there is none."""
    status: dict
    """Content of its status file; empty if there is none."""
    reported: float
    """Modification time of its status file, in seconds since the epoch; 0 if there is none."""

    @property
    def seconds(self) -> float | None:
        """Its duration, if both its state and its status file say that it is done."""
        return self.status.get("seconds") if self.state == self.status.get("state") == "done" else None

    def seconds_left(self, now: float) -> float | None:
        """Its remaining duration, if it is running and its status file has an estimate."""
        left = self.status.get("seconds_left") if self.state == "running" else None
        return None if left is None else max(0.0, left - (now - self.reported))


@dataclass
class Run:
    """What one method has finished with one seed, or the shared stages of all methods."""

    rounds: int = 0
    steps: int = 0
    evaluated: int = 0
    prompts: int = 0
    """Annotated prompts."""
    amounts: Counter = field(default_factory=Counter)
    """Sums of AMOUNTS over the costs of its stages."""

    def add(self, cost: dict) -> None:
        """Add the cost of a stage."""
        tokens = cost["tokens_in"] + cost["tokens_out"]
        self.amounts.update({"tokens": tokens, "flops": cost["flops"], "seconds": cost["seconds"]})


@dataclass
class Status:
    """The state of an experiment."""

    name: str
    plan: dict
    started: float
    alive: bool
    """Whether a Snakemake process holds a lock on the experiment's files."""
    jobs: list[Job]
    runs: dict[tuple[str, int], Run]
    """The runs, by method and seed."""
    shared: Run

    @property
    def warnings(self) -> list[tuple[Path, str]]:
        """(log, warning) of every finished job with a warning that its result is probably wrong."""
        done = [job for job in self.jobs if job.state == "done"]
        return [(job.log, job.status["warning"]) for job in done if "warning" in job.status]

    @property
    def counts(self) -> Counter:
        """Number of jobs by state."""
        return Counter(job.state for job in self.jobs)

    @property
    def state(self) -> str:
        """One of: done, running, failed, or stopped before all jobs are done."""
        if self.counts["done"] == len(self.jobs):
            return "done"
        if self.alive:
            return "running"
        return "failed" if self.counts["failed"] else "stopped"


def experiments(project: Path) -> list[str]:
    """Names of the experiments that were started in a project's folder."""
    return sorted(path.parent.name for path in (project / "results/logs").glob(f"*/{PLAN_FILE}"))


def experiment_status(project: Path, name: str) -> Status:
    """Read the state of an experiment.

    Raises:
        InputError: Snakemake has not started an experiment with this name in the project's folder.
    """
    path = project / "results/logs" / name / PLAN_FILE
    if not path.is_file():
        known = ", ".join(experiments(project)) or "none"
        raise InputError(
            f"{path}: no such file, because Snakemake has not started an experiment {name}; started: {known}"
        )
    plan, started = read_plan(path)
    root, alive = project / plan["root"], is_locked(project, plan["root"])
    jobs = [job_of(entry, project, started, alive) for entry in plan["jobs"]]
    pending = {project / entry["output"] for entry, job in zip(plan["jobs"], jobs, strict=True) if job.state != "done"}
    runs = {
        (method, seed): run_of(root / method / f"seed-{seed}", plan, pending)
        for method in plan["methods"]
        for seed in plan["seeds"]
    }
    shared = Run()
    for cost_path, cost in costs_below(root):
        method, folder = (*cost_path.parts, "")[:2]
        if method not in plan["methods"] or not folder.startswith("seed-"):
            shared.add(cost)
        elif run := runs.get((method, int(folder.removeprefix("seed-")))):  # the folder may have seeds of other plans
            run.add(cost)
    return Status(name, plan, started, alive, jobs, runs, shared)


def is_locked(project: Path, root: str) -> bool:
    """Whether a Snakemake process, which runs or was killed, has locked the experiment's outputs."""
    for lock in (project / ".snakemake/locks").glob("*.output.lock"):
        try:
            if f"{root}/" in lock.read_text(encoding="utf-8"):
                return True
        except FileNotFoundError:  # it ended just now
            continue
    return False


def job_of(entry: dict, project: Path, started: float, alive: bool) -> Job:
    """The state of a job in the plan, from its output, log and status file; files from before `started` are ignored."""
    log, output = project / entry["log"], modified(project / entry["output"])
    reported = modified(status_file(log))
    status = read_status(log) or {}
    job = Job(entry["stage"], Path(entry["log"]), "done", last_line(log), modified(log), status, reported)
    own_end = status.get("state") if reported >= started else None
    if not entry["to_do"] or output >= started or (entry["temporary"] and own_end == "done"):
        return job
    if job.changed < started:
        job.state = "waiting"
    elif own_end in ("failed", "stopped"):
        job.state = own_end
    else:
        job.state = "running" if alive else "stopped"
    return job


def modified(path: Path) -> float:
    """Modification time of a file, in seconds since the epoch; 0 if there is none."""
    try:
        return path.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return 0.0


def last_line(log: Path) -> str:
    """The last line of a log that is not blank; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:  # not written yet, or just deleted because its job starts again
        return ""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def run_of(folder: Path, plan: dict, pending: set[Path]) -> Run:
    """Finished rounds, steps and evaluations of a run, and its annotated prompts; `pending` outputs do not count."""

    def is_finished(file: Path, output: Path) -> bool:
        return file.is_file() and output not in pending

    run = Run()
    for round_index in range(1, plan["rounds"] + 1):
        round_folder = folder / f"round-{round_index}"
        judgments = round_folder / plan["judgments"]
        run.rounds += is_finished(round_folder / "policy.pt", round_folder / "train.cost.json")
        run.evaluated += is_finished(judgments, judgments.with_suffix(".cost.json"))
        for step in range(1, plan["steps"] + 1):
            step_folder = round_folder / f"step-{step}"
            pairs = step_folder / "pfp.jsonl"
            run.steps += is_finished(pairs, pairs)
            if (step_folder / "rewards.jsonl").is_file():
                run.prompts += count_lines(step_folder / "prompts.jsonl")
    return run


def count_lines(path: Path) -> int:
    """Number of lines of a file; 0 if it does not exist, because its job may be writing it again."""
    try:
        with path.open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    except FileNotFoundError:
        return 0


def costs_below(root: Path) -> Iterator[tuple[Path, dict]]:
    """(path relative to `root`, cost) of every finished stage; shards are part of the stage that gathers them."""
    for folder, _, files in os.walk(root):
        below = Path(folder).relative_to(root)
        for name in files:
            if name.endswith(".cost.json") and not name.startswith(".") and not below.name.startswith("shard-"):
                try:
                    yield below / name, read_json(Path(folder, name))
                except InputError:  # deleted just now, to be written again
                    continue


def parallelism(spans: list[tuple[float, float]]) -> float:
    """Average number of parallel stages: the sum of their durations, divided by the time in which any of them ran.

    A pause of up to MAX_PAUSE seconds counts as time in which a stage ran, because Snakemake and Python were starting.

    Args:
        spans: (start, end) of stages, seconds.
    """
    covered, until = 0.0, None
    for start, end in sorted(spans):
        if until is None or start - until > MAX_PAUSE:
            covered, until = covered + end - start, end
        elif end > until:
            covered, until = covered + end - until, end
    return sum(end - start for start, end in spans) / covered if covered > 0 else 1.0


def time_left(status: Status, now: float) -> tuple[float | None, list[str]]:
    """Estimate the seconds until all jobs are done.

    A running job takes the time in its status file, if there is one. Any other job takes the median time of the
    finished jobs of its stage. The sum is divided by the observed parallelism; the result is at least the longest of
    these times. A stage without a finished job is left out. All figures count as one stage, and so do all tables.

    Returns:
        The seconds, None if nothing is known, and the stages that the estimate leaves out.
    """
    durations, spans = defaultdict(list), []
    for job in status.jobs:
        if job.seconds is not None:
            durations[stage_group(job.stage)].append(job.seconds)
            spans.append((job.reported - job.seconds, job.reported))
    unfinished = [job for job in status.jobs if job.state != "done"]
    if not unfinished:
        return 0.0, []
    estimates, unknown = [], set()
    for job in unfinished:
        left, group = job.seconds_left(now), stage_group(job.stage)
        if left is not None:
            estimates.append(left)
        elif group in durations:
            estimates.append(statistics.median(durations[group]))
        else:
            unknown.add(group)
    if not estimates:
        return None, sorted(unknown)
    since_start = [span for span in spans if span[1] >= status.started]
    return max(sum(estimates) / parallelism(since_start or spans), *estimates), sorted(unknown)


def stage_group(stage: str) -> str:
    """The group of a stage in estimates: one for all figures, one for all tables, else the stage."""
    return {"plot": "figures", "tabulate": "tables"}.get(stage.partition("_")[0], stage)


def as_dict(status: Status, now: float) -> dict:
    """The state of an experiment as a JSON object; times in seconds."""
    left, unknown = time_left(status, now)
    runs = [
        {"method": method, "seed": seed, "rounds": run.rounds, "steps": run.steps, "evaluated": run.evaluated}
        | {"prompts": run.prompts}
        | {name: run.amounts[name] for name in AMOUNTS}
        for (method, seed), run in status.runs.items()
    ]
    jobs_by_state = {
        state: [
            {"stage": job.stage, "log": str(job.log), "last": job.last_line, "silent": round(now - job.changed, 1)}
            | {name: job.status[name] for name in ("done", "total", "unit") if name in job.status}
            for job in status.jobs
            if job.state == state
        ]
        for state in ("running", "failed", "stopped")
    }
    return {
        "experiment": status.name,
        "state": status.state,
        "started": round(status.started, 3),
        "rounds": status.plan["rounds"],
        "steps": status.plan["rounds"] * status.plan["steps"],
        "jobs": {"all": len(status.jobs)} | {state: status.counts[state] for state in STATES},
        "runs": runs,
        "shared": {name: status.shared.amounts[name] for name in AMOUNTS},
        "seconds_left": left if left is None else round(left, 1),
        "stages_left_out": unknown,
        "warnings": [{"log": str(log), "warning": warning} for log, warning in status.warnings],
        **jobs_by_state,
    }
