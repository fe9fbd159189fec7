from snakemake.utils import min_version

min_version("9.12")  # pathvars


configfile: "experiments/methods.yaml"  # the published methods, by name
configfile: "config.yaml"


report: "workflow/report/workflow.rst"


include: "rules/common.smk"


# What <results> and <logs> stand for in the rules' paths.
pathvars:
    results=RESULTS,
    logs=LOGS,


include: "rules/inputs.smk"
include: "rules/rounds.smk"


if config["shards"] > 1:

    include: "rules/shards.smk"


include: "rules/evaluation.smk"
include: "rules/theory.smk"
include: "rules/figures.smk"
include: "rules/export.smk"
include: "rules/browse.smk"


if problems := misspelt_in_profile(
    workflow.resource_settings.default_resources,
    workflow.resource_settings.overwrite_resources,
    {rule.name for rule in workflow.rules},
):
    raise WorkflowError("\n".join(problems))


# For `make status`. A dry-run does not come here.
onstart:
    write_plan(Path(LOGS, PLAN), EXPERIMENT, workflow.dag, config["shards"])


rule all:
    default_target: True
    input:
        collect("<results>/figures/{figure}.pdf", figure=FIGURES),
        collect("<results>/tables/{table}.csv", table=TABLES),


rule figures:
    input:
        collect("<results>/figures/{figure}.pdf", figure=FIGURES),
