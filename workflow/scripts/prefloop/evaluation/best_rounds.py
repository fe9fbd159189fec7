"""The best round of every run, chosen on some eval prompts and compared with the last round on the others.

A round that is chosen and reported on the same prompts looks better than it is. So the prompts are split once, before
any value is read, and the prompts that choose a round are left out of its comparison.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from prefloop.config.experiment import Experiment
from prefloop.core.errors import InputError
from prefloop.core.seeds import rng_for
from prefloop.evaluation.comparisons import arrays
from prefloop.evaluation.inference import interval_of, paired_difference
from prefloop.evaluation.results import means_of_seeds

Run = tuple[str, int]  # method and seed


def draw_validation_prompts(prompts: pd.DataFrame, fraction: float, seed: int) -> set[str]:
    """Draw the prompts that choose the round: whole families, at least one, with about `fraction` of all prompts.

    The draw does not depend on the order or the values of the rows. If all prompts are in one family, single prompts
    are drawn instead, because intervals ignore such a family too.

    Args:
        prompts (pd.DataFrame): Columns prompt_id and family, one row or more per prompt.
        fraction (float): Between 0 and 1.
        seed (int): Seed of the draw.

    Raises:
        InputError: There are fewer than two prompts.
    """
    families = prompts.drop_duplicates("prompt_id").set_index("prompt_id")["family"]
    if families.nunique() == 1:
        families = families.index.to_series()
    members: dict[str, list[str]] = {}
    for prompt, family in families.items():
        members.setdefault(str(family), []).append(str(prompt))
    if len(members) < 2:
        raise InputError("evaluation.validation: one eval prompt, expected two or more to choose and compare rounds")
    names = sorted(members)  # the order of rows must not matter
    drawn = [names[i] for i in rng_for(seed, "validation").permutation(len(names))]
    sizes = np.cumsum([len(members[name]) for name in drawn])[:-1]  # at least one family is left for the comparison
    count = 1 + int(np.abs(sizes - fraction * len(families)).argmin())
    return {prompt for name in drawn[:count] for prompt in members[name]}


def choose_rounds(rows: pd.DataFrame, measure: str) -> dict[Run, int]:
    """The round with the largest mean of a measure, for every run; the earliest one of a tie.

    The samples of a prompt are averaged first, and invalid judgments are left out. The initial policy is not a
    candidate.

    Args:
        rows (pd.DataFrame): As `results.judgments` returns them, only for the prompts that choose the round.
        measure (str): Column of `rows`.

    Raises:
        InputError: A run has no valid value in any round.
    """
    keys = ["method", "seed", "round"]
    means = means_of_seeds(rows[rows["round"] > 0], keys, [measure]).sort_values(keys)
    chosen: dict[Run, int] = {}
    for _, part in means.groupby(["method", "seed"], sort=False):
        method, seed = str(part["method"].iloc[0]), int(part["seed"].iloc[0])
        valid = part.dropna(subset="mean").sort_values("mean", ascending=False, kind="stable")
        if valid.empty:
            raise InputError(
                f"evaluation.validation: {measure} of {method}, seed {seed}, has no valid value on the validation "
                "prompts; raise evaluation.validation.fraction, or choose another measure"
            )
        chosen[method, seed] = int(valid["round"].iloc[0])
    return chosen


def best_rounds(
    rows: pd.DataFrame, experiment: Experiment, measures: Sequence[str], measure: str, validation: set[str]
) -> pd.DataFrame:
    """Compare every run's best round by `measure` on the validation prompts with its last round, on the other prompts.

    Args:
        rows (pd.DataFrame): As `results.judgments` returns them.
        experiment (Experiment): The runs.
        measures (Sequence[str]): Columns of `rows` to compare.
        measure (str): The measure that chooses the round.
        validation (set[str]): Ids of the prompts that choose the round.

    Returns:
        pd.DataFrame: One row per method and measure over all seeds and, with several seeds, one per seed without
            intervals. Columns method, seed (empty over all seeds), measure, rounds (the round chosen for each seed),
            best and last (means on test prompts), and difference (best minus last, paired). The last three also have
            columns ending in _low and _high.
    """
    chooses = rows["prompt_id"].isin(validation)
    test, chosen = rows[~chooses & (rows["round"] > 0)], choose_rounds(rows[chooses], measure)
    table: list[dict] = []
    for method in experiment.methods:
        of_method = test[test["method"] == method]
        rounds = {seed: chosen[method, seed] for seed in experiment.seeds}
        parts = {
            "best": of_method[of_method["round"] == of_method["seed"].map(rounds)],
            "last": of_method[of_method["round"] == experiment.rounds],
        }
        for name in measures:
            table += comparison_rows({"method": method}, name, arrays(parts, name), rounds)
    data = pd.DataFrame(table).astype({"seed": "Int64"})
    return data[["method", "seed", *(column for column in data.columns if column not in ("method", "seed"))]]


def comparison_rows(
    keys: dict, measure: str, values: Mapping[str, pd.DataFrame], rounds: Mapping[int, int]
) -> list[dict]:
    """The rows of `best_rounds` for one method and measure.

    Args:
        keys: Columns that all rows share.
        measure: Name of the measure.
        values: Values of the rounds `best` and `last`, each [seeds, prompts].
        rounds: The chosen round by seed.
    """
    intervals = {name: interval_of(measure, table) for name, table in values.items()}
    intervals["difference"] = paired_difference(values["best"], values["last"])
    row = keys | {"seed": None, "measure": measure, "rounds": " ".join(map(str, rounds.values()))}
    for name, interval in intervals.items():
        row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    if len(rounds) == 1:
        return [row]
    means = {name: table.mean(axis=1) for name, table in values.items()}
    means["difference"] = (values["best"] - values["last"]).mean(axis=1)
    of_seeds = [
        keys
        | {"seed": seed, "measure": measure, "rounds": str(number)}
        | {name: mean.loc[seed] for name, mean in means.items()}
        for seed, number in rounds.items()
    ]
    return [row, *of_seeds]
