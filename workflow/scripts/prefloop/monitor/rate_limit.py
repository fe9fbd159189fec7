"""Snakemake's limit on started jobs per second, whose timers keep its main process busy."""

from typing import Any

DEFAULT = (100, 1)  # jobs, seconds: Snakemake's default of --max-jobs-per-timespan


def remove_default_limit(scheduler: Any) -> None:
    """Remove the limit from a Snakemake scheduler, unless the user has changed it.

    Each round of scheduling in which jobs are ready starts a timer that starts another round after the limit's time
    (snakemake/scheduling/job_scheduler.py, lines 394 to 397 of 9.27.1). While jobs wait for a core, these timers renew
    themselves, and each finished job adds one. So after n jobs, all ready jobs are evaluated n times per second. The
    limit is not needed, because the end of a job always starts a round.
    """
    limiter = scheduler.job_rate_limiter
    if limiter is not None and (limiter.max_jobs, limiter.timespan) == DEFAULT:
        scheduler.job_rate_limiter = None
