# What a policy is worth: one sample a held-out prompt, against the initial policy's. `policy` is initial or the folder of a round.
# All policies sample with the same random numbers, prompt by prompt: equal policies give equal samples, and what differs
# between two policies' scores is less the luck of the draw. Bootstrapping over prompts resamples that luck too.


rule sample:
    input:
        code=code_of("generate"),
        prompts=rules.prompts.output.held_out,
        model=BASE,
        policy=lambda wildcards: (
            BASE
            if wildcards.policy == "initial"
            else f"<results>/{wildcards.policy}/policy.pt"
        ),
    output:
        samples="<results>/{policy}/evaluation/samples.jsonl",
        cost="<results>/{policy}/evaluation/sample.cost.json",
    log:
        "<logs>/{policy}/evaluation/sample.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        flags=flags_of(
            "evaluation",
            "temperature",
            "top_p",
            "top_k",
            "max_new_tokens",
            "batch_size",
            "dtype",
        ),
    shell:
        "python {input.code[0]} --prompts {input.prompts} --model {input.model}"
        " --policy {input.policy} {params.flags} --seed 0 --stream evaluation"
        " --threads {threads} --output {output.samples} --cost {output.cost} > {log} 2>&1"


rule judge:
    input:
        code=code_of("judge"),
        prompts=rules.prompts.output.held_out,
        samples=rules.sample.output.samples,
        opponent="<results>/initial/evaluation/samples.jsonl",
        feedback=[
            file
            for settings in [config["evaluation"]["evaluator"], config["feedback"]]
            for file in feedback_files(settings)
        ],
    output:
        verdicts="<results>/{policy}/evaluation/verdicts.jsonl",
        cost="<results>/{policy}/evaluation/judge.cost.json",
    log:
        "<logs>/{policy}/evaluation/judge.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        evaluator=feedback_flags("evaluator", config["evaluation"]["evaluator"]),
        feedback=feedback_flags("feedback", config["feedback"]),
    shell:
        "python {input.code[0]} --prompts {input.prompts} --samples {input.samples}"
        " --opponent {input.opponent} {params.evaluator} {params.feedback}"
        " --threads {threads} --output {output.verdicts} --cost {output.cost} > {log} 2>&1"
