"""An experiment's rows as tidy tables: what every figure and table starts from."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from prefloop.experiment import Contest, Experiment
from prefloop.intervals import mean_interval
from prefloop.rows import read_json, read_rows
from prefloop.verdicts import rates

OUTCOMES = {"win": 1.0, "tie": 0.5, "loss": 0.0}  # an invalid verdict is none of these and becomes NaN
JUDGED = ("method", "seed", "round", "step", "stage")


def contests(experiment: Experiment, wanted: Iterable[Contest]) -> pd.DataFrame:
    """One row a verdict of these contests: its contest's fields (checkpoint −1 at a round's end), its own, and `win`.

    `win` is 1, ½ for a tie, 0, and NaN where the verdict is invalid.
    """
    rows = []
    for contest in wanted:
        where = contest._asdict() | {"checkpoint": -1 if contest.checkpoint is None else contest.checkpoint}
        rows += [where | row for row in read_rows(experiment.root / contest.verdicts, ["prompt_id", "outcome"])]
    table = pd.DataFrame(rows)
    return table.assign(win=table["outcome"].map(OUTCOMES))


def verdicts(experiment: Experiment) -> pd.DataFrame:
    """The contests of every round of every run: the initial policy stands in every run as its round 0."""
    table = contests(experiment, experiment.by_round())
    initial, runs = table[table["round"] == 0], table[table["round"] > 0]
    starts = [initial.assign(method=m, seed=seed) for m in experiment.methods for seed in experiment.seeds]
    return pd.concat([*starts, runs], ignore_index=True)


def divergences(experiment: Experiment) -> pd.DataFrame:
    """One row a sample at temperature 1: method, seed, round (from 1; before, it is 0) and kl.jsonl's fields, nats."""
    rows = []
    for where, folder in experiment.folders():
        rows += [where | row for row in read_rows(folder / "evaluation/kl.jsonl", ["prompt_id", "kl"])]
    return pd.DataFrame(rows)


def alignment_costs(experiment: Experiment) -> pd.DataFrame:
    """One row a stage of alignment that ran: method, seed, round, step, and the fields of its *.cost.json."""
    rows = []
    for where, folder in experiment.step_folders():
        rows += [where | read_json(folder / f"{name}.cost.json") for name in ("generate", "reward", "perplexity")]
    for where, folder in experiment.folders():
        rows.append(where | {"step": 0} | read_json(folder / "train.cost.json"))
    return pd.DataFrame(rows)


def costs(experiment: Experiment, shared: Iterable[Path] = (), divergence: bool = False) -> pd.DataFrame:
    """`alignment_costs`, and evaluation's: its stages are sample, judge and, if it was measured, divergence.

    What no method has to itself (`shared` and the evaluation of untrained policies) has method "shared".
    """
    for_all = {"method": "shared", "seed": -1, "round": 0, "step": 0}
    own = {experiment.root / method: method for method in experiment.methods}
    rows = [for_all | {"method": own.get(path.parent, "shared")} | read_json(path) for path in shared]
    found = [(contest, "sample", f"{contest.folder}/sample.cost.json") for contest in experiment.contests]
    found += [(contest, "judge", contest.verdicts.replace(".jsonl", ".cost.json")) for contest in experiment.contests]
    if divergence:
        ends = [contest for contest in experiment.by_round() if contest.round]
        found += [(contest, "divergence", f"{contest.policy}/evaluation/divergence.cost.json") for contest in ends]
    for path, (contest, stage) in {path: (contest, stage) for contest, stage, path in found}.items():
        where = {"method": contest.method, "seed": contest.seed, "round": contest.round, "step": 0}
        rows.append((where if contest.round else for_all) | read_json(experiment.root / path) | {"stage": stage})
    return pd.concat([pd.DataFrame(rows), alignment_costs(experiment)], ignore_index=True)


def judges(experiment: Experiment) -> pd.DataFrame:
    """One row a stage in which a judge compared: method, seed, round, step, stage, and how it judged."""
    table = costs(experiment)
    rows = []
    for where, notes in zip(table[list(JUDGED)].to_dict("records"), table["judge"], strict=True):
        if isinstance(notes, dict):
            rows.append(where | rates(notes))
    return pd.DataFrame(rows)


def spent(experiment: Experiment) -> pd.DataFrame:
    """As `spent_by_seed`: method, round, flops, generated_tokens; means over seeds."""
    table = spent_by_seed(experiment)
    return table.groupby(["method", "round"], sort=False)[["flops", "generated_tokens"]].mean().reset_index()


def spent_by_seed(experiment: Experiment) -> pd.DataFrame:
    """Cumulative cost of alignment, without evaluation: method, seed, round, flops, generated_tokens."""
    table = alignment_costs(experiment).rename(columns={"tokens_out": "generated_tokens"})
    return cumulative(experiment, table, ["flops", "generated_tokens"])


def annotated_by_seed(experiment: Experiment) -> pd.DataFrame:
    """How many responses had been annotated: method, seed, round, annotated_responses (rows of rewards.jsonl)."""
    rows = []
    for where, folder in experiment.step_folders():
        rows.append(where | {"annotated_responses": len(read_rows(folder / "rewards.jsonl", ["prompt_id"]))})
    return cumulative(experiment, pd.DataFrame(rows), ["annotated_responses"])


def cumulative(experiment: Experiment, table: pd.DataFrame, amounts: list[str]) -> pd.DataFrame:
    """Sums of `amounts` up to every round of every run, from round 0, where they are 0."""
    keys = {"method": experiment.methods, "seed": experiment.seeds, "round": range(experiment.rounds + 1)}
    every = pd.MultiIndex.from_product(keys.values(), names=keys.keys())
    by_round = table.groupby(list(keys))[amounts].sum().reindex(every, fill_value=0)
    return by_round.groupby(level=["method", "seed"], sort=False).cumsum().reset_index()


def interval_by_round(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean and 95 % interval of `value` by method and round: bootstrap over prompts, and over seeds if several."""
    rows = []
    for (method, number), part in table.groupby(["method", "round"], sort=False):
        values = part.pivot(index="seed", columns="prompt_id", values=value)  # the same prompts behind every seed
        interval = mean_interval(values.to_numpy())
        rows.append({"method": method, "round": number} | dict(zip(("mean", "low", "high"), interval, strict=True)))
    return pd.DataFrame(rows)


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
