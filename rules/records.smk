# Records of an experiment in addition to its figures and tables: a gallery page, a pilot, and rows.


def pairs_of_rounds():
    """Return the files of the pairs that every round trains on, including mixed pairs."""
    return [
        f"<results>/{method}/seed-{seed}/round-{number}/{file}"
        for method in METHODS
        for file in [
            "mixed_pairs.jsonl" if method in EXPERIMENT.mixing else "pairs.jsonl"
        ]
        for seed in SEEDS
        for number in ROUNDS
    ]


def stored_files(wildcards):
    """Return the files from which the rows of the experiment are written."""
    return [
        EVAL_PROMPTS,
        *judgments_of(EXPERIMENT.comparisons),
        *judgments_by(EXPERIMENT.evaluators, EXPERIMENT.comparisons),
        *TEXT_ROWS,
        *(
            f"{RESULTS}/{c.folder}/samples.jsonl"
            for c in EXPERIMENT.comparisons
            if not c.round
        ),
        *KL_ROWS,
        *(path for name in STORED_FIGURES for path in files_read(f"plot_{name}")),
        *collect("<results>/reward_models/{name}.report.json", name=REWARD_MODELS),
        *COSTS,
        *pairs_of_rounds(),
        *every_round("training.jsonl"),
        *every_step("prompts.jsonl"),
        *every_step("rewards.jsonl"),
        *every_step("acquired.jsonl", EXPERIMENT.acquiring),
    ]


STORED_FIGURES = [name for name in FIGURES if name in outputs.FIGURES]
FACTS = rules.describe_run.output if METHODS else []


# A page of the documentation, which is in git: snakemake --cores all gallery --configfile experiments/laptop/dota.yaml
rule gallery:
    input:
        config=CONFIG_FILE,
        facts=FACTS,
        figures=collect("<results>/figures/{figure}.png", figure=FIGURES),
        captions=collect("<results>/figures/{figure}.rst", figure=FIGURES),
        tables=collect("<results>/tables/{table}.csv", table=TABLES),
    output:
        f"docs/gallery/{config['name']}.md",
    log:
        "<logs>/gallery.log",
    conda:
        "../environment.yml"
    params:
        **program("make_gallery"),
        facts=lambda wildcards, input: flags({"facts": input.facts or None}),
    shell:
        "PREFLOOP_LOG={log} python {params.program} --config {input.config:q} {params.facts} --figures {input.figures}"
        " --tables {input.tables} --page {output} > {log} 2>&1"


# Values of a finished experiment, from which `make power` plans the next one: snakemake --cores all pilot
rule pilot:
    input:
        read_by("tabulate_power"),
    output:
        "<results>/pilot.csv",
    log:
        "<logs>/pilot.log",
    conda:
        "../environment.yml"
    params:
        **program("write_pilot"),
        experiment=experiment_flags("write_pilot", measure=target_measure(config)),
    shell:
        "PREFLOOP_LOG={log} python {params.program} {params.experiment} --output {output} > {log} 2>&1"


# The numbers that figures and tables need, in tables small enough for git: snakemake --cores all rows
rule rows:
    input:
        stored_files,
    output:
        "<results>/rows/experiment_rows.json",
    log:
        "<logs>/rows.log",
    conda:
        "../environment.yml"
    params:
        **program("write_rows"),
        experiment=experiment_flags(
            "write_rows",
            shared=SHARED_COSTS,
            divergence=DIVERGENCE,
            perplexity=PERPLEXITY,
            figures=STORED_FIGURES,
        ),
    shell:
        "PREFLOOP_LOG={log} python {params.program} {params.experiment} --output {output} > {log} 2>&1"
