# Divides generate, reward and logprobs into `shards:` jobs each. Included if there is more than one shard.
SHARDS = range(config["shards"])
STEP = "<results>/{method}/seed-{seed}/round-{round}/step-{step}"
STEP_LOG = "<logs>/{method}/seed-{seed}/round-{round}/step-{step}"
SHARD = f"{STEP}/shard-{{shard}}"


use rule generate as generate_shard with:
    output:
        generations=temp(f"{SHARD}/generations.jsonl"),
        cost=temp(f"{SHARD}/generate.cost.json"),
    log:
        f"{STEP_LOG}/generate-{{shard}}.log",


use rule reward as reward_shard with:
    output:
        rewards=temp(f"{SHARD}/rewards.jsonl"),
        cost=temp(f"{SHARD}/reward.cost.json"),
    log:
        f"{STEP_LOG}/reward-{{shard}}.log",


use rule logprobs as logprobs_shard with:
    output:
        logprobs=temp(f"{SHARD}/logprobs.jsonl"),
        cost=temp(f"{SHARD}/logprobs.cost.json"),
    log:
        f"{STEP_LOG}/logprobs-{{shard}}.log",


def gather_group(stage):
    """Return the job group that gathers a stage's shards: that after the step, or none for generations.

    Other stages of the step read the generations, so they are gathered before.
    """
    return None if stage == "generate" else for_cluster(step_group)


def gathered_prompts(stage):
    """Return the prompts for which a stage has rows: those of the step, or for rewards those of acquired responses."""
    if stage != "reward":
        return rules.allocate.output
    return lambda wildcards: acquired_responses(wildcards) or [
        f"{run_of(wildcards)}/round-{wildcards.round}/step-{wildcards.step}/prompts.jsonl"
    ]


for stage, file in [
    ("generate", "generations"),
    ("reward", "rewards"),
    ("logprobs", "logprobs"),
]:

    rule:
        name:
            f"gather_{file}"
        input:
            prompts=gathered_prompts(stage),
            rows=collect(f"{SHARD}/{file}.jsonl", shard=SHARDS, allow_missing=True),
            costs=collect(
                f"{SHARD}/{stage}.cost.json", shard=SHARDS, allow_missing=True
            ),
        output:
            rows=f"{STEP}/{file}.jsonl",
            cost=f"{STEP}/{stage}.cost.json",
        log:
            f"{STEP_LOG}/{stage}.log",
        group:
            gather_group(stage)
        conda:
            "../environment.yml"
        params:
            **program("gather_shards"),
        shell:
            "PREFLOOP_LOG={log} python {params.program} --prompts {input.prompts} --shards {input.rows}"
            " --costs {input.costs} --output {output.rows} --cost {output.cost} > {log} 2>&1"


ruleorder: gather_generations > generate
ruleorder: gather_rewards > reward
ruleorder: gather_logprobs > logprobs
