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
