"""Compare a policy's samples with the initial policy's, by an evaluator that need not be the training feedback."""

from pathlib import Path

from _program import run
from prefloop.costs import CostMeter
from prefloop.feedback import Settings, contest
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
        feedback: The feedback that trained the policy, whose reward of each sample is written beside the evaluator's.
        threads: CPU threads, for models that score or judge.
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
    missing = [row["prompt_id"] for row in ours if row["prompt_id"] not in messages]
    if missing:
        raise InputError(f"{prompts}: no prompt {missing[0]}, which {samples} answers")
    against = [theirs[row["prompt_id"]] for row in ours]
    asked = [messages[row["prompt_id"]] for row in ours]
    trained = [{"reward": None, "reward_opponent": None}] * len(ours)
    if feedback.kind not in ("judge", "dataset"):  # these give no reward to one response alone
        trained = contest(feedback, threads, asked, ours, against, meter)
    verdicts = contest(evaluator, threads, asked, ours, against, meter)
    write_rows(
        output,
        (
            {"prompt_id": row["prompt_id"]}
            | verdict
            | {
                "feedback": reward["reward"],
                "feedback_opponent": reward["reward_opponent"],
                "n_tokens": row["n_tokens"],
                "n_tokens_opponent": other["n_tokens"],
            }
            for row, other, verdict, reward in zip(ours, against, verdicts, trained, strict=True)
        ),
    )
    counts = {word: sum(v["outcome"] == word for v in verdicts) for word in ("win", "tie", "loss", "invalid")}
    print(f"judge: {len(ours)} samples, {', '.join(f'{n} {word}' for word, n in counts.items())}")
    if "judge" in meter.notes:
        print(f"judge: {meter.notes['judge']}")
    meter.write(cost)


run(main)
