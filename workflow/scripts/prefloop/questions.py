"""Which question each figure and table answers: by these words config asks for them, and the report puts them in order.

Snakemake reads this at every start, so nothing heavy is imported here.
"""

QUALITY = "Which method is better at equal cost?"
OPPONENTS = "Who wins against whom?"
DRIFT = "What does reward cost in divergence?"
TRAINING = "How did training go?"
PROMPTS = "Which prompts are worth annotating?"
PAIRS = "Which pairs teach the most?"
THEORY = "How fast do samplers converge?"
COST = "What did it cost?"
JUDGES = "Who judged, and how?"

# From config's word to the question; each has a rule and a program of its name, figure_<word>.
FIGURES = {
    "quality": QUALITY,  # reward and win rate against cost
    "differences": QUALITY,  # each method minus the baseline, paired by prompt and seed
    "cluster_counts": QUALITY,  # final quality by the number of clusters
    "contests": OPPONENTS,  # wins, ties and losses against each opponent
    "temperatures": OPPONENTS,  # win rate by sampling temperature
    "checkpoints": OPPONENTS,  # win rate over training
    "frontier": DRIFT,  # reward against divergence from the initial policy
    "training": TRAINING,  # loss, margins, accuracy and gradient norm by optimizer step
    "betas": TRAINING,  # β, τ and the share of margins above it by optimizer step
    "arms": PROMPTS,  # what each cluster gave, and its score
    "prompts": PROMPTS,  # map of the prompts drawn
    "cluster_wins": PROMPTS,  # change of the win rate by cluster
    "pfp": PAIRS,  # preference perplexity against reward gap and length
    "gradients": PAIRS,  # preference perplexity against the true gradient norm
    "tabular": THEORY,  # convergence of samplers in theory
}

# The same of tables, table_<word>.
TABLES = {
    "results": QUALITY,  # rewards, win rate, tokens and cost after the last round
    "differences": QUALITY,  # each method minus the baseline, paired by prompt and seed
    "cost_to_reach": QUALITY,  # what a target costs
    "win_rates": OPPONENTS,  # of everything that is compared
    "length": OPPONENTS,  # what length has to do with winning
    "costs": COST,  # tokens, operations and seconds by stage
}

# Tables that come by themselves where there is somebody to tell of.
OF_JUDGES = {"judges": JUDGES, "reward_models": JUDGES}
