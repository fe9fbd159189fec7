"""The browse page's pairs and responses."""

import math
from pathlib import Path

from prefloop.browsing import PROMPT, Column, Draw, Rewards, Table, place_of
from prefloop.browsing.files import Files
from prefloop.experiment import Experiment
from prefloop.pairs import Pair, all_pairs, iterate_responses
from prefloop.rows import iterate_rows, read_rows
from prefloop.verdicts import as_text

SIDES = ("chosen", "rejected")
RUN = (
    Column("method", "method", "choice"),
    Column("seed", "seed", "choice"),
    Column("round", "round", "choice"),
    Column("step", "step", "choice", shown=False, help="bandit step within the round"),
)


def of_side(key: str, label: str, kind: str = "number", **more) -> list[Column]:
    """The same column for the chosen and for the rejected response."""
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
        "logp", "logp", digits=2, help="nats, summed over the response, of the policy that the round started from"
    ),
    *of_side("logp_ref", "logp ref", digits=2, help="nats, summed over the response, of the reference"),
    *of_side("component", "from", "choice", help="what the response was sampled from"),
    Column("pfp", "PFP", "number", digits=2, help="preference perplexity: logp rejected − logp chosen, nats"),
    Column("metric", "metric", "choice", shown=False, help="what ranked the round's pairs"),
    Column("score", "score", "number", shown=False, help="of the pair by the metric; only trained pairs have one"),
    Column("trained", "trained", "choice", help="whether it passed the gap filters and the metric ranked it high"),
)
RESPONSES = (
    *RUN,
    *PROMPT,
    Column("response", "response", "text"),
    Column("response_id", "response id", "choice", shown=False),
    Column("reward", "reward", "number"),
    Column("rank", "rank", "number", digits=0, help="among the responses to this prompt in this step; 1 is the best"),
    Column("n_tokens", "tokens", "number", digits=0),
    Column("logp", "logp", "number", digits=2, help="nats, summed over the response, of the policy"),
    Column("logp_ref", "logp ref", "number", shown=False, digits=2, help="the same of the reference"),
    Column("log_ratio", "logp − logp ref", "number", shown=False, digits=2),
    Column("perplexity", "perplexity", "number", digits=2, help="exp(−logp / tokens)"),
    Column("sampler", "sampler", "choice", shown=False),
    Column("component", "from", "choice", help="what the response was sampled from"),
    Column("finish_reason", "finish", "choice", help="stop, or length where it was cut"),
)


def pairs_and_responses(files: Files, most: int) -> tuple[Table, Table, Rewards]:
    """Every pair that the feedback decided and every scored response, read a prompt at a time; and all rewards."""
    responses, pairs, rewards = Draw(most, "responses"), Draw(most, "pairs"), {}
    for where, folder in files.experiment.step_folders():
        names = ("prompts", "rewards", "pfp", "generations")
        prompts, *rows = (folder / f"{name}.jsonl" for name in names)
        if not files.has(prompts, *rows):
            continue
        asked = {row["prompt_id"]: as_text(row["messages"]) for row in read_rows(prompts, ["prompt_id", "messages"])}
        trained = trained_pairs(folder.parent / "pairs.jsonl", files)
        for prompt_id, group in iterate_responses(*rows):
            for row in group:
                if row["reward"] is not None:
                    rewards.setdefault(place_of(where, row["cluster"]), []).append(row["reward"])
                responses.add(where | response_row(row, group) | {"prompt": asked[prompt_id]})
            for pair in all_pairs({prompt_id: group})[0]:
                known = trained.get(pair_key(pair.chosen, pair.rejected))
                row = where | pair_row(pair) | {"prompt": asked[prompt_id]}
                row |= known or {"trained": "no" if trained else None}
                pairs.add(row, first=known is not None)
    return (
        Table(
            "pairs",
            "Pairs",
            f"Every pair of responses that the feedback decided, and whether the round trained on it. "
            f"Rewards by {by_whom(files.experiment)}.",
            PAIRS,
            pairs.rows,
            pairs.total,
            tally="trained",
            mean="gap",
            drawn="trained pairs first, drawn at random",
        ),
        Table(
            "responses",
            "Responses",
            f"Every response that was sampled and scored. Rewards by {by_whom(files.experiment)}.",
            RESPONSES,
            responses.rows,
            responses.total,
            tally="finish_reason",
            mean="reward",
        ),
        rewards,
    )


def by_whom(experiment: Experiment) -> str:
    """Who rewarded the methods' training, in words."""
    return "; ".join(dict.fromkeys(experiment.trained_by)) or "the feedback that trained"


def response_row(row: dict, group: list[dict]) -> dict:
    """A response as the page shows it, ranked within its prompt's; a judge may have given it no reward."""
    better = [
        other for other in group if None not in (row["reward"], other["reward"]) and other["reward"] > row["reward"]
    ]
    nats = -row["logp"] / row["n_tokens"]
    return row | {
        "rank": None if row["reward"] is None else 1 + len(better),
        "log_ratio": row["logp"] - row["logp_ref"],
        "perplexity": math.exp(nats) if nats < 700 else None,  # beyond, no float holds it
    }


def pair_row(pair: Pair) -> dict:
    """A pair as the page shows it."""
    row = {name: pair.chosen[name] for name in ("prompt_id", "cluster")}
    for side in SIDES:
        response = getattr(pair, side)
        row[side] = response["response"]
        names = {"reward": "reward", "n": "n_tokens", "logp": "logp", "logp_ref": "logp_ref", "component": "component"}
        row |= {f"{name}_{side}": response[its] for name, its in names.items()}
    return row | {
        "gap": row["reward_chosen"] - row["reward_rejected"],
        "pfp": row["logp_rejected"] - row["logp_chosen"],
    }


def pair_key(chosen: dict, rejected: dict) -> tuple:
    """What tells a pair from all others of its round: with reuse a prompt may have been drawn in several steps."""
    names = ("response_id", "logp", "response")
    return (chosen["prompt_id"], *(row[name] for row in (chosen, rejected) for name in names))


def trained_pairs(path: Path, files: Files) -> dict[tuple, dict]:
    """{metric, score, trained} of every pair of a round's pairs.jsonl; nothing where it is not there yet."""
    if not files.has(path):
        return {}
    found = {}
    for row in iterate_rows(path, ["prompt_id", "chosen", "rejected", "metric", "score"]):
        sides = [
            {
                "prompt_id": row["prompt_id"],
                "response_id": row[f"response_id_{side}"],
                "logp": row[f"logp_{side}"],
                "response": row[side],
            }
            for side in SIDES
        ]
        found[pair_key(*sides)] = {"metric": row["metric"], "score": row["score"], "trained": "yes"}
    return found
