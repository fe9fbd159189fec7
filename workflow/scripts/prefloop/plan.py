"""What a run is going to make: Snakemake writes it down as it starts, and status.py compares it with what is there."""

from pathlib import Path

from prefloop.experiment import Experiment
from prefloop.rows import read_json, write_json

FILE = "plan.json"  # among an experiment's logs, as it is part of no result


def write_plan(path: Path, experiment: Experiment, dag, shards: int = 1) -> None:
    """Write the runs of an experiment and every job of Snakemake's graph, done ones too.

    `wildcards` of a job are texts; `output` is the file that its program writes last, `temporary` if it does not stay.
    The file's own time is the start: what a job has `to_do` is done once its output is younger.
    """
    first = experiment.contest("")
    write_json(
        path,
        {
            "root": str(experiment.root),
            "methods": experiment.methods,
            "seeds": experiment.seeds,
            "rounds": experiment.rounds,
            "steps": experiment.steps,
            "shards": shards,
            "verdicts": f"evaluation/temperature-{float(first.temperature)}/against-{first.opponent}.jsonl",
            "jobs": [
                {
                    "stage": job.rule.name,
                    "wildcards": dict(job.wildcards.items()),
                    "output": str(job.output.get("cost", job.output[-1])),
                    "temporary": any(file.flags.get("temp", False) for file in job.output),
                    "log": str(job.log[0]),
                    "to_do": dag.needrun(job),
                }
                for job in dag.jobs
                if job.output and job.log
            ],
        },
    )


def read_plan(path: Path) -> tuple[dict, float]:
    """The plan and when its run started, in seconds since the epoch by the clock of the file system.

    Raises InputError if there is none.
    """
    plan = read_json(path)
    return plan, Path(path).stat().st_mtime
