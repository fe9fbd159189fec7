"""Learning curves of two experiments in one figure."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from prefloop.config.evaluator_measures import is_rate
from prefloop.config.experiment import Experiment
from prefloop.config.recorded_settings import RecordedExperiment
from prefloop.evaluation.paired_experiments import common_seeds, compared_measures
from prefloop.evaluation.results import judgments
from prefloop.report.captions import caption, interval_sentence
from prefloop.report.labels import figure_text, renamed
from prefloop.report.learning_curves import draw_learning_curves, shown_measures
from prefloop.report.plotting import note_evaluator
from prefloop.report.quality_curves import quality_by_cost, seeds_by_cost
from prefloop.report.significance import significance_sentence
from prefloop.report.win_rates import MAX_BANDS, measure_label, opponent_label


def experiment_names(a: RecordedExperiment, b: RecordedExperiment) -> tuple[str, str]:
    """Names that distinguish two experiments: those in their configs, or their folders if the names are equal."""
    names = a.config["name"], b.config["name"]
    return names if names[0] != names[1] else (str(a.experiment.root), str(b.experiment.root))


def experiment_curves(
    a: RecordedExperiment,
    b: RecordedExperiment,
    pairs: Sequence[tuple[str, str]],
    evaluators: Sequence[str] = (),
) -> tuple[Experiment, pd.DataFrame, pd.DataFrame]:
    """Quality of the compared methods of two experiments by round, over the seeds that both have.

    Args:
        a: An experiment.
        b: Another experiment.
        pairs: The compared methods (a's, b's).
        evaluators: The named evaluators that both have (`paired_experiments.common_evaluators`).

    Returns:
        An experiment with the methods of both, which has no files, and the tables of `quality_curves.quality_by_cost`
        and `quality_curves.seeds_by_cost`. A method is named `<experiment>: <label of the method>`.
    """
    seeds = tuple(common_seeds(a.experiment, b.experiment))
    methods: list[str] = []
    trained_by: list[str] = []
    tables = []
    for side, (recorded, name) in enumerate(zip((a, b), experiment_names(a, b), strict=True)):
        methods_of_side = tuple(dict.fromkeys(pair[side] for pair in pairs))
        experiment = restricted(recorded.experiment, methods_of_side, seeds, tuple(evaluators))
        rows = judgments(experiment)
        measures = shown_measures(
            [m for m in compared_measures(a, b, evaluators) if is_rate(m) or rows[m].notna().any()]
        )
        parts = quality_by_cost(experiment, rows, measures), seeds_by_cost(experiment, rows, measures)
        names = {method: f"{name}: {experiment.label(method)}" for method in experiment.methods}
        tables.append([renamed(part, names.__getitem__) for part in parts])
        methods += names.values()
        trained_by += experiment.trained_by
    one = restricted(a.experiment, (), seeds, tuple(evaluators))
    both = replace(one, methods=tuple(methods), labels=(), trained_by=tuple(trained_by))
    means, points = (pd.concat(parts, ignore_index=True) for parts in zip(*tables, strict=True))
    return both, means, points


def restricted(
    experiment: Experiment, methods: tuple[str, ...], seeds: tuple[int, ...], evaluators: tuple[str, ...]
) -> Experiment:
    """An experiment with some of its methods, seeds and named evaluators."""
    labels = tuple(map(experiment.label, methods)) if experiment.labels else ()
    trained_by = dict(zip(experiment.methods, experiment.trained_by, strict=False))
    evaluated_by = dict(zip(experiment.evaluators, experiment.evaluated_by, strict=True))
    return replace(
        experiment,
        methods=methods,
        seeds=seeds,
        labels=labels,
        trained_by=tuple(trained_by[method] for method in methods if method in trained_by),
        evaluators=evaluators,
        evaluated_by=tuple(evaluated_by[name] for name in evaluators),
    )


def draw_experiments(both: Experiment, means: pd.DataFrame, points: pd.DataFrame) -> Figure:
    """Draw the result of `experiment_curves`; curves differ in color, line style and marker."""
    shown = replace(both, methods=tuple(map(figure_text, both.methods)))
    picture = draw_learning_curves(shown, *(renamed(table, figure_text) for table in (means, points)))
    note_evaluator(picture, both)
    return picture


def curves_caption(a: RecordedExperiment, b: RecordedExperiment, means: pd.DataFrame, differences: pd.DataFrame) -> str:
    """Say what the figure shows, and which compared pairs differ in the evaluator's reward, or else in the win rate.

    Args:
        a: An experiment.
        b: Another experiment.
        means: From `experiment_curves`.
        differences: From `paired_experiments.experiment_differences`.
    """
    shared = replace(a.experiment, seeds=tuple(common_seeds(a.experiment, b.experiment)))
    measures, points = means["measure"].unique(), "; small points are seeds" * (len(shared.seeds) > 1)
    deciding = differences[differences["measure"] == ("reward" if "reward" in measures else "win")]
    return caption(
        "Quality on the same eval prompts after every round of two experiments "
        f"({', '.join(map(measure_label, measures))} against {opponent_label(shared.opponents[0])}), by number of "
        f"labels (scored responses or questions to a judge){points}.",
        "" if means["method"].nunique() > MAX_BANDS else interval_sentence(shared, "bands"),
        significance_sentence([compared_clause(a, b, deciding)], len(shared.seeds)),
    )


def compared_clause(a: RecordedExperiment, b: RecordedExperiment, differences: pd.DataFrame) -> str:
    """A clause with the compared pairs that do not differ significantly; all differences have one measure."""
    measure = f"final {measure_label(differences['measure'].iloc[0])}"
    equal = differences[~differences["significant"].astype(bool)]
    if equal.empty:
        return f"all compared pairs differ significantly in {measure}"
    first, second = experiment_names(a, b)
    pairs = (
        f"{first}: {a.experiment.label(left)} – {second}: {b.experiment.label(right)}"
        for left, right in zip(equal["method_a"], equal["method_b"], strict=True)
    )
    return f"these compared pairs do not differ significantly in {measure}: {', '.join(pairs)}"
