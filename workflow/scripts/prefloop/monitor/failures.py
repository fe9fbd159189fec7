"""Record jobs that Snakemake reports as failed, because a process that was killed cannot record this itself."""

import logging
from pathlib import Path

from snakemake_interface_logger_plugins.common import LogEvent

from prefloop.core.stage_status import mark_failed


class FailureRecorder(logging.Handler):
    """A handler for Snakemake's logger that writes the status of failed jobs."""

    def __init__(self, logs: set[str], started: float) -> None:
        """Record failures of the jobs with these logs.

        Args:
            logs: The logs of all jobs of the workflow.
            started: Start of the run, in seconds since the epoch by the file system's clock.
        """
        super().__init__()
        self.logs, self.started = logs, started

    def emit(self, record: logging.LogRecord) -> None:
        """Mark the stages of a failed job."""
        if getattr(record, "event", None) == LogEvent.JOB_ERROR:
            for log in self.logs.intersection(getattr(record, "log", [])):
                mark_failed(Path(log), self.started)
