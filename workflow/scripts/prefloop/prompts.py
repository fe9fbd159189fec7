"""Prompts and preference pairs, from whatever form they come in to one row format."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prefloop.chat import prompt_ids
from prefloop.formats import FILTERS, FORMATS, from_format, value_at
from prefloop.rows import InputError, iterate_rows

ROLES = ("system", "user", "assistant")
SIDES = ("chosen", "rejected")
LAST_TURN = "\n\nAssistant:"
PLACEHOLDER = re.compile(r"\{(\w[\w .-]*)\}")


class EmptyPrompt(InputError):
    """A prompt with a message that has no content."""


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


def check_settings(word: str, columns: Columns, template: list[dict] | None) -> None:
    """Refuse an unknown format, and settings that a published data set's format would pass over."""
    if word not in FORMATS:
        raise InputError(f"prompts.format: {word} is none of {', '.join(FORMATS)}")
    if word == "columns":
        return
    for name, given in [("columns", columns != Columns()), ("messages_template", template is not None)]:
        if given:
            raise InputError(f"prompts.{name}: only with prompts.format columns, as {word} knows its own columns")


def prompt_rows(
    raw: Iterable[tuple[str, dict]], word: str, columns: Columns, template: list[dict] | None
) -> Iterator[tuple[str, dict | str, bool]]:
    """(where, prompt row or the reason why there is none, whether the row came with an id of its own).

    An empty prompt is an error in prompts of one's own; in a published data set it is a reason.
    """
    for where, row in raw:
        given = word == "columns" and "prompt_id" in row
        row = from_format(word, row, where)
        if row is None:
            yield where, FILTERS[word], given
            continue
        if template is not None:
            row = row | {columns.prompt: filled(template, row, where)}
        try:
            yield where, to_prompt(row, columns, where) or "with two answers in a row", given
        except EmptyPrompt:
            if word == "columns":
                raise
            yield where, "with an empty prompt", given


def to_prompt(row: dict, columns: Columns, where: str) -> dict | None:
    """One prompt row {prompt_id, messages, chosen?, rejected?, meta?} from a raw row.

    Knows a prompt column (text or messages) with or without two responses; HH-RLHF transcripts (the prompt
    is the text up to the last "\\n\\nAssistant:"); and conversations whose last message is the response.
    Two faults occur in HH-RLHF itself: transcripts that part before their last turn are no pair, and the row
    keeps the chosen one's prompt alone; where two answers follow each other there is no prompt, and it is None.
    Raises InputError for a row that is none of these, and for an empty prompt.
    """
    pair = {side: row[name] for side in SIDES if (name := getattr(columns, side)) in row}
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
            f"found {', '.join(row) or 'no fields'}; name the columns in prompts.columns"
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
            raise EmptyPrompt(f"{where}: empty prompt: a {message['role']} message has no content; delete the row")
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


def parse_template(text: str) -> list[dict]:
    """The messages of prompts.messages_template from the JSON text that a command line can carry."""
    where = "prompts.messages_template"
    try:
        template = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg} at column {error.colno}): {describe(text)}") from error
    if not isinstance(template, list):
        raise InputError(f"{where}: {describe(template)} is no list of messages, each with role and content")
    return as_messages(template, where)


def filled(template: list[dict], row: dict, where: str) -> list[dict]:
    """The template with each `{column}` replaced by the row's value, which is not searched for placeholders again."""

    def value(match: re.Match) -> str:
        found = value_at(row, match[1])
        if not isinstance(found, str | int | float):
            raise InputError(f"{match[1]} is {describe(found)}, expected text or a number")
        return str(found)

    try:
        return [message | {"content": PLACEHOLDER.sub(value, message["content"])} for message in template]
    except InputError as error:
        raise InputError(f"{where}: prompts.messages_template: {error}") from error


def describe(value) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def identity(messages: list[dict]) -> str:
    """A prompt's id from its content, so that it does not depend on the order of a file."""
    return "p" + hashlib.sha256(json.dumps(messages, ensure_ascii=False).encode()).hexdigest()[:12]


class Known(NamedTuple):
    """What `unique` remembers of rows that it has let go."""

    first: dict[str, str]
    """By prompt_id where it stood first."""
    contents: set[str]
    """Of every prompt that was kept, its identity."""


def unique(
    rows: Iterable[tuple[str, dict | str, bool]], known: Known | None = None
) -> tuple[list[dict], dict[str, int]]:
    """Usable rows without repeated prompts, and how many were dropped for which reason.

    Items are those of `prompt_rows`. A prompt that occurs again, under whatever id, is dropped, so that none is
    both trained on and held out. An id that was given twice raises InputError, as does one id for two prompts.
    `known` are the rows before these, where a source comes in parts; it is added to.
    """
    first, seen = known or Known({}, set())
    kept, dropped = [], {"repeated": 0}
    for where, row, given in rows:
        if isinstance(row, str):
            dropped[row] = dropped.get(row, 0) + 1
            continue
        content = identity(row["messages"])
        if row["prompt_id"] in first and (given or content not in seen):
            raise InputError(
                f"{where}: duplicate prompt_id {row['prompt_id']}, first in {first[row['prompt_id']]}; change one"
            )
        first[row["prompt_id"]] = where
        if content in seen:
            dropped["repeated"] += 1
            continue
        seen.add(content)
        kept.append(row)
    return kept, dropped


def without_void_pairs(rows: list[dict]) -> tuple[list[dict], dict[str, int]]:
    """All rows, but pairs that prefer nothing taken out of theirs, and how many were for which reason."""
    kept, dropped = [], {}
    for row in rows:
        responses = [row[side].strip() for side in SIDES if side in row]
        reason = "with an empty response" if "" in responses else "with equal responses"
        if "" in responses or len(responses) > len(set(responses)):
            dropped[reason] = dropped.get(reason, 0) + 1
            row = {name: value for name, value in row.items() if name not in SIDES}
        kept.append(row)
    return kept, dropped


def short_enough(
    rows: list[dict], tokenizer, max_prompt_tokens: int, max_response_tokens: int | None
) -> tuple[list[dict], dict[str, int]]:
    """Rows whose prompt and given responses, if any, are within the limits, and how many were not.

    A prompt counts with the chat template, a response without what ends it.
    """
    kept, long_prompts, long_responses = [], 0, 0
    for row in rows:
        if len(prompt_ids(tokenizer, row["messages"])) > max_prompt_tokens:
            long_prompts += 1
        elif max_response_tokens is not None and longest_response(row, tokenizer) > max_response_tokens:
            long_responses += 1
        else:
            kept.append(row)
    dropped = {f"longer than {max_prompt_tokens} tokens": long_prompts}
    if max_response_tokens is not None:
        dropped[f"with a response longer than {max_response_tokens} tokens"] = long_responses
    return kept, dropped


def longest_response(row: dict, tokenizer) -> int:
    """Tokens of the longer one of a row's given responses; 0 if it has none."""
    responses = [tokenizer(row[side], add_special_tokens=False)["input_ids"] for side in SIDES if side in row]
    return max(map(len, responses), default=0)


def split_rows(rows: Sequence, take: int | None, eval_fraction: float, rng: np.random.Generator) -> tuple[list, list]:
    """Shuffle rows or their places, keep `take` (all if None), split into train and held-out, at least one of each.

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
