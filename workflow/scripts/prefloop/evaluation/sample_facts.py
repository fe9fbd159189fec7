"""Length, truncation and KL divergence of a policy's samples, which help to interpret its quality."""

from typing import Any

import numpy as np
import pandas as pd

from prefloop.config.experiment import Experiment
from prefloop.evaluation.comparisons import mean_over_samples
from prefloop.evaluation.results import kl_rows, truncated_samples


def sample_facts(rows: pd.DataFrame, experiment: Experiment, divergence: bool = False) -> pd.DataFrame:
    """Facts about the samples of every method and round, with the initial policy as round 0 of every method.

    Args:
        rows: The result of `results.judgments`.
        experiment: The runs.
        divergence: Whether KL(policy‖initial policy) was measured.

    Returns:
        Columns method, round, n_tokens (mean over prompts and seeds), truncated (share of the samples) and, with
        `divergence`, kl (nats per response, mean; 0 for the initial policy).
    """
    truncated, table = truncated_samples(experiment), []
    kl = kl_rows(experiment).groupby(["method", "round"])["kl"].mean().to_dict() if divergence else {}
    for (method, round_index), part in rows.groupby(["method", "round"], sort=False):
        row: dict[str, Any] = {"method": method, "round": round_index}
        cut, samples = truncated[(row["method"], row["round"]) if round_index else ("initial", 0)]
        row |= {"n_tokens": np.nanmean(mean_over_samples(part, "n_tokens")), "truncated": cut / samples}
        table.append(row | ({"kl": kl.get((method, round_index), 0.0)} if divergence else {}))
    return pd.DataFrame(table)
