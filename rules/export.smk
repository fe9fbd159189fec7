# Trained policies as models that transformers and vLLM load, each with its card; on the hub if config says so.
# Not part of the default target: snakemake export

import json

from prefloop.config import exports_of, repository_of

METHOD_SECTIONS = SCHEMA["$defs"]["method"]["properties"]
EXPORTED = exports_of(config)
MERGED = "<results>/{method}/seed-{seed}/round-{round}/model"


def rounds_until(wildcards, file):
    """A file of every round up to the wildcards' own."""
    return [
        f"{run_of(wildcards)}/round-{r}/{file}"
        for r in range(1, int(wildcards.round) + 1)
    ]


def costs_until(wildcards):
    """Costs of all that led to a policy, evaluation not counted."""
    feedback = model_of(of_method(config, wildcards.method)["feedback"]) or ""
    asked = [feedback.removeprefix(TRAINED)] if feedback.startswith(TRAINED) else []
    return [
        f"{cluster_folder(wildcards.method)}/cluster.cost.json",
        *(["<results>/sft/sft.cost.json"] if config["sft"]["enabled"] else []),
        *(f"<results>/reward_models/{name}.cost.json" for name in asked),
        *(
            cost
            for s in STEPS
            for stage in ["generate", "reward", "perplexity"]
            for cost in rounds_until(wildcards, f"step-{s}/{stage}.cost.json")
        ),
        *rounds_until(wildcards, "train.cost.json"),
    ]


def tables_of(wildcards):
    """The tables that speak of a policy, which they do after the last round."""
    wanted = [name for name in ("results", "differences") if name in TABLES]
    last = int(wildcards.round) == ROUNDS[-1]
    return [f"<results>/tables/{name}.csv" for name in wanted] if last else []


def settings_for_card(wildcards):
    """The config as a method has it, without what does not count under its words."""
    shared = ["policy", "prompts", "rounds", "steps"]
    shared += ["sft"] if config["sft"]["enabled"] else []
    own = {name: settings_of(name, wildcards.method) for name in METHOD_SECTIONS}
    return {key: config[key] for key in shared} | own


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
        settings=lambda wildcards: flags(
            {"settings": json.dumps(settings_for_card(wildcards))}
        ),
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
            for where in EXPORTED
            for file in [
                "model/README.md",
                *["push.json"] * bool(config["export"]["hub_id"]),
            ]
        ],
