# Exports of trained policies: merged models with cards for transformers and vLLM, which are pushed to the hub if the
# config requests it, and answers to the eval prompts in the formats of AlpacaEval and Arena-Hard, for other judges.
# They are not in the default target: snakemake export, alpaca_eval_outputs, arena_hard_outputs
import json

from prefloop.config.resolve import exports_of, repository_of


def rounds_until(wildcards, file):
    """Return a file of every round up to that of the wildcards."""
    return [
        f"{run_of(wildcards)}/round-{r}/{file}"
        for r in range(1, int(wildcards.round) + 1)
    ]


def costs_until(wildcards):
    """Return the cost files of all stages that led to a policy, without evaluation."""
    feedback = of_method(config, wildcards.method)["feedback"]
    models = [model_of(source) or "" for source in feedback_sources(feedback)]
    trained = [
        name.removeprefix(TRAINED) for name in models if name.startswith(TRAINED)
    ]
    return [
        f"{cluster_folder(wildcards.method)}/cluster_prompts.cost.json",
        *(["<results>/sft/fine_tune.cost.json"] if config["sft"]["enabled"] else []),
        *(
            f"<results>/reward_models/{name}.cost.json"
            for name in dict.fromkeys(trained)
        ),
        *(
            cost
            for s in STEPS
            for stage in ["generate", "reward", "logprobs"]
            for cost in rounds_until(wildcards, f"step-{s}/{stage}.cost.json")
        ),
        *(
            rounds_until(wildcards, "mix_pairs.cost.json")
            if wildcards.method in EXPERIMENT.mixing
            else []
        ),
        *rounds_until(wildcards, "train.cost.json"),
    ]


def tables_of(wildcards):
    """Return the tables with results of a policy, which exist only for the last round."""
    wanted = [name for name in ("results", "differences") if name in TABLES]
    last = int(wildcards.round) == ROUNDS[-1]
    return [f"<results>/tables/{name}.csv" for name in wanted] if last else []


def settings_of_run(wildcards):
    """Return the config of a method as JSON, without irrelevant settings."""
    shared = ["policy", "prompts", "rounds", "steps"]
    shared += ["sft"] if config["sft"]["enabled"] else []
    sections = hints(MethodConfig)
    own = {name: settings_of(name, wildcards.method) for name in sections}
    settings = {key: config[key] for key in shared} | own
    # A card names policy.start only if it is set.
    policy = {
        key: value
        for key, value in config["policy"].items()
        if key != "start" or value is not None
    }
    return json.dumps(settings | {"policy": policy})


def policy_to_merge(wildcards):
    """Return the policy.pt to merge. Policies with quantized weights cannot be merged."""
    if quantization := config["policy"]["quantization"]:
        raise WorkflowError(
            f"export: policy.quantization {quantization}: adapters fit only the rounded weights that they were "
            "trained on; load adapter/, next to policy.pt, onto the model in 4 bits instead of a merged model"
        )
    return f"{run_of(wildcards)}/round-{wildcards.round}/policy.pt"


MERGED = "<results>/{method}/seed-{seed}/round-{round}/model"


rule merge_policy:
    input:
        model=BASE,
        base=FETCHED,
        policy=policy_to_merge,
    output:
        f"{MERGED}/manifest.json",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/merge_policy.log",
    conda:
        "../environment.yml"
    threads: THREADS
    params:
        **program("merge_policy"),
        flags=flags({"dtype": config["export"]["dtype"]}),
    shell:
        "PREFLOOP_LOG={log} python {params.program} --model {input.model} --base {input.base}"
        " --policy {input.policy} {params.flags} --threads {threads}"
        " --manifest {output} > {log} 2>&1"


# For benchmarks, if the initial policy is another run's policy.
use rule merge_policy as merge_initial_policy with:
    input:
        model=BASE,
        base=FETCHED,
        policy=INITIAL,
    output:
        "<results>/initial/model/manifest.json",
    log:
        "<logs>/initial/merge_policy.log",


rule write_model_card:
    input:
        merged=rules.merge_policy.output,
        model=BASE,
        base=FETCHED,
        prompts=[
            rules.prepare_prompts.output.train,
            rules.prepare_prompts.output.eval,
        ],
        policies=lambda wildcards: rounds_until(wildcards, "policy.pt"),
        pairs=lambda wildcards: [
            trained_pairs(wildcards.method, run_of(wildcards), r)
            for r in range(1, int(wildcards.round) + 1)
        ],
        costs=costs_until,
        tables=tables_of,
        start=INITIAL if START else [],
    output:
        f"{MERGED}/README.md",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/write_model_card.log",
    conda:
        "../environment.yml"
    params:
        **program("write_model_card"),
        title=f"{config['name']}-{{method}}-seed-{{seed}}-round-{{round}}",
        settings=lambda wildcards: flags({"settings": settings_of_run(wildcards)}),
        license=lambda wildcards: flags({"license": config["export"]["license"]}),
        tables=lambda wildcards, input: flags(
            {"tables": list(input.tables) or None, "start": input.start or None}
        ),
    shell:
        "PREFLOOP_LOG={log} python {params.program} --title {params.title} --method {wildcards.method}"
        " {params.settings} {params.license} --model {input.model} --base {input.base}"
        " --prompts {input.prompts} --policies {input.policies} --pairs {input.pairs}"
        " --costs {input.costs} {params.tables} --card {output} > {log} 2>&1"


# The token is read only from the environment variable HF_TOKEN.
rule push_model:
    input:
        manifest=rules.merge_policy.output,
        card=rules.write_model_card.output,
    output:
        "<results>/{method}/seed-{seed}/round-{round}/push.json",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/push_model.log",
    conda:
        "../environment.yml"
    params:
        **program("push_model"),
        flags=lambda wildcards: flags(
            {
                "repository": repository_of(config["export"]["hub_id"], wildcards),
                "private": config["export"]["private"],
            }
        ),
    shell:
        "PREFLOOP_LOG={log} python {params.program} --manifest {input.manifest} {params.flags}"
        " --output {output} > {log} 2>&1"


rule export:
    input:
        [
            f"{RESULTS}/{keys['method']}/seed-{keys['seed']}/round-{keys['round']}/{file}"
            for keys in exports_of(config)
            for file in [
                "model/README.md",
                *["push.json"] * bool(config["export"]["hub_id"]),
            ]
        ],


# The policies that answer: the initial policy, and those of every run's last round.
GENERATORS = [
    "initial",
    *(f"{method}-seed-{seed}" for method in METHODS for seed in SEEDS),
] * bool(METHODS)


def samples_of_generator(wildcards):
    """Return the samples of a policy that answers."""
    method, _, seed = wildcards.generator.partition("-seed-")
    run = EXPERIMENT.comparison(method, int(seed), ROUNDS[-1]) if seed else None
    folder = (run or EXPERIMENT.comparison("initial")).folder
    return f"{RESULTS}/{folder}/samples.jsonl"


for form, suffix in {"alpaca_eval": "json", "arena_hard": "jsonl"}.items():

    rule:
        name:
            f"write_{form}"
        input:
            prompts=rules.prepare_prompts.output.eval,
            samples=samples_of_generator,
        output:
            f"<results>/{form}/{{generator}}.{suffix}",
        log:
            f"<logs>/{form}/{{generator}}.log",
        wildcard_constraints:
            generator=r"initial|[A-Za-z0-9_]+-seed-\d+",
        conda:
            "../environment.yml"
        params:
            **program("write_answers"),
            flags=flags({"form": form}),
            generator=f"{config['name']}-{{generator}}",
        shell:
            "PREFLOOP_LOG={log} python {params.program} --prompts {input.prompts} --samples {input.samples}"
            " --generator {params.generator} {params.flags} --output {output} > {log} 2>&1"


rule alpaca_eval_outputs:
    input:
        collect("<results>/alpaca_eval/{generator}.json", generator=GENERATORS),


rule arena_hard_outputs:
    input:
        collect("<results>/arena_hard/{generator}.jsonl", generator=GENERATORS),


def benchmarked_model(wildcards):
    """Return the manifest of the model that a benchmark reads: an exported policy, or the initial policy."""
    if wildcards.policy == "initial" and not START:
        return BASE
    return f"<results>/{wildcards.policy}/model/manifest.json"


# Runs the user's benchmark command on the models of figure benchmark.
rule run_benchmark:
    input:
        benchmarked_model,
    output:
        "<results>/{policy}/benchmark.json",
    log:
        "<logs>/{policy}/run_benchmark.log",
    wildcard_constraints:
        policy=r"initial|[A-Za-z0-9_]+/seed-\d+/round-\d+",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        **program("run_benchmark"),
        # A function, because Snakemake would read braces in the command as wildcards.
        flags=lambda wildcards: flags(
            {
                key: config["evaluation"]["benchmark"][key]
                for key in ("command", "file", "value")
            }
        ),
    shell:
        "PREFLOOP_LOG={log} PREFLOOP_GPUS={resources.gpu}"
        " python {params.program} --manifest {input} --policy {wildcards.policy} {params.flags}"
        " --output {output} > {log} 2>&1"
