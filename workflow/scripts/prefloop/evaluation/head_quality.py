"""How well a reward head predicted later labels, and how large the label gaps between the chosen responses were."""

import numpy as np
import pandas as pd

from prefloop.config.experiment import Experiment
from prefloop.core.jsonl import iterate_rows

COLUMNS = ["method", "seed", "round", "step", "prompts", "responses", "correlation", "gap"]


def head_quality(experiment: Experiment) -> pd.DataFrame:
    """One row per step of the methods that choose which responses are labeled.

    Columns are method, seed, round, step, prompts and responses (numbers of those that got a label), `correlation`
    (between predicted and actual labels within prompts, NaN if there was no head yet) and `gap` (largest minus smallest
    label of a prompt, mean over prompts, in units of the feedback).
    """
    rows = []
    for keys, folder in experiment.step_folders():
        if keys["method"] in experiment.acquiring:
            chosen = pd.DataFrame(iterate_rows(folder / "acquired.jsonl", ["prompt_id", "response_id", "predicted"]))
            labels = pd.DataFrame(iterate_rows(folder / "rewards.jsonl", ["prompt_id", "response_id", "reward"]))
            rows.append(keys | quality_of_step(chosen, labels))
    return pd.DataFrame(rows, columns=COLUMNS)


def quality_of_step(chosen: pd.DataFrame, labels: pd.DataFrame) -> dict:
    """Counts, correlation and gap of a step.

    Args:
        chosen: Columns prompt_id, response_id and predicted of the chosen responses.
        labels: Columns prompt_id, response_id and reward, which is null where the feedback gave none.
    """
    keys = ["prompt_id", "response_id"]
    table = chosen[[*keys, "predicted"]].merge(labels[[*keys, "reward"]], on=keys)
    numbers = table[["predicted", "reward"]].astype(float)
    groups = numbers.groupby(table["prompt_id"])
    gaps = groups["reward"].max() - groups["reward"].min()
    valid = numbers["reward"].notna()
    centered = numbers[valid] - numbers[valid].groupby(table["prompt_id"][valid]).transform("mean")
    return {
        "prompts": len(gaps),
        "responses": len(table),
        "correlation": correlation(centered["predicted"].to_numpy(), centered["reward"].to_numpy()),
        "gap": float(gaps.mean()),
    }


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two arrays [n] with mean 0; NaN if a number is missing or an array is constant."""
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else float("nan")
