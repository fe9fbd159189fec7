"""Compare the best round of every run, chosen on some eval prompts, with the last round on the other prompts."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from tyro.conf import arg

from _program import run
from prefloop.config.experiment import Experiment
from prefloop.core.progress import Summary
from prefloop.evaluation.best_rounds import best_rounds, draw_validation_prompts
from prefloop.evaluation.results import judgments
from prefloop.report.captions import caption, count_of, interval_sentence
from prefloop.report.labels import relabeled
from prefloop.report.tables import given_measures, in_brackets, save_table, table_label, with_interval
from prefloop.report.win_rates import opponent_label


def main(
    *, experiment: Annotated[Experiment, arg(name="")], fraction: float, measure: str, seed: int = 0, table: Path
) -> Summary:
    """Write one row per method and measure; brackets are 95 % CIs over prompts that are not used for the choice.

    Args:
        fraction: Fraction of the eval prompts that is used for the choice.
        measure: The measure with the largest mean in the chosen round: reward, feedback or win, or one
            by a named evaluator, as polite_reward.
        seed: Seed of the draw of these prompts.
        table: Path of the .csv; its .tex and caption .rst are written next to it.
    """
    rows = judgments(experiment)
    validation = draw_validation_prompts(rows[["prompt_id", "family"]], fraction, seed)
    data = best_rounds(rows, experiment, given_measures(rows, experiment), measure, validation)
    over_seeds = data[data["seed"].isna()]
    shown = relabeled(experiment, over_seeds[["method"]].copy())
    shown["rounds"] = over_seeds["rounds"]
    shown["measure"] = over_seeds["measure"].map(table_label)
    shown["best round"] = with_interval(over_seeds, "best")
    shown["last round"] = with_interval(over_seeds, "last")
    ends = zip(over_seeds["difference"], over_seeds["difference_low"], over_seeds["difference_high"], strict=True)
    shown["difference"] = [
        f"{mean:+.3g} {in_brackets(low, high)}" if pd.notna(mean) else "--" for mean, low, high in ends
    ]
    test, seeds = rows["prompt_id"].nunique() - len(validation), len(experiment.seeds)
    text = caption(
        f"The round of each run with the best mean {table_label(measure)} on the validation prompts "
        f"({count_of(len(validation), 'eval prompt')} drawn at random), {'in the order of seeds, ' * (seeds > 1)}"
        f"against the last round, both on the {count_of(test, 'other eval prompt')}, with win rates against "
        f"{opponent_label(experiment.opponents[0])}.",
        interval_sentence(experiment, "brackets"),
        "No number here includes the validation prompts, and no other table or figure uses the choice.",
    )
    save_table(table, data, shown, text)
    return Summary(f"{len(data)} rows -> {table}")


run(main)
