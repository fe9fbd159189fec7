"""The browse page's tables of judgments, and of answers before and after training."""

from pathlib import Path

from prefloop.browse.columns import PROMPT, Column, Draw, Table
from prefloop.browse.experiment_files import Files
from prefloop.config.experiment import CHOSEN, Comparison
from prefloop.core.csv_files import csv_rows
from prefloop.core.errors import InputError
from prefloop.core.jsonl import iterate_rows, read_rows
from prefloop.feedback.judgments import as_text
from prefloop.report.feedback_labels import feedback_label

OURS, THEIRS = ("", "answer"), ("_opponent", "opponent_answer")  # suffix of number columns, and the text column


def of_answers(*sides: tuple[str, str, str], change: str) -> tuple[Column, ...]:
    """Return number columns for an answer and its opponent. Each side is (suffix, text column, label)."""
    kinds = (
        Column("reward", "reward", "number", help="by the evaluator"),
        Column("feedback", "feedback", "number", shown=False, help="reward by the feedback that trains"),
        Column("n_tokens", "tokens", "number", shown=False, digits=0),
    )
    numbers = [
        kind._replace(key=kind.key + ending, label=f"{kind.label} {whose}".strip(), of=text)
        for kind in kinds
        for ending, text, whose in sides
    ]
    return (*numbers, Column("change", "change", "number", help=change))


POLICY = (
    Column("method", "method", "choice"),
    Column("seed", "seed", "choice"),
    Column("round", "round", "choice"),
    Column("checkpoint", "checkpoint", "choice", help="optimizer steps in the round; empty at its end"),
    Column("temperature", "temperature", "choice"),
    Column("opponent", "opponent", "choice"),
)
OUTCOME = Column("outcome", "outcome", "choice", help="outcome of the answer against the opponent's, by the evaluator")
COMPARISONS = (
    *POLICY,
    *PROMPT,
    Column("answer", "answer", "text"),
    Column("opponent_answer", "opponent's answer", "text"),
    OUTCOME,
    *of_answers((*OURS, ""), (*THEIRS, "opponent"), change="reward minus the opponent's"),
    Column("preference", "preference", "number", help="a judge's probability that the answer is better"),
)
SAMPLE = Column("sample", "sample", "choice", help="index of the answer to the prompt")  # if there are several
BEFORE = (
    *(column for column in POLICY if column.key not in ("checkpoint", "opponent")),
    *PROMPT,
    Column("opponent_answer", "before", "text", help="the initial policy's answer"),
    Column("answer", "after", "text", help="the answer after the last round"),
    *of_answers((*THEIRS, "before"), (*OURS, "after"), change="reward after minus before"),
    OUTCOME._replace(help="outcome of the answer after against the answer before, by the evaluator"),
)


def comparisons_and_changes(files: Files, most: int) -> tuple[Table, Table]:
    """Return a table of judgments, and one of the initial policy's samples with those of every run's last round."""
    root, experiment = files.experiment.root, files.experiment
    judgments, changes = Draw(most, "judgments"), Draw(most, "changes")
    prompts = by_id(root / "prompts/eval.jsonl", "messages") if files.comparisons else {}
    texts = {prompt_id: as_text(row["messages"]) for prompt_id, row in prompts.items()}
    chosen = {prompt_id: row.get("chosen") for prompt_id, row in prompts.items()}
    clusters = eval_clusters(files)
    last = last_of_runs(files.comparisons)
    for comparison in files.comparisons:
        ours = answers(root, comparison)
        theirs = {} if comparison.opponent == CHOSEN else answers(root, opponent_of(comparison))
        before, samples = {}, {}
        if comparison in last:
            before, samples = by_sample(root / last[comparison].judgments), answers(root, last[comparison])
        keys = comparison._asdict() | {"seed": comparison.seed if comparison.round else None}
        for row in read_rows(root / comparison.judgments, ["prompt_id", "outcome"]):
            prompt_id = row["prompt_id"]
            key = sample_of(row)
            theirs_text = chosen.get(prompt_id) if comparison.opponent == CHOSEN else theirs.get(key)
            if prompt_id not in texts or key not in ours or theirs_text is None:
                raise InputError(
                    f"{root / comparison.judgments}: prompt {prompt_id} has no text or no answers below {root}"
                )
            cells = keys | row | {"prompt": texts[prompt_id], "answer": ours[key]}
            cells["cluster"] = clusters.get(comparison.method, {}).get(prompt_id)
            judgments.add(cells | {"opponent_answer": theirs_text, "change": change(row)})
            if key in before:
                cells |= {f"{name}_opponent": before[key].get(name) for name in ("reward", "feedback", "n_tokens")}
                cells |= {"opponent_answer": samples[key], "change": change(cells)}
                changes.add(cells | ({} if comparison.opponent == "initial" else {"outcome": None}))
    evaluator = feedback_label(experiment.evaluator)
    several = [SAMPLE] if any("sample" in row for row in judgments.rows) else []
    return (
        Table(
            "judgments",
            "Judgments",
            f"Every answer to an eval prompt against an opponent's. Outcomes and rewards by {evaluator}.",
            (*COMPARISONS, *several),
            judgments.rows,
            judgments.total,
            tally="outcome",
            mean="change",
        ),
        Table(
            "before-after",
            "Before and after",
            "Answers to eval prompts by the initial policy and after each run's last round, drawn with the same "
            f"random numbers. Rewards by {evaluator}.",
            (*BEFORE, *several),
            changes.rows,
            changes.total,
            mean="change",
        ),
    )


def by_id(path: Path, *required: str) -> dict[str, dict]:
    """Return a file's rows by prompt id."""
    return {row["prompt_id"]: row for row in iterate_rows(path, ["prompt_id", *required])}


def by_sample(path: Path) -> dict[tuple[str, int], dict]:
    """Return the rows of a file of judgments by prompt id and sample index."""
    return {sample_of(row): row for row in iterate_rows(path, ["prompt_id"])}


def sample_of(judgment: dict) -> tuple[str, int]:
    """Return the prompt id and the sample index of a judgment."""
    return judgment["prompt_id"], judgment.get("sample", 0)


def answers(root: Path, comparison: Comparison) -> dict[tuple[str, int], str]:
    """Return the answers of the comparison's policy by prompt id and sample index."""
    rows = iterate_rows(root / comparison.folder / "samples.jsonl", ["prompt_id", "response"])
    return {(row["prompt_id"], row.get("response_id", 0)): row["response"] for row in rows}


def opponent_of(comparison: Comparison) -> Comparison:
    """Return the comparison whose folder has the opponent's samples. An opposing method has the same seed and round."""
    if comparison.opponent == "initial":
        return Comparison("initial", -1, 0, comparison.temperature, comparison.opponent)
    return comparison._replace(method=comparison.opponent)


def last_of_runs(comparisons: list[Comparison]) -> dict[Comparison, Comparison]:
    """Map a comparison of each run's last round to that of the initial policy with the same opponent."""
    initial = {(c.temperature, c.opponent): c for c in comparisons if c.method == "initial"}
    last: dict[tuple, Comparison] = {}
    for c in comparisons:
        run = c.method, c.seed, c.temperature
        if c.round and c.checkpoint is None and (c.temperature, c.opponent) in initial:
            last[run] = c if run not in last or c.round > last[run].round else last[run]
    return {c: initial[c.temperature, c.opponent] for c in last.values()}


def change(row: dict) -> float | None:
    """Return the reward minus that of the other answer; None without rewards."""
    ours, theirs = row.get("reward"), row.get("reward_opponent")
    return None if ours is None or theirs is None else ours - theirs


def eval_clusters(files: Files) -> dict[str, dict[str, int]]:
    """Return the cluster of each eval prompt, by method. Untrained policies have the clusters of the first method."""
    paths = [path.with_name("clusters_eval.csv") for path in files.clusters]
    known = {
        path: {row["prompt_id"]: int(row["cluster"]) for row in csv_rows(path)} for path in paths if files.has(path)
    }
    of_method = {m: known.get(path, {}) for m, path in zip(files.experiment.methods, paths, strict=True)}
    return dict.fromkeys(("base", "initial"), known.get(paths[0], {}) if paths else {}) | of_method
