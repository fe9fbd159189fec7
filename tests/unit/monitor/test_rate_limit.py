"""Snakemake's default rate limit is removed, and a user's limit is kept."""

from types import SimpleNamespace

import pytest
from snakemake.cli import get_argument_parser
from snakemake.scheduling.job_scheduler import JobRateLimiter
from snakemake.settings.types import MaxJobsPerTimespan

from prefloop.monitor.rate_limit import remove_default_limit


def scheduler_with(limit: MaxJobsPerTimespan | None) -> SimpleNamespace:
    return SimpleNamespace(job_rate_limiter=limit and JobRateLimiter(limit))


def test_default_limit_is_removed():
    scheduler = scheduler_with(get_argument_parser().parse_args([]).max_jobs_per_timespan)
    assert scheduler.job_rate_limiter is not None
    remove_default_limit(scheduler)
    assert scheduler.job_rate_limiter is None
    remove_default_limit(scheduler)


@pytest.mark.parametrize("limit", ["10/1s", "100/1m"])
def test_limit_of_the_user_is_kept(limit):
    scheduler = scheduler_with(MaxJobsPerTimespan.parse_choice(limit))
    remove_default_limit(scheduler)
    assert scheduler.job_rate_limiter is not None
