# Samplers on a table of actions: no prompts, no model.


rule tabular:
    input:
        code=code_of("tabular"),
    output:
        curves="<results>/tabular.csv",
        cost="<results>/tabular.cost.json",
    log:
        "<logs>/tabular.log",
    conda:
        "../environment.yml"
    params:
        flags=flags_of("tabular"),
    shell:
        "python {input.code[0]} {params.flags} --output {output.curves}"
        " --cost {output.cost} > {log} 2>&1"


rule figure_tabular:
    input:
        code=code_of("figure_tabular"),
        curves=rules.tabular.output.curves,
        cost=rules.tabular.output.cost,
    output:
        **picture("tabular"),
    log:
        "<logs>/figures/tabular.log",
    group:
        figures_job
    conda:
        "../environment.yml"
    params:
        settings=flags(
            {
                "actions": config["tabular"]["actions"],
                "beta": config["tabular"]["beta"],
                "exact_rate": config["tabular"]["normalised"]["learning_rate"],
                "empirical_rate": config["tabular"]["empirical"]["learning_rate"],
                "pairs": config["tabular"]["empirical"]["pairs"],
            }
        ),
    shell:
        "python {input.code[0]} --rows {input.curves} --cost {input.cost} {params.settings}"
        " --figure {output.pdf} > {log} 2>&1"
