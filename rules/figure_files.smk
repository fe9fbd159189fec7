# Input files, output files and flags of figures and tables.
from dataclasses import asdict, replace

from prefloop.config import outputs
from prefloop.config.output_flags import (
    cluster_tables,
    measures_divergence,
    measures_perplexity,
    output_flags,
    shown_evaluators,
)
from prefloop.config.resolve import target_measure

# Snakemake renders captions as Jinja templates. This one includes the text that a program has written.
CAPTION = "../workflow/report/caption.rst"


def experiment_flags(rule, **more):
    """Return flags of a program that reads an entire experiment, including additional flags.

    They name only the evaluators that the rule shows, so that adding another one does not rerun it. If `rule` is None,
    they name no evaluators.
    """
    identities = dict(zip(EXPERIMENT.evaluators, EXPERIMENT.evaluated_by, strict=True))
    shown = {name: identities[name] for name in evaluators_read(rule)}
    experiment = replace(
        EXPERIMENT, evaluators=tuple(shown), evaluated_by=tuple(shown.values())
    )
    text = flags(asdict(experiment) | more)
    # A function, because Snakemake would read braces in a text as wildcards.
    return lambda wildcards: text


def evaluators_read(rule):
    """Return the named evaluators that a rule shows; none if `rule` is None."""
    if rule is None:
        return ()
    return shown_evaluators(rule, config, EXPERIMENT.evaluators)


def judgments_by(evaluators, comparisons):
    """Return the judgment files of comparisons by named evaluators."""
    return [
        f"{RESULTS}/{c.judged_by(name)}" for name in evaluators for c in comparisons
    ]


def costs_of(judgments):
    """Return the cost files next to judgment files."""
    return [path.replace(".jsonl", ".cost.json") for path in judgments]


def judgments_of(comparisons):
    """Return the judgment files of comparisons."""
    return [f"{RESULTS}/{comparison.judgments}" for comparison in comparisons]


@cache
def files_read(rule):
    """Return the files that a figure or table reads: those that config/outputs.py lists, and its own."""
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
    """Return the lists of responses that got a label, for figures and tables that read the annotated prompts."""
    if "prompts.jsonl" not in reads.steps:
        return []
    return every_step("acquired.jsonl", EXPERIMENT.acquiring)


def costs_of_run(wildcards):
    """Return the cost files behind the facts that figures share. A function is faster than a list of files."""
    return [*ALIGNMENT_COSTS, *SPENT, *(EVAL_SAMPLES if EVALUATED else [])]


def read_by(rule):
    """Return a function that lists the files of a figure or table, so that files are listed only if the rule runs."""
    return lambda wildcards: files_read(rule)


def figure_group(wildcards):
    """Return the job group of figures and tables. On one machine it is None, because planning large groups is slow."""
    return None if workflow.local_exec else "figures"


def table(name):
    """Return the files of a table. The report shows its CSV with the caption that its program writes."""
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
    """Return symbolic links among the files that the report and the gallery copy."""
    patterns = ["run.rst", "figures/*", "tables/*"]
    files = [file for pattern in patterns for file in Path(RESULTS).glob(pattern)]
    return sorted(str(file) for file in files if file.is_symlink())


def every_round(file):
    """Return a file of every round of every run."""
    return collect(
        f"<results>/{{method}}/seed-{{seed}}/round-{{round}}/{file}",
        method=METHODS,
        seed=SEEDS,
        round=ROUNDS,
    )


def every_policy(file):
    """Return a file of the initial policy and of every round of every run."""
    return [f"{RESULTS}/initial/{file}", *every_round(file)]


def every_step(file, methods=METHODS):
    """Return a file of every step of every run."""
    return collect(
        f"<results>/{{method}}/seed-{{seed}}/round-{{round}}/step-{{step}}/{file}",
        method=methods,
        seed=SEEDS,
        round=ROUNDS,
        step=STEPS,
    )


def picture(name, question):
    """Return the files of a figure. The report shows its PNG with the caption that its program writes."""
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
# Files that captions read in addition to costs to report whether methods spent the same amount.
SPENT = pairs_of_rounds() if EXPERIMENT.equal_cost == "pairs" else []
# Costs outside of rounds: those that methods share, and those of methods' own clusters.
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
# Files and flags of single figures and tables, in addition to what config/outputs.py lists.
CLUSTER_TABLES = [f"{RESULTS}/{path}" for path in cluster_tables(config)]
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
OWN_FLAGS = output_flags(config, RESULTS, SHARED_COSTS)
# The declared files of each figure and table, by rule.
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
