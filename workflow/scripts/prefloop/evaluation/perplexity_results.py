"""Perplexity of policies on plain text, from the rows of perplexity.jsonl."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from prefloop.config.experiment import Experiment
from prefloop.core.errors import InputError
from prefloop.evaluation.result_files import result_rows

PERPLEXITY = "evaluation/perplexity.jsonl"  # relative to a policy's folder
FIELDS = ("document", "n_tokens", "n_bytes", "logp")


class TextScore(NamedTuple):
    """A policy's log-probability of a text, and the size of the text."""

    n_tokens: int
    """Scored tokens."""
    n_bytes: int
    """Bytes of the text in UTF-8."""
    logp: float
    """log π of all tokens, in nats."""

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability per token; infinite if it overflows a float."""
        loss = -self.logp / self.n_tokens
        return math.exp(loss) if loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Negative log₂-probability per byte, which does not depend on how a tokenizer splits the text."""
        return -self.logp / math.log(2) / self.n_bytes


def total(rows: Iterable[dict]) -> TextScore:
    """The total over all documents, from rows of perplexity.jsonl."""
    rows = list(rows)
    return TextScore(
        sum(row["n_tokens"] for row in rows),
        sum(row["n_bytes"] for row in rows),
        math.fsum(row["logp"] for row in rows),
    )


def read_score(folder: Path) -> TextScore:
    """The total over all documents, from the file in a policy's folder."""
    return total(result_rows(folder / PERPLEXITY, FIELDS))


def perplexities(experiment: Experiment) -> pd.DataFrame:
    """The perplexity of every round of every run; the initial policy is round 0 of every run.

    Returns:
        Columns method, seed, round, perplexity (per token), bits_per_byte, n_tokens, n_bytes.

    Raises:
        InputError: The files are for different texts.
    """
    initial = read_score(experiment.root / "initial")
    runs = [({"method": m, "seed": s, "round": 0}, initial) for m in experiment.methods for s in experiment.seeds]
    runs += [(keys, read_score(folder)) for keys, folder in experiment.folders()]
    for keys, score in runs:
        if score[:2] != initial[:2]:
            run = f"{keys['method']}/seed-{keys['seed']}/round-{keys['round']}"
            raise InputError(
                f"{experiment.root / run / PERPLEXITY}: {score.n_tokens} tokens of {score.n_bytes} bytes, expected "
                f"{initial.n_tokens} of {initial.n_bytes} as in initial; run measure_perplexity again"
            )
    rows = [
        keys
        | {"perplexity": score.perplexity, "bits_per_byte": score.bits_per_byte}
        | {"n_tokens": score.n_tokens, "n_bytes": score.n_bytes}
        for keys, score in runs
    ]
    return pd.DataFrame(rows)


def final_perplexities(table: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """Means over seeds for the initial policy and every method's last round: columns method, perplexity, bits_per_byte.

    Args:
        table: The result of `perplexities`.
        experiment: The runs.
    """
    ends = table[table["round"] == experiment.rounds]
    rows = pd.concat([table[table["round"] == 0].head(1).assign(method="initial"), ends])
    return rows.groupby("method", sort=False)[["perplexity", "bits_per_byte"]].mean().reset_index()
