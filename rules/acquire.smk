# The choice of responses that get a label. Included only if a method makes such a choice.


def before(file):
    """Return a file of every earlier step of the run."""

    def of_wildcards(wildcards):
        return [
            f"{run_of(wildcards)}/round-{r}/step-{s}/{file}"
            for r, s in steps_before(wildcards)
        ]

    return of_wildcards


def files_before(wildcards, input):
    """Return flags for the files of all earlier steps."""
    names = ["logprobs_before", "features_before", "rewards_before"]
    return flags({name: list(input[name]) for name in names})


def pool_flags(wildcards):
    """Return the flag for the number of prompts that get labels; none if all answered prompts do."""
    pool = settings_of("acquisition", wildcards.method)["pool"]
    budget = settings_of("bandit", wildcards.method)["budget"]
    return flags({"prompts": budget if pool > 1 else None})


use rule logprobs as logprobs_with_features with:
    output:
        logprobs="<results>/{method}/seed-{seed}/round-{round}/step-{step}/logprobs.jsonl",
        features="<results>/{method}/seed-{seed}/round-{round}/step-{step}/features.npy",
        cost="<results>/{method}/seed-{seed}/round-{round}/step-{step}/logprobs.cost.json",
    wildcard_constraints:
        method="|".join(ACQUIRING),


ruleorder: logprobs_with_features > logprobs


rule acquire:
    input:
        logprobs=rules.logprobs_with_features.output.logprobs,
        features=rules.logprobs_with_features.output.features,
        logprobs_before=before("logprobs.jsonl"),
        features_before=before("features.npy"),
        rewards_before=before("rewards.jsonl"),
    output:
        "<results>/{method}/seed-{seed}/round-{round}/step-{step}/acquired.jsonl",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/step-{step}/acquire.log",
    conda:
        "../environment.yml"
    params:
        **program("acquire"),
        flags=flags_of("acquisition", without=["layer", "pool"]),
        prompts=pool_flags,
        before=files_before,
    shell:
        "PREFLOOP_LOG={log} python {params.program} --logprobs {input.logprobs} --features {input.features}"
        " {params.before} {params.flags} {params.prompts} --seed {wildcards.seed} --round {wildcards.round}"
        " --step {wildcards.step} --output {output} > {log} 2>&1"


if config["shards"] > 1:

    use rule logprobs_with_features as logprobs_with_features_shard with:
        output:
            logprobs=temp(f"{SHARD}/logprobs.jsonl"),
            features=temp(f"{SHARD}/features.npy"),
            cost=temp(f"{SHARD}/logprobs.cost.json"),
        log:
            f"{STEP_LOG}/logprobs-{{shard}}.log",

    rule gather_logprobs_with_features:
        input:
            prompts=rules.allocate.output,
            rows=collect(f"{SHARD}/logprobs.jsonl", shard=SHARDS, allow_missing=True),
            features=collect(f"{SHARD}/features.npy", shard=SHARDS, allow_missing=True),
            costs=collect(
                f"{SHARD}/logprobs.cost.json", shard=SHARDS, allow_missing=True
            ),
        output:
            rows=f"{STEP}/logprobs.jsonl",
            features=f"{STEP}/features.npy",
            cost=f"{STEP}/logprobs.cost.json",
        log:
            f"{STEP_LOG}/logprobs.log",
        wildcard_constraints:
            method="|".join(ACQUIRING),
        conda:
            "../environment.yml"
        params:
            **program("gather_shards"),
        shell:
            "PREFLOOP_LOG={log} python {params.program} --prompts {input.prompts} --shards {input.rows}"
            " --costs {input.costs} --features {input.features} --gathered-features {output.features}"
            " --output {output.rows} --cost {output.cost} > {log} 2>&1"

    ruleorder: gather_logprobs_with_features > logprobs_with_features > gather_logprobs > logprobs
    ruleorder: logprobs_with_features_shard > logprobs_shard
