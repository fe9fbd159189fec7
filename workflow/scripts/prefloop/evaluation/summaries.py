"""Summaries of an experiment's judgments: one row per policy, with means and CIs."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from prefloop.config.evaluator_measures import MAIN, win_measure
from prefloop.config.experiment import Experiment
from prefloop.evaluation.comparisons import arrays, last_round
from prefloop.evaluation.inference import best, interval_of, length_controlled, mean_interval, rate_interval
from prefloop.evaluation.results import means_of_seeds, spent, truncated_samples
from prefloop.evaluation.row_counts import row_counts
from prefloop.evaluation.sample_facts import sample_facts

OUTCOME_NAMES = ["win", "tie", "loss", "invalid"]


def final_results(
    rows: pd.DataFrame, experiment: Experiment, measures: Sequence[str], divergence: bool = False
) -> tuple[pd.DataFrame, dict[str, pd.Index]]:
    """Results after the last round, one row for the initial policy and one per method.

    Args:
        rows: The result of `results.judgments`.
        experiment: The runs.
        measures: Columns of `rows`.
        divergence: Whether KL(policy‖initial policy) was measured.

    Returns:
        The table, and the index of the row that is significantly better than all others, if any, by measure.
    """
    last = last_round(rows, experiment)
    values = {measure: arrays(last, measure) for measure in measures}
    prompts, steps = (
        row_counts(experiment, column).groupby("method")[column].sum() / len(experiment.seeds)
        for column in ("prompts", "optimizer_steps")
    )
    spent_at_end = spent(experiment).query(f"round == {experiment.rounds}").set_index("method")
    costs = spent_at_end[["generated_tokens", "flops"]].to_dict("index")
    facts = {
        (row["method"], row["round"]): {name: row[name] for name in ("truncated", "kl") if name in row}
        for row in sample_facts(rows, experiment, divergence).to_dict("records")
    }
    table = []
    for method, part in last.items():
        row = {"method": method, "seeds": 1 if method == "initial" else len(experiment.seeds)}
        for measure in measures:
            interval = interval_of(measure, values[measure][method])
            row |= {measure: interval.mean, f"{measure}_low": interval.low, f"{measure}_high": interval.high}
        at_end = (experiment.methods[0], 0) if method == "initial" else (method, experiment.rounds)
        row |= facts[at_end] | {"invalid": int(part["win"].isna().sum())}
        row |= {f"{name}_invalid": int(part[win_measure(name)].isna().sum()) for name in experiment.evaluators}
        row |= {"prompts": prompts.get(method, 0), "optimizer_steps": steps.get(method, 0)}
        table.append(row | costs.get(method, {"generated_tokens": 0, "flops": 0}))
    data = pd.DataFrame(table)
    return data, {measure: data.index[data["method"] == best(values[measure])] for measure in measures}


def final_seeds(rows: pd.DataFrame, experiment: Experiment, measures: Sequence[str]) -> pd.DataFrame:
    """The mean of every run after the last round, one row per method, measure and seed.

    Args:
        rows: The result of `results.judgments`.
        experiment: The runs.
        measures: Columns of `rows`.

    Returns:
        Columns method, seed, measure, mean, prompts (those with a valid value).
    """
    keys, last = ["method", "seed"], rows[rows["round"] == experiment.rounds]
    valid = last.groupby([*keys, "prompt_id"], sort=False)[list(measures)].count() > 0  # in at least one sample
    counts = valid.groupby(keys, sort=False).sum().reset_index()
    means = means_of_seeds(last, keys, list(measures))
    return means.merge(counts.melt(keys, list(measures), "measure", "prompts"), on=[*keys, "measure"])


def length_effects(rows: pd.DataFrame, experiment: Experiment) -> tuple[pd.DataFrame, pd.Index]:
    """Length and its effect on win rates after the last round, one row per policy.

    Columns are the numbers of tokens, the truncated share, the raw and the length-controlled win rate, and how often
    the longer response won. Values are averaged over the samples of a prompt first, also for the length-controlled win
    rate.

    Returns:
        The table, and the index of the row with the significantly best win rate, if any.
    """
    longer_by = rows["n_tokens"] - rows["n_tokens_opponent"]
    parts = last_round(rows.assign(longer_by=longer_by, longer_won=longer_won(rows["win"], longer_by)), experiment)
    columns = ("n_tokens", "n_tokens_opponent", "win", "longer_by", "longer_won")
    tokens, opponents, wins, lengths, won = (arrays(parts, column) for column in columns)
    truncated, table = truncated_samples(experiment), []
    for method in parts:
        intervals = {
            "n_tokens": mean_interval(tokens[method]),
            "win": rate_interval(wins[method]),
            "length_controlled_win": length_controlled(wins[method], lengths[method]),
            "longer_won": rate_interval(won[method]),
        }
        row = {"method": method, "seeds": len(wins[method]), "n_tokens_opponent": np.nanmean(opponents[method])}
        cut, samples = truncated[method, 0 if method == "initial" else experiment.rounds]
        row["truncated"] = cut / samples
        for measure, interval in intervals.items():
            row |= {measure: interval.mean, f"{measure}_low": interval.low, f"{measure}_high": interval.high}
        table.append(row)
    data = pd.DataFrame(table)
    return data, data.index[data["method"] == best(wins)]


def longer_won(wins: pd.Series, longer_by: pd.Series) -> pd.Series:
    """Whether the longer response won, as 1 or 0; NaN for a comparison without a winner or with equal lengths."""
    decided = wins.isin([0, 1]) & (longer_by != 0)
    return ((wins == 1) == (longer_by > 0)).astype(float).where(decided)


def outcomes_by_evaluator(rows: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """`outcome_counts` of every evaluator.

    If there are named evaluators, a first column `evaluator` has their names, and `main` for the main evaluator.

    Args:
        rows: The result of `results.comparisons`.
        experiment: The runs.
    """
    if not experiment.evaluators:
        return outcome_counts(rows)
    tables = [outcome_counts(rows).assign(evaluator=MAIN)]
    for name in experiment.evaluators:
        renamed = rows.assign(win=rows[win_measure(name)], outcome=rows[f"{name}_outcome"])
        tables.append(outcome_counts(renamed).assign(evaluator=name))
    table = pd.concat(tables, ignore_index=True)
    return table[["evaluator", *table.columns.drop("evaluator")]]


def outcome_counts(rows: pd.DataFrame) -> pd.DataFrame:
    """Counts of outcomes over prompts, samples and seeds, and win rates with CIs, of every policy and opponent.

    Args:
        rows: The result of `results.comparisons`.

    Returns:
        One row per opponent, temperature, method, round and checkpoint. `best` marks a win rate that is significantly
        higher (`inference.best`) than those of all other methods at the same round and checkpoint and of the policies
        before training.
    """
    table = []
    for (opponent, temperature), against in rows.groupby(["opponent", "temperature"], sort=False):
        policies = dict(list(against.groupby(["method", "round", "checkpoint"], sort=False)))
        wins = arrays(policies, "win")
        untrained = {policy: values for policy, values in wins.items() if policy[1] == 0}
        for stage in sorted({policy[1:] for policy in policies}):
            at_stage = {policy: values for policy, values in wins.items() if policy[1:] == stage}
            winner = best(untrained | at_stage) if stage[0] else None
            for policy, values in at_stage.items():
                counts = policies[policy]["outcome"].value_counts().reindex(OUTCOME_NAMES, fill_value=0)
                rate = rate_interval(values)
                row = {"opponent": opponent, "temperature": temperature}
                row |= dict(zip(("method", "round", "checkpoint"), policy, strict=True))
                row |= {"seeds": len(values), "prompts": policies[policy]["prompt_id"].nunique(), **counts}
                row |= {"win_rate": rate.mean, "win_rate_low": rate.low, "win_rate_high": rate.high}
                table.append(row | {"best": policy == winner})
    return pd.DataFrame(table)
