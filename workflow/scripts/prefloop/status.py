"""How far an experiment is, found from its files alone: the plan of its last start, outputs, costs and logs.

Nothing is locked and nothing written, so it can be asked at any time and from any machine that sees the files.
"""

import os
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from prefloop.plan import FILE, read_plan
from prefloop.progress import seconds_left, seconds_taken
from prefloop.rows import InputError, read_json

TAIL = 4096  # bytes of a log's end that are read
PAUSE = 60.0  # seconds without a stage at work up to which stages are starting; beyond, nobody worked
STATES = ("done", "running", "failed", "stopped", "waiting")
AMOUNTS = ("tokens", "flops", "seconds")


@dataclass
class Job:
    """One job of the plan, and what its files tell of it."""

    stage: str
    """The name of its rule."""
    log: Path
    state: str
    """One of STATES."""
    last: str
    """The last line of its log."""
    changed: float | None
    """When its log was last written, in seconds since the epoch; None if there is none."""

    @property
    def seconds(self) -> float | None:
        """What it took, if it has ended and said so."""
        return seconds_taken(self.last) if self.state == "done" else None


@dataclass
class Run:
    """What one method has done with one seed, or what no method has to itself."""

    rounds: int = 0
    steps: int = 0
    evaluated: int = 0
    prompts: int = 0
    """Annotated ones."""
    amounts: Counter = field(default_factory=Counter)
    """Sums of AMOUNTS over the costs of its stages."""

    def add(self, cost: dict) -> None:
        """Count a stage's cost."""
        tokens = cost["tokens_in"] + cost["tokens_out"]
        self.amounts.update({"tokens": tokens, "flops": cost["flops"], "seconds": cost["seconds"]})


@dataclass
class Status:
    """How far an experiment is."""

    name: str
    plan: dict
    started: float
    alive: bool
    """Whether a Snakemake holds a lock on the experiment's files."""
    jobs: list[Job]
    runs: dict[tuple[str, int], Run]
    """By method and seed."""
    shared: Run

    @property
    def counts(self) -> Counter:
        return Counter(job.state for job in self.jobs)

    @property
    def word(self) -> str:
        """done, running, failed, or stopped with something left to do."""
        if self.counts["done"] == len(self.jobs):
            return "done"
        if self.alive:
            return "running"
        return "failed" if self.counts["failed"] else "stopped"


def experiments(project: Path) -> list[str]:
    """Names of the experiments that were started in a project's folder."""
    return sorted(path.parent.name for path in (project / "results/logs").glob(f"*/{FILE}"))


def look(project: Path, name: str) -> Status:
    """Read how far experiment `name` is; InputError if it was never started here."""
    path = project / "results/logs" / name / FILE
    if not path.is_file():
        known = ", ".join(experiments(project)) or "none"
        raise InputError(f"{path}: no such file, as Snakemake has not started an experiment {name}; started: {known}")
    plan, started = read_plan(path)
    root, alive = project / plan["root"], locked(project, plan["root"])
    given_up = complained_of(project, started)
    jobs = [job_of(entry, project, started, alive, entry["log"] in given_up) for entry in plan["jobs"]]
    ahead = {project / entry["output"] for entry, job in zip(plan["jobs"], jobs, strict=True) if job.state != "done"}
    runs = {
        (method, seed): run_of(root / method / f"seed-{seed}", plan, ahead)
        for method in plan["methods"]
        for seed in plan["seeds"]
    }
    shared = Run()
    for place, cost in costs_below(root):
        parts = place.parts
        key = parts[0], int(parts[1].removeprefix("seed-")) if parts[1:] and parts[1].startswith("seed-") else -1
        runs.get(key, shared).add(cost)
    return Status(name, plan, started, alive, jobs, runs, shared)


def locked(project: Path, root: str) -> bool:
    """Whether a Snakemake that runs, or was killed, has the experiment's outputs locked."""
    for lock in (project / ".snakemake/locks").glob("*.output.lock"):
        try:
            if f"{root}/" in lock.read_text(encoding="utf-8"):
                return True
        except FileNotFoundError:  # it ended just now
            continue
    return False


def complained_of(project: Path, started: float) -> set[str]:
    """Logs of the jobs that Snakemake says have failed and has not started again: one that was killed says nothing."""
    found = set()
    for path in sorted((project / ".snakemake/log").glob("*.log")):
        if (changed(path) or 0) < started:
            continue
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.lstrip().startswith("log: "):  # of a job that starts, or with these words of one that failed
                    name = line.split()[1].rstrip(",")
                    (found.add if "(check log file(s) for error details)" in line else found.discard)(name)
    return found


def job_of(entry: dict, project: Path, started: float, alive: bool, given_up: bool) -> Job:
    """A job of the plan as its output and log show it; `given_up` where Snakemake says that it has failed."""
    log, output = project / entry["log"], changed(project / entry["output"])
    told = changed(log)
    job = Job(entry["stage"], Path(entry["log"]), "done", "", told)
    if told is not None:
        job.last, wrong = end_of(log)
    if not entry["to_do"] or (output is not None and output >= started):
        return job
    if told is None or told < started:
        job.state = "waiting"
    elif entry["temporary"] and seconds_taken(job.last) is not None:
        return job
    else:
        job.state = "failed" if wrong or given_up else "running" if alive else "stopped"
    return job


def changed(path: Path) -> float | None:
    """When a file was last written; None if there is none."""
    try:
        return path.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None


def end_of(log: Path) -> tuple[str, bool]:
    """A log's last line, and whether the end of the log tells of an error."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:  # deleted just now, as its job starts again
        return "", False
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    return last, last.startswith("error:") or "Traceback (most recent call last):" in lines


def run_of(folder: Path, plan: dict, ahead: set[Path]) -> Run:
    """Rounds, steps and evaluations of a run that are there and not `ahead`, to be made anew; its annotated prompts."""

    def there(file: Path, last: Path) -> bool:
        return file.is_file() and last not in ahead

    run = Run()
    for number in range(1, plan["rounds"] + 1):
        place = folder / f"round-{number}"
        verdicts = place / plan["verdicts"]
        run.rounds += there(place / "policy.pt", place / "train.cost.json")
        run.evaluated += there(verdicts, verdicts.with_suffix(".cost.json"))
        for step in range(1, plan["steps"] + 1):
            inner = place / f"step-{step}"
            scored = there(inner / "pfp.jsonl", inner / "perplexity.cost.json")
            run.steps += scored and there(inner / "rewards.jsonl", inner / "reward.cost.json")
            if (inner / "rewards.jsonl").is_file():
                run.prompts += lines_in(inner / "prompts.jsonl")
    return run


def lines_in(path: Path) -> int:
    """Lines of a file that may be about to be made again; 0 if it is not there."""
    try:
        with path.open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    except FileNotFoundError:
        return 0


def costs_below(root: Path):
    """(path below `root`, cost) of every stage that has ended; shards are counted where they are gathered."""
    for folder, _, files in os.walk(root):
        place = Path(folder).relative_to(root)
        for name in files:
            if name.endswith(".cost.json") and not name.startswith(".") and not place.name.startswith("shard-"):
                try:
                    yield place / name, read_json(Path(folder, name))
                except InputError:  # deleted just now, to be made again
                    continue


def parallelism(spans: list[tuple[float, float]]) -> float:
    """Stages at work at once, on average: their seconds by those in which any of them was.

    `spans` are (start, end) of stages. Up to PAUSE seconds between two count, too: Snakemake and Python were starting.
    """
    covered, until = 0.0, None
    for start, end in sorted(spans):
        if until is None or start - until > PAUSE:
            covered, until = covered + end - start, end
        elif end > until:
            covered, until = covered + end - until, end
    return sum(end - start for start, end in spans) / covered if covered > 0 else 1.0


def time_left(status: Status, now: float) -> tuple[float | None, list[str]]:
    """Seconds until all is done, None if nothing is known, and the stages that the estimate leaves out.

    A job is taken to last as long as the median of those of its stage that have ended, a running one as long as its
    own last line of progress says; together they take their sum by the observed parallelism. A stage of which none
    has ended is left out; figures count as one stage, and so do tables.
    """
    taken, spans = defaultdict(list), []
    for job in status.jobs:
        if job.seconds is not None:
            taken[kind(job.stage)].append(job.seconds)
            spans.append((job.changed - job.seconds, job.changed))
    ahead = [job for job in status.jobs if job.state != "done"]
    if not ahead:
        return 0.0, []
    total, known, unknown = 0.0, False, set()
    for job in ahead:
        said = seconds_left(job.last) if job.state == "running" else None
        if said is not None:
            total, known = total + max(0.0, said - (now - job.changed)), True
        elif kind(job.stage) in taken:
            total, known = total + statistics.median(taken[kind(job.stage)]), True
        else:
            unknown.add(kind(job.stage))
    if not known:
        return None, sorted(unknown)
    since_start = [span for span in spans if span[1] >= status.started]
    return total / parallelism(since_start or spans), sorted(unknown)


def kind(stage: str) -> str:
    return next((word for word in ("figure", "table") if stage.startswith(f"{word}_")), stage)


def as_dict(status: Status, now: float) -> dict:
    """All of it as JSON takes it; times in seconds."""
    left, unknown = time_left(status, now)
    runs = [
        {"method": method, "seed": seed, "rounds": run.rounds, "steps": run.steps, "evaluated": run.evaluated}
        | {"prompts": run.prompts}
        | {name: run.amounts[name] for name in AMOUNTS}
        for (method, seed), run in status.runs.items()
    ]
    told = {
        state: [
            {"stage": job.stage, "log": str(job.log), "last": job.last, "silent": round(now - job.changed, 1)}
            for job in status.jobs
            if job.state == state
        ]
        for state in ("running", "failed", "stopped")
    }
    return {
        "experiment": status.name,
        "state": status.word,
        "started": round(status.started, 3),
        "rounds": status.plan["rounds"],
        "steps": status.plan["rounds"] * status.plan["steps"],
        "jobs": {"all": len(status.jobs)} | {state: status.counts[state] for state in STATES},
        "runs": runs,
        "shared": {name: status.shared.amounts[name] for name in AMOUNTS},
        "seconds_left": left if left is None else round(left, 1),
        "stages_left_out": unknown,
        **told,
    }
