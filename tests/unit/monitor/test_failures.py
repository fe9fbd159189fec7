"""If a process could not write its failure, the failure that Snakemake reports is written to its status."""

import logging
import os
from pathlib import Path

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from prefloop.core.files import write_json
from prefloop.core.stage_status import read_status, status_file
from prefloop.monitor.failures import FailureRecorder

START = 1_000_000.0


def report(event: LogEvent, log: Path, known: bool = True) -> None:
    """Log an event as Snakemake does."""
    logger = logging.Logger("snakemake")
    logger.addHandler(FailureRecorder({str(log)} if known else set(), START))
    logger.error("Error in rule train", extra={"event": event, "log": [str(log), "slurm.log"]})


@pytest.mark.parametrize(
    ("state", "age", "expected"),
    [
        (None, 0, "failed"),  # killed before it wrote a status
        ("running", 5, "failed"),
        ("stopped", 5, "failed"),
        ("done", -5, "failed"),  # the status is from an earlier run
    ],
)
def test_killed_job_has_state_failed(tmp_path, state, age, expected):
    log = tmp_path / "train.log"
    if state:
        write_json(status_file(log), {"stage": "train", "state": state})
        os.utime(status_file(log), (START + age, START + age))
    report(LogEvent.JOB_ERROR, log)
    assert read_status(log)["state"] == expected


def test_failure_written_by_the_process_is_kept(tmp_path):
    log = tmp_path / "train.log"
    write_json(status_file(log), {"stage": "train", "state": "failed", "host": "node"})
    report(LogEvent.JOB_ERROR, log)
    assert read_status(log)["host"] == "node"


def test_other_events_and_logs_are_ignored(tmp_path):
    log = tmp_path / "train.log"
    report(LogEvent.JOB_FINISHED, log)
    report(LogEvent.JOB_ERROR, log, known=False)
    logging.Logger("snakemake").error("no event at all")
    assert list(tmp_path.iterdir()) == []
