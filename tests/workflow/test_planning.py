"""Planning does no work that grows with the number of jobs where once per rule, method or cluster is enough."""


def test_groups_are_planned_only_for_a_cluster(workdir):
    """A dry run for a cluster has a limit of queued jobs, --jobs; a run on one machine has no groups."""
    for options, has_groups in [((), False), (("--jobs", "4"), True)]:
        plan = workdir.run("--dry-run", "--printshellcmds", *options)
        assert plan.returncode == 0, plan.stdout
        assert "rule allocate:" in plan.stdout
        assert ("Group job" in plan.stdout) == has_groups
