# Evaluation of policies: their samples per evaluation prompt and temperature are compared with an opponent's, and the
# KL divergence from the initial policy is measured. All policies sample with the same random numbers per prompt. Equal
# policies therefore give equal samples, and differences between scores vary less.
from prefloop.config.experiment import CHOSEN


def base_of_evaluated(wildcards):
    """Return the base model of an evaluated policy: the fetched or the fine-tuned model."""
    return FETCHED if wildcards.policy == "base" else BASE


def evaluated_policy(wildcards):
    """Return the evaluated policy: a trained policy, the initial policy, or a base model."""
    if wildcards.policy in ("base", "initial"):
        return FETCHED if wildcards.policy == "base" else INITIAL
    return f"<results>/{wildcards.policy}/policy.pt"


def opponent_samples(wildcards):
    """Return the opponent's samples: of the initial policy, or of a method at the same seed and round."""
    if wildcards.opponent == CHOSEN:
        return []
    _, _, run = wildcards.policy.partition("/")
    opponent = f"{wildcards.opponent}/{run}" if run else wildcards.opponent
    opponent = "initial" if wildcards.opponent == "initial" else opponent
    return f"<results>/{opponent}/evaluation/temperature-{wildcards.temperature}/samples.jsonl"


# The evaluator decides comparisons. Rewards of the section feedback are also recorded.
EVALUATORS = [config["evaluation"]["evaluator"], config["feedback"]]
# Additional evaluators by name. Each has its own files, so adding one does not rerun samples or comparisons.
NAMED_EVALUATORS = config["evaluation"]["evaluators"]


# The text of evaluation.perplexity: the packaged text, a file of the user, or none.
PLAIN_TEXT = config["evaluation"]["perplexity"]["text"]
PACKAGED_TEXT = ["workflow/texts/plain.jsonl"] * (PLAIN_TEXT == "packaged")


def own_text(wildcards):
    """Return the user's file of plain text; none if the text is packaged."""
    if PLAIN_TEXT is None:
        raise WorkflowError(
            "evaluation.perplexity.text: missing; set it to packaged, or to a .txt or .jsonl file"
        )
    return [] if PACKAGED_TEXT else PLAIN_TEXT


def plain_text(wildcards, output):
    """Return the path of the text. It is a function of `output` for the same reason as the command in `program`."""
    return shlex.quote(str(CLONE / PACKAGED_TEXT[0] if PACKAGED_TEXT else PLAIN_TEXT))


wildcard_constraints:
    policy=r"base|initial|[A-Za-z0-9_]+/seed-\d+/round-\d+(/checkpoint-\d+)?",
    temperature=r"\d+\.\d+",
    opponent="[A-Za-z0-9_]+",
    evaluator="|".join(NAMED_EVALUATORS) or "(?!)",  # without names, nothing matches


rule sample:
    input:
        prompts=rules.prepare_prompts.output.eval,
        chat=rules.prepare_prompts.output.chat,
        model=base_of_evaluated,
        policy=evaluated_policy,
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
        **program("generate", warm=samples_by_transformers),
        flags=flags_of(
            "evaluation",
            *[
                "top_p",
                "top_k",
                "min_p",
                "repetition_penalty",
                "max_new_tokens",
                "stop",
            ],
            *["batch_size", "dtype"],
        ),
        engine=flags_of("generation", "engine", "vllm"),
        samples=flags({"n": config["evaluation"]["samples"]}),
    shell:
        "PREFLOOP_LOG={log} PREFLOOP_GPUS={resources.gpu}"
        " python {params.program} --prompts {input.prompts} --model {input.model}"
        " --policy {input.policy} --chat {input.chat} --temperature {wildcards.temperature} {params.flags}"
        " {params.engine} {params.samples} --seed 0 --stream evaluation --threads {threads}"
        " --output {output.samples} --cost {output.cost} > {log} 2>&1"


rule compare_samples:
    input:
        prompts=rules.prepare_prompts.output.eval,
        samples=rules.sample.output.samples,
        opponent=opponent_samples,
        tokenizer=FETCHED,
        chat=rules.prepare_prompts.output.chat,
        feedback=[file for asked in EVALUATORS for file in feedback_files(asked)],
    output:
        judgments="<results>/{policy}/evaluation/temperature-{temperature}/against-{opponent}.jsonl",
        cost="<results>/{policy}/evaluation/temperature-{temperature}/against-{opponent}.cost.json",
    log:
        "<logs>/{policy}/evaluation/temperature-{temperature}/against-{opponent}.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=feedback_gpus(*EVALUATORS),
    params:
        **program("compare_samples"),
        feedback_code=lambda wildcards: [feedback_code(asked) for asked in EVALUATORS],
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
        "PREFLOOP_LOG={log} PREFLOOP_GPUS={resources.gpu}"
        " python {params.program} --prompts {input.prompts} --samples {input.samples}"
        " --chat {input.chat} {params.opponent} {params.evaluator} {params.feedback}"
        " --threads {threads} --output {output.judgments} --cost {output.cost} > {log} 2>&1"


# The same comparisons, decided by a named evaluator.
rule evaluate_samples:
    input:
        prompts=rules.prepare_prompts.output.eval,
        samples=rules.sample.output.samples,
        opponent=opponent_samples,
        tokenizer=FETCHED,
        chat=rules.prepare_prompts.output.chat,
        feedback=lambda wildcards: feedback_files(NAMED_EVALUATORS[wildcards.evaluator]),
    output:
        judgments="<results>/{policy}/evaluation/temperature-{temperature}/{evaluator}/against-{opponent}.jsonl",
        cost="<results>/{policy}/evaluation/temperature-{temperature}/{evaluator}/against-{opponent}.cost.json",
    log:
        "<logs>/{policy}/evaluation/temperature-{temperature}/{evaluator}/against-{opponent}.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=lambda wildcards: feedback_gpus(NAMED_EVALUATORS[wildcards.evaluator]),
    params:
        **program("evaluate_samples"),
        feedback_code=lambda wildcards: feedback_code(
            NAMED_EVALUATORS[wildcards.evaluator]
        ),
        opponent=lambda wildcards, input: flags(
            {"opponent": input.opponent}
            if input.opponent
            else {"tokenizer": input.tokenizer}
        ),
        evaluator=lambda wildcards: feedback_flags(
            "evaluator", NAMED_EVALUATORS[wildcards.evaluator]
        ),
    shell:
        "PREFLOOP_LOG={log} PREFLOOP_GPUS={resources.gpu}"
        " python {params.program} --name {wildcards.evaluator} --prompts {input.prompts}"
        " --samples {input.samples} --chat {input.chat} {params.opponent} {params.evaluator}"
        " --threads {threads} --output {output.judgments} --cost {output.cost} > {log} 2>&1"


rule measure_kl:
    input:
        prompts=rules.prepare_prompts.output.eval,
        chat=rules.prepare_prompts.output.chat,
        model=base_of_evaluated,
        policy=evaluated_policy,
        reference=INITIAL,
    output:
        rows="<results>/{policy}/evaluation/kl.jsonl",
        cost="<results>/{policy}/evaluation/measure_kl.cost.json",
    log:
        "<logs>/{policy}/evaluation/measure_kl.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        **program("measure_kl"),
        flags=flags_of("evaluation", "max_new_tokens", "batch_size"),
        samples=flags(config["evaluation"]["kl"]),
    shell:
        "PREFLOOP_LOG={log} PREFLOOP_GPUS={resources.gpu}"
        " python {params.program} --prompts {input.prompts} --model {input.model}"
        " --policy {input.policy} --reference {input.reference} --chat {input.chat} {params.flags}"
        " {params.samples} --seed 0 --stream divergence --threads {threads}"
        " --output {output.rows} --cost {output.cost} > {log} 2>&1"


# The perplexity of plain text unrelated to the preferences shows what a policy has forgotten.
rule measure_perplexity:
    input:
        text=own_text,
        model=base_of_evaluated,
        policy=evaluated_policy,
    output:
        rows="<results>/{policy}/evaluation/perplexity.jsonl",
        cost="<results>/{policy}/evaluation/measure_perplexity.cost.json",
    log:
        "<logs>/{policy}/evaluation/measure_perplexity.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        **program("measure_perplexity", *PACKAGED_TEXT),
        text=plain_text,
        flags=lambda wildcards: flags(
            config["evaluation"]["perplexity"] | {"text": None}
        ),
    shell:
        "PREFLOOP_LOG={log} PREFLOOP_GPUS={resources.gpu}"
        " python {params.program} --text {params.text} --model {input.model} --policy {input.policy}"
        " {params.flags} --threads {threads} --output {output.rows} --cost {output.cost} > {log} 2>&1"


# The gradient norm of each pair, before the round that trains on the pairs.
rule measure_gradients:
    input:
        pfp=collect(rules.pfp.output, step=STEPS, allow_missing=True),
        chat=rules.prepare_prompts.output.chat,
        model=BASE,
        policy=policy_before,
    output:
        rows="<results>/{method}/seed-{seed}/round-{round}/gradients.jsonl",
        cost="<results>/{method}/seed-{seed}/round-{round}/measure_gradients.cost.json",
    log:
        "<logs>/{method}/seed-{seed}/round-{round}/measure_gradients.log",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=1,
    params:
        **program("measure_gradients"),
        flags=flags_of("train", "lora", "beta", "dtype"),
        pairs=flags(config["evaluation"]["gradients"]),
    shell:
        "PREFLOOP_LOG={log} PREFLOOP_GPUS={resources.gpu}"
        " python {params.program} --pfp {input.pfp} --model {input.model}"
        " --policy {input.policy} --chat {input.chat} {params.flags} {params.pairs} --seed {wildcards.seed}"
        " --round {wildcards.round} --threads {threads} --output {output.rows} --cost {output.cost} > {log} 2>&1"


# Samplers on a table of actions: no prompts, no model.
rule simulate_tabular:
    output:
        curves="<results>/tabular.csv",
        cost="<results>/tabular.cost.json",
    log:
        "<logs>/simulate_tabular.log",
    conda:
        "../environment.yml"
    params:
        **program("simulate_tabular"),
        flags=flags_of("tabular"),
    shell:
        "PREFLOOP_LOG={log} python {params.program} {params.flags} --output {output.curves}"
        " --cost {output.cost} > {log} 2>&1"
