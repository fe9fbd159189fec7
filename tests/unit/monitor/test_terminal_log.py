"""Terminal output: one line per finished job and errors last. Snakemake's log has every message."""

import io
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent

from prefloop.core.files import write_json
from prefloop.core.stage_status import status_file
from prefloop.monitor.terminal_log import MAX_SHOWN, error_in, set_up_terminal

QUIET = {Quietness.RULES, Quietness.HOST}
KILLED = "error: the program ended without a message, possibly killed for lack of memory; "
JOB = {"rule_msg": None, "local": False, "is_checkpoint": False, "input": [], "output": ["a"], "benchmark": None}
JOB |= {"reason": "Missing output files: a", "wildcards": {}, "priority": 0, "threads": 1, "resources": {}}


class Terminal:
    """A Snakemake logger after `set_up_terminal`, with a terminal and a log file in memory."""

    def __init__(self, folder: Path, quiet=frozenset(QUIET), **settings):
        defaults = {"debug_dag": False, "verbose": False, "dryrun": False, "printshellcmds": False}
        self.settings = SimpleNamespace(**defaults | {"quiet": quiet, "show_failed_logs": True} | settings)
        self.shown, self.logged = io.StringIO(), io.StringIO()
        self.logger = logging.Logger("snakemake")
        stream, file = ColorizingTextHandler(stream=self.shown), logging.StreamHandler(self.logged)
        options = self.settings
        for handler, name in ((stream, "DefaultStreamHandler"), (file, "DefaultLogFileHandler")):
            handler.name = name
            filtered = (options.quiet, options.debug_dag, options.verbose, options.dryrun, options.printshellcmds)
            handler.addFilter(DefaultFilter(*filtered))
            handler.setFormatter(DefaultFormatter(options.quiet, True))
            self.logger.addHandler(handler)
        self.recorder = set_up_terminal(self.logger, options)
        self.recorder.folder = folder

    def log(self, event: LogEvent | None, text: str | None = None, **fields) -> None:
        self.logger.info(text, extra={"event": event, **fields} if event else None)

    def run_job(self, jobid: int, rule: str, log: Path, fails: bool = False, in_group: bool = False) -> None:
        """Log the messages that Snakemake logs for a job from start to end."""
        self.log(None, "Select jobs to execute...")
        self.log(LogEvent.JOB_STARTED, "Execute 1 jobs...", jobs=[jobid])
        self.log(LogEvent.JOB_INFO, "", rule_name=rule, jobid=jobid, log=[str(log)], **JOB)
        if fails:
            error = {"message": "", "conda_env": None, "shellcmd": "python train.py", "aux": {}}
            error |= {"input": [], "output": ["a"], "rule_msg": None, "rule_name": rule, "indent": in_group}
            self.log(
                LogEvent.JOB_ERROR,
                "Error",
                jobid=jobid,
                log=[str(log)],
                **{k: error[k] for k in error if k != "message"},
            )
        else:
            self.log(LogEvent.JOB_FINISHED, f"Finished jobid: {jobid} (Rule: {rule})", job_id=jobid)
            self.log(LogEvent.PROGRESS, done=12, total=384)

    def close(self) -> str:
        """Close the handlers in Snakemake's order; return the terminal output."""
        for handler in list(self.logger.handlers):
            self.logger.removeHandler(handler)
            handler.close()
        return self.shown.getvalue()


@pytest.fixture
def log(tmp_path) -> Path:
    path = tmp_path / "dota/seed-0/train.log"
    path.parent.mkdir(parents=True)
    path.write_text("train: 1/2 pairs\n\ntrain: 8 pairs in 4.4 s\n")
    return path


def test_finished_job_is_one_line(tmp_path, log):
    terminal = Terminal(tmp_path)
    terminal.run_job(3, "train", log)
    assert terminal.close() == "12 of 384 steps (3%) done; dota/seed-0: train: 8 pairs in 4.4 s\n"


def test_snakemakes_log_has_all_messages(tmp_path, log):
    terminal = Terminal(tmp_path)
    terminal.run_job(3, "train", log)
    text = terminal.logged.getvalue()
    for part in (
        "Execute 1 jobs...",
        "rule train:",
        "reason: Missing output files: a",
        "Finished jobid: 3 (Rule: train)",
    ):
        assert part in text


@pytest.mark.parametrize("options", [{"printshellcmds": True}, {"verbose": True}, {"quiet": None}])
def test_jobs_are_listed_on_request(tmp_path, log, options):
    terminal = Terminal(tmp_path, **options)
    terminal.run_job(3, "train", log)
    shown = terminal.close()
    assert "rule train:" in shown and "reason: Missing output files" in shown
    assert "\n12 of 384 steps (3%) done\n" in shown


@pytest.mark.parametrize("dryrun", [True, False])
def test_quiet_dry_run_prints_only_the_table(tmp_path, log, dryrun):
    terminal = Terminal(tmp_path, quiet=frozenset({Quietness.RULES, Quietness.PROGRESS}), dryrun=dryrun)
    terminal.recorder.summary = "two methods"
    terminal.log(LogEvent.RUN_INFO, "Job stats:\ntrain 1", stats={"all": 1})
    terminal.run_job(3, "train", log)
    shown = terminal.close()
    assert ("Job stats:" in shown) == dryrun and ("two methods" in shown) == dryrun
    assert "rule train" not in shown and "steps" not in shown


def test_error_of_a_failed_job_is_last(tmp_path, log):
    log.write_text("train: 1/2 pairs\nerror: pairs.jsonl: no pair\nsrun: task 0 exited\n")
    terminal = Terminal(tmp_path)
    terminal.run_job(3, "train", log, fails=True)
    terminal.log(
        LogEvent.ERROR, "WorkflowError:\nAt least one job did not complete successfully.", exception="WorkflowError"
    )
    shown = terminal.close()
    assert "Error in rule train:" in shown and "At least one job did not complete successfully." in shown
    assert shown.splitlines()[-2:] == [f"train failed, log: {log}", "error: pairs.jsonl: no pair"]
    assert "train failed" not in terminal.close().removeprefix(shown), "printed once, although closed twice"


def test_ctrl_c_says_how_to_go_on(tmp_path, log):
    """A stage that was interrupted has not failed; one that failed before is named."""
    log.write_text("error: interrupted by Ctrl-C; start again, and the run continues from the existing files\n")
    (failed := log.with_name("reward.log")).write_text("error: no number\n")
    terminal = Terminal(tmp_path)
    (early := log.with_name("sample.log")).write_text("Traceback (most recent call last):\nKeyboardInterrupt\n")
    terminal.run_job(3, "train", log, fails=True)
    terminal.run_job(4, "reward", failed, fails=True)
    terminal.run_job(5, "sample", early, fails=True)
    terminal.log(None, "Terminating processes on user request, this might take some time.")
    shown = terminal.close().splitlines()
    assert not any(line.startswith(("train failed", "sample failed")) for line in shown)
    assert shown[-4:] == [
        f"reward failed, log: {failed}",
        "error: no number",
        "",
        "interrupted by Ctrl-C; start again with the same command, and the run continues from the existing files",
    ]


def test_number_of_shown_errors_is_limited(tmp_path, log):
    terminal = Terminal(tmp_path)
    for number in range(MAX_SHOWN + 2):
        terminal.run_job(number, "train", log.with_name(f"{number}.log"), fails=True)
    shown = terminal.close()
    assert f"{MAX_SHOWN + 2} jobs failed; {MAX_SHOWN} of them:" in shown
    assert shown.count("train failed, log: ") == MAX_SHOWN


def test_job_that_succeeds_at_a_retry_has_not_failed(tmp_path, log):
    terminal = Terminal(tmp_path)
    terminal.run_job(3, "train", log, fails=True)
    terminal.run_job(3, "train", log)
    assert "train failed" not in terminal.close()


def test_errors_with_a_message_are_last(tmp_path, log):
    """They are shown even if many later jobs were killed."""
    (clear := log.with_name("clear.log")).write_text("error: no pair\n")
    terminal = Terminal(tmp_path)
    terminal.run_job(0, "clear", clear, fails=True)
    for number in range(MAX_SHOWN + 2):
        terminal.run_job(number, "train", log.with_name(f"{number}.log"), fails=True)
    assert terminal.close().splitlines()[-2:] == [f"clear failed, log: {clear}", "error: no pair"]


@pytest.mark.parametrize("is_killed", [False, True])
def test_of_a_failed_group_only_the_failed_job_is_named(tmp_path, log, is_killed):
    """Snakemake reports all its jobs, also those that have finished or never started."""
    done, waiting = log.with_name("pfp.log"), log.with_name("sample.log")
    done.write_text("pfp: 8 rows in 1 s\n")
    write_json(status_file(done), {"stage": "pfp", "state": "done"})
    log.write_text("train: 1/2 pairs\n" if is_killed else "error: no pair\n")
    terminal = Terminal(tmp_path)
    for number, (rule, path) in enumerate([("pfp", done), ("train", log), ("sample", waiting)]):
        terminal.run_job(number, rule, path, fails=True, in_group=True)
    shown = terminal.close()
    assert f"train failed, log: {log}" in shown
    assert "pfp failed" not in shown and "sample failed" not in shown


def test_failed_group_without_a_suspect_names_all(tmp_path, log):
    terminal = Terminal(tmp_path)
    terminal.run_job(3, "train", log.with_name("missing.log"), fails=True, in_group=True)
    assert "train failed, log: " in terminal.close()


@pytest.mark.parametrize(
    ("quiet", "expected"), [({Quietness.RULES, Quietness.PROGRESS}, True), ({Quietness.ALL}, False)]
)
def test_quiet_shows_errors_and_quiet_all_does_not(tmp_path, log, quiet, expected):
    terminal = Terminal(tmp_path, quiet=quiet)
    terminal.run_job(3, "train", log, fails=True)
    assert ("train failed, log:" in terminal.close()) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("error: memory is full\n", "error: memory is full"),
        ("error: a\nTraceback\n  File x\nRuntimeError: of torchrun\n", "error: a"),
        (
            "Traceback (most recent call last):\n  File x\nmodule.OddError: why\n",
            "error: module.OddError: why; the log has the traceback",
        ),
        ("generate: 3/8 responses, 4 s\n\n", f"{KILLED}the last line of its log: generate: 3/8 responses, 4 s"),
        ("\x1b[2Jgone\n", f"{KILLED}the last line of its log: \\x1b[2Jgone"),
        ("", f"{KILLED}its log is empty"),
        (None, f"{KILLED}its log is empty"),
    ],
)
def test_error_in_a_log(tmp_path, text, expected):
    log = tmp_path / "train.log"
    if text is not None:
        log.write_text(text)
    assert error_in(log) == expected


def test_config_error_is_last(tmp_path):
    terminal = Terminal(tmp_path)
    text = 'WorkflowError in file "common.smk", line 77:\nconfig: seeds: no\n  File "common.smk", line 77, in <module>'
    terminal.log(LogEvent.ERROR, text, exception="WorkflowError")
    assert terminal.close().splitlines()[-1] == "config: seeds: no"
    assert "in <module>" in terminal.logged.getvalue()


def test_dry_run_shows_one_table_and_the_experiment(tmp_path):
    terminal = Terminal(tmp_path, dryrun=True)
    terminal.recorder.summary = "tiny: 2 methods"
    for _ in range(2):
        terminal.log(LogEvent.RUN_INFO, "Job stats:\ntotal 3\n", stats={"all": 1, "train": 2})
    assert terminal.close() == "Job stats:\ntotal 3\n\ntiny: 2 methods\n\n"
    terminal = Terminal(tmp_path)
    terminal.recorder.summary = "tiny: 2 methods"
    terminal.log(LogEvent.RUN_INFO, "Job stats:\ntotal 2\n", stats={"train": 2})
    assert "tiny" not in terminal.close(), "the target is one policy, not the experiment"
