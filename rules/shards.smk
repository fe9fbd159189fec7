# generate, reward and perplexity in `shards:` jobs each. Included where there are several.
SHARDS = range(config["shards"])
STEP = "<results>/{method}/seed-{seed}/round-{round}/step-{step}"
STEP_LOG = "<logs>/{method}/seed-{seed}/round-{round}/step-{step}"
SHARD = f"{STEP}/shard-{{shard}}"
SHARD_FLAGS = f"--shard.number {{shard}} --shard.of {len(SHARDS)}"


use rule generate as generate_shard with:
    output:
        generations=temp(f"{SHARD}/generations.jsonl"),
        cost=temp(f"{SHARD}/generate.cost.json"),
    log:
        f"{STEP_LOG}/generate-{{shard}}.log",
    params:
        flags=generation_flags,
        speakers=speaker_flags,
        stream="round-{round}/step-{step}",
        shard=SHARD_FLAGS,


use rule reward as reward_shard with:
    output:
        rewards=temp(f"{SHARD}/rewards.jsonl"),
        cost=temp(f"{SHARD}/reward.cost.json"),
    log:
        f"{STEP_LOG}/reward-{{shard}}.log",
    params:
        flags=reward_flags,
        shard=SHARD_FLAGS,


use rule perplexity as perplexity_shard with:
    output:
        pfp=temp(f"{SHARD}/pfp.jsonl"),
        cost=temp(f"{SHARD}/perplexity.cost.json"),
    log:
        f"{STEP_LOG}/perplexity-{{shard}}.log",
    params:
        flags=flags_of("scoring"),
        shard=SHARD_FLAGS,


rule gather_generations:
    input:
        code=code_of("gather"),
        prompts=rules.allocate.output,
        rows=collect(f"{SHARD}/generations.jsonl", shard=SHARDS, allow_missing=True),
        costs=collect(f"{SHARD}/generate.cost.json", shard=SHARDS, allow_missing=True),
    output:
        rows=f"{STEP}/generations.jsonl",
        cost=f"{STEP}/generate.cost.json",
    log:
        f"{STEP_LOG}/generate.log",
    conda:
        "../environment.yml"
    shell:
        "python {input.code[0]} --prompts {input.prompts} --shards {input.rows}"
        " --costs {input.costs} --output {output.rows} --cost {output.cost} > {log} 2>&1"


use rule gather_generations as gather_rewards with:
    input:
        code=code_of("gather"),
        prompts=rules.allocate.output,
        rows=collect(f"{SHARD}/rewards.jsonl", shard=SHARDS, allow_missing=True),
        costs=collect(f"{SHARD}/reward.cost.json", shard=SHARDS, allow_missing=True),
    output:
        rows=f"{STEP}/rewards.jsonl",
        cost=f"{STEP}/reward.cost.json",
    log:
        f"{STEP_LOG}/reward.log",
    group:
        lambda wildcards: after_step(wildcards, wildcards.round, wildcards.step)


use rule gather_generations as gather_perplexity with:
    input:
        code=code_of("gather"),
        prompts=rules.allocate.output,
        rows=collect(f"{SHARD}/pfp.jsonl", shard=SHARDS, allow_missing=True),
        costs=collect(f"{SHARD}/perplexity.cost.json", shard=SHARDS, allow_missing=True),
    output:
        rows=f"{STEP}/pfp.jsonl",
        cost=f"{STEP}/perplexity.cost.json",
    log:
        f"{STEP_LOG}/perplexity.log",
    group:
        lambda wildcards: after_step(wildcards, wildcards.round, wildcards.step)


ruleorder: gather_generations > generate
ruleorder: gather_rewards > reward
ruleorder: gather_perplexity > perplexity
