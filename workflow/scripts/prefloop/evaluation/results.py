"""An experiment's files as tidy tables, the input of figures and tables."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from prefloop.config.evaluator_measures import is_rate, reward_measure, win_measure
from prefloop.config.experiment import Comparison, Experiment
from prefloop.core.errors import InputError
from prefloop.core.jsonl import read_rows
from prefloop.evaluation.comparisons import arrays
from prefloop.evaluation.figure_rows import arm_rows, drawn_prompts, training_rows
from prefloop.evaluation.inference import Name, interval_of
from prefloop.evaluation.result_files import EVAL_PROMPTS, eval_families, result_object, result_rows
from prefloop.evaluation.row_counts import row_counts
from prefloop.feedback.judgments import rates

OUTCOMES = {"win": 1.0, "tie": 0.5, "loss": 0.0}  # NaN for an invalid judgment
JUDGED = ("method", "seed", "round", "step", "stage")
AMOUNTS = ["flops", "generated_tokens", "labels"]  # costs of a run
NO_LABELS = {"labels": 0}
ANSWER_COLUMNS = [*JUDGED, "prompt_id", "first", "second", "problem", "answer"]


def comparisons(experiment: Experiment, wanted: Iterable[Comparison]) -> pd.DataFrame:
    """One row per judgment, with the fields of its comparison, its own fields, and these columns.

    `checkpoint` is −1 at the end of a round. `sample` is the number of the sample among those of its prompt. `win` is
    1, ½ (tie) or 0, and NaN if the judgment is invalid. `family` is that of the prompt. Each named evaluator of the
    experiment adds <name>_outcome, <name>_reward and <name>_win.
    """
    rows = []
    for comparison in wanted:
        keys = comparison._asdict() | {"checkpoint": -1 if comparison.checkpoint is None else comparison.checkpoint}
        judged = result_rows(experiment.root / comparison.judgments, ["prompt_id", "outcome"])
        judged = [{"sample": 0} | row for row in judged]
        for name in experiment.evaluators:
            judged = with_evaluator(judged, experiment.root / comparison.judged_by(name), name)
        rows += [keys | row for row in judged]
    table = pd.DataFrame(rows)
    return with_families(table.assign(win=table["outcome"].map(OUTCOMES)), experiment)


def with_evaluator(judged: list[dict], path: Path, name: str) -> list[dict]:
    """Add the columns of a named evaluator, from its own file, to judgments.

    Raises:
        InputError: The file has other samples.
    """
    rows = result_rows(path, ["prompt_id", "outcome", "reward"])
    by_sample = {(row["prompt_id"], row.get("sample", 0)): row for row in rows}
    keys = [(row["prompt_id"], row["sample"]) for row in judged]
    if by_sample.keys() != set(keys):
        prompt_id, number = min(by_sample.keys() ^ set(keys))
        raise InputError(f"{path}: prompt {prompt_id}, sample {number} is missing in this file or the evaluator's")
    return [
        row
        | {
            f"{name}_outcome": by_sample[key]["outcome"],
            reward_measure(name): by_sample[key]["reward"],
            win_measure(name): OUTCOMES.get(by_sample[key]["outcome"], float("nan")),
        }
        for row, key in zip(judged, keys, strict=True)
    ]


def with_families(table: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """The table with a column `family`: the `meta.family` of each eval prompt, or the prompt itself if it has none.

    Raises:
        InputError: A prompt of the table is not among the eval prompts.
    """
    families = {
        prompt_id: f"prompt {prompt_id}" if family is None else f"family {family}"
        for prompt_id, family in eval_families(experiment.root).items()
    }
    if missing := set(table["prompt_id"]) - families.keys():
        path = experiment.root / EVAL_PROMPTS
        raise InputError(f"{path}: evaluated prompt {min(missing)} is missing; run prepare_prompts again")
    return table.assign(family=table["prompt_id"].map(families))


def judgments(experiment: Experiment) -> pd.DataFrame:
    """The comparisons of every round of every run; the initial policy is round 0 of every run."""
    table = comparisons(experiment, experiment.by_round())
    initial, runs = table[table["round"] == 0], table[table["round"] > 0]
    starts = [initial.assign(method=m, seed=seed) for m in experiment.methods for seed in experiment.seeds]
    return pd.concat([*starts, runs], ignore_index=True)


def named_measures(rows: pd.DataFrame, experiment: Experiment) -> list[str]:
    """The measures of the named evaluators that have values in `rows`. A judge gives no rewards."""
    measures = [measure(name) for name in experiment.evaluators for measure in (reward_measure, win_measure)]
    return [measure for measure in measures if is_rate(measure) or rows[measure].notna().any()]


def kl_rows(experiment: Experiment) -> pd.DataFrame:
    """One row per sample at temperature 1: method, seed, round (from 1), family and the fields of kl.jsonl (nats)."""
    rows = []
    for keys, folder in experiment.folders():
        rows += [keys | row for row in result_rows(folder / "evaluation/kl.jsonl", ["prompt_id", "kl"])]
    return with_families(pd.DataFrame(rows), experiment)


def alignment_costs(experiment: Experiment) -> pd.DataFrame:
    """One row per stage of alignment that ran: method, seed, round, step, and the fields of its *.cost.json.

    `labels` is 0 in stages that do not request labels.
    """
    return pd.DataFrame([keys | NO_LABELS | result_object(path) for keys, path in cost_files(experiment)])


def cost_files(experiment: Experiment) -> Iterator[tuple[dict, Path]]:
    """({method, seed, round, step}, path of *.cost.json) for every stage of alignment; step 0 is the whole round."""
    for keys, folder in experiment.step_folders():
        for stage in ("generate", "reward", "logprobs"):
            yield keys, folder / f"{stage}.cost.json"
    for keys, folder in experiment.folders():
        for stage in ["mix_pairs"] * (keys["method"] in experiment.mixing) + ["train"]:
            yield keys | {"step": 0}, folder / f"{stage}.cost.json"


def evaluation_cost_files(
    experiment: Experiment, divergence: bool, perplexity: bool
) -> dict[str, tuple[Comparison, str]]:
    """The comparison and stage of every *.cost.json of evaluation, by path relative to the experiment's folder.

    Each named evaluator is a stage of its own (`stage_of`).
    """
    sources = [(comparison, "sample", f"{comparison.folder}/sample.cost.json") for comparison in experiment.comparisons]
    sources += [
        (comparison, "compare_samples", comparison.judgments.replace(".jsonl", ".cost.json"))
        for comparison in experiment.comparisons
    ]
    sources += [
        (comparison, stage_of(name), comparison.judged_by(name).replace(".jsonl", ".cost.json"))
        for name in experiment.evaluators
        for comparison in experiment.comparisons
    ]
    if divergence:
        ends = [comparison for comparison in experiment.by_round() if comparison.round]
        sources += [
            (comparison, "measure_kl", f"{comparison.policy}/evaluation/measure_kl.cost.json") for comparison in ends
        ]
    if perplexity:
        sources += [
            (comparison, "measure_perplexity", f"{comparison.policy}/evaluation/measure_perplexity.cost.json")
            for comparison in experiment.by_round()
        ]
    return {path: (comparison, stage) for comparison, stage, path in sources}


def costs(
    experiment: Experiment, shared: Iterable[Path] = (), divergence: bool = False, perplexity: bool = False
) -> pd.DataFrame:
    """`alignment_costs` and the costs of evaluation, one row per stage.

    The stages of evaluation are sample, compare_samples, one per named evaluator and, if measured, measure_kl
    (`divergence`) and measure_perplexity (`perplexity`). Stages that methods share (`shared` and the evaluation of
    untrained policies) have the method "shared". A stage in `shared` whose file is in a method's folder has its name.
    Rows of evaluation have the columns `opponent` and `temperature`.
    """
    for_all = {"method": "shared", "seed": -1, "round": 0, "step": 0} | NO_LABELS
    method_of_folder = {experiment.root / method: method for method in experiment.methods}
    rows = [for_all | {"method": method_of_folder.get(path.parent, "shared")} | result_object(path) for path in shared]
    for path, (comparison, stage) in evaluation_cost_files(experiment, divergence, perplexity).items():
        keys = {"method": comparison.method, "seed": comparison.seed, "round": comparison.round, "step": 0} | NO_LABELS
        against = {"stage": stage, "opponent": comparison.opponent, "temperature": comparison.temperature}
        rows.append((keys if comparison.round else for_all) | result_object(experiment.root / path) | against)
    return pd.concat([pd.DataFrame(rows), alignment_costs(experiment)], ignore_index=True)


def stage_of(evaluator: str) -> str:
    """The stage of a named evaluator in tables of costs and judges."""
    return f"evaluate_samples: {evaluator}"


def truncated_samples(experiment: Experiment) -> dict[tuple[str, int], tuple[int, int]]:
    """Numbers of truncated and of all samples by method and round, over all seeds.

    The initial policy is ("initial", 0).
    """
    files = [(c.method, c.round, experiment.root / c.folder / "sample.cost.json") for c in experiment.by_round()]
    return sum_truncated(((method, round_index), path) for method, round_index, path in files)


def truncated_generations(experiment: Experiment) -> dict[str, tuple[int, int]]:
    """Numbers of truncated and of all responses generated for training, by method, over all seeds, rounds and steps."""
    folders = experiment.step_folders()
    return sum_truncated((keys["method"], folder / "generate.cost.json") for keys, folder in folders)


def sum_truncated(costs: Iterable[tuple[Name, Path]]) -> dict[Name, tuple[int, int]]:
    """Sums of the field `truncated` of cost files, by name."""
    sums: dict[Name, tuple[int, int]] = {}
    for name, path in costs:
        (truncated, responses), before = result_object(path)["truncated"], sums.get(name, (0, 0))
        sums[name] = before[0] + truncated, before[1] + responses
    return sums


def judges(experiment: Experiment) -> pd.DataFrame:
    """One row per stage with a judge: method, seed, round, step, stage, and the judge's outcomes.

    If policies are compared with several opponents or at several temperatures, their columns follow the stage.
    """
    table = costs(experiment)
    several = [name for name in ("opponent", "temperature") if table[name].nunique() > 1]
    rows = []
    for keys, notes in zip(table[[*JUDGED, *several]].to_dict("records"), table["judge"], strict=True):
        if isinstance(notes, dict):
            rows.append(keys | rates(notes))
    return pd.DataFrame(rows)


def judge_answers(experiment: Experiment) -> pd.DataFrame:
    """One row per answer of a judge, with the columns ANSWER_COLUMNS.

    `first` and `second` are the responses in the order shown to the judge: response ids, or `ours` and `opponent`. With
    several evaluation samples per prompt, `sample` is the number of the compared sample.
    """
    rows = []
    for keys, folder in experiment.step_folders():
        for row in read_rows(folder / "rewards.jsonl", ["prompt_id", "response_id"]):
            for (opponent, *_), answers in zip(row.get("judged", ()), row.get("answers", ()), strict=True):
                rows += answer_rows(keys | {"stage": "reward"}, row["prompt_id"], row["response_id"], opponent, answers)
    for comparison in experiment.by_round():
        keys = {name: getattr(comparison, name) for name in ("method", "seed", "round")} | {"step": 0}
        stages = {"compare_samples": comparison.judgments}
        stages |= {stage_of(name): comparison.judged_by(name) for name in experiment.evaluators}
        for stage, path in stages.items():
            for row in read_rows(experiment.root / path, ["prompt_id"]):
                keys |= {"stage": stage} | {name: row[name] for name in ("sample",) if name in row}
                rows += answer_rows(keys, row["prompt_id"], "ours", "opponent", row.get("answers", ()))
    table = pd.DataFrame(rows, columns=[*ANSWER_COLUMNS, *["sample"] * (experiment.samples > 1)])
    return table.astype({"sample": "Int64"}) if experiment.samples > 1 else table


def answer_rows(keys: dict, prompt_id: str, a: object, b: object, answers: Iterable) -> list[dict]:
    """The rows of `judge_answers` for responses `a` and `b`, which the judge saw in the orders (a, b) and (b, a)."""
    return [
        keys | {"prompt_id": prompt_id, "first": first, "second": second, "problem": problem, "answer": text}
        for (first, second), (text, problem) in zip([(a, b), (b, a)], answers, strict=False)
    ]


def spent(experiment: Experiment) -> pd.DataFrame:
    """Means of `spent_by_seed` over seeds: method, round, flops, generated_tokens, labels."""
    table = spent_by_seed(experiment)
    return table.groupby(["method", "round"], sort=False)[AMOUNTS].mean().reset_index()


def spent_by_seed(experiment: Experiment) -> pd.DataFrame:
    """Cumulative cost of alignment, without evaluation: method, seed, round, flops, generated_tokens, labels.

    A label is a scored response or a question to a judge.
    """
    table = alignment_costs(experiment).rename(columns={"tokens_out": "generated_tokens"})
    return cumulative(experiment, table, AMOUNTS)


def annotated_by_seed(experiment: Experiment) -> pd.DataFrame:
    """Cumulative number of annotated responses (rows of rewards.jsonl): method, seed, round, annotated_responses."""
    return cumulative(experiment, row_counts(experiment, "annotated_responses"), ["annotated_responses"])


def cumulative(experiment: Experiment, table: pd.DataFrame, amounts: list[str]) -> pd.DataFrame:
    """Sums of `amounts` up to each round of every run. In round 0 they are 0."""
    levels = {"method": experiment.methods, "seed": experiment.seeds, "round": range(experiment.rounds + 1)}
    every = pd.MultiIndex.from_product(list(levels.values()), names=list(levels))
    by_round = table.groupby(list(levels))[amounts].sum().reindex(every, fill_value=0)
    return by_round.groupby(level=["method", "seed"], sort=False).cumsum().reset_index()


def interval_by_round(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """The mean of `value` and its 95 % CI (`inference.interval_of`): columns method, round, mean, low, high."""
    rows = []
    for (method, number), part in table.groupby(["method", "round"], sort=False):
        interval = interval_of(value, arrays({"": part}, value)[""])
        rows.append({"method": method, "round": number} | interval._asdict())
    return pd.DataFrame(rows)


def means_of_seeds(table: pd.DataFrame, keys: list[str], measures: list[str]) -> pd.DataFrame:
    """The mean of valid values in each group of `keys`; the samples of a prompt are averaged first.

    Returns:
        One row per group and measure: the `keys`, measure, mean.
    """
    values = table.astype(dict.fromkeys(measures, float))
    of_prompts = values.groupby([*keys, "prompt_id"], sort=False)[measures].mean()
    means = of_prompts.groupby(level=keys, sort=False).mean().reset_index()
    return means.melt(keys, measures, "measure", "mean")


def arms(experiment: Experiment) -> pd.DataFrame:
    """One row per arm and step: method, seed, round, step, cluster, drawn (prompts in this step), pulls, score."""
    rows = []
    for keys, folder in experiment.step_folders():
        rows += [keys | arm for arm in arm_rows(folder)]
    table = pd.DataFrame(rows)
    before = table.groupby(["method", "seed", "cluster"])["pulls"].shift(fill_value=0)
    return table.assign(drawn=table["pulls"] - before)


def training(experiment: Experiment) -> pd.DataFrame:
    """One row per optimizer step: method, seed and the fields of training.jsonl; `step` counts through all rounds."""
    rows = []
    for keys, folder in experiment.folders():
        rows += [keys | row for row in training_rows(folder)]
    table = pd.DataFrame(rows)
    return table.assign(step=table.groupby(["method", "seed"]).cumcount())


def annotated(experiment: Experiment) -> pd.DataFrame:
    """One row per annotated prompt: method, seed, round, step, prompt_id, cluster."""
    rows = []
    for keys, folder in experiment.step_folders():
        rows += [keys | row for row in drawn_prompts(folder, keys["method"] in experiment.acquiring)]
    return pd.DataFrame(rows)
