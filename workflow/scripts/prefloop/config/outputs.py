"""The figures and tables: the question that each answers, and the rows that it reads.

The config uses these names, and the report sorts outputs by question. Snakemake imports this module at every start, so
it imports nothing heavy.
"""

from typing import NamedTuple

# Longer questions would widen the menu of the report until it covers the page.
QUALITY = "Which method is better?"
OPPONENTS = "Who wins against whom?"
DRIFT = "How far did policies move?"
FORGETTING = "What was forgotten?"
TRAINING = "How did training go?"
PROMPTS = "Which prompts to annotate?"
PAIRS = "Which pairs teach the most?"
THEORY = "How fast do samplers converge?"
COST = "What did it cost?"
JUDGES = "Who judged, and how?"
OWN = "Figures of your own"


class Output(NamedTuple):
    """A figure or table. Its program and rule are plot_<name> or tabulate_<name>. Files that no other output reads are
    in rules/figure_files.smk."""

    question: str
    """Heading in the report."""
    judgments: str = ""
    """Method of Experiment that lists the comparisons whose judgments it reads."""
    rounds: tuple[str, ...] = ()
    """Files that it reads from every round of every run."""
    steps: tuple[str, ...] = ()
    """Files that it reads from every step of every run."""
    evaluators: bool = False
    """Whether it also reads and shows the judgments of evaluation.evaluators."""
    from_rows: bool = True
    """Whether it can be drawn from a rows folder that has its files."""


FIGURES = {
    # reward and win rate against labels
    "learning_curves": Output(QUALITY, "by_round", evaluators=True),
    "quality": Output(QUALITY, "by_round", evaluators=True),  # reward and win rate against cost
    # each method minus the baseline, paired by prompt and seed
    "differences": Output(QUALITY, "by_round", evaluators=True),
    "sweep": Output(QUALITY, "by_round"),  # final quality by the values of swept settings
    "cluster_counts": Output(QUALITY, "by_round", steps=("arms.json",)),  # final quality by the number of clusters
    # perplexity of plain text by round
    "perplexity": Output(FORGETTING, rounds=("evaluation/perplexity.jsonl",)),
    "benchmark": Output(QUALITY, rounds=("benchmark.json",)),  # the number of the user's command by round
    "comparisons": Output(OPPONENTS, "against_everybody"),  # wins, ties and losses against each opponent
    "temperatures": Output(OPPONENTS, "over_temperatures"),  # win rate by sampling temperature
    "checkpoints": Output(OPPONENTS, "over_training", ("training.jsonl",)),  # win rate over training
    "frontier": Output(DRIFT, "by_round", ("evaluation/kl.jsonl",)),  # reward against divergence
    "training": Output(TRAINING, rounds=("training.jsonl",)),  # loss, margins, accuracy and gradient norm by step
    "betas": Output(TRAINING, rounds=("training.jsonl",)),  # β, τ and the share of margins above it by optimizer step
    "arms": Output(PROMPTS, steps=("arms.json",)),  # reward and score of each cluster
    "prompts": Output(PROMPTS, steps=("prompts.jsonl",)),  # map of the annotated prompts
    "cluster_wins": Output(PROMPTS, "by_round"),  # change of the win rate by cluster
    "pfp": Output(PAIRS, steps=("pfp.jsonl",)),  # preference perplexity against reward gap and length
    "gradients": Output(PAIRS),  # preference perplexity against the true gradient norm
    "tabular": Output(THEORY, from_rows=False),  # convergence of samplers in theory
}

TABLES = {
    # after the last round
    "results": Output(QUALITY, "by_round", ("training.jsonl",), ("prompts.jsonl",), evaluators=True),
    # each method minus the baseline, paired by prompt and seed
    "differences": Output(QUALITY, "by_round", evaluators=True),
    "seeds": Output(QUALITY, "by_round", evaluators=True),  # results of every run after the last round
    "cost_to_reach": Output(QUALITY, "by_round", steps=("rewards.jsonl",)),  # cost of reaching a target
    # detectable differences from the baseline, and seeds needed
    "power": Output(QUALITY, "by_round", evaluators=True),
    "win_rates": Output(OPPONENTS, evaluators=True),  # of every comparison
    "length": Output(OPPONENTS, "by_round"),  # response length against winning
    "costs": Output(COST, evaluators=True),  # tokens, operations and seconds by stage
    # raw answers
    "judge_answers": Output(JUDGES, "by_round", steps=("rewards.jsonl",), evaluators=True, from_rows=False),
}

# Tables that are added automatically if the experiment uses a judge or trains a reward model.
OF_JUDGES = {"judges": Output(JUDGES, evaluators=True), "reward_models": Output(JUDGES)}

# The table that is added automatically if some eval prompts choose the best round of every run.
OF_VALIDATION = {"best_round": Output(QUALITY, "by_round", evaluators=True)}

# The table that is added automatically if a method chooses which responses get a label.
OF_ACQUISITION = {"acquisition": Output(PAIRS)}

# Files that a function of the user may read.
OWN_FIGURE = Output(
    OWN,
    "by_round",
    ("pairs.jsonl", "training.jsonl"),
    ("prompts.jsonl", "generations.jsonl", "rewards.jsonl", "logprobs.jsonl", "pfp.jsonl", "arms.json"),
    evaluators=True,
)
