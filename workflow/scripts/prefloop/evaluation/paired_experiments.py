"""Comparing methods of two experiments on the same prompts and seeds, after a check that they are comparable."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from prefloop.config.evaluator_measures import reward_measure, win_measure
from prefloop.config.experiment import Comparison, Experiment
from prefloop.config.feedback_identity import feedback_identity
from prefloop.config.recorded_settings import RecordedExperiment
from prefloop.config.resolve import TRAINED, feedback_sources, model_of
from prefloop.core.errors import InputError
from prefloop.evaluation.comparisons import arrays
from prefloop.evaluation.inference import paired_difference
from prefloop.evaluation.result_files import eval_digests, has_result, reward_model_digest, samples_digest
from prefloop.evaluation.results import comparisons

SAMPLING = ("samples", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens", "stop")
TOLERANCE = 1e-4  # relative difference up to which two rewards of a text count as equal, because of rounding


def method_pairs(a: Experiment, b: Experiment, named: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs of methods (one of `a`, one of `b`) to compare: the named pairs, or else methods with equal names.

    Raises:
        InputError: There is no pair, or an experiment does not have a named method.
    """
    for first, second in named:
        for experiment, name in ((a, first), (b, second)):
            if name not in experiment.methods:
                raise InputError(f"pairs: {name} is not a method of {experiment.root}: {', '.join(experiment.methods)}")
    pairs = list(named) or [(name, name) for name in a.methods if name in b.methods]
    if not pairs:
        raise InputError(
            f"{a.root} ({', '.join(a.methods)}) and {b.root} ({', '.join(b.methods)}) have no method in common; "
            "name pairs of methods, such as dota:bold"
        )
    return pairs


def check_comparable(a: RecordedExperiment, b: RecordedExperiment) -> None:
    """Raise InputError with every reason why the evaluations of two experiments cannot be paired.

    Prompts, evaluator, sampling settings, the first opponent and at least one seed must agree. If that opponent is the
    initial policy, its samples must be the same texts with the same rewards.
    """
    first, second = a.experiment, b.experiment
    reasons = differing_prompts(first.root, second.root)
    if first.evaluator != second.evaluator:
        reasons.append(f"the evaluators differ: {first.evaluator} and {second.evaluator}")
    reasons += differing_reward_models(a, b, *(x.config["evaluation"]["evaluator"] for x in (a, b)))
    for key in SAMPLING:
        values = [recorded.config["evaluation"][key] for recorded in (a, b)]
        if values[0] != values[1]:
            reasons.append(f"evaluation.{key} differs: {values[0]} and {values[1]}")
    if not common_seeds(first, second):
        reasons.append(f"no seed in common: {first.seeds} and {second.seeds}")
    if first.opponents[0] != second.opponents[0]:
        reasons.append(f"the first opponents differ: {first.opponents[0]} and {second.opponents[0]}")
    elif not reasons and first.opponents[0] == "initial":
        reasons += differing_initial(first, second)
    if reasons:
        raise InputError(*(f"{first.root} and {second.root} cannot be compared: {reason}" for reason in reasons))


def common_seeds(a: Experiment, b: Experiment) -> list[int]:
    """Seeds that both experiments have."""
    return sorted(set(a.seeds) & set(b.seeds))


def differing_prompts(a: Path, b: Path) -> list[str]:
    """Reasons why the eval prompts of two experiments are not the same."""
    texts = [eval_digests(root) for root in (a, b)]
    common = texts[0].keys() & texts[1].keys()
    if texts[0].keys() != texts[1].keys():
        return [f"{len(texts[0])} and {len(texts[1])} eval prompts, of which {len(common)} are in both"]
    changed = sorted(name for name in common if texts[0][name] != texts[1][name])
    return [f"eval prompt {changed[0]} has different texts"] if changed else []


def differing_reward_models(a: RecordedExperiment, b: RecordedExperiment, of_a: dict, of_b: dict) -> list[str]:
    """Reasons why evaluators that the experiments trained, with settings `of_a` and `of_b`, are not the same."""
    names = [
        name.removeprefix(TRAINED)
        for source in feedback_sources(of_a)
        if (name := model_of(source) or "").startswith(TRAINED)
    ]
    reasons = []
    for name in names:
        sums = [reward_model_digest(recorded.experiment.root, name) for recorded in (a, b)]
        if sums[0] != sums[1]:
            reasons.append(f"each trained its own evaluator {TRAINED}{name}, and their weights differ")
    return reasons


def common_evaluators(a: RecordedExperiment, b: RecordedExperiment) -> tuple[list[str], dict[str, str]]:
    """The named evaluators that both have, with equal settings and weights; and why each other one is left out."""
    identities = [dict(zip(x.experiment.evaluators, x.experiment.evaluated_by, strict=True)) for x in (a, b)]
    common, left_out = [], {}
    for name in dict.fromkeys([*identities[0], *identities[1]]):
        missing = [x.experiment.root for x, known in zip((a, b), identities, strict=True) if name not in known]
        if missing:
            left_out[name] = f"{missing[0]} has no evaluator of this name"
        elif identities[0][name] != identities[1][name]:
            left_out[name] = f"the settings differ: {identities[0][name]} and {identities[1][name]}"
        elif reasons := differing_reward_models(a, b, *(x.config["evaluation"]["evaluators"][name] for x in (a, b))):
            left_out[name] = reasons[0]
        elif initial_rewards_differ(a.experiment, b.experiment, name):
            left_out[name] = "it gives different rewards to the same samples of the initial policy"
        else:
            common.append(name)
    return common, left_out


def differing_initial(a: Experiment, b: Experiment) -> list[str]:
    """Reasons why the initial policies, which are the opponents, do not have the same samples and rewards."""
    folder = a.comparison("initial").folder
    if samples_digest(a.root, folder) != samples_digest(b.root, folder):
        return ["the initial policies, which are the opponents, have different samples"]
    if initial_rewards_differ(a, b):
        return ["the evaluators give different rewards to the same samples of the initial policy"]
    return []


def initial_rewards_differ(a: Experiment, b: Experiment, evaluator: str = "") -> bool:
    """Whether the evaluator, or a named one, gives different rewards to the same samples of the initial policies."""
    measure, evaluators = (reward_measure(evaluator), [evaluator]) if evaluator else ("reward", [])
    judged = [
        finished_comparisons(x, [x.comparison("initial")], evaluators).set_index(["prompt_id", "sample"])
        for x in (a, b)
    ]
    rewards = [rows[measure].astype(float) for rows in judged]
    left, right = rewards[0].align(rewards[1])
    scale = left.abs().combine(right.abs(), max).clip(lower=1.0)
    return bool(((left - right).abs() > TOLERANCE * scale).any())


def compared_measures(a: RecordedExperiment, b: RecordedExperiment, evaluators: Sequence[str]) -> list[str]:
    """Measures that have the same meaning in both, including those of the common `evaluators`.

    The rewards by the feedback are included only if both experiments have the same feedback.
    """
    identities = {feedback_identity(recorded.config["feedback"]) for recorded in (a, b)}
    named = [measure(name) for name in evaluators for measure in (reward_measure, win_measure)]
    return [*["feedback"] * (len(identities) == 1), "reward", "win", *named]


def experiment_differences(
    a: RecordedExperiment, b: RecordedExperiment, pairs: Sequence[tuple[str, str]], evaluators: Sequence[str] = ()
) -> pd.DataFrame:
    """Differences between methods of `a` and of `b` after their last rounds, paired by prompt and common seed.

    `evaluators` are the named evaluators that both have (`common_evaluators`).

    Returns:
        Columns method_a, method_b, measure, seeds, prompts, mean_a, mean_b, difference, low, high, significant (the
        95 % CI excludes 0). Measures without a value are left out.

    Raises:
        InputError: A run is not finished, or no measure has a value on both sides.
    """
    seeds = common_seeds(a.experiment, b.experiment)
    rows = []
    for first, second in pairs:
        sides = {"a": (a.experiment, first), "b": (b.experiment, second)}
        parts = {side: last_judgments(*run, seeds, evaluators) for side, run in sides.items()}
        for measure in compared_measures(a, b, evaluators):
            values = arrays(parts, measure)
            if not all(part[measure].notna().any() for part in parts.values()):
                continue
            interval = paired_difference(values["a"], values["b"])
            keys = {"method_a": first, "method_b": second, "measure": measure}
            sizes = {"seeds": len(seeds), "prompts": values["a"].shape[1]}
            means = {f"mean_{side}": float(np.nanmean(table)) for side, table in values.items()}
            limits = dict(zip(("difference", "low", "high"), interval, strict=True))
            rows.append(keys | sizes | means | limits | {"significant": bool(interval.low > 0 or interval.high < 0)})
    if not rows:
        raise InputError(
            f"{a.experiment.root} and {b.experiment.root}: no measure has values of both methods of a pair; "
            "all judgments of the last rounds are invalid"
        )
    return pd.DataFrame(rows)


def last_judgments(
    experiment: Experiment, method: str, seeds: Sequence[int], evaluators: Sequence[str] = ()
) -> pd.DataFrame:
    """The judgments of a method's last round, for these seeds, by the evaluator and the named `evaluators`.

    Raises:
        InputError: A run is not finished.
    """
    wanted = [comparison for comparison in experiment.at_the_end((method,)) if comparison.seed in seeds]
    return finished_comparisons(experiment, wanted, evaluators)


def finished_comparisons(
    experiment: Experiment, wanted: Sequence[Comparison], evaluators: Sequence[str]
) -> pd.DataFrame:
    """`results.comparisons` with the columns of only these named evaluators.

    Raises:
        InputError: A file is missing.
    """
    for comparison in wanted:
        for path in (comparison.judgments, *map(comparison.judged_by, evaluators)):
            if not has_result(experiment.root / path):
                raise InputError(f"{experiment.root / path}: missing; finish the experiment first")
    return comparisons(replace(experiment, evaluators=tuple(evaluators)), wanted)
