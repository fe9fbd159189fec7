"""Compare a policy's samples with the initial policy's, by an evaluator that need not be the training feedback."""

from pathlib import Path

from _program import run
from prefloop.costs import CostMeter
from prefloop.feedback import FEEDBACK, Settings, rewards_of
from prefloop.rows import InputError, read_rows, write_rows


def main(
    *,
    prompts: Path,
    samples: Path,
    opponent: Path,
    output: Path,
    cost: Path,
    evaluator: Settings,
    feedback: Settings,
    threads: int = 1,
) -> None:
    """Score samples and the opponent's, and say who won each prompt.

    Args:
        prompts: The evaluation prompts.
        samples: The policy's samples, one a prompt.
        opponent: The initial policy's samples of the same prompts.
        output: Where the verdicts go, one row a prompt.
        cost: Where the cost goes.
        evaluator: Who decides the outcome.
        feedback: The training feedback, whose reward of each sample is written beside the evaluator's.
        threads: CPU threads, for reward models.
    """
    meter = CostMeter("judge")
    messages = {row["prompt_id"]: row["messages"] for row in read_rows(prompts, ["prompt_id", "messages"])}
    ours = read_rows(samples, ["prompt_id", "response_id", "response", "n_tokens"])
    theirs = {
        row["prompt_id"]: row for row in read_rows(opponent, ["prompt_id", "response_id", "response", "n_tokens"])
    }
    missing = [row["prompt_id"] for row in ours if row["prompt_id"] not in theirs]
    if missing:
        raise InputError(f"{opponent}: no sample for prompt {missing[0]}, which {samples} has")
    scores = {}
    for name, settings in [("evaluator", evaluator), ("feedback", feedback)]:
        score = FEEDBACK[settings.kind](settings, threads)
        for side, rows in [("sample", ours), ("opponent", [theirs[row["prompt_id"]] for row in ours])]:
            scores[name, side] = rewards_of(
                score,
                [messages[row["prompt_id"]] for row in rows],
                [row["response"] for row in rows],
                [(row["prompt_id"], row["response_id"]) for row in rows],
            )
        meter.feedback(score)
    write_rows(
        output,
        (
            {
                "prompt_id": row["prompt_id"],
                "outcome": outcome(scores["evaluator", "sample"][i], scores["evaluator", "opponent"][i]),
                "reward": scores["evaluator", "sample"][i],
                "reward_opponent": scores["evaluator", "opponent"][i],
                "feedback": scores["feedback", "sample"][i],
                "feedback_opponent": scores["feedback", "opponent"][i],
                "n_tokens": row["n_tokens"],
                "n_tokens_opponent": theirs[row["prompt_id"]]["n_tokens"],
            }
            for i, row in enumerate(ours)
        ),
    )
    mean = sum(scores["evaluator", "sample"]) / len(ours)
    print(f"judge: {len(ours)} samples, mean evaluator reward {mean:.4g}")
    meter.write(cost)


def outcome(ours: float, theirs: float) -> str:
    return "win" if ours > theirs else "loss" if ours < theirs else "tie"


run(main)
