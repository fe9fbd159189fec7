"""Checks whether the pairs that a judge compares fit other settings; see `consistency`.

Snakemake imports this module at every start, so it imports nothing heavy.
"""

import math

from prefloop.config.acquisition_checks import labels_per_prompt
from prefloop.config.checks import failed

TOURNAMENT = "best_worst_tournament"
MIN_TOURNAMENT = 4  # responses; a tournament of three compares every two


def asked_plan(settings: dict) -> str:
    """Return the plan by which a method's judge compares responses; `all` for a method without a judge."""
    feedback = settings["feedback"]
    return feedback["judge"]["pairs"] if feedback["kind"] == "judge" else "all"


def pairs_per_prompt(settings: dict) -> int:
    """Return the maximum number of pairs per prompt that can get feedback."""
    responses, plan = labels_per_prompt(settings), asked_plan(settings)
    if plan == "random_k":
        return settings["feedback"]["judge"]["random_pairs"]
    return math.ceil(3 * responses / 2) - 1 if plan == TOURNAMENT else math.comb(responses, 2)


def impossible_questions(settings: dict) -> list[str]:
    """Return errors of `feedback.judge.pairs`: plans that save no questions, and settings that need all pairs."""
    plan, rule = asked_plan(settings), settings["acquisition"]["rule"]
    if plan == "all":
        return []
    generation, pairing = settings["generation"], settings["pairs"]["pairing"]
    responses = generation["n"] if generation["sampler"] != "dataset" else 2
    count, possible = settings["feedback"]["judge"]["random_pairs"], math.comb(responses, 2)
    checks = [
        (
            rule != "all",
            f"feedback.judge.pairs: {plan}, but acquisition.rule {rule} chooses which responses are compared; set one "
            "of the two to all",
        ),
        (
            plan == "random_k" and count >= possible,
            f"feedback.judge.random_pairs: {count}, but {responses} responses have only {possible} pairs; lower it, "
            "or set judge.pairs: all",
        ),
        (
            plan == TOURNAMENT and responses < MIN_TOURNAMENT,
            f"feedback.judge.pairs: a tournament of {responses} responses compares all pairs; raise "
            f"generation.n to {MIN_TOURNAMENT} or more, or set it to all",
        ),
        (
            plan == "random_k" and generation["sampler"] == "best_worst",
            "feedback.judge.pairs: random_k rarely compares the best response with the worst, which generation.sampler "
            f"best_worst trains on; use {TOURNAMENT} or all",
        ),
        (
            pairing is not None,
            f"feedback.judge.pairs: {plan} leaves out pairs that pairs.pairing {pairing} may choose; set it to all",
        ),
    ]
    return failed(checks)
