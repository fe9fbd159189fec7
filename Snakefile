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
include: "rules/start.smk"


rule all:
    default_target: True
    input:
        collect("<results>/figures/{figure}.pdf", figure=FIGURES),
        collect("<results>/tables/{table}.csv", table=TABLES),


rule figures:
    input:
        collect("<results>/figures/{figure}.pdf", figure=FIGURES),
