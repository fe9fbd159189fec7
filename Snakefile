from snakemake.utils import min_version

min_version("9.12")  # pathvars


report: "workflow/report/workflow.rst"


include: "rules/common.smk"
include: "rules/programs.smk"
include: "rules/prepare.smk"
include: "rules/feedback.smk"
include: "rules/annotate.smk"


if config["shards"] > 1:

    include: "rules/shards.smk"


if ACQUIRING := [name for name in config["methods"] if acquires(name)]:

    include: "rules/acquire.smk"


if config["join_steps"]:

    include: "rules/joined_steps.smk"


if config["share_first_step"]:

    include: "rules/first_step.smk"


include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/figure_files.smk"
include: "rules/figures.smk"
include: "rules/records.smk"
include: "rules/export.smk"
include: "rules/browse.smk"


# All formats, so that a deleted picture is drawn again.
EVERY_PICTURE = collect(
    "<results>/figures/{figure}.{kind}",
    figure=FIGURES,
    kind=["pdf", "svg", "png", "csv"],
)


rule all:
    default_target: True
    input:
        EVERY_PICTURE,
        collect("<results>/tables/{table}.{kind}", table=TABLES, kind=["csv", "tex"]),
        FACTS,


rule figures:
    input:
        EVERY_PICTURE,


remember_signatures(workflow.rules)

# Resources of a profile are checked here because all rules are known.
if problems := misspelled_in_profile(
    workflow.resource_settings.default_resources,
    workflow.resource_settings.overwrite_resources,
    {rule.name for rule in workflow.rules},
):
    raise WorkflowError("\n".join(problems))


# The report copies these files. In a shared folder, a link could publish any file that it points to.
if links := links_in_report():
    raise WorkflowError(
        f"{links[0]}: a symbolic link, expected a file that a rule has written; delete it"
    )


# Not executed in a dry-run.
onstart:
    if not workflow.local_exec and shlex.quote(sys.executable) != sys.executable:
        # Snakemake does not quote the path of Python in jobs of a cluster (snakemake/snakemake#3211).
        raise WorkflowError(
            f"Python: {sys.executable!r} has a space or another special character in its path, which jobs of a cluster "
            "cannot start; create the environment in another folder, for example with python3 -m venv ~/prefloop-venv"
        )
    remove_default_limit(workflow.scheduler)
    # For `make status`.
    plan = Path(LOGS, PLAN_FILE)
    logs = write_plan(plan, EXPERIMENT, workflow.dag)
    logger.addHandler(FailureRecorder(logs, plan.stat().st_mtime))
    # For `make compare`.
    write_settings(config, EXPERIMENT)
