# Figures and tables read rows and nothing else; each writes its data as CSV beside the picture.

VERDICTS = [
    "<results>/initial/evaluation/verdicts.jsonl",
    *collect(
        "<results>/{method}/seed-{seed}/round-{round}/evaluation/verdicts.jsonl",
        method=METHODS,
        seed=SEEDS,
        round=ROUNDS,
    ),
]
SHARED_COSTS = [
    f"{RESULTS}/cluster.cost.json",
    *([f"{RESULTS}/sft/sft.cost.json"] if config["sft"]["enabled"] else []),
    *(f"{RESULTS}/reward_models/{name}.cost.json" for name in REWARD_MODELS),
]
COSTS = [
    *SHARED_COSTS,
    *collect(
        "<results>/initial/evaluation/{stage}.cost.json", stage=["sample", "judge"]
    ),
    *collect(
        "<results>/{method}/seed-{seed}/round-{round}/{stage}.cost.json",
        method=METHODS,
        seed=SEEDS,
        round=ROUNDS,
        stage=["train", "evaluation/sample", "evaluation/judge"],
    ),
    *collect(
        "<results>/{method}/seed-{seed}/round-{round}/step-{step}/{stage}.cost.json",
        method=METHODS,
        seed=SEEDS,
        round=ROUNDS,
        step=STEPS,
        stage=["generate", "reward", "perplexity"],
    ),
]
EXPERIMENT = flags(
    {
        "root": RESULTS,
        "methods": METHODS,
        "seeds": SEEDS,
        "rounds": len(ROUNDS),
        "steps": len(STEPS),
    }
)


rule figure_quality:
    input:
        code=code_of("figure_quality"),
        verdicts=VERDICTS,
        costs=COSTS,
    output:
        **picture("quality", "Which method is better at equal cost?"),
    log:
        "<logs>/figures/quality.log",
    conda:
        "../environment.yml"
    params:
        experiment=EXPERIMENT,
    shell:
        "python {input.code[0]} {params.experiment} --figure {output.pdf} > {log} 2>&1"


rule figure_arms:
    input:
        code=code_of("figure_arms"),
        arms=every_step("arms.json"),
    output:
        **picture("arms", "Which prompts are worth annotating?"),
    log:
        "<logs>/figures/arms.log",
    conda:
        "../environment.yml"
    params:
        experiment=EXPERIMENT,
    shell:
        "python {input.code[0]} {params.experiment} --figure {output.pdf} > {log} 2>&1"


rule figure_prompts:
    input:
        code=code_of("figure_prompts"),
        prompts=every_step("prompts.jsonl"),
        clusters=rules.cluster.output.table,
    output:
        **picture("prompts", "Which prompts are worth annotating?"),
    log:
        "<logs>/figures/prompts.log",
    conda:
        "../environment.yml"
    params:
        experiment=EXPERIMENT,
    shell:
        "python {input.code[0]} {params.experiment} --clusters {input.clusters} --figure {output.pdf} > {log} 2>&1"


rule figure_training:
    input:
        code=code_of("figure_training"),
        metrics=collect(
            rules.train.output.metrics, method=METHODS, seed=SEEDS, round=ROUNDS
        ),
    output:
        **picture("training", "How did training go?"),
    log:
        "<logs>/figures/training.log",
    conda:
        "../environment.yml"
    params:
        experiment=EXPERIMENT,
    shell:
        "python {input.code[0]} {params.experiment} --figure {output.pdf} > {log} 2>&1"


rule figure_pfp:
    input:
        code=code_of("figure_pfp"),
        rewards=every_step("rewards.jsonl"),
        pfp=every_step("pfp.jsonl"),
    output:
        **picture("pfp", "Which pairs teach the most?"),
    log:
        "<logs>/figures/pfp.log",
    conda:
        "../environment.yml"
    params:
        experiment=EXPERIMENT,
    shell:
        "python {input.code[0]} {params.experiment} --figure {output.pdf} > {log} 2>&1"


rule table_results:
    input:
        code=code_of("table_results"),
        verdicts=VERDICTS,
        costs=COSTS,
        prompts=every_step("prompts.jsonl"),
        metrics=rules.figure_training.input.metrics,
    output:
        **table("results", "Which method is better at equal cost?"),
    log:
        "<logs>/tables/results.log",
    conda:
        "../environment.yml"
    params:
        experiment=EXPERIMENT,
    shell:
        "python {input.code[0]} {params.experiment} --table {output.csv} > {log} 2>&1"


rule table_costs:
    input:
        code=code_of("table_costs"),
        costs=COSTS,
    output:
        **table("costs", "What did it cost?"),
    log:
        "<logs>/tables/costs.log",
    conda:
        "../environment.yml"
    params:
        experiment=EXPERIMENT,
        shared=flags({"shared": SHARED_COSTS}),
    shell:
        "python {input.code[0]} {params.experiment} {params.shared} --table {output.csv} > {log} 2>&1"


rule table_judges:
    input:
        code=code_of("table_judges"),
        costs=COSTS,
    output:
        **table("judges", "Who judged, and how?"),
    log:
        "<logs>/tables/judges.log",
    conda:
        "../environment.yml"
    params:
        experiment=EXPERIMENT,
    shell:
        "python {input.code[0]} {params.experiment} --table {output.csv} > {log} 2>&1"


rule table_reward_models:
    input:
        code=code_of("table_reward_models"),
        reports=collect(
            "<results>/reward_models/{name}.report.json", name=REWARD_MODELS
        ),
    output:
        **table("reward_models", "Who judged, and how?"),
    log:
        "<logs>/tables/reward_models.log",
    conda:
        "../environment.yml"
    shell:
        "python {input.code[0]} --reports {input.reports} --table {output.csv} > {log} 2>&1"
