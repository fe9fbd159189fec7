# Figures and tables read rows and nothing else. Each writes its data as CSV next to the picture, and its caption.
from dataclasses import asdict, replace

from prefloop.config import outputs
from prefloop.config.output_flags import (
    measures_divergence,
    measures_perplexity,
    output_flags,
    shown_evaluators,
)
from prefloop.config.resolve import target_measure

# Snakemake renders captions as Jinja templates. This one includes the text that a program has written.
CAPTION = "../workflow/report/caption.rst"


def experiment_flags(rule, **more):
    """Flags of a program that reads a whole experiment, and more flags of its own.

    It gets the named evaluators that it shows, so that another one does not rerun it; without a rule, none.
    """
    identities = dict(zip(EXPERIMENT.evaluators, EXPERIMENT.evaluated_by, strict=True))
    shown = {name: identities[name] for name in evaluators_read(rule)}
    experiment = replace(
        EXPERIMENT, evaluators=tuple(shown), evaluated_by=tuple(shown.values())
    )
    text = flags(asdict(experiment) | more)
    # A function, as Snakemake would read braces in a text as wildcards.
    return lambda wildcards: text


def evaluators_read(rule):
    """The named evaluators that a program shows; without one, none."""
    if rule is None:
        return ()
    return shown_evaluators(rule, config, EXPERIMENT.evaluators)


def judgments_by(evaluators, comparisons):
    """The judgment files of comparisons by named evaluators."""
    return [
        f"{RESULTS}/{c.judged_by(name)}" for name in evaluators for c in comparisons
    ]


def costs_of(judgments):
    """The cost files next to judgment files."""
    return [path.replace(".jsonl", ".cost.json") for path in judgments]


def judgments_of(comparisons):
    """The judgment files of comparisons."""
    return [f"{RESULTS}/{comparison.judgments}" for comparison in comparisons]


@cache
def files_read(rule):
    """The files that a figure or table reads: those that config/outputs.py lists, and its own."""
    reads = READS[rule]
    comparisons = getattr(EXPERIMENT, reads.judgments)() if reads.judgments else []
    files = [
        *([EVAL_PROMPTS] if comparisons else []),
        *judgments_of(comparisons),
        *judgments_by(evaluators_read(rule), comparisons),
        *(path for file in reads.rounds for path in every_round(file)),
        *(path for file in reads.steps for path in every_step(file)),
        *acquired_prompts(reads),
        *ALIGNMENT_COSTS,
        *SPENT,
        *OWN_FILES.get(rule, []),
    ]
    return list(dict.fromkeys(files))


def acquired_prompts(reads):
    """The lists of responses that got a label, for figures and tables of annotated prompts."""
    if "prompts.jsonl" not in reads.steps:
        return []
    return every_step("acquired.jsonl", EXPERIMENT.acquiring)


def costs_of_run(wildcards):
    """The cost files behind the facts that figures share. A function for speed: Snakemake hashes a list once per file."""
    return [*ALIGNMENT_COSTS, *SPENT, *(EVAL_SAMPLES if EVALUATED else [])]


def read_by(rule):
    """The files that a figure or table reads, as a function: thousands of files cost time only if the rule runs."""
    return lambda wildcards: files_read(rule)


def figure_group(wildcards):
    """The job group of figures and tables. None on one machine, where planning a group with many inputs is slow."""
    return None if workflow.local_exec else "figures"


def table(name):
    """The files of a table. The report shows its CSV with the caption that its program writes."""
    return {
        "csv": report(
            f"<results>/tables/{name}.csv",
            caption=CAPTION,
            category=ALL_TABLES[name].question,
            labels={"table": name},
        ),
        "tex": f"<results>/tables/{name}.tex",
        "caption": f"<results>/tables/{name}.rst",
    }


def links_in_report():
    """Symbolic links in place of files that the report and the gallery copy."""
    patterns = ["run.rst", "figures/*", "tables/*"]
    files = [file for pattern in patterns for file in Path(RESULTS).glob(pattern)]
    return sorted(str(file) for file in files if file.is_symlink())


def every_round(file):
    """A file of every round of every run."""
    return collect(
        f"<results>/{{method}}/seed-{{seed}}/round-{{round}}/{file}",
        method=METHODS,
        seed=SEEDS,
        round=ROUNDS,
    )


def every_policy(file):
    """A file of the initial policy and of every round of every run."""
    return [f"{RESULTS}/initial/{file}", *every_round(file)]


def every_step(file, methods=METHODS):
    """A file of every step of every run."""
    return collect(
        f"<results>/{{method}}/seed-{{seed}}/round-{{round}}/step-{{step}}/{file}",
        method=methods,
        seed=SEEDS,
        round=ROUNDS,
        step=STEPS,
    )


def picture(name, question):
    """The files of a figure. The report shows its PNG with the caption that its program writes."""
    return {
        "pdf": f"<results>/figures/{name}.pdf",
        "svg": f"<results>/figures/{name}.svg",
        "csv": f"<results>/figures/{name}.csv",
        "caption": f"<results>/figures/{name}.rst",
        "png": report(
            f"<results>/figures/{name}.png",
            caption=CAPTION,
            category=question,
            labels={"figure": name},
        ),
    }


def pairs_of_rounds():
    """The files of the pairs that every round trains on, mixed ones included."""
    return [
        f"<results>/{method}/seed-{seed}/round-{number}/{file}"
        for method in METHODS
        for file in [
            "mixed_pairs.jsonl" if method in EXPERIMENT.mixing else "pairs.jsonl"
        ]
        for seed in SEEDS
        for number in ROUNDS
    ]


def stored_files(wildcards):
    """The files that the rows of the experiment are made of."""
    return [
        EVAL_PROMPTS,
        *judgments_of(EXPERIMENT.comparisons),
        *judgments_by(EXPERIMENT.evaluators, EXPERIMENT.comparisons),
        *TEXT_ROWS,
        *(
            f"{RESULTS}/{c.folder}/samples.jsonl"
            for c in EXPERIMENT.comparisons
            if not c.round
        ),
        *KL_ROWS,
        *COSTS,
        *pairs_of_rounds(),
        *every_round("training.jsonl"),
        *every_step("prompts.jsonl"),
        *every_step("rewards.jsonl"),
        *every_step("acquired.jsonl", EXPERIMENT.acquiring),
    ]


# Whether KL from the initial policy is measured.
DIVERGENCE = measures_divergence(config)
PERPLEXITY = measures_perplexity(config)
ALL_TABLES = (
    outputs.TABLES | outputs.OF_JUDGES | outputs.OF_ACQUISITION | outputs.OF_VALIDATION
)
ALIGNMENT_COSTS = [
    *every_round("train.cost.json"),
    *[
        file
        for stage in ["generate", "reward", "logprobs"]
        for file in every_step(f"{stage}.cost.json")
    ],
    *[
        file
        for method in METHODS
        for seed in SEEDS
        for file in mixing_costs(method, f"<results>/{method}/seed-{seed}")
    ],
]
# What captions count, in addition to costs, to say whether methods spent the same.
SPENT = pairs_of_rounds() if EXPERIMENT.equal_cost == "pairs" else []
# Costs that belong to no round: those that methods share, and those of their own clusters.
SHARED_COSTS = [
    *(
        f"{path}/cluster_prompts.cost.json"
        for path in dict.fromkeys(map(cluster_folder, METHODS))
    ),
    *([f"{RESULTS}/sft/fine_tune.cost.json"] if config["sft"]["enabled"] else []),
    *(f"{RESULTS}/reward_models/{name}.cost.json" for name in REWARD_MODELS),
    *(
        [GRADIENTS.replace("gradients.jsonl", "measure_gradients.cost.json")]
        if "gradients" in FIGURES
        else []
    ),
]
COSTS = [
    *SHARED_COSTS,
    *ALIGNMENT_COSTS,
    *dict.fromkeys(
        f"{RESULTS}/{c.folder}/sample.cost.json" for c in EXPERIMENT.comparisons
    ),
    *costs_of(judgments_of(EXPERIMENT.comparisons)),
    *costs_of(judgments_by(EXPERIMENT.evaluators, EXPERIMENT.comparisons)),
    *(every_round("evaluation/measure_kl.cost.json") if DIVERGENCE else []),
    *(every_policy("evaluation/measure_perplexity.cost.json") if PERPLEXITY else []),
]
# The target shares of margins above τ of the methods' β rules.
DELTAS = {
    settings_of("train", method).get("beta_risk", {}).get("delta") for method in METHODS
}
# Files and flags of single figures and tables, in addition to what config/outputs.py lists.
CLUSTER_TABLES = [f"{cluster_folder(method)}/clusters.csv" for method in METHODS]
# Intervals are clustered by the prompts' families.
EVAL_PROMPTS = rules.prepare_prompts.output.eval
EVAL_CLUSTERS = f"{RESULTS}/clusters_eval.csv"
EVAL_SAMPLES = [f"{RESULTS}/{c.folder}/sample.cost.json" for c in EXPERIMENT.by_round()]
KL_ROWS = every_round("evaluation/kl.jsonl") if DIVERGENCE else []
TEXT_ROWS = every_policy("evaluation/perplexity.jsonl") if PERPLEXITY else []
OWN_FILES = {
    "plot_learning_curves": EVAL_SAMPLES,
    "plot_quality": [*EVAL_SAMPLES, *KL_ROWS],
    "tabulate_results": [*EVAL_SAMPLES, *KL_ROWS, *TEXT_ROWS],
    "plot_perplexity": [f"{RESULTS}/initial/evaluation/perplexity.jsonl"],
    "plot_prompts": CLUSTER_TABLES,
    "plot_benchmark": [f"{RESULTS}/initial/benchmark.json"],
    "plot_cluster_wins": [EVAL_CLUSTERS],
    "plot_gradients": [GRADIENTS] * bool(METHODS),
    "tabulate_length": EVAL_SAMPLES,
    "tabulate_power": [
        path
        for c in EXPERIMENT.by_round()
        if c.round
        for path in [
            f"{RESULTS}/{c.folder}/sample.cost.json",
            *costs_of(judgments_of([c])),
            *costs_of(judgments_by(EXPERIMENT.evaluators, [c])),
        ]
    ],
    "tabulate_win_rates": [
        EVAL_PROMPTS,
        *judgments_of(EXPERIMENT.comparisons),
        *judgments_by(EXPERIMENT.evaluators, EXPERIMENT.comparisons),
    ],
    "tabulate_costs": COSTS,
    "tabulate_judges": COSTS,
    "tabulate_acquisition": [
        path
        for file in ["acquired.jsonl", "rewards.jsonl"]
        for path in every_step(file, EXPERIMENT.acquiring)
    ],
}
OWN_FLAGS = {
    **output_flags(config, SHARED_COSTS),
    "plot_cluster_counts": {
        "at_random": [m for m in METHODS if not looks_at_arms(m)],
    },
    "plot_benchmark": {"label": config["evaluation"]["benchmark"]["label"]},
    "plot_betas": {"delta": sorted(DELTAS - {None})},
    "plot_prompts": {"clusters": CLUSTER_TABLES},
    "plot_cluster_wins": {"clusters": EVAL_CLUSTERS},
    "plot_gradients": {"gradients": GRADIENTS},
}
# What each figure and table reads, by its rule.
READS = {
    **{f"plot_{name}": reads for name, reads in outputs.FIGURES.items()},
    **{f"plot_{name}": outputs.OWN_FIGURE for name in OWN_FIGURES},
    **{f"tabulate_{name}": reads for name, reads in ALL_TABLES.items()},
}
# Whether a listed figure or table needs evaluation samples of every round.
EVALUATED = "by_round" in [
    READS[rule].judgments
    for rule in [*(f"plot_{f}" for f in FIGURES), *(f"tabulate_{t}" for t in TABLES)]
]


for name in [name for name in outputs.FIGURES if name != "tabular"]:

    rule:
        name:
            f"plot_{name}"
        input:
            read_by(f"plot_{name}"),
        output:
            **picture(name, outputs.FIGURES[name].question),
        log:
            f"<logs>/figures/{name}.log",
        group:
            figure_group
        conda:
            "../environment.yml"
        params:
            **program(f"figures/plot_{name}"),
            experiment=experiment_flags(
                f"plot_{name}", **OWN_FLAGS.get(f"plot_{name}", {})
            ),
        shell:
            "PREFLOOP_LOG={log} python {params.program} {params.experiment} --figure {output.pdf} > {log} 2>&1"


for name in OWN_FIGURES:

    rule:
        name:
            f"plot_{name}"
        input:
            read_by(f"plot_{name}"),
        output:
            **picture(name, outputs.OWN),
        log:
            f"<logs>/figures/{name}.log",
        group:
            figure_group
        conda:
            "../environment.yml"
        params:
            **program("figures/plot_own"),
            own=own_code(FIGURE_NAMES[name]),
            experiment=experiment_flags(f"plot_{name}", function=FIGURE_NAMES[name]),
        shell:
            "PREFLOOP_LOG={log} python {params.program} {params.experiment} --figure {output.pdf} > {log} 2>&1"


for name in [name for name in ALL_TABLES if name != "reward_models"]:

    rule:
        name:
            f"tabulate_{name}"
        input:
            read_by(f"tabulate_{name}"),
        output:
            **table(name),
        log:
            f"<logs>/tables/{name}.log",
        group:
            figure_group
        conda:
            "../environment.yml"
        params:
            **program(f"tables/tabulate_{name}"),
            experiment=experiment_flags(
                f"tabulate_{name}", **OWN_FLAGS.get(f"tabulate_{name}", {})
            ),
        shell:
            "PREFLOOP_LOG={log} python {params.program} {params.experiment} --table {output.csv} > {log} 2>&1"


rule plot_tabular:
    input:
        curves=rules.simulate_tabular.output.curves,
    output:
        **picture("tabular", outputs.THEORY),
    log:
        "<logs>/figures/tabular.log",
    group:
        figure_group
    conda:
        "../environment.yml"
    params:
        **program("figures/plot_tabular"),
        settings=flags(
            {
                "actions": config["tabular"]["actions"],
                "beta": config["tabular"]["beta"],
                "exact_rate": config["tabular"]["normalized"]["learning_rate"],
                "empirical_rate": config["tabular"]["empirical"]["learning_rate"],
                "pairs": config["tabular"]["empirical"]["pairs"],
            }
        ),
    shell:
        "PREFLOOP_LOG={log} python {params.program} --rows {input.curves} {params.settings}"
        " --figure {output.pdf} > {log} 2>&1"


rule tabulate_reward_models:
    input:
        reports=collect(
            "<results>/reward_models/{name}.report.json", name=REWARD_MODELS
        ),
    output:
        **table("reward_models"),
    log:
        "<logs>/tables/reward_models.log",
    group:
        figure_group
    conda:
        "../environment.yml"
    params:
        **program("tables/tabulate_reward_models"),
    shell:
        "PREFLOOP_LOG={log} python {params.program} --reports {input.reports} --table {output.csv} > {log} 2>&1"


# What all figures and tables share: for the first page of the report, and for the gallery.
rule describe_run:
    input:
        EVAL_PROMPTS,
        costs_of_run,
    output:
        "<results>/run.rst",
    log:
        "<logs>/describe_run.log",
    group:
        figure_group
    conda:
        "../environment.yml"
    params:
        **program("describe_run"),
        experiment=experiment_flags("describe_run", evaluated=EVALUATED),
    shell:
        "PREFLOOP_LOG={log} python {params.program} {params.experiment} --output {output} > {log} 2>&1"


FACTS = rules.describe_run.output if METHODS else []


# The copy in the documentation, which is in git: snakemake --cores all gallery --configfile experiments/laptop/dota.yaml
rule gallery:
    input:
        config=CONFIG_FILE,
        facts=FACTS,
        figures=collect("<results>/figures/{figure}.png", figure=FIGURES),
        captions=collect("<results>/figures/{figure}.rst", figure=FIGURES),
        tables=collect("<results>/tables/{table}.csv", table=TABLES),
    output:
        f"docs/gallery/{config['name']}.md",
    log:
        "<logs>/gallery.log",
    conda:
        "../environment.yml"
    params:
        **program("make_gallery"),
        facts=lambda wildcards, input: flags({"facts": input.facts or None}),
    shell:
        "PREFLOOP_LOG={log} python {params.program} --config {input.config:q} {params.facts} --figures {input.figures}"
        " --tables {input.tables} --page {output} > {log} 2>&1"


# Values of a finished experiment, from which `make power` plans another one: snakemake --cores all pilot
rule pilot:
    input:
        read_by("tabulate_power"),
    output:
        "<results>/pilot.csv",
    log:
        "<logs>/pilot.log",
    conda:
        "../environment.yml"
    params:
        **program("write_pilot"),
        experiment=experiment_flags("write_pilot", measure=target_measure(config)),
    shell:
        "PREFLOOP_LOG={log} python {params.program} {params.experiment} --output {output} > {log} 2>&1"


# The numbers that most figures and tables need, in tables small enough for git: snakemake --cores all rows
rule rows:
    input:
        stored_files,
    output:
        "<results>/rows/experiment_rows.json",
    log:
        "<logs>/rows.log",
    conda:
        "../environment.yml"
    params:
        **program("write_rows"),
        experiment=experiment_flags(
            "write_rows",
            shared=SHARED_COSTS,
            divergence=DIVERGENCE,
            perplexity=PERPLEXITY,
        ),
    shell:
        "PREFLOOP_LOG={log} python {params.program} {params.experiment} --output {output} > {log} 2>&1"
