"""An experiment's rows as tidy tables: what every figure and table starts from."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from prefloop.rows import read_json, read_rows
from prefloop.stats import Interval, bootstrap_mean

OUTCOMES = {"win": 1.0, "tie": 0.5, "loss": 0.0}  # an invalid verdict is none of these and becomes NaN
JUDGED = ("method", "seed", "round", "step", "stage")


@dataclass
class Experiment:
    """Which runs of an experiment to read."""

    root: Path
    """The experiment's folder."""
    methods: tuple[str, ...]
    """Methods, in the order of legends."""
    seeds: tuple[int, ...]
    """Seeds of every method."""
    rounds: int
    """Rounds of every run."""
    steps: int
    """Steps of every round."""

    def folders(self) -> Iterator[tuple[dict, Path]]:
        """({method, seed, round}, folder) of every round of every run."""
        for method in self.methods:
            for seed in self.seeds:
                for number in range(1, self.rounds + 1):
                    where = {"method": method, "seed": seed, "round": number}
                    yield where, self.root / method / f"seed-{seed}" / f"round-{number}"

    def step_folders(self) -> Iterator[tuple[dict, Path]]:
        """({method, seed, round, step}, folder) of every step of every run."""
        for where, folder in self.folders():
            for step in range(1, self.steps + 1):
                yield where | {"step": step}, folder / f"step-{step}"


def verdicts(experiment: Experiment) -> pd.DataFrame:
    """One row a verdict: method, seed, round (0 is the initial policy, for every run) and verdicts.jsonl's fields."""
    initial = read_rows(experiment.root / "initial/evaluation/verdicts.jsonl", ["prompt_id", "outcome"])
    rows = []
    for where, folder in experiment.folders():
        if where["round"] == 1:
            rows += [where | {"round": 0} | row for row in initial]
        rows += [where | row for row in read_rows(folder / "evaluation/verdicts.jsonl", ["prompt_id", "outcome"])]
    table = pd.DataFrame(rows)
    table["win"] = table["outcome"].map(OUTCOMES)
    return table


def costs(experiment: Experiment, shared: Iterable[Path] = ()) -> pd.DataFrame:
    """One row a stage that ran: method, seed, round, step, and the fields of its *.cost.json.

    What all methods share (`shared` and the initial policy's evaluation) has method "shared"; evaluation is its
    own stages, sample and judge.
    """
    for_all = {"method": "shared", "seed": -1, "round": 0, "step": 0}
    rows = [for_all | read_json(path) for path in shared]
    for name in ("sample", "judge"):
        rows.append(for_all | read_json(experiment.root / f"initial/evaluation/{name}.cost.json") | {"stage": name})
    for where, folder in experiment.step_folders():
        rows += [where | read_json(folder / f"{name}.cost.json") for name in ("generate", "reward", "perplexity")]
    for where, folder in experiment.folders():
        rows.append(where | {"step": 0} | read_json(folder / "train.cost.json"))
        for name in ("sample", "judge"):
            rows.append(where | {"step": 0} | read_json(folder / f"evaluation/{name}.cost.json") | {"stage": name})
    return pd.DataFrame(rows)


def judges(experiment: Experiment) -> pd.DataFrame:
    """One row a stage in which a judge compared: method, seed, round, step, stage, and how it judged."""
    table = costs(experiment)
    rows = []
    for where, notes in zip(table[list(JUDGED)].to_dict("records"), table["judge"], strict=True):
        if isinstance(notes, dict):
            rows.append(where | {k: v for k, v in notes.items() if k != "outcomes"} | notes["outcomes"])
    return pd.DataFrame(rows)


def spent(experiment: Experiment) -> pd.DataFrame:
    """Cumulative cost of alignment, without evaluation: method, round, flops, generated tokens; means over seeds."""
    table = costs(experiment)
    table = table[table["stage"].isin(["generate", "reward", "perplexity", "train"])]
    by_round = table.groupby(["method", "seed", "round"])[["flops", "tokens_out"]].sum()
    total = by_round.groupby(level=["method", "seed"]).cumsum()
    mean = total.groupby(level=["method", "round"]).mean().reset_index()
    start = pd.DataFrame({"method": experiment.methods, "round": 0, "flops": 0.0, "tokens_out": 0.0})
    return pd.concat([start, mean], ignore_index=True).rename(columns={"tokens_out": "generated_tokens"})


def interval_by_round(table: pd.DataFrame, value: str, rng: np.random.Generator) -> pd.DataFrame:
    """Mean and 95 % interval of `value` by method and round: bootstrap over prompts, and over seeds if several."""
    rows = []
    for (method, number), part in table.groupby(["method", "round"], sort=False):
        interval = interval_of(part, value, rng)
        rows.append({"method": method, "round": number} | dict(zip(("mean", "low", "high"), interval, strict=True)))
    return pd.DataFrame(rows)


def interval_of(part: pd.DataFrame, value: str, rng: np.random.Generator) -> Interval:
    """The bootstrap interval of one method's rows at one round; the same prompts stand behind every seed."""
    return bootstrap_mean(part.pivot(index="seed", columns="prompt_id", values=value).to_numpy(), rng)


def arms(experiment: Experiment) -> pd.DataFrame:
    """One row an arm and step: method, seed, round, step, cluster, drawn (prompts in this step), pulls, score."""
    rows = []
    for where, folder in experiment.step_folders():
        rows += [where | arm for arm in read_json(folder / "arms.json")["arms"]]
    table = pd.DataFrame(rows)
    before = table.groupby(["method", "seed", "cluster"])["pulls"].shift(fill_value=0)
    return table.assign(drawn=table["pulls"] - before)


def training(experiment: Experiment) -> pd.DataFrame:
    """One row an optimizer step: method, seed and training.jsonl's fields; `step` counts on over rounds."""
    rows = []
    for where, folder in experiment.folders():
        rows += [where | row for row in read_rows(folder / "training.jsonl", ["step", "loss"])]
    table = pd.DataFrame(rows)
    return table.assign(step=table.groupby(["method", "seed"]).cumcount())


def annotated(experiment: Experiment) -> pd.DataFrame:
    """One row a prompt drawn: method, seed, round, step, prompt_id, cluster."""
    rows = []
    for where, folder in experiment.step_folders():
        for row in read_rows(folder / "prompts.jsonl", ["prompt_id", "cluster"]):
            rows.append(where | {"prompt_id": row["prompt_id"], "cluster": row["cluster"]})
    return pd.DataFrame(rows)
