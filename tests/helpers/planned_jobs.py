"""Run the jobs that Snakemake plans in this process, with the same flags and files but no new process per stage."""

import contextlib
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

PATHS = re.compile(r"^ *(input|output): (.+)$")
NOTE = re.compile(r" \([a-z ]+\)$")  # such as "(update)", after a path
COMMAND = re.compile(r"^ *Shell command: (.+) > (\S+) 2>&1$")


class Job(NamedTuple):
    """A job that Snakemake has planned."""

    inputs: list[str]
    outputs: list[str]
    program: str
    flags: list[str]
    environment: dict[str, str]
    log: str


def run_planned(directory, *targets: str) -> int:
    """Run the jobs of `snakemake targets` in a `Workdir`, one after the other; return their number.

    Raises:
        AssertionError: Snakemake cannot plan the targets, or a program fails or does not write its outputs.
    """
    plan = directory.run("--dry-run", "--printshellcmds", *targets, "--config", "warm_start=False")
    assert plan.returncode == 0, plan.stdout
    jobs = in_order(list(read_jobs(plan.stdout.splitlines())))
    with contextlib.chdir(directory.path):
        for job in jobs:
            run_job(job)
    return len(jobs)


def read_jobs(lines: Sequence[str]) -> Iterator[Job]:
    """Yield the jobs that a dry-run with --printshellcmds lists."""
    paths: dict[str, list[str]] = {}
    for line in lines:
        if found := PATHS.match(line):
            paths[found[1]] = [NOTE.sub("", path) for path in found[2].split(", ")]
        elif found := COMMAND.match(line):
            words = shlex.split(found[1])
            start = words.index("python")
            variables = dict(word.split("=", 1) for word in words[:start] if "=" in word)
            program, *flags = words[start + 1 :]
            yield Job(paths.pop("input", []), paths.pop("output"), program, flags, variables, found[2])


def in_order(jobs: list[Job]) -> list[Job]:
    """Return the jobs in an order in which every job follows the jobs that write its inputs."""
    ordered: list[Job] = []
    while jobs:
        missing = {path for job in jobs for path in job.outputs}
        ready = [job for job in jobs if not missing & set(job.inputs)]
        assert ready, "jobs depend on each other in a cycle"
        ordered += ready
        jobs = [job for job in jobs if job not in ready]
    return ordered


def run_job(job: Job) -> None:
    """Run a job's program in the working directory; its output goes to its log."""
    for path in (*job.outputs, job.log):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with (
        Path(job.log).open("w") as log,
        mock.patch.object(sys, "argv", [job.program, *job.flags]),
        mock.patch.dict(os.environ, job.environment),
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        try:
            runpy.run_path(job.program, run_name="__main__")
        except SystemExit as end:
            raise AssertionError(f"{job.program}: {end.code}") from end
    assert [path for path in job.outputs if not Path(path).exists()] == [], Path(job.log).read_text()
