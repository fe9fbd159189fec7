"""The browse page's verdicts, and its answers before and after training."""

from pathlib import Path

from prefloop.browsing import PROMPT, Column, Draw, Table
from prefloop.browsing.files import Files, csv_rows
from prefloop.experiment import CHOSEN, Contest
from prefloop.rows import InputError, iterate_rows, read_rows
from prefloop.verdicts import as_text

OURS, THEIRS = ("", "answer"), ("_opponent", "opponent_answer")  # what their columns end in, and their texts


def of_answers(*sides: tuple[str, str, str], change: str) -> tuple[Column, ...]:
    """Numbers of an answer and of the one that it is compared with; a side's third word says whose they are."""
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
    Column("checkpoint", "checkpoint", "choice", help="optimizer steps of the round; none at its end"),
    Column("temperature", "temperature", "choice"),
    Column("opponent", "opponent", "choice"),
)
OUTCOME = Column("outcome", "outcome", "choice", help="of the answer against the opponent's, by the evaluator")
CONTESTS = (
    *POLICY,
    *PROMPT,
    Column("answer", "answer", "text"),
    Column("opponent_answer", "opponent's answer", "text"),
    OUTCOME,
    *of_answers((*OURS, ""), (*THEIRS, "opponent"), change="reward minus the opponent's"),
    Column("preference", "preference", "number", help="a judge's probability that the answer is better"),
)
BEFORE = (
    *(column for column in POLICY if column.key not in ("checkpoint", "opponent")),
    *PROMPT,
    Column("opponent_answer", "before", "text", help="the initial policy's answer"),
    Column("answer", "after", "text", help="the answer after the last round"),
    *of_answers((*THEIRS, "before"), (*OURS, "after"), change="reward after minus before"),
    OUTCOME._replace(help="of the answer after against that before, by the evaluator"),
)


def contests_and_changes(files: Files, most: int) -> tuple[Table, Table]:
    """The verdicts of contests, and the initial policy's samples beside those of every run's last round."""
    root, experiment = files.experiment.root, files.experiment
    verdicts, changes = Draw(most, "verdicts"), Draw(most, "changes")
    prompts = by_id(root / "prompts/eval.jsonl", "messages") if files.contests else {}
    asked = {prompt_id: as_text(row["messages"]) for prompt_id, row in prompts.items()}
    chosen = {prompt_id: row.get("chosen") for prompt_id, row in prompts.items()}
    clusters = held_out_clusters(files)
    last = last_of_runs(files.contests)
    for contest in files.contests:
        ours = answers(root, contest)
        theirs = chosen if contest.opponent == CHOSEN else answers(root, opponent_of(contest))
        before, samples = {}, {}
        if contest in last:
            before, samples = by_id(root / last[contest].verdicts), answers(root, last[contest])
        where = contest._asdict() | {"seed": contest.seed if contest.round else None}
        for row in read_rows(root / contest.verdicts, ["prompt_id", "outcome"]):
            prompt_id = row["prompt_id"]
            if prompt_id not in asked or prompt_id not in ours or prompt_id not in theirs:
                raise InputError(
                    f"{root / contest.verdicts}: prompt {prompt_id} has no text or no answers below {root}"
                )
            told = where | row | {"prompt": asked[prompt_id], "answer": ours[prompt_id]}
            told["cluster"] = clusters.get(contest.method, {}).get(prompt_id)
            verdicts.add(told | {"opponent_answer": theirs[prompt_id], "change": change(row)})
            if prompt_id in before:
                told |= {f"{name}_opponent": before[prompt_id].get(name) for name in ("reward", "feedback", "n_tokens")}
                told |= {"opponent_answer": samples[prompt_id], "change": change(told)}
                changes.add(told | ({} if contest.opponent == "initial" else {"outcome": None}))
    return (
        Table(
            "verdicts",
            "Verdicts",
            f"Every held-out answer against an opponent's. Outcomes and rewards by {experiment.evaluator}.",
            CONTESTS,
            verdicts.rows,
            verdicts.total,
            tally="outcome",
            mean="change",
        ),
        Table(
            "before-after",
            "Before and after",
            "Answers to held-out prompts by the initial policy and after each run's last round, drawn with the same "
            f"random numbers. Rewards by {experiment.evaluator}.",
            BEFORE,
            changes.rows,
            changes.total,
            mean="change",
        ),
    )


def by_id(path: Path, *required: str) -> dict[str, dict]:
    """A file's rows by prompt."""
    return {row["prompt_id"]: row for row in iterate_rows(path, ["prompt_id", *required])}


def answers(root: Path, contest: Contest) -> dict[str, str]:
    """What the contest's policy answered, by prompt."""
    path = root / contest.folder / "samples.jsonl"
    return {row["prompt_id"]: row["response"] for row in iterate_rows(path, ["prompt_id", "response"])}


def opponent_of(contest: Contest) -> Contest:
    """A contest of the opponent, at whose folder its samples lie: a method is met at the same seed and round."""
    if contest.opponent == "initial":
        return Contest("initial", -1, 0, contest.temperature, contest.opponent)
    return contest._replace(method=contest.opponent)


def last_of_runs(contests: list[Contest]) -> dict[Contest, Contest]:
    """One contest of each run's last round and, as its value, that of the initial policy with the same opponent."""
    initial = {(c.temperature, c.opponent): c for c in contests if c.method == "initial"}
    last: dict[tuple, Contest] = {}
    for c in contests:
        run = c.method, c.seed, c.temperature
        if c.round and c.checkpoint is None and (c.temperature, c.opponent) in initial:
            last[run] = c if run not in last or c.round > last[run].round else last[run]
    return {c: initial[c.temperature, c.opponent] for c in last.values()}


def change(row: dict) -> float | None:
    """How much more reward than the other answer; None where a judge gave none."""
    ours, theirs = row.get("reward"), row.get("reward_opponent")
    return None if ours is None or theirs is None else ours - theirs


def held_out_clusters(files: Files) -> dict[str, dict[str, int]]:
    """The cluster of each held-out prompt as each method has it; untrained policies have the first method's."""
    paths = [path.with_name("clusters_eval.csv") for path in files.clusters]
    known = {
        path: {row["prompt_id"]: int(row["cluster"]) for row in csv_rows(path)} for path in paths if files.has(path)
    }
    of_method = {m: known.get(path, {}) for m, path in zip(files.experiment.methods, paths, strict=True)}
    return dict.fromkeys(("base", "initial"), known.get(paths[0], {}) if paths else {}) | of_method
