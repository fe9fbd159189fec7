"""What Snakemake prints on the terminal: one line per finished job, and at the end the errors of failed jobs.

A profile enables this with `quiet: [rules, host]`, with which Snakemake's own filter would also hide errors. With
--printshellcmds or --verbose every job is listed. With --quiet a dry run prints the table of jobs. Snakemake's log,
.snakemake/log/*.log, always has everything. Only this module uses the classes of snakemake.logging.
"""

import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakemake.logging import DefaultFilter, DefaultFormatter, get_event
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent

from prefloop.core.errors import one_line
from prefloop.core.stage_status import read_status

TAIL = 100_000  # bytes at the end of a log that are searched for a message
MAX_SHOWN = 10  # failed jobs
NO_MESSAGE = "error: the program ended without a message, possibly killed for lack of memory; "
ERROR_EVENTS = (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR)
# Messages without an event, and events, that are the same in every run or for every job.
ROUTINE = ("Select jobs to execute...", "Group jobs: inactive", "Conda environments: ignored")
ROUTINE_EVENTS = (LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.RESOURCES_INFO)
LAST_OF_TRACEBACK = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit|Warning)\b")
BY_CTRL_C = "interrupted by Ctrl-C"  # in the errors of stages, and of Snakemake
PLACE = re.compile(r'  File ".*", line \d+, in ')


def log_lines(log: Path) -> list[str]:
    """The last non-empty lines of a log, without trailing spaces; empty if there is no log."""
    try:
        with Path(log).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def error_in(log: Path) -> str:
    """The error of a failed stage in one line: its `error: ...`, or the last line of a traceback.

    A process that was killed could not write either. In this case the result says so, and has the last line of the log.
    """
    lines = log_lines(log)
    for line in reversed(lines):
        if line.startswith("error: "):
            return one_line(line)
    if not lines:
        return f"{NO_MESSAGE}its log is empty"
    if LAST_OF_TRACEBACK.match(lines[-1]):
        return one_line(f"error: {lines[-1]}; the log has the traceback")
    return one_line(f"{NO_MESSAGE}the last line of its log: {lines[-1]}")


def may_have_failed(log: Path) -> bool:
    """Whether a job of a failed group has started and not ended: it has a log, and its status is not `done`."""
    return bool(log_lines(log)) and (read_status(log) or {}).get("state") != "done"


class JobRecorder(logging.Handler):
    """A handler for Snakemake's logger that records jobs' logs and prints the errors of failed jobs at the end."""

    def __init__(self, show: Callable[[str], None]) -> None:
        """Record jobs.

        Args:
            show: Prints the errors, after everything else that Snakemake prints.
        """
        super().__init__()
        self.show = show
        self.folder: Path | None = None
        """The folder of the experiment's logs, once the config is known."""
        self.summary = ""
        """A summary of the experiment, once the config is known."""
        self.logs: dict[int, Path] = {}
        self.finished: Path | None = None
        self.failed: dict[Path, str] = {}
        self.of_groups: set[Path] = set()
        self.interrupted = False

    def emit(self, record: logging.LogRecord) -> None:
        """Record the log of a job that starts, ends or fails."""
        event = get_event(record)
        log = next(iter(getattr(record, "log", None) or []), None)
        if event == LogEvent.JOB_INFO and log:
            self.logs[getattr(record, "jobid", -1)] = Path(log)
        elif event == LogEvent.JOB_FINISHED:
            self.finished = self.logs.get(getattr(record, "job_id", -1))
            if self.finished:  # an earlier attempt of the job may have failed
                self.failed.pop(self.finished, None)
        elif event == LogEvent.JOB_ERROR and log:
            self.failed[Path(log)] = getattr(record, "rule_name", "")
            if getattr(record, "indent", False):  # Snakemake reports every job of a failed group, with an indent
                self.of_groups.add(Path(log))
        elif event is None and str(record.msg).startswith("Terminating processes on user request"):
            self.interrupted = True

    def close(self) -> None:
        """Print the errors, those with a message last; Snakemake closes its handlers last."""
        super().close()
        errors = [(rule, log, error_in(log)) for log, rule in self.failed.items()]
        failed = [error for error in errors if BY_CTRL_C not in error[2] and "KeyboardInterrupt" not in error[2]]
        failed = [job for job in failed if job[1] not in self.of_groups or may_have_failed(job[1])] or failed
        failed.sort(key=lambda error: not error[2].startswith(NO_MESSAGE))
        parts = [f"\n{rule} failed, log: {log}\n{error}" for rule, log, error in failed[-MAX_SHOWN:]]
        if len(failed) > MAX_SHOWN:
            parts.insert(0, f"\n{len(failed)} jobs failed; {MAX_SHOWN} of them:")
        if self.interrupted:
            parts.append(
                f"\n{BY_CTRL_C}; start again with the same command, and the run continues from the existing files"
            )
        self.failed, self.interrupted = {}, False
        if parts:
            self.show("\n".join(parts))


class BriefFilter(DefaultFilter):
    """A filter that lets errors pass and hides what Snakemake prints for every job; a dry run has one table of jobs."""

    has_table = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is printed."""
        event = get_event(record)
        if event in ERROR_EVENTS:
            return True
        if event in ROUTINE_EVENTS or (event is None and str(record.msg).startswith(ROUTINE)):
            return False
        if event == LogEvent.RUN_INFO:
            first, self.has_table = not self.has_table, True
            return first and super().filter(record)
        return super().filter(record)


class TableFilter(DefaultFilter):
    """A filter for a dry run with --quiet, in which Snakemake plans only the table of jobs, but hides it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is printed."""
        return get_event(record) == LogEvent.RUN_INFO or super().filter(record)


class TerminalFormatter(DefaultFormatter):
    """Snakemake's formatter, with the message of an invalid config as the last line."""

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record; for an error in a config, without the lines that name the rules' source."""
        text = super().format(record)
        if getattr(record, "exception", None) == "WorkflowError":
            lines = text.splitlines()
            while len(lines) > 1 and PLACE.match(lines[-1]):
                lines.pop()
            return "\n".join(lines)
        return text


class BriefFormatter(TerminalFormatter):
    """Adds a finished stage's result to the progress line, and a summary of the experiment to the table of jobs."""

    recorder: JobRecorder

    def format_progress(self, msg: dict[str, Any]) -> str:
        """`12 of 384 steps (3%) done; dota/seed-0/round-1: train: round 1, 8 pairs, 2 steps in 4.4 s, ...`."""
        text = super().format_progress(msg)
        log, self.recorder.finished = self.recorder.finished, None
        lines = log_lines(log) if log else []
        if not log or not lines:
            return text
        parent, root = log.parent, self.recorder.folder
        place = f"{parent.relative_to(root)}: " if root is not None and root in parent.parents else ""
        return one_line(f"{text}; {place}{lines[-1]}")

    def format_run_info(self, msg: dict[str, Any]) -> str:
        """The table of jobs, followed by the summary of the experiment if rule `all` is planned."""
        table, summary = super().format_run_info(msg), self.recorder.summary
        return f"{table.rstrip()}\n\n{summary}\n" if summary and "all" in msg.get("stats", {}) else table


def set_up_terminal(logger: logging.Logger, settings: Any) -> JobRecorder:
    """Make Snakemake's logger print as this module describes.

    Args:
        logger: Snakemake's logger, with its handlers for the terminal and the log file.
        settings: Snakemake's output settings.

    Returns:
        The handler that prints the errors at the end.
    """
    quiet = set(settings.quiet or ())
    streams = [handler for handler in logger.handlers if handler.name == "DefaultStreamHandler"]

    def show(text: str) -> None:
        if Quietness.ALL in quiet:
            return
        for stream in streams:
            stream.emit(logging.LogRecord(logger.name, logging.ERROR, __file__, 0, text, None, None))
        if not streams:
            print(text, file=sys.stderr)

    recorder = JobRecorder(show)
    lists_jobs = settings.printshellcmds or settings.verbose
    is_brief = Quietness.RULES in quiet and not quiet & {Quietness.PROGRESS, Quietness.ALL} and not lists_jobs
    is_table = settings.dryrun and quiet == {Quietness.RULES, Quietness.PROGRESS}
    shown_quiet = quiet - {Quietness.RULES} if lists_jobs and Quietness.PROGRESS not in quiet else quiet
    kind = BriefFilter if is_brief else TableFilter if is_table else DefaultFilter
    for stream in streams:
        formatter = (BriefFormatter if is_brief or is_table else TerminalFormatter)(
            shown_quiet, settings.show_failed_logs
        )
        if isinstance(formatter, BriefFormatter):
            formatter.recorder = recorder
        replace_filter(stream, kind, shown_quiet, settings)
        stream.setFormatter(formatter)
    for handler in logger.handlers:
        if handler.name == "DefaultLogFileHandler":
            replace_filter(handler, DefaultFilter, set(), settings)
            handler.setFormatter(DefaultFormatter(set(), settings.show_failed_logs))
    logger.addHandler(recorder)
    return recorder


def replace_filter(handler: logging.Handler, kind: type[DefaultFilter], quiet: set, settings: Any) -> None:
    """Replace the filter of one of Snakemake's handlers by a filter of this class."""
    for known in [known for known in handler.filters if isinstance(known, DefaultFilter)]:
        handler.removeFilter(known)
    handler.addFilter(kind(quiet, settings.debug_dag, settings.verbose, settings.dryrun, settings.printshellcmds))
