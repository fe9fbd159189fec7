# Figures and tables. They read only rows, and write their data as CSV and their captions next to the pictures.
for name in [name for name in outputs.FIGURES if name != "tabular"]:

    rule:
        name:
            f"plot_{name}"
        input:
            read_by(f"plot_{name}"),
        output:
            **picture(name, outputs.FIGURES[name].question),
        log:
            f"<logs>/figures/{name}.log",
        group:
            figure_group
        conda:
            "../environment.yml"
        params:
            **program(f"figures/plot_{name}"),
            experiment=experiment_flags(
                f"plot_{name}", **OWN_FLAGS.get(f"plot_{name}", {})
            ),
        shell:
            "PREFLOOP_LOG={log} python {params.program} {params.experiment} --figure {output.pdf} > {log} 2>&1"


for name in OWN_FIGURES:

    rule:
        name:
            f"plot_{name}"
        input:
            read_by(f"plot_{name}"),
        output:
            **picture(name, outputs.OWN),
        log:
            f"<logs>/figures/{name}.log",
        group:
            figure_group
        conda:
            "../environment.yml"
        params:
            **program("figures/plot_own"),
            own=own_code(FIGURE_NAMES[name]),
            experiment=experiment_flags(f"plot_{name}", function=FIGURE_NAMES[name]),
        shell:
            "PREFLOOP_LOG={log} python {params.program} {params.experiment} --figure {output.pdf} > {log} 2>&1"


for name in [name for name in ALL_TABLES if name != "reward_models"]:

    rule:
        name:
            f"tabulate_{name}"
        input:
            read_by(f"tabulate_{name}"),
        output:
            **table(name),
        log:
            f"<logs>/tables/{name}.log",
        group:
            figure_group
        conda:
            "../environment.yml"
        params:
            **program(f"tables/tabulate_{name}"),
            experiment=experiment_flags(
                f"tabulate_{name}", **OWN_FLAGS.get(f"tabulate_{name}", {})
            ),
        shell:
            "PREFLOOP_LOG={log} python {params.program} {params.experiment} --table {output.csv} > {log} 2>&1"


rule plot_tabular:
    input:
        curves=rules.simulate_tabular.output.curves,
    output:
        **picture("tabular", outputs.THEORY),
    log:
        "<logs>/figures/tabular.log",
    group:
        figure_group
    conda:
        "../environment.yml"
    params:
        **program("figures/plot_tabular"),
        settings=flags(
            {
                "actions": config["tabular"]["actions"],
                "beta": config["tabular"]["beta"],
                "exact_rate": config["tabular"]["normalized"]["learning_rate"],
                "empirical_rate": config["tabular"]["empirical"]["learning_rate"],
                "pairs": config["tabular"]["empirical"]["pairs"],
            }
        ),
    shell:
        "PREFLOOP_LOG={log} python {params.program} --rows {input.curves} {params.settings}"
        " --figure {output.pdf} > {log} 2>&1"


rule tabulate_reward_models:
    input:
        reports=collect(
            "<results>/reward_models/{name}.report.json", name=REWARD_MODELS
        ),
    output:
        **table("reward_models"),
    log:
        "<logs>/tables/reward_models.log",
    group:
        figure_group
    conda:
        "../environment.yml"
    params:
        **program("tables/tabulate_reward_models"),
    shell:
        "PREFLOOP_LOG={log} python {params.program} --reports {input.reports} --table {output.csv} > {log} 2>&1"


# Facts that all figures and tables share, for the first page of the report and for the gallery.
rule describe_run:
    input:
        EVAL_PROMPTS,
        costs_of_run,
    output:
        "<results>/run.rst",
    log:
        "<logs>/describe_run.log",
    group:
        figure_group
    conda:
        "../environment.yml"
    params:
        **program("describe_run"),
        experiment=experiment_flags("describe_run", evaluated=EVALUATED),
    shell:
        "PREFLOOP_LOG={log} python {params.program} {params.experiment} --output {output} > {log} 2>&1"
