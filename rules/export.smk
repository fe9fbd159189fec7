# Trained policies as models that transformers and vLLM load, each with its card; on the hub if config says so.
# Not part of the default target: snakemake export


include: "functions/export.smk"


MERGED = "<results>/{method}/seed-{seed}/round-{round}/model"


rule merge:
    input:
        code=code_of("merge"),
        model=BASE,
        base=FETCHED,
        policy="<results>/{method}/seed-{seed}/round-{round}/policy.pt",
    output:
        f"{MERGED}/manifest.json",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/merge.log",
    conda:
        "../environment.yml"
    threads: THREADS
    params:
        flags=flags({"dtype": config["export"]["dtype"]}),
    shell:
        "python {input.code[0]} --model {input.model} --base {input.base}"
        " --policy {input.policy} {params.flags} --threads {threads}"
        " --manifest {output} > {log} 2>&1"


rule model_card:
    input:
        code=code_of("model_card"),
        merged=rules.merge.output,
        model=BASE,
        base=FETCHED,
        prompts=[rules.prompts.output.train, rules.prompts.output.held_out],
        policies=lambda wildcards: rounds_until(wildcards, "policy.pt"),
        pairs=lambda wildcards: rounds_until(wildcards, "pairs.jsonl"),
        costs=costs_until,
        tables=tables_of,
    output:
        f"{MERGED}/README.md",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/model_card.log",
    conda:
        "../environment.yml"
    params:
        title=f"{config['name']}-{{method}}-seed-{{seed}}-round-{{round}}",
        settings=lambda wildcards: flags({"settings": settings_of_run(wildcards)}),
        licence=lambda wildcards: flags({"licence": config["export"]["licence"]}),
        tables=lambda wildcards, input: flags({"tables": list(input.tables) or None}),
    shell:
        "python {input.code[0]} --title {params.title} --method {wildcards.method}"
        " {params.settings} {params.licence} --model {input.model} --base {input.base}"
        " --prompts {input.prompts} --policies {input.policies} --pairs {input.pairs}"
        " --costs {input.costs} {params.tables} --card {output} > {log} 2>&1"


# The token is in the environment variable HF_TOKEN and nowhere else.
rule push:
    input:
        code=code_of("push"),
        manifest=rules.merge.output,
        card=rules.model_card.output,
    output:
        "<results>/{method}/seed-{seed}/round-{round}/push.json",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/push.log",
    conda:
        "../environment.yml"
    params:
        flags=lambda wildcards: flags(
            {
                "repository": repository_of(config["export"]["hub_id"], wildcards),
                "private": config["export"]["private"],
            }
        ),
    shell:
        "python {input.code[0]} --manifest {input.manifest} {params.flags}"
        " --output {output} > {log} 2>&1"


rule export:
    input:
        [
            f"{RESULTS}/{where['method']}/seed-{where['seed']}/round-{where['round']}/{file}"
            for where in exports_of(config)
            for file in [
                "model/README.md",
                *["push.json"] * bool(config["export"]["hub_id"]),
            ]
        ],
