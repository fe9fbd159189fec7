"""Rows of pfp.jsonl: the prompts of a step, each with its responses, their rewards and log-probabilities."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

from prefloop.core.errors import InputError
from prefloop.core.jsonl import check_fields, iterate_rows, iterate_with_offsets
from prefloop.core.row_fields import is_finite_number
from prefloop.data.pairs import best_and_worst, is_labeled, member_columns

PROMPT_FIELDS = ("prompt_id", "cluster", "messages", "best", "worst", "pfp", "responses")
RESPONSE_FIELDS = ("prompt_id", "cluster", "response_id", "response", "token_ids", "sampler", "component")
SCORED_FIELDS = ("response_id", "response", "token_ids", "component", "n_tokens", "reward", "logp", "logp_ref")
JUDGED_FIELDS = {"beats", "judged"}  # fields of a judge's feedback
CHECKED_FIELDS = JUDGED_FIELDS | {"tournament"}  # optional fields of rewards.jsonl that are checked
PREFIXES = "logp_ref_prefixes"  # present if a method's training splits responses at the length of the other one
UNLABELED = {"reward": None, "labeled": False}  # the reward of a response to which acquisition gave no label
BATCH = 10  # prompts; the token ids of more would not fit into the processor's cache


def join_step(
    prompts: Path, generations: Path, rewards: Path, logprobs: Path, acquired: Path | None = None
) -> Iterator[dict]:
    """Yield the rows of a step's pfp.jsonl. All files have the same order, so only one prompt at a time is in memory.

    Without `acquired`, every response has a reward. With it, only the listed responses have one, and a prompt without
    listed responses has no row.

    Raises:
        InputError: A file has missing or additional rows or another order, or a row is invalid.
    """
    key = ["prompt_id", "response_id"]
    prompt_rows = RowReader(prompts, generations, key[:1], ["messages", "cluster"])
    reward_rows = RowReader(rewards, generations, key, ["reward"])
    listed = None if acquired is None else RowReader(acquired, generations, key, [])
    logprob_rows = RowReader(logprobs, generations, key, ["n_tokens", "logp", "logp_ref"])
    for prompt_id, group in groupby(iterate_rows(generations, RESPONSE_FIELDS), itemgetter("prompt_id")):
        prompt, responses = prompt_rows.read(prompt_id), []
        for generation in group:
            ids = prompt_id, generation["response_id"]
            logprob, reward = logprob_rows.read(*ids), dict(UNLABELED)
            if listed is None or listed.is_next(*ids):
                reward = reward_rows.read(*ids)
                check_fields(reward, sorted(CHECKED_FIELDS & reward.keys()), f"{rewards}, {label(reward)}")
            responses.append(reward | logprob | generation)
        if any(is_labeled(response) for response in responses):
            responses = fill_judged(responses)
            check_feedback(responses, f"{rewards}, prompt {prompt_id}")
            yield pfp_row(prompt, responses)
    for reader in (prompt_rows, reward_rows, logprob_rows, *([listed] if listed else [])):
        reader.expect_end()


def fill_judged(responses: list[dict]) -> list[dict]:
    """Add empty fields of a judge to responses without a label, if other responses of the prompt have these fields."""
    if not any("beats" in response for response in responses):
        return responses
    empty: dict[str, list] = {name: [] for name in sorted(JUDGED_FIELDS)}
    return [response if is_labeled(response) else empty | response for response in responses]


def pfp_row(prompt: dict, responses: Sequence[dict]) -> dict:
    """Combine a prompt {prompt_id, cluster, messages} and its responses {response_id, reward, logp, logp_ref, …}.

    Returns:
        A row of pfp.jsonl. `best` and `worst` are the ids of the responses with the highest and the lowest reward, and
        `pfp` is log π(worst) − log π(best) in nats. All three are None if the feedback has not decided between the two.
    """
    pair = best_and_worst(responses)
    best, worst = (responses[i] for i in pair) if pair else (None, None)
    return {
        **{name: prompt[name] for name in ("prompt_id", "cluster", "messages")},
        "best": best and best["response_id"],
        "worst": worst and worst["response_id"],
        "pfp": worst["logp"] - best["logp"] if best and worst else None,
        "responses": [
            {name: value for name, value in response.items() if name not in ("prompt_id", "cluster", "answers")}
            for response in responses
        ],
    }


def read_joined(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield the rows of a pfp.jsonl, each with the byte offset of its line.

    Raises:
        InputError: The file is missing or empty, or a row or one of its responses is invalid.
    """
    for offset, row in iterate_with_offsets(path, PROMPT_FIELDS):
        location, responses = f"{path}, prompt {row['prompt_id']}", row["responses"]
        for number, response in enumerate(responses):
            missing = [name for name in SCORED_FIELDS if not isinstance(response, dict) or name not in response]
            if missing:
                raise InputError(f"{location}: response {number} has no {', '.join(missing)}; make the file again")
            check_fields(response, SCORED_FIELDS, f"{location}, response {number}")
            check_fields(
                response, sorted((JUDGED_FIELDS | {PREFIXES}) & response.keys()), f"{location}, response {number}"
            )
        ids = check_feedback(responses, location)
        if not {row["best"], row["worst"]} <= ids and (row["best"], row["worst"]) != (None, None):
            raise InputError(f"{location}: best or worst is not a response of the row; make the file again")
        if row["cluster"] is None:
            raise InputError(f"{location}: cluster is null, expected an integer; make the file again")
        yield offset, row


def check_feedback(responses: Sequence[dict], location: str) -> set[int]:
    """Check the feedback on a prompt's responses and return their ids.

    Raises:
        InputError: There are no responses, only some have judgments or rewards, one beats a response that does not
            exist, or a member of an ensemble lacks a reward. The message starts with `location`.
    """
    if not responses:
        raise InputError(f"{location}: no responses; make the file again")
    ids, judged = {response["response_id"] for response in responses}, JUDGED_FIELDS & responses[0].keys()
    for response in responses:
        if JUDGED_FIELDS & response.keys() != judged or judged not in (set(), JUDGED_FIELDS):
            raise InputError(f"{location}: beats or judged is missing for some of the responses; make the file again")
        if response["reward"] is None and not judged and is_labeled(response):
            raise InputError(f"{location}: a response has no reward, which only a judge may omit; make the file again")
        if judged and not ids.issuperset(response["beats"]):
            raise InputError(f"{location}: a response beats one that does not exist; make the file again")
    check_member_rewards([response for response in responses if is_labeled(response)], location)
    return ids


def check_member_rewards(responses: Sequence[dict], location: str) -> None:
    """Raise an InputError if a labeled response lacks the reward of an ensemble's member, or if it is not a number."""
    names = member_columns(responses[0]) if responses else []
    for response in responses if names else []:
        wrong = [name for name in names if not is_finite_number(response.get(name))]
        if wrong:
            raise InputError(f"{location}: {wrong[0]} of a response is not a finite number; make the file again")


class RowReader:
    """Reads a file of a step row by row, in parallel with its generations."""

    def __init__(self, path: Path, generations: Path, key: Sequence[str], fields: Sequence[str]) -> None:
        self.path, self.generations, self.key = path, generations, key
        self.rows = iterate_rows(path, [*key, *fields])
        self.ahead: dict | None = None  # a row that `is_next` has read but not consumed

    def is_next(self, *ids: str | int) -> bool:
        """Whether the next row has these ids. If it has, it is consumed."""
        if self.ahead is None:
            self.ahead = next(self.rows, None)
        if self.ahead is None or tuple(self.ahead[name] for name in self.key) != ids:
            return False
        self.ahead = None
        return True

    def read(self, *ids: str | int) -> dict:
        """Return the next row. Raise InputError if it has other ids."""
        row = next(self.rows, None)
        if row is None or tuple(row[name] for name in self.key) != ids:
            expected = label(dict(zip(self.key, ids, strict=True)))
            found = "the file's end" if row is None else label(row)
            raise InputError(
                f"{self.path}: expected {expected} next, as in {self.generations}, found {found}; make the step again"
            )
        return row

    def expect_end(self) -> None:
        """Raise InputError if the file has rows left."""
        row = self.ahead or next(self.rows, None)
        if row is not None:
            raise InputError(f"{self.path}: {label(row)} is not in {self.generations}; make the step again")


def label(row: dict) -> str:
    """Return `prompt p3, response 0`, or only the prompt if the row has no response."""
    prompt = f"prompt {row['prompt_id']}"
    return f"{prompt}, response {row['response_id']}" if "response_id" in row else prompt


def in_batches(rows: Iterable[dict]) -> Iterator[list[dict]]:
    """Yield rows of pfp.jsonl in lists of `BATCH`."""
    rows = iter(rows)
    while batch := list(islice(rows, BATCH)):
        yield batch
