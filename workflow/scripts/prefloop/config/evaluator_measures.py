"""Names of the measures of evaluation.evaluators, as columns of judgments and as words of a config.

Snakemake imports this module at every start, so it imports nothing heavy.
"""

MEASURE_KINDS = ("reward", "win")  # the main evaluator's measures have these names without a prefix
OF_MAIN = ("feedback", "reward", "win")  # measures without the name of an evaluator
MAIN = "main"  # name of the deciding evaluator in tables with one row per evaluator
RESERVED_EVALUATORS = (*OF_MAIN, "auto", "n_tokens", "evaluator", MAIN)


def reward_measure(evaluator: str) -> str:
    """Return the column of a named evaluator's rewards."""
    return f"{evaluator}_reward"


def win_measure(evaluator: str) -> str:
    """Return the column of a named evaluator's wins: 1 for a win, ½ for a tie, 0 for a loss."""
    return f"{evaluator}_win"


def split_measure(measure: str) -> tuple[str, str]:
    """Split a measure into (evaluator, kind): polite_reward is ("polite", "reward"). The main evaluator has no name."""
    evaluator, _, kind = measure.rpartition("_")
    return (evaluator, kind) if kind in MEASURE_KINDS else ("", measure)


def is_rate(measure: str) -> bool:
    """Whether a measure is a win rate, of the main evaluator or a named one."""
    return split_measure(measure)[1] == "win"
