# Figures and tables read rows and nothing else; each writes its data as CSV beside the picture, and its caption.


include: "functions/figures.smk"


ALIGNMENT_COSTS = [
    *every_round("train.cost.json"),
    *[
        file
        for stage in ["generate", "reward", "perplexity"]
        for file in every_step(f"{stage}.cost.json")
    ],
]
# Costs of no round: what methods share, and clusters of their own.
SHARED_COSTS = [
    *(
        f"{path}/cluster.cost.json"
        for path in dict.fromkeys(map(cluster_folder, METHODS))
    ),
    *([f"{RESULTS}/sft/sft.cost.json"] if config["sft"]["enabled"] else []),
    *(f"{RESULTS}/reward_models/{name}.cost.json" for name in REWARD_MODELS),
    *([GRADIENTS.replace(".jsonl", ".cost.json")] if "gradients" in FIGURES else []),
]
COSTS = [
    *SHARED_COSTS,
    *ALIGNMENT_COSTS,
    *dict.fromkeys(
        f"{RESULTS}/{c.folder}/sample.cost.json" for c in EXPERIMENT.contests
    ),
    *(
        verdicts.replace(".jsonl", ".cost.json")
        for verdicts in verdicts_of(EXPERIMENT.contests)
    ),
    *(every_round("evaluation/divergence.cost.json") if "frontier" in FIGURES else []),
]
# The shares of margins above τ that the methods' β rules hold to.
DELTAS = {
    settings_of("train", method).get("beta_risk", {}).get("delta") for method in METHODS
}
BY_ROUND = verdicts_of(EXPERIMENT.by_round())


rule figure_quality:
    input:
        code=code_of("figure_quality"),
        verdicts=BY_ROUND,
        costs=ALIGNMENT_COSTS,
    output:
        **picture("quality"),
    log:
        "<logs>/figures/quality.log",
    group:
        figures_job
    conda:
        "../environment.yml"
    params:
        experiment=experiment_flags(),
    shell:
        "python {input.code[0]} {params.experiment} --figure {output.pdf} > {log} 2>&1"


use rule figure_quality as figure_differences with:
    input:
        code=code_of("figure_differences"),
        verdicts=BY_ROUND,
        costs=ALIGNMENT_COSTS,
    output:
        **picture("differences"),
    log:
        "<logs>/figures/differences.log",


use rule figure_quality as figure_cluster_counts with:
    input:
        code=code_of("figure_cluster_counts"),
        verdicts=BY_ROUND,
        arms=every_step("arms.json"),
        costs=ALIGNMENT_COSTS,
    output:
        **picture("cluster_counts"),
    log:
        "<logs>/figures/cluster_counts.log",
    params:
        experiment=experiment_flags(
            at_random=[m for m in METHODS if not looks_at_arms(m)]
        ),


use rule figure_quality as figure_contests with:
    input:
        code=code_of("figure_contests"),
        verdicts=verdicts_of(EXPERIMENT.against_everybody()),
        costs=ALIGNMENT_COSTS,
    output:
        **picture("contests"),
    log:
        "<logs>/figures/contests.log",


use rule figure_quality as figure_temperatures with:
    input:
        code=code_of("figure_temperatures"),
        verdicts=verdicts_of(EXPERIMENT.over_temperatures()),
        costs=ALIGNMENT_COSTS,
    output:
        **picture("temperatures"),
    log:
        "<logs>/figures/temperatures.log",


use rule figure_quality as figure_checkpoints with:
    input:
        code=code_of("figure_checkpoints"),
        verdicts=verdicts_of(EXPERIMENT.over_training()),
        metrics=every_round("training.jsonl"),
        costs=ALIGNMENT_COSTS,
    output:
        **picture("checkpoints"),
    log:
        "<logs>/figures/checkpoints.log",


use rule figure_quality as figure_frontier with:
    input:
        code=code_of("figure_frontier"),
        verdicts=BY_ROUND,
        divergences=every_round("evaluation/kl.jsonl"),
        costs=ALIGNMENT_COSTS,
    output:
        **picture("frontier"),
    log:
        "<logs>/figures/frontier.log",


use rule figure_quality as figure_training with:
    input:
        code=code_of("figure_training"),
        metrics=every_round("training.jsonl"),
        costs=ALIGNMENT_COSTS,
    output:
        **picture("training"),
    log:
        "<logs>/figures/training.log",


use rule figure_quality as figure_betas with:
    input:
        code=code_of("figure_betas"),
        metrics=every_round("training.jsonl"),
        costs=ALIGNMENT_COSTS,
    output:
        **picture("betas"),
    log:
        "<logs>/figures/betas.log",
    params:
        experiment=experiment_flags(delta=sorted(DELTAS - {None})),


use rule figure_quality as figure_arms with:
    input:
        code=code_of("figure_arms"),
        arms=every_step("arms.json"),
        costs=ALIGNMENT_COSTS,
    output:
        **picture("arms"),
    log:
        "<logs>/figures/arms.log",


use rule figure_quality as figure_prompts with:
    input:
        code=code_of("figure_prompts"),
        prompts=every_step("prompts.jsonl"),
        clusters=[f"{cluster_folder(method)}/clusters.csv" for method in METHODS],
        costs=ALIGNMENT_COSTS,
    output:
        **picture("prompts"),
    log:
        "<logs>/figures/prompts.log",
    params:
        experiment=experiment_flags(
            clusters=[f"{cluster_folder(method)}/clusters.csv" for method in METHODS]
        ),


use rule figure_quality as figure_cluster_wins with:
    input:
        code=code_of("figure_cluster_wins"),
        verdicts=BY_ROUND,
        clusters=f"{RESULTS}/clusters_eval.csv",
        costs=ALIGNMENT_COSTS,
    output:
        **picture("cluster_wins"),
    log:
        "<logs>/figures/cluster_wins.log",
    params:
        experiment=experiment_flags(clusters=f"{RESULTS}/clusters_eval.csv"),


use rule figure_quality as figure_pfp with:
    input:
        code=code_of("figure_pfp"),
        rewards=every_step("rewards.jsonl"),
        pfp=every_step("pfp.jsonl"),
        costs=ALIGNMENT_COSTS,
    output:
        **picture("pfp"),
    log:
        "<logs>/figures/pfp.log",


use rule figure_quality as figure_gradients with:
    input:
        code=code_of("figure_gradients"),
        gradients=GRADIENTS,
        costs=ALIGNMENT_COSTS,
    output:
        **picture("gradients"),
    log:
        "<logs>/figures/gradients.log",
    params:
        experiment=experiment_flags(gradients=GRADIENTS),


rule figure_tabular:
    input:
        code=code_of("figure_tabular"),
        curves=rules.tabular.output.curves,
        cost=rules.tabular.output.cost,
    output:
        **picture("tabular"),
    log:
        "<logs>/figures/tabular.log",
    group:
        figures_job
    conda:
        "../environment.yml"
    params:
        settings=flags(
            {
                "actions": config["tabular"]["actions"],
                "beta": config["tabular"]["beta"],
                "exact_rate": config["tabular"]["normalised"]["learning_rate"],
                "empirical_rate": config["tabular"]["empirical"]["learning_rate"],
                "pairs": config["tabular"]["empirical"]["pairs"],
            }
        ),
    shell:
        "python {input.code[0]} --rows {input.curves} --cost {input.cost} {params.settings}"
        " --figure {output.pdf} > {log} 2>&1"


rule table_results:
    input:
        code=code_of("table_results"),
        verdicts=BY_ROUND,
        costs=ALIGNMENT_COSTS,
        prompts=every_step("prompts.jsonl"),
        metrics=every_round("training.jsonl"),
    output:
        **table("results"),
    log:
        "<logs>/tables/results.log",
    group:
        figures_job
    conda:
        "../environment.yml"
    params:
        experiment=experiment_flags(),
    shell:
        "python {input.code[0]} {params.experiment} --table {output.csv} > {log} 2>&1"


use rule table_results as table_differences with:
    input:
        code=code_of("table_differences"),
        verdicts=BY_ROUND,
        costs=ALIGNMENT_COSTS,
    output:
        **table("differences"),
    log:
        "<logs>/tables/differences.log",


use rule table_results as table_cost_to_reach with:
    input:
        code=code_of("table_cost_to_reach"),
        verdicts=BY_ROUND,
        costs=ALIGNMENT_COSTS,
        rewards=every_step("rewards.jsonl"),
    output:
        **table("cost_to_reach"),
    log:
        "<logs>/tables/cost_to_reach.log",
    params:
        experiment=experiment_flags(
            measure=target_measure(config),
            target=config["evaluation"]["target"]["value"],
        ),


use rule table_results as table_win_rates with:
    input:
        code=code_of("table_win_rates"),
        verdicts=verdicts_of(EXPERIMENT.contests),
        costs=ALIGNMENT_COSTS,
    output:
        **table("win_rates"),
    log:
        "<logs>/tables/win_rates.log",


use rule table_results as table_length with:
    input:
        code=code_of("table_length"),
        verdicts=BY_ROUND,
        costs=ALIGNMENT_COSTS,
    output:
        **table("length"),
    log:
        "<logs>/tables/length.log",


use rule table_results as table_costs with:
    input:
        code=code_of("table_costs"),
        costs=COSTS,
    output:
        **table("costs"),
    log:
        "<logs>/tables/costs.log",
    params:
        experiment=experiment_flags(
            shared=SHARED_COSTS, divergence="frontier" in FIGURES
        ),


use rule table_results as table_judges with:
    input:
        code=code_of("table_judges"),
        costs=COSTS,
    output:
        **table("judges"),
    log:
        "<logs>/tables/judges.log",


rule table_reward_models:
    input:
        code=code_of("table_reward_models"),
        reports=collect(
            "<results>/reward_models/{name}.report.json", name=REWARD_MODELS
        ),
    output:
        **table("reward_models"),
    log:
        "<logs>/tables/reward_models.log",
    group:
        figures_job
    conda:
        "../environment.yml"
    shell:
        "python {input.code[0]} --reports {input.reports} --table {output.csv} > {log} 2>&1"


# The documentation's own copy, which is in git: snakemake --cores all gallery --configfile experiments/laptop/dota.yaml
rule gallery:
    input:
        code=code_of("gallery"),
        config=CONFIG_FILE,
        figures=collect("<results>/figures/{figure}.png", figure=FIGURES),
        captions=collect("<results>/figures/{figure}.rst", figure=FIGURES),
        tables=collect("<results>/tables/{table}.csv", table=TABLES),
    output:
        f"docs/gallery/{config['name']}.md",
    log:
        "<logs>/gallery.log",
    conda:
        "../environment.yml"
    shell:
        "python {input.code[0]} --config {input.config:q} --figures {input.figures}"
        " --tables {input.tables} --page {output} > {log} 2>&1"
