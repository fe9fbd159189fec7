"""Tables of pairs and responses for the browse page."""

import math
from pathlib import Path
from typing import Any

from prefloop.browse.columns import PROMPT, Column, Draw, Rewards, Table, reward_key
from prefloop.browse.experiment_files import Files
from prefloop.core.jsonl import iterate_rows
from prefloop.data.pairs import FIELDS, Pair, all_pairs
from prefloop.data.pfp_rows import read_joined
from prefloop.feedback.judgments import as_text
from prefloop.report.feedback_labels import training_feedback_labels

SIDES = ("chosen", "rejected")
RUN = (
    Column("method", "method", "choice"),
    Column("seed", "seed", "choice"),
    Column("round", "round", "choice"),
    Column("step", "step", "choice", shown=False, help="bandit step within the round"),
)


def of_side(key: str, label: str, kind: str = "number", **more: Any) -> list[Column]:
    """Return the same column for the chosen and for the rejected response."""
    return [Column(f"{key}_{side}", f"{label} {side}", kind, of=side, shown=False, **more) for side in SIDES]


PAIRS = (
    *RUN,
    *PROMPT,
    Column("chosen", "chosen", "text"),
    Column("rejected", "rejected", "text"),
    *of_side("reward", "reward"),
    Column("gap", "gap", "number", help="reward of the chosen response minus that of the rejected one"),
    *of_side("n", "tokens", digits=0),
    *of_side(
        "logp", "logp", digits=2, help="under the policy that the round started from; nats, summed over the response"
    ),
    *of_side("logp_ref", "logp ref", digits=2, help="under the reference; nats, summed over the response"),
    *of_side("component", "from", "choice", help="what the response was sampled from"),
    Column("pfp", "PFP", "number", digits=2, help="preference perplexity: logp rejected − logp chosen, nats"),
    Column("metric", "metric", "choice", shown=False, help="metric that ranked the round's pairs"),
    Column("score", "score", "number", shown=False, help="the pair's value of the metric; only trained pairs have one"),
    Column("trained", "trained", "choice", help="whether it passed the gap filters and ranked high enough"),
)
RESPONSES = (
    *RUN,
    *PROMPT,
    Column("response", "response", "text"),
    Column("response_id", "response id", "choice", shown=False),
    Column("reward", "reward", "number"),
    Column("rank", "rank", "number", digits=0, help="among the responses to this prompt in this step; 1 is the best"),
    Column("n_tokens", "tokens", "number", digits=0),
    Column("logp", "logp", "number", digits=2, help="under the policy; nats, summed over the response"),
    Column("logp_ref", "logp ref", "number", shown=False, digits=2, help="the same under the reference"),
    Column("log_ratio", "logp − logp ref", "number", shown=False, digits=2),
    Column("perplexity", "perplexity", "number", digits=2, help="exp(−logp / tokens)"),
    Column("sampler", "sampler", "choice", shown=False),
    Column("component", "from", "choice", help="what the response was sampled from"),
    Column("finish_reason", "finish", "choice", help="stop, or length if it was cut"),
)


def pairs_and_responses(files: Files, most: int) -> tuple[Table, Table, Rewards]:
    """Return tables of at most `most` decided pairs and rewarded responses, and all rewards."""
    responses, pairs = Draw(most, "responses"), Draw(most, "pairs")
    rewards: Rewards = {}
    for keys, folder in files.experiment.step_folders():
        if not files.has(folder / "pfp.jsonl"):
            continue
        trained = trained_pairs(folder.parent / "pairs.jsonl", files)
        for _, prompt in read_joined(folder / "pfp.jsonl"):
            shared = keys | {
                "prompt_id": prompt["prompt_id"],
                "cluster": prompt["cluster"],
                "prompt": as_text(prompt["messages"]),
            }
            for response in prompt["responses"]:
                if response["reward"] is not None:
                    rewards.setdefault(reward_key(keys, prompt["cluster"]), []).append(response["reward"])
                responses.add(shared | response_cells(response, prompt["responses"]))
            for pair in all_pairs([prompt])[0]:
                known = trained.get(pair_key(prompt["prompt_id"], pair.chosen, pair.rejected))
                row = shared | pair_cells(pair) | (known or {"trained": "no" if trained else None})
                pairs.add(row, first=known is not None)
    feedbacks = "; ".join(training_feedback_labels(files.experiment)) or "the feedback that trained"
    return (
        Table(
            "pairs",
            "Pairs",
            "Every pair of responses that the feedback decided, and whether the round trained on it. "
            f"Rewards by {feedbacks}.",
            PAIRS,
            pairs.rows,
            pairs.total,
            tally="trained",
            mean="gap",
            drawn="trained pairs first, drawn at random",
            prioritized=True,
        ),
        Table(
            "responses",
            "Responses",
            f"Every sampled response. Rewards by {feedbacks}.",
            RESPONSES,
            responses.rows,
            responses.total,
            tally="finish_reason",
            mean="reward",
        ),
        rewards,
    )


def response_cells(row: dict, group: list[dict]) -> dict:
    """Return the cells of a response, with its rank among the responses to its prompt, or None without a reward."""
    better = [
        other for other in group if None not in (row["reward"], other["reward"]) and other["reward"] > row["reward"]
    ]
    nats = -row["logp"] / row["n_tokens"]
    return row | {
        "rank": None if row["reward"] is None else 1 + len(better),
        "log_ratio": row["logp"] - row["logp_ref"],
        "perplexity": math.exp(nats) if nats < 700 else None,  # a larger exponent overflows a float
    }


def pair_cells(pair: Pair) -> dict:
    """Return the cells of a pair."""
    row: dict[str, Any] = {}
    for side in SIDES:
        response = getattr(pair, side)
        row[side] = response["response"]
        row |= {f"{name}_{side}": response[field] for name, field in (FIELDS | {"component": "component"}).items()}
    return row | {
        "gap": row["reward_chosen"] - row["reward_rejected"],
        "pfp": row["logp_rejected"] - row["logp_chosen"],
    }


def pair_key(prompt_id: str, chosen: dict, rejected: dict) -> tuple:
    """Return a key that identifies a pair in its round, even if its prompt is drawn in several steps."""
    names = ("response_id", "logp", "response")
    return (prompt_id, *(row[name] for row in (chosen, rejected) for name in names))


def trained_pairs(path: Path, files: Files) -> dict[tuple, dict]:
    """Return {metric, score, trained} of every pair in a round's pairs.jsonl; empty if there is no file yet."""
    if not files.has(path):
        return {}
    pairs = {}
    for row in iterate_rows(path, ["prompt_id", "chosen", "rejected", "metric", "score"]):
        sides = [
            {"response_id": row[f"response_id_{side}"], "logp": row[f"logp_{side}"], "response": row[side]}
            for side in SIDES
        ]
        pairs[pair_key(row["prompt_id"], *sides)] = {"metric": row["metric"], "score": row["score"], "trained": "yes"}
    return pairs
