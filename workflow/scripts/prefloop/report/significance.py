"""Which policies differ significantly, as a caption's last sentence.

A difference is significant if the 95 % CI of the paired difference excludes 0. The CIs are not corrected for the number
of comparisons.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from prefloop.config.experiment import Experiment
from prefloop.evaluation.comparisons import arrays, not_significant_pairs
from prefloop.evaluation.inference import PromptTable
from prefloop.report.win_rates import measure_label

MAX_METHODS = 5  # all pairs are compared; more methods are only compared with the baseline


def significance_clause(experiment: Experiment, values: Mapping[str, PromptTable], measure: str) -> str:
    """Which policies do not differ significantly in a measure; empty for one policy.

    `values` are [seeds, prompts] by policy, and `measure` is their name in the caption.
    """
    if len(values) < 2:
        return ""
    values = {experiment.label(name): array for name, array in values.items()}
    if 1 < len(experiment.methods) <= MAX_METHODS:
        return pairs_clause(not_significant_pairs(dict(values)), measure)
    baseline = experiment.label(experiment.baseline)
    baseline = baseline if baseline in values else experiment.label(experiment.methods[0])
    return baseline_clause(baseline, values, measure)


def final_clauses(experiment: Experiment, ends: Mapping[str, pd.DataFrame], measures: Sequence[str]) -> list[str]:
    """`significance_clause` of each measure after the last round; `ends` are as `comparisons.last_round` has them."""
    parts = {method: ends[method] for method in experiment.methods}
    return [
        significance_clause(experiment, arrays(parts, measure), f"final {measure_label(measure)}")
        for measure in measures
    ]


def pairs_clause(pairs: Sequence[tuple[str, str]], measure: str) -> str:
    """The clause that names the pairs whose differences are not significant."""
    if not pairs:
        return f"all differences in {measure} are significant"
    named = ", ".join(f"{first}–{second}" for first, second in pairs)
    return f"these differences in {measure} are not significant: {named}"


def baseline_clause(baseline: str, values: Mapping[str, PromptTable], measure: str) -> str:
    """The clause that names the policies that do not differ significantly from a baseline."""
    equal = [
        name
        for name in values
        if name != baseline and not_significant_pairs({baseline: values[baseline], name: values[name]})
    ]
    return named_baseline_clause(baseline, equal, measure)


def named_baseline_clause(baseline: str, equal: Sequence[str], measure: str) -> str:
    """`baseline_clause` for the known names of these policies."""
    if not equal:
        return f"all differences from {baseline} in {measure} are significant"
    return f"these do not differ significantly from {baseline} in {measure}: {', '.join(equal)}"


def significance_sentence(clauses: Sequence[str]) -> str:
    """The last sentence of a caption; empty without clauses."""
    named = "; ".join(filter(None, clauses))
    return f"By paired 95 % CIs, not corrected for multiple comparisons, {named}." if named else ""
