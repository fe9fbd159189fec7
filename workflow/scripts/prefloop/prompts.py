"""Prompts and preference pairs, from whatever form they come in to one row format."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefloop.rows import InputError, iterate_rows

ROLES = ("system", "user", "assistant")
LAST_TURN = "\n\nAssistant:"


@dataclass
class Columns:
    """Where a data set keeps what; a row may lack any of them but not all."""

    prompt: str = "prompt"
    """Column with the prompt: text, or a list of {role, content} messages."""
    chosen: str = "chosen"
    """Column with the preferred response, or with a whole HH-format transcript or conversation."""
    rejected: str = "rejected"
    """Column with the other response, in the same form."""


def read_source(source: str, packaged: Path, subset: str | None, split: str) -> Iterator[tuple[str, dict]]:
    """(where, raw row) of a prompt source, `where` naming file and line for messages.

    `source` is `packaged`, a .jsonl or .jsonl.gz file, or `hub:owner/name`.
    """
    if source.startswith("hub:"):
        yield from read_hub(source.removeprefix("hub:"), subset, split)
        return
    path = packaged if source == "packaged" else Path(source)
    if path.suffixes[-1:] != [".jsonl"] and path.suffixes[-2:] != [".jsonl", ".gz"]:
        raise InputError(f"prompts.source: {source}: expected packaged, a .jsonl or .jsonl.gz file, or hub:owner/name")
    for line, row in enumerate(iterate_rows(path), start=1):
        yield f"{path}, line {line}", row


def read_hub(name: str, subset: str | None, split: str) -> Iterator[tuple[str, dict]]:
    from datasets import load_dataset

    try:
        data = load_dataset(name, subset, split=split)
    except Exception as error:  # the client raises a dozen kinds, from offline to a misspelt split
        raise InputError(f"prompts.source: hub:{name} could not be loaded ({error})") from error
    for number, row in enumerate(data):
        yield f"hub:{name}, row {number}", row


def to_prompt(row: dict, columns: Columns, where: str) -> dict | None:
    """One prompt row {prompt_id, messages, chosen?, rejected?, meta?} from a raw row.

    Knows a prompt column (text or messages) with or without two responses; HH-RLHF transcripts (the prompt
    is the text up to the last "\\n\\nAssistant:"); and conversations whose last message is the response.
    Two faults occur in HH-RLHF itself: transcripts that part before their last turn are no pair, and the row
    keeps the chosen one's prompt alone; where two answers follow each other there is no prompt, and it is None.
    Raises InputError for a row that is none of these, and for an empty prompt.
    """
    pair = {
        side: row[name] for side, name in [("chosen", columns.chosen), ("rejected", columns.rejected)] if name in row
    }
    if columns.prompt in row:
        messages = as_messages(row[columns.prompt], where)
        pair = {side: as_response(value, where) for side, value in pair.items()}
    elif len(pair) == 2:
        split = {side: split_transcript(value, where) for side, value in pair.items()}
        if split["chosen"][0] and split["chosen"][0][-1].get("role") == "assistant":
            return None
        messages = as_messages(split["chosen"][0], where)
        same = split["chosen"][0] == split["rejected"][0]  # not so in a few rows of HH-RLHF
        pair = {side: response for side, (_, response) in split.items()} if same else {}
    else:
        raise InputError(
            f"{where}: missing {columns.prompt} (or both {columns.chosen} and {columns.rejected}); "
            f"found {', '.join(row) or 'no fields'}"
        )
    prompt_id = str(row["prompt_id"]) if row.get("prompt_id") is not None else identity(messages)
    meta = {"meta": row["meta"]} if "meta" in row else {}
    return {"prompt_id": prompt_id, "messages": messages} | pair | meta


def split_transcript(value: str | list[dict], where: str) -> tuple[list[dict], str]:
    """A transcript or conversation as (messages of the prompt, last response)."""
    if isinstance(value, list):
        return value[:-1], as_response(value, where)
    if not isinstance(value, str) or LAST_TURN not in value:
        raise InputError(f'{where}: expected a transcript with a "\\n\\nAssistant:" turn, or a list of messages')
    before, _, response = value.rpartition(LAST_TURN)
    return parse_turns(before), response.strip()


def parse_turns(transcript: str) -> list[dict]:
    """HH-RLHF's "\\n\\nHuman: …\\n\\nAssistant: …" as messages."""
    messages = []
    for turn in transcript.split("\n\nHuman:")[1:]:
        question, *answers = turn.split(LAST_TURN)
        messages.append({"role": "user", "content": question.strip()})
        messages += [{"role": "assistant", "content": answer.strip()} for answer in answers]
    return messages


def as_messages(value: str | list[dict], where: str) -> list[dict]:
    """Text or messages as a checked list of {role, content} that ends with the user."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: the prompt is {describe(value)}, expected text or a list of messages")
    for message in value:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise InputError(
                f"{where}: {describe(message)} is no message: expected role ({', '.join(ROLES)}) and content"
            )
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            raise InputError(f"{where}: empty prompt: a {message['role']} message has no content")
    if value[-1]["role"] != "user":
        raise InputError(f"{where}: the last message is the {value[-1]['role']}'s, expected the user's")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def as_response(value: str | list[dict], where: str) -> str:
    """A response given as text, or as a conversation that ends with it."""
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    if not isinstance(value, str):
        raise InputError(f"{where}: a response is {describe(value)}, expected text")
    return value


def describe(value) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def identity(messages: list[dict]) -> str:
    """A prompt's id from its content, so that it does not depend on the order of a file."""
    return "p" + hashlib.sha256(json.dumps(messages, ensure_ascii=False).encode()).hexdigest()[:12]


def unique(rows: Iterable[tuple[str, dict | None, bool]]) -> tuple[list[dict], dict[str, int]]:
    """Usable rows without repeated prompts, and how many were dropped for which reason.

    Each item is (where, prompt row or None, whether the id was given). A prompt that occurs again, under
    whatever id, is dropped, so that none is both trained on and held out; an id given twice raises InputError.
    """
    first: dict[str, str] = {}
    seen: set[str] = set()
    kept, repeats, unusable = [], 0, 0
    for where, row, given in rows:
        if row is None:
            unusable += 1
            continue
        if given and row["prompt_id"] in first:
            raise InputError(f"{where}: duplicate prompt_id {row['prompt_id']}, first in {first[row['prompt_id']]}")
        first[row["prompt_id"]] = where
        if identity(row["messages"]) in seen:
            repeats += 1
            continue
        seen.add(identity(row["messages"]))
        kept.append(row)
    return kept, {"repeated": repeats, "with two answers in a row": unusable}


def split_rows(
    rows: list[dict], take: int | None, eval_fraction: float, rng: np.random.Generator
) -> tuple[list[dict], list[dict]]:
    """Shuffle, keep `take` (all if None), and split into train and held-out rows, at least one of each.

    Raises InputError if there are fewer than two prompts, or fewer than `take`.
    """
    if take is not None and take > len(rows):
        raise InputError(
            f"prompts.take asks for {take} prompts, the source has {len(rows)}; lower it or set it to null"
        )
    chosen = [rows[i] for i in rng.permutation(len(rows))[:take]]
    if len(chosen) < 2:
        raise InputError(f"{len(chosen)} prompt(s) left: at least two are needed, one to train on and one to evaluate")
    held_out = min(max(1, round(eval_fraction * len(chosen))), len(chosen) - 1)
    return chosen[held_out:], chosen[:held_out]
