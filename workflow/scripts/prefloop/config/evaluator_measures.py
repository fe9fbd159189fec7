"""The measures of the evaluators that evaluation.evaluators names: columns of judgments, and words of a config.

Snakemake reads this at every start, so nothing heavy is imported here.
"""

MEASURE_KINDS = ("reward", "win")  # of the main evaluator, too, whose measures have these names
OF_MAIN = ("feedback", "reward", "win")  # measures without the name of an evaluator
MAIN = "main"  # the evaluator that decides, where a table has a row for each evaluator
RESERVED_EVALUATORS = (*OF_MAIN, "auto", "n_tokens", "evaluator", MAIN)


def reward_measure(evaluator: str) -> str:
    """The column of the rewards by a named evaluator."""
    return f"{evaluator}_reward"


def win_measure(evaluator: str) -> str:
    """The column of the win rate by a named evaluator: 1, ½ for a tie, 0."""
    return f"{evaluator}_win"


def split_measure(measure: str) -> tuple[str, str]:
    """A measure as (evaluator, kind): ("polite", "reward") of polite_reward; no evaluator for the main one's."""
    evaluator, _, kind = measure.rpartition("_")
    return (evaluator, kind) if kind in MEASURE_KINDS else ("", measure)


def is_rate(measure: str) -> bool:
    """Whether a measure is a win rate, of the main evaluator or a named one."""
    return split_measure(measure)[1] == "win"
