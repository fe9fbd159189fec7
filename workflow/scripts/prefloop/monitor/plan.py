"""The plan of a run: all its jobs, written when Snakemake starts and compared with the files by `status`."""

from pathlib import Path
from typing import Any

from prefloop.config.experiment import Experiment, temperature_folder
from prefloop.core.errors import InputError
from prefloop.core.files import read_json, write_json

KEYS = {"root", "methods", "seeds", "rounds", "steps", "judgments", "jobs"}
PLAN_FILE = "plan.json"  # in the folder of an experiment's logs, because it is not a result


def write_plan(path: Path, experiment: Experiment, dag: Any) -> set[str]:
    """Write the runs of an experiment and every job of Snakemake's graph, including finished ones.

    The `output` of a job is the file that its program writes last, and `temporary` says whether Snakemake deletes it.
    The modification time of the plan is the start of the run. A job that is `to_do` is done once its output is newer.

    Args:
        path: Where to write the plan.
        experiment: The runs.
        dag: Snakemake's graph of jobs.

    Returns:
        The logs of all jobs.
    """
    first = experiment.comparison("")
    jobs = [
        {
            "stage": job.rule.name,
            "output": last_output(job.output),
            "temporary": any(file.flags.get("temp", False) for file in job.output),
            "log": str(job.log[0]),
            "to_do": dag.needrun(job),
        }
        for job in dag.jobs
        if job.output and job.log
    ]
    write_json(
        path,
        {
            "root": str(experiment.root),
            "methods": experiment.methods,
            "seeds": experiment.seeds,
            "rounds": experiment.rounds,
            "steps": experiment.steps,
            "judgments": f"evaluation/{temperature_folder(first.temperature)}/against-{first.opponent}.jsonl",
            "jobs": jobs,
        },
    )
    return {job["log"] for job in jobs}


def last_output(outputs: Any) -> str:
    """The file that a job's program writes last: its cost (that of its last step), or its last output."""
    last = outputs.get("cost", outputs)
    return last if isinstance(last, str) else str(last[-1])


def read_plan(path: Path) -> tuple[dict, float]:
    """Read a plan and the start of its run, in seconds since the epoch by the file system's clock.

    Raises:
        InputError: There is no plan, or another version of the project wrote it.
    """
    plan = read_json(path)
    if missing := KEYS - plan.keys():
        raise InputError(f"{path}: no {min(missing)}, because another version wrote it; start Snakemake again")
    return plan, Path(path).stat().st_mtime
