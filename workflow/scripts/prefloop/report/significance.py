"""The sentences of a caption that say which policies differ significantly.

A difference is significant if the 95 % CI of the paired difference excludes 0. The CIs are not corrected for the number
of comparisons. With one seed they show only whether the policies of these runs differ, and the sentences say so.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from prefloop.config.experiment import Experiment
from prefloop.evaluation.comparisons import arrays, not_significant_pairs
from prefloop.evaluation.inference import PromptTable
from prefloop.report.win_rates import measure_label

MAX_METHODS = 5  # up to here all pairs are compared; more methods are only compared with the baseline


def significance_clause(experiment: Experiment, values: Mapping[str, PromptTable], measure: str) -> str:
    """A clause with the policies that do not differ significantly in a measure; empty for one policy with values.

    `values` are [seeds, prompts] by policy, and `measure` is the name of the measure in the caption.
    """
    values = {experiment.label(name): array for name, array in values.items() if np.isfinite(np.asarray(array)).any()}
    if len(values) < 2:
        return ""
    if 1 < len(experiment.methods) <= MAX_METHODS:
        return pairs_clause(not_significant_pairs(dict(values)), measure)
    baseline = experiment.label(experiment.baseline)
    baseline = baseline if baseline in values else experiment.label(experiment.methods[0])
    return baseline_clause(baseline, values, measure)


def final_clauses(experiment: Experiment, ends: Mapping[str, pd.DataFrame], measures: Sequence[str]) -> list[str]:
    """`significance_clause` of each measure after the last round; `ends` are from `comparisons.last_round`."""
    parts = {method: ends[method] for method in experiment.methods}
    return [
        significance_clause(experiment, arrays(parts, measure), f"final {measure_label(measure)}")
        for measure in measures
    ]


def pairs_clause(pairs: Sequence[tuple[str, str]], measure: str) -> str:
    """A clause that names the pairs whose differences are not significant."""
    if not pairs:
        return f"all differences in {measure} are significant"
    named = ", ".join(f"{first}–{second}" for first, second in pairs)
    return f"these differences in {measure} are not significant: {named}"


def baseline_clause(baseline: str, values: Mapping[str, PromptTable], measure: str) -> str:
    """A clause that names the policies that do not differ significantly from a baseline."""
    equal = [
        name
        for name in values
        if name != baseline and not_significant_pairs({baseline: values[baseline], name: values[name]})
    ]
    return named_baseline_clause(baseline, equal, measure)


def named_baseline_clause(baseline: str, equal: Sequence[str], measure: str) -> str:
    """`baseline_clause`, if the names of these policies are known."""
    if not equal:
        return f"all differences from {baseline} in {measure} are significant"
    return f"these do not differ significantly from {baseline} in {measure}: {', '.join(equal)}"


def significance_sentence(clauses: Sequence[str], seeds: int) -> str:
    """The last sentence of a caption; empty without clauses. `seeds` is the number of seeds."""
    named = "; ".join(filter(None, clauses))
    if not named:
        return ""
    if seeds == 1:
        return (
            f"By paired 95 % CIs over prompts, not corrected for multiple comparisons, {named}; this compares the "
            "policies of 1 seed, not the methods."
        )
    return f"By paired 95 % CIs, not corrected for multiple comparisons, {named}."


def bold_sentence(seeds: int, others: str = "other rows") -> str:
    """The sentence of a caption that explains bold cells (`inference.best`); `seeds` is the number of seeds."""
    bold = f"Bold is significantly better than all {others}, with Bonferroni's correction"
    return f"{bold}, over the prompts of 1 seed: it compares policies, not methods." if seeds == 1 else f"{bold}."
