include: "functions/rounds.smk"


# One round of one run: the steps draw, answer and score prompts and teach the arms; then pairs are formed and trained on.


rule allocate:
    input:
        code=code_of("allocate"),
        prompts=rules.prompts.output.train,
        clusters=clusters_of,
        arms=arms_seen,
        used=prompts_before,
    output:
        "<results>/{method}/seed-{seed}/round-{round}/step-{step}/prompts.jsonl",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/step-{step}/allocate.log",
    group:
        draws
    conda:
        "../environment.yml"
    params:
        flags=allocation_flags,
        before=lambda wildcards, input: flags(
            {"arms": input.arms or None, "used": list(input.used) or None}
        ),
        steps=len(STEPS),
    shell:
        "python {input.code[0]} --prompts {input.prompts} --clusters {input.clusters}"
        " {params.before} {params.flags} --seed {wildcards.seed} --round {wildcards.round}"
        " --step {wildcards.step} --steps {params.steps} --output {output} > {log} 2>&1"


rule generate:
    input:
        code=code_of("generate"),
        prompts=rules.allocate.output,
        model=BASE,
        speakers=lambda wildcards: list(speakers(wildcards).values()),
    output:
        generations="<results>/{method}/seed-{seed}/round-{round}/step-{step}/generations.jsonl",
        cost="<results>/{method}/seed-{seed}/round-{round}/step-{step}/generate.cost.json",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/step-{step}/generate.log",
    conda:
        engine_environment
    threads: THREADS
    resources:
        gpu=engine_gpus,
    params:
        flags=generation_flags,
        speakers=speaker_flags,
        stream="round-{round}/step-{step}",
        shard="",
    shell:
        "python {input.code[0]} --prompts {input.prompts} --model {input.model}"
        " {params.speakers} {params.flags} --seed {wildcards.seed}"
        " --stream {params.stream} {params.shard} --threads {threads}"
        " --output {output.generations} --cost {output.cost} > {log} 2>&1"


rule reward:
    input:
        code=code_of("reward"),
        prompts=rules.allocate.output,
        generations=rules.generate.output.generations,
        feedback=lambda wildcards: feedback_files(
            of_method(config, wildcards.method)["feedback"]
        ),
    output:
        rewards="<results>/{method}/seed-{seed}/round-{round}/step-{step}/rewards.jsonl",
        cost="<results>/{method}/seed-{seed}/round-{round}/step-{step}/reward.cost.json",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/step-{step}/reward.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        flags=reward_flags,
        shard="",
    shell:
        "python {input.code[0]} --prompts {input.prompts} --generations {input.generations}"
        " {params.flags} {params.shard} --threads {threads}"
        " --output {output.rewards} --cost {output.cost} > {log} 2>&1"


rule perplexity:
    input:
        code=code_of("perplexity"),
        prompts=rules.allocate.output,
        generations=rules.generate.output.generations,
        model=BASE,
        policy=policy_before,
        reference=reference_of,
    output:
        pfp="<results>/{method}/seed-{seed}/round-{round}/step-{step}/pfp.jsonl",
        cost="<results>/{method}/seed-{seed}/round-{round}/step-{step}/perplexity.cost.json",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/step-{step}/perplexity.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        flags=flags_of("scoring"),
        shard="",
    shell:
        "python {input.code[0]} --prompts {input.prompts} --generations {input.generations}"
        " --model {input.model} --policy {input.policy} --reference {input.reference}"
        " {params.flags} {params.shard} --threads {threads}"
        " --output {output.pfp} --cost {output.cost} > {log} 2>&1"


rule arms:
    input:
        code=code_of("arms"),
        clusters=clusters_of,
        rewards=rules.reward.output.rewards,
        pfp=rules.perplexity.output.pfp,
        arms=arms_before,
    output:
        "<results>/{method}/seed-{seed}/round-{round}/step-{step}/arms.json",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/step-{step}/arms.log",
    group:
        lambda wildcards: after_step(wildcards, wildcards.round, wildcards.step)
    conda:
        "../environment.yml"
    params:
        flags=flags_of(
            "bandit",
            *["metric", "normalise", "gamma", "alpha", "exploration"],
            *["neighbours", "neighbour_weight"],
        ),
        beta=beta_for("bandit"),
        before=lambda wildcards, input: flags({"arms": input.arms or None}),
    shell:
        "python {input.code[0]} --clusters {input.clusters} --rewards {input.rewards}"
        " --pfp {input.pfp} {params.before} {params.flags} {params.beta} --seed {wildcards.seed}"
        " --round {wildcards.round} --step {wildcards.step} --output {output} > {log} 2>&1"


rule pairs:
    input:
        code=code_of("pairs"),
        prompts=collect(rules.allocate.output, step=STEPS, allow_missing=True),
        generations=collect(
            rules.generate.output.generations, step=STEPS, allow_missing=True
        ),
        rewards=collect(rules.reward.output.rewards, step=STEPS, allow_missing=True),
        pfp=collect(rules.perplexity.output.pfp, step=STEPS, allow_missing=True),
    output:
        "<results>/{method}/seed-{seed}/round-{round}/pairs.jsonl",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/pairs.log",
    conda:
        "../environment.yml"
    params:
        flags=flags_of("pairs"),
        beta=beta_for("pairs"),
    shell:
        "python {input.code[0]} --prompts {input.prompts} --generations {input.generations}"
        " --rewards {input.rewards} --pfp {input.pfp} {params.flags} {params.beta}"
        " --seed {wildcards.seed} --round {wildcards.round} --output {output} > {log} 2>&1"


# What reference.kind ema asks for: from the second round on, the reference moves towards the policy.
rule average:
    input:
        code=code_of("average"),
        model=BASE,
        reference=lambda wildcards: reference_of(wildcards, before=1),
        policy=policy_before,
    output:
        "<results>/{method}/seed-{seed}/round-{round}/reference.pt",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/average.log",
    conda:
        "../environment.yml"
    params:
        flags=flags_of("reference", "decay"),
    shell:
        "python {input.code[0]} --model {input.model} --reference {input.reference}"
        " --policy {input.policy} {params.flags} --output {output} > {log} 2>&1"


# With LoRA, a PEFT folder adapter/ appears beside policy.pt; training every parameter makes none, so it is not declared.
rule train:
    input:
        code=code_of("train"),
        pairs=rules.pairs.output,
        model=BASE,
        policy=policy_before,
    output:
        policy="<results>/{method}/seed-{seed}/round-{round}/policy.pt",
        metrics="<results>/{method}/seed-{seed}/round-{round}/training.jsonl",
        speed="<results>/{method}/seed-{seed}/round-{round}/training_speed.csv",
        cost="<results>/{method}/seed-{seed}/round-{round}/train.cost.json",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/train.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        flags=flags_of("train", without=RUNNING),
        checkpoints="",
        launch=launch_of("train"),
        running=running_of("train", "{method}/seed-{seed}/round-{round}"),
    shell:
        # exec: a shell between would die of SIGTERM at once, and what waits for it would end the training as it saves.
        "exec {params.launch} {input.code[0]} --pairs {input.pairs} --model {input.model}"
        " --policy {input.policy} {params.flags} {params.checkpoints} --seed {wildcards.seed}"
        " --round {wildcards.round} {params.running} --output {output.policy}"
        " --metrics {output.metrics} --speed {output.speed} --cost {output.cost} > {log} 2>&1"


if EXPERIMENT.by_checkpoint.steps:

    # The same for methods that are evaluated over training: policies on the way are kept.
    use rule train as train_with_checkpoints with:
        output:
            policy="<results>/{method}/seed-{seed}/round-{round}/policy.pt",
            metrics="<results>/{method}/seed-{seed}/round-{round}/training.jsonl",
            speed="<results>/{method}/seed-{seed}/round-{round}/training_speed.csv",
            cost="<results>/{method}/seed-{seed}/round-{round}/train.cost.json",
            checkpoints=[
                f"<results>/{{method}}/seed-{{seed}}/round-{{round}}/checkpoint-{step}/policy.pt"
                for step in EXPERIMENT.by_checkpoint.steps
            ],
        wildcard_constraints:
            method="|".join(EXPERIMENT.by_checkpoint.methods),
        params:
            flags=flags_of("train", without=RUNNING),
            checkpoints=flags({"checkpoints": EXPERIMENT.by_checkpoint.steps}),
            launch=launch_of("train"),
            running=running_of("train", "{method}/seed-{seed}/round-{round}"),

    ruleorder: train_with_checkpoints > train
