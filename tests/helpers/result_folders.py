"""Made-up finished experiments: every file from which rows are made, with predictable numbers."""

from collections.abc import Sequence
from pathlib import Path

from conftest import TINY, merge
from prefloop.config.experiment import Experiment, experiment_of
from prefloop.config.recorded_settings import RecordedExperiment, read_settings, write_settings
from prefloop.config.validation import checked
from prefloop.core.csv_files import write_cells
from prefloop.core.files import write_json
from prefloop.core.jsonl import write_rows
from prefloop.evaluation.results import cost_files, evaluation_cost_files
from prefloop.evaluation.rows_folder import write_rows_folder

PROMPTS = {"x": "poem", "y": "poem", "z": None, "=1": "fact"}
OUTCOMES = ("win", "tie", "loss", "invalid")


def finished_experiment(root: Path, *, gain: float = 0.0, sample: str = "an answer", **changes) -> RecordedExperiment:
    """Write an experiment with two methods, rounds and steps.

    Rewards after training grow with `gain`, the round and a tenth of the seed.
    """
    settings = {"policy": {"model": "some/model"}, "name": root.name, "evaluation": {"samples": 2}}
    config = checked(merge(TINY, merge(settings, changes)))
    experiment = experiment_of(config, str(root))
    write_settings(config, experiment)
    prompts = [
        {"prompt_id": name, "messages": [{"role": "user", "content": f"about {name}"}], "meta": {"family": family}}
        for name, family in PROMPTS.items()
    ]
    write_rows(root / "prompts/eval.jsonl", prompts)
    folder = root / experiment.comparison("initial").folder
    samples = [{"prompt_id": p, "response_id": k, "response": f"{sample} {k}"} for p in PROMPTS for k in (0, 1)]
    write_rows(folder / "samples.jsonl", samples)
    for comparison in experiment.comparisons:
        trained = bool(comparison.round)
        reward = trained * (gain + comparison.round + 0.1 * comparison.seed + (comparison.method == "dota") / 3)
        write_rows(root / comparison.judgments, judgment_rows(reward))
    write_run_files(experiment)
    write_costs(experiment)
    return read_settings(root)


def judgment_rows(reward: float) -> list[dict]:
    """Return judgments of two samples per prompt, including texts that are not stored in rows."""
    return [
        {"prompt_id": p, "sample": k, "outcome": OUTCOMES[(place + k + round(9 * reward)) % 4]}
        | {"reward": reward + 0.7 * place - k / 7, "feedback": None if place == 1 else reward * place}
        | {"n_tokens": 3 + place, "n_tokens_opponent": 4, "answers": [["A", "why"]], "judged": [[0, 1.0, None]]}
        for place, p in enumerate(PROMPTS)
        for k in (0, 1)
    ]


def write_run_files(experiment: Experiment) -> None:
    """Write two prompts and three rewards per step, and five pairs and seven optimizer steps per round."""
    for keys, folder in experiment.folders():
        write_rows(folder / "pairs.jsonl", ({"prompt_id": f"p{k}"} for k in range(5)))
        steps = ({"round": keys["round"], "step": k, "loss": 0.5 / (k + 1), "tokens": 9} for k in range(7))
        write_rows(folder / "training.jsonl", steps)
        kl = [{"prompt_id": p, "kl": keys["round"] * 0.3 + keys["seed"], "n_tokens": 3} for p in PROMPTS]
        write_rows(folder / "evaluation/kl.jsonl", kl)
    for keys, folder in experiment.step_folders():
        write_rows(folder / "prompts.jsonl", ({"prompt_id": f"p{k}", "cluster": k} for k in range(2)))
        write_rows(folder / "rewards.jsonl", ({"prompt_id": f"p{k}"} for k in range(3)))
        arms = [{"cluster": k, "pulls": keys["step"] + k, "score": 0.1 * k} for k in range(2)]
        write_json(folder / "arms.json", {"arms": arms})
    for name in ("clusters.csv", "clusters_eval.csv"):
        write_cells(experiment.root / name, ["prompt_id", "cluster"], [(f"p{k}", k) for k in range(2)])


def write_costs(experiment: Experiment) -> None:
    """Write cost files, each with different numbers."""
    paths = [path for _, path in cost_files(experiment)]
    paths += [experiment.root / path for path in evaluation_cost_files(experiment, divergence=True, perplexity=False)]
    for number, path in enumerate([experiment.root / "cluster_prompts.cost.json", *paths], start=1):
        stage = path.name.removesuffix(".cost.json")
        cost = {"stage": stage, "tokens_in": 10 * number, "tokens_out": 3 * number, "flops": 10**12 * number}
        cost |= {"seconds": number / 7, "device": "cpu"}
        cost |= {"truncated": [number % 3, 20]} if stage in ("generate", "sample") else {}
        write_json(path, cost | ({"labels": 8, "judge": {"comparisons": 4}} if stage == "reward" else {}))


def stored(recorded: RecordedExperiment, *, divergence: bool = True, figures: Sequence[str] = ()) -> Path:
    """Write and return the rows folder of an experiment."""
    experiment = recorded.experiment
    folder = experiment.root / "rows"
    shared = [experiment.root / "cluster_prompts.cost.json"]
    write_rows_folder(experiment, folder, shared, divergence=divergence, figures=figures)
    return folder
