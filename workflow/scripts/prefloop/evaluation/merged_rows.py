"""Adding rows of more seeds to a rows folder, after a check that they are from the same experiment."""

import shutil
from collections.abc import Callable
from pathlib import Path

from prefloop.config.recorded_settings import (
    SETTINGS_FILE,
    RecordedExperiment,
    differences_of,
    read_settings,
    without,
)
from prefloop.core.csv_files import csv_rows
from prefloop.core.errors import InputError
from prefloop.core.files import read_json, write_json
from prefloop.evaluation.paired_experiments import differing_initial, differing_prompts
from prefloop.evaluation.result_files import COSTS, INDEX, SPENT, rows_folder_of, stored_index
from prefloop.evaluation.rows_folder import write_dicts

# Settings that may differ between runs whose rows are merged, because they do not change rows.
UNCHECKED = ("name", "seeds", "figures", "tables", "export", "tracking")
SHOWN = 100  # characters of a setting in a message


def merged_seeds(run: Path, into: Path) -> tuple[list[int], list[int]]:
    """Add the rows of a run to a rows folder, which is created if it does not exist. Rows of equal seeds are replaced.

    Args:
        run: The rows folder of the run.
        into: The rows folder that gets the rows.

    Returns:
        The added seeds, and the seeds whose rows were replaced.

    Raises:
        InputError: One of the two is not a rows folder, or they are not from the same experiment.
    """
    partial, before_merge = (into.with_name(f"{into.name}.{part}") for part in ("partial", "before_merge"))
    if before_merge.exists() and not into.exists():  # an earlier merge was killed between its two renames
        before_merge.rename(into)
    for folder in (run, *([into] if into.exists() else [])):
        if rows_folder_of(folder) != folder:
            raise InputError(
                f"{folder}: no {INDEX} in it, expected a rows folder; `snakemake --cores 1 rows` writes one to "
                "results/<name>/rows"
            )
    added = read_settings(run)
    kept: list[int] = []
    if into.exists():
        before = read_settings(into)
        check_same_experiment(before, added)
        kept = [seed for seed in before.experiment.seeds if seed not in added.experiment.seeds]
        order = list(dict.fromkeys([*before.experiment.seeds, *added.experiment.seeds]))
        replaced = [seed for seed in added.experiment.seeds if seed in before.experiment.seeds]
    else:
        order, replaced = list(added.experiment.seeds), []
    for folder in (partial, before_merge):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, partial)
    for seed in kept:
        shutil.copytree(into / f"seed-{seed}", partial / f"seed-{seed}")
    for name in (COSTS, SPENT):
        rows = [row for row in csv_rows(into / name) if row["seed"] and int(row["seed"]) in kept] if kept else []
        rows += csv_rows(run / name)
        write_dicts(partial / name, sorted(rows, key=place_of_seed(order)))
    content = read_json(run / SETTINGS_FILE)
    content["settings"]["seeds"] = order
    write_json(partial / SETTINGS_FILE, content)
    if into.exists():
        into.rename(before_merge)
    partial.rename(into)
    shutil.rmtree(before_merge, ignore_errors=True)
    return [seed for seed in added.experiment.seeds if seed not in replaced], replaced


def place_of_seed(order: list[int]) -> Callable[[dict[str, str]], int]:
    """A sort key for rows: the position of their seed in `order`. Rows without a seed come first."""
    positions = {str(seed): position for position, seed in enumerate(order)}
    return lambda row: positions.get(row["seed"], -1)


def check_same_experiment(a: RecordedExperiment, b: RecordedExperiment) -> None:
    """Raise InputError with every reason why the rows of two runs are not from the same experiment.

    All settings except the seeds and those that do not change rows must agree. The eval prompts, the initial policy's
    samples and rewards, the reward models that the runs trained, the clusters, and the kinds of rows must agree too.
    """
    first, second = a.experiment, b.experiment
    differing = differences_of(without(a.config, UNCHECKED), without(b.config, UNCHECKED))
    reasons = [f"{key} differs: {left[:SHOWN]} and {right[:SHOWN]}" for key, (left, right) in differing.items()]
    if not reasons and (first.evaluator, first.evaluated_by) != (second.evaluator, second.evaluated_by):
        evaluators = [(x.evaluator, *x.evaluated_by) for x in (first, second)]
        reasons.append(f"the evaluators differ: {' and '.join(', '.join(names) for names in evaluators)}")
    reasons += differing_prompts(first.root, second.root)
    if not reasons:
        reasons += differing_models(first.root, second.root)
        reasons += differing_initial(first, second)
        reasons += differing_tables(first.root, second.root) or differing_clusters(first.root, second.root)
    if reasons:
        raise InputError(*(f"{first.root} and {second.root} cannot be merged: {reason}" for reason in reasons))


def differing_models(a: Path, b: Path) -> list[str]:
    """Reasons why the reward models that two runs trained are not the same."""
    left, right = (stored_index(folder)["reward_models"] for folder in (a, b))
    names = [name for name in left if left[name] != right.get(name)]
    return [f"each trained its own reward model {name}, and their weights differ" for name in names]


def differing_tables(a: Path, b: Path) -> list[str]:
    """Reasons why the seeds of two rows folders do not have the same kinds of rows."""
    left, right = (tables_of(folder) for folder in (a, b))
    differing = sorted(left ^ right)
    if not differing:
        return []
    having, lacking = (a, b) if differing[0] in left else (b, a)
    return [f"{having} has {differing[0]} and {lacking} does not; list the same figures in both configs"]


def differing_clusters(a: Path, b: Path) -> list[str]:
    """Reasons why the prompts of two rows folders do not have the same clusters."""
    for path in sorted(a.rglob("clusters*.csv")):
        name = path.relative_to(a)
        left, right = ({row["prompt_id"]: row["cluster"] for row in csv_rows(folder / name)} for folder in (a, b))
        if changed := sorted(prompt for prompt in left.keys() | right.keys() if left.get(prompt) != right.get(prompt)):
            return [f"{name}: prompt {changed[0]} is in different clusters"]
    return []


def tables_of(folder: Path) -> set[str]:
    """The tables of a rows folder, with `seed` in place of each seed's folder."""
    return set(map(general_name, (path.relative_to(folder) for path in folder.rglob("*.csv*"))))


def general_name(path: Path) -> str:
    """The path of a table without the number of its seed."""
    first, *rest = path.parts
    return "/".join(["seed" if first.startswith("seed-") else first, *rest])
