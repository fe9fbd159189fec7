include: "functions/evaluation.smk"


# What a policy is worth: one sample a held-out prompt and temperature, against an opponent's; and how far it has gone from the
# initial policy. All policies sample with the same random numbers, prompt by prompt: equal policies give equal samples, and
# what differs between two policies' scores is less the luck of the draw. Bootstrapping over prompts resamples that luck too.


wildcard_constraints:
    policy=r"base|initial|[A-Za-z0-9_]+/seed-\d+/round-\d+(/checkpoint-\d+)?",
    temperature=r"\d+\.\d+",
    opponent="[A-Za-z0-9_]+",


rule sample:
    input:
        code=code_of("generate"),
        prompts=rules.prompts.output.held_out,
        model=model_under,
        policy=policy_evaluated,
    output:
        samples="<results>/{policy}/evaluation/temperature-{temperature}/samples.jsonl",
        cost="<results>/{policy}/evaluation/temperature-{temperature}/sample.cost.json",
    log:
        "<logs>/{policy}/evaluation/temperature-{temperature}/sample.log",
    conda:
        engine_environment
    threads: THREADS
    resources:
        gpu=engine_gpus,
    params:
        flags=flags_of(
            "evaluation", "top_p", "top_k", "max_new_tokens", "batch_size", "dtype"
        ),
        engine=flags_of("generation", "engine", "vllm"),
    shell:
        "python {input.code[0]} --prompts {input.prompts} --model {input.model}"
        " --policy {input.policy} --temperature {wildcards.temperature} {params.flags}"
        " {params.engine} --seed 0 --stream evaluation --threads {threads}"
        " --output {output.samples} --cost {output.cost} > {log} 2>&1"


rule judge:
    input:
        code=code_of("judge"),
        prompts=rules.prompts.output.held_out,
        samples=rules.sample.output.samples,
        opponent=opponent_samples,
        tokenizer=FETCHED,
        feedback=[
            file
            for settings in [config["evaluation"]["evaluator"], config["feedback"]]
            for file in feedback_files(settings)
        ],
    output:
        verdicts="<results>/{policy}/evaluation/temperature-{temperature}/against-{opponent}.jsonl",
        cost="<results>/{policy}/evaluation/temperature-{temperature}/against-{opponent}.cost.json",
    log:
        "<logs>/{policy}/evaluation/temperature-{temperature}/against-{opponent}.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        opponent=lambda wildcards, input: flags(
            {"opponent": input.opponent}
            if input.opponent
            else {"tokenizer": input.tokenizer}
        ),
        evaluator=lambda wildcards: feedback_flags(
            "evaluator", config["evaluation"]["evaluator"]
        ),
        feedback=lambda wildcards: feedback_flags("feedback", config["feedback"]),
    shell:
        "python {input.code[0]} --prompts {input.prompts} --samples {input.samples}"
        " {params.opponent} {params.evaluator} {params.feedback}"
        " --threads {threads} --output {output.verdicts} --cost {output.cost} > {log} 2>&1"


rule divergence:
    input:
        code=code_of("divergence"),
        prompts=rules.prompts.output.held_out,
        model=model_under,
        policy=policy_evaluated,
        reference=BASE,
    output:
        rows="<results>/{policy}/evaluation/kl.jsonl",
        cost="<results>/{policy}/evaluation/divergence.cost.json",
    log:
        "<logs>/{policy}/evaluation/divergence.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        flags=flags_of("evaluation", "max_new_tokens", "batch_size"),
        samples=flags(config["evaluation"]["divergence"]),
    shell:
        "python {input.code[0]} --prompts {input.prompts} --model {input.model}"
        " --policy {input.policy} --reference {input.reference} {params.flags}"
        " {params.samples} --seed 0 --stream divergence --threads {threads}"
        " --output {output.rows} --cost {output.cost} > {log} 2>&1"


# How large each pair's gradient really is, before the round that the pairs are for.
rule gradients:
    input:
        code=code_of("gradients"),
        prompts=collect(rules.allocate.output, step=STEPS, allow_missing=True),
        generations=collect(
            rules.generate.output.generations, step=STEPS, allow_missing=True
        ),
        rewards=collect(rules.reward.output.rewards, step=STEPS, allow_missing=True),
        pfp=collect(rules.perplexity.output.pfp, step=STEPS, allow_missing=True),
        model=BASE,
        policy=policy_before,
    output:
        rows="<results>/{method}/seed-{seed}/round-{round}/gradients.jsonl",
        cost="<results>/{method}/seed-{seed}/round-{round}/gradients.cost.json",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/gradients.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        flags=flags_of("train", "lora", "beta", "dtype"),
        pairs=flags(config["evaluation"]["gradients"]),
    shell:
        "python {input.code[0]} --prompts {input.prompts} --generations {input.generations}"
        " --rewards {input.rewards} --pfp {input.pfp} --model {input.model}"
        " --policy {input.policy} {params.flags} {params.pairs} --seed {wildcards.seed}"
        " --round {wildcards.round} --threads {threads} --output {output.rows} --cost {output.cost} > {log} 2>&1"
