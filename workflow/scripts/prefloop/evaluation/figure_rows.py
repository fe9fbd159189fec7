"""Rows that only some figures need: training steps, arms, drawn prompts, ordered pairs, gradients and benchmarks.

Functions that take a folder read it from the experiment, or what `rows_folder.py` stored of it in a rows folder.
"""

from pathlib import Path

import pandas as pd

from prefloop.config import outputs
from prefloop.config.experiment import Experiment
from prefloop.config.output_flags import cluster_tables, gradients_file
from prefloop.core.files import read_json
from prefloop.core.seeds import rng_for
from prefloop.data.round_pairs import scan_pairs
from prefloop.evaluation.result_files import has_result, result_rows, rows_folder_of, stored_file
from prefloop.evaluation.row_counts import labeled_prompts
from prefloop.methods.pair_metrics import pfp, reward_gap

TRAINING_CURVES = ("loss", "rewards/margins", "rewards/accuracies", "grad_norm")
BETA_CURVES = ("beta", "beta/tau", "beta/m0", "beta/p_hat", "beta/kept")  # a rule may lack some of them
PAIR_FIELDS = ("prompt_id", "pfp", "reward_gap", "length_difference")
# Files whose rows a rows folder has if the config lists a figure that reads them.
STORED = {"training.jsonl", "arms.json", "prompts.jsonl", "pfp.jsonl", "benchmark.json", "gradients.jsonl"}


def training_rows(folder: Path) -> list[dict]:
    """The optimizer steps of a round. A rows folder has only the fields that figures draw."""
    return result_rows(folder / "training.jsonl", ["step", "loss"])


def arm_rows(folder: Path) -> list[dict]:
    """The arms of a step: cluster, pulls, score, and other statistics."""
    path = folder / "arms.json"
    return read_json(path)["arms"] if rows_folder_of(path) is None else result_rows(path, ["cluster", "pulls"])


def drawn_prompts(folder: Path, acquires: bool) -> list[dict]:
    """The prompts of a step that got labels: prompt_id, cluster.

    Args:
        folder: Folder of the step.
        acquires: Whether the method chooses which responses get labels.
    """
    path = folder / "prompts.jsonl"
    if rows_folder_of(path) is not None:
        return result_rows(path, ["prompt_id", "cluster"])
    return [{name: row[name] for name in ("prompt_id", "cluster")} for row in labeled_prompts(folder, acquires)]


def pair_table(folder: Path) -> pd.DataFrame:
    """All ordered pairs of annotated responses of a step: columns PAIR_FIELDS.

    PFP is in nats, the gap in units of the feedback, and the length difference (chosen minus rejected) in tokens. The
    gap is NaN if the feedback gives no rewards.
    """
    path = folder / "pfp.jsonl"
    if rows_folder_of(path) is not None:
        return pd.DataFrame(result_rows(path, PAIR_FIELDS)).astype({"pfp": float, "reward_gap": float})
    pairs = scan_pairs([path], variance=False)
    lengths = pairs.columns["n_chosen"] - pairs.columns["n_rejected"]
    values = (pairs.prompt_ids, pfp(pairs.columns, rng_for(0)), reward_gap(pairs.columns), lengths)
    return pd.DataFrame(dict(zip(PAIR_FIELDS, values, strict=True)))


def gradient_rows(path: Path) -> list[dict]:
    """The pairs of a gradients.jsonl."""
    return result_rows(path, ["prompt_id", "pfp", "dpo_weight", "n_chosen", "grad_norm"])


def benchmark_value(folder: Path) -> float:
    """The number that the benchmark gave the policy of a folder."""
    path = folder / "benchmark.json"
    return (read_json(path) if rows_folder_of(path) is None else result_rows(path, ["value"])[0])["value"]


def figure_files(experiment: Experiment, config: dict, name: str) -> list[Path]:
    """The files that a figure reads in addition to judgments and costs."""
    root, reads = experiment.root, outputs.FIGURES[name]
    paths = [folder / file for file in reads.rounds for _, folder in experiment.folders()]
    paths += [folder / file for file in reads.steps for _, folder in experiment.step_folders()]
    single = {
        "benchmark": ["initial/benchmark.json"],
        "cluster_wins": ["clusters_eval.csv"],
        "prompts": dict.fromkeys(cluster_tables(config)),
        "gradients": [gradients_file(config, ".")],
    }
    return [*paths, *(root / path for path in single.get(name, []))]


def has_figure_files(experiment: Experiment, config: dict, name: str) -> bool:
    """Whether a rows folder has what a figure reads in addition to judgments and costs."""
    return outputs.FIGURES[name].from_rows and all(map(has_result, figure_files(experiment, config, name)))


def rows_to_store(path: Path, experiment: Experiment) -> list[dict]:
    """The rows of a file in STORED, with the fields that figures need."""
    folder = path.parent
    match path.name:
        case "training.jsonl":
            fields = ("step", *TRAINING_CURVES, *BETA_CURVES)
            return [{field: row[field] for field in fields if field in row} for row in training_rows(folder)]
        case "arms.json":
            return arm_rows(folder)
        case "prompts.jsonl":
            method = stored_file(str(path.relative_to(experiment.root))).method
            return drawn_prompts(folder, method in experiment.acquiring)
        case "pfp.jsonl":
            table = pair_table(folder)
            return table.astype(object).where(table.notna(), None).to_dict("records")
        case "benchmark.json":
            return [{"value": benchmark_value(folder)}]
        case _:
            return gradient_rows(path)
