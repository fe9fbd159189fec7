"""Planning does no work that grows with the number of jobs where once per rule, method or cluster is enough."""

# Counts how often the files of a feedback are listed.
COUNT_FILES = """
list_files = feedback_files


def feedback_files(settings):
    logger.warning("files of a feedback")
    return list_files(settings)
"""
# Names the functions whose signature Python looks up after Snakemake has read the rules.
COUNT_SIGNATURES = """
look_up = inspect.signature


def signature(function, *arguments, **options):
    logger.warning(f"signature of {getattr(function, '__name__', '')}")
    return look_up(function, *arguments, **options)


inspect.signature = signature
"""


def test_groups_are_planned_only_for_a_cluster(workdir):
    """A dry run for a cluster has a limit of queued jobs, --jobs; a run on one machine has no groups."""
    for options, has_groups in [((), False), (("--jobs", "4"), True)]:
        plan = workdir.run("--dry-run", "--printshellcmds", *options)
        assert plan.returncode == 0, plan.stdout
        assert "rule allocate:" in plan.stdout
        assert ("Group job" in plan.stdout) == has_groups


def test_quiet_dry_run_stops_after_the_table(workdir):
    plan = workdir.run("--dry-run", "--quiet")
    assert plan.returncode == 0, plan.stdout
    assert "Job stats:" in plan.stdout
    assert "Reasons:" not in plan.stdout


def test_feedback_is_read_once_per_method(workdir):
    """Two methods have eight steps with labels. The evaluator and the experiment's feedback are read once as well."""
    workdir.copy_sources()
    workdir.append("rules/feedback.smk", COUNT_FILES)
    plan = workdir.run("--dry-run")
    assert plan.returncode == 0, plan.stdout
    assert plan.stdout.count("files of a feedback") == 4


def test_signatures_of_functions_in_rules_are_cached(workdir):
    """Those of Snakemake's own functions are not."""
    workdir.copy_sources()
    workdir.append("Snakefile", COUNT_SIGNATURES)
    plan = workdir.run("--dry-run")
    assert plan.returncode == 0, plan.stdout
    assert "signature of evaluate" in plan.stdout
    assert "signature of prompts_before" not in plan.stdout
