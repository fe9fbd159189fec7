"""Compare a policy's samples with an opponent's, by an evaluator that need not be the training feedback."""

from pathlib import Path

from _program import run
from prefloop.costs import CostMeter
from prefloop.feedback import Settings, contest
from prefloop.progress import Summary
from prefloop.rows import InputError, check_known, read_rows, write_rows

RESPONSE = ["prompt_id", "response_id", "response", "n_tokens"]


def main(
    *,
    prompts: Path,
    samples: Path,
    output: Path,
    cost: Path,
    evaluator: Settings,
    feedback: Settings,
    opponent: Path | None = None,
    tokenizer: Path | None = None,
    threads: int = 1,
) -> Summary:
    """Score samples and the opponent's, and say who won each prompt.

    Args:
        prompts: The evaluation prompts.
        samples: The policy's samples, one a prompt.
        output: Where the verdicts go, one row a prompt.
        cost: Where the cost goes.
        evaluator: Who decides the outcome.
        feedback: The config's own feedback, whose reward of each sample is written beside the evaluator's.
        opponent: Another policy's samples of the same prompts; the prompts' own chosen responses if not given.
        tokenizer: Manifest of the model that counts the tokens of chosen responses.
        threads: CPU threads, for models that score or judge.
    """
    meter = CostMeter("judge")
    known = {row["prompt_id"]: row for row in read_rows(prompts, ["prompt_id", "messages"])}
    ours = read_rows(samples, RESPONSE)
    check_known(ours, known, prompts, samples)
    if opponent is None:
        answered, ours = ours, [row for row in ours if known[row["prompt_id"]].get("chosen")]
        print(f"judge: {len(ours)} of {len(answered)} prompts have a chosen response")
        if not ours:
            raise InputError(f"{prompts}: no prompt has a chosen response, which evaluation.opponents asks for")
        theirs = chosen_responses([known[row["prompt_id"]] for row in ours], tokenizer)
    else:
        theirs = {row["prompt_id"]: row for row in read_rows(opponent, RESPONSE)}
    missing = [row["prompt_id"] for row in ours if row["prompt_id"] not in theirs]
    if missing:
        raise InputError(f"{opponent}: no sample for prompt {missing[0]}, which {samples} has; make it again")
    against = [theirs[row["prompt_id"]] for row in ours]
    asked = [known[row["prompt_id"]]["messages"] for row in ours]
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
    if "judge" in meter.notes:
        print(f"judge: {meter.notes['judge']}")
    meter.write(cost)
    outcomes = ", ".join(f"{n} {word}" for word, n in counts.items())
    return Summary(f"{len(ours)} samples", len(ours), "sample", outcomes, meter.seconds)


def chosen_responses(rows: list[dict], manifest: Path) -> dict[str, dict]:
    """The data set's preferred response of each prompt, in the form of a sample."""
    from prefloop.chat import load_tokenizer
    from prefloop.manifests import trusted

    count = load_tokenizer(manifest.parent, trusted(manifest))
    return {
        row["prompt_id"]: {
            "prompt_id": row["prompt_id"],
            "response_id": -1,
            "response": row["chosen"],
            "n_tokens": len(count(row["chosen"], add_special_tokens=False)["input_ids"]) + 1,  # EOS, as samples have it
        }
        for row in rows
    }


run(main)
