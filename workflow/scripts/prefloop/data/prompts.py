"""Converts raw rows of any supported form to prompts and preference pairs in one format."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from prefloop.config.prompt_settings import Columns
from prefloop.core.errors import InputError
from prefloop.core.jsonl import check_writable, describe, unreadable_json
from prefloop.data.conversations import (
    SIDES,
    EmptyPromptError,
    ParsedPair,
    UnusableRowError,
    as_messages,
    as_response,
    is_conversation,
    parse_conversations,
    parse_transcripts,
)
from prefloop.data.formats import DROP_REASONS, FORMATS, GROUPED, apply_format, value_at

TEMPLATE = "prompts.messages_template"
PLACEHOLDER = re.compile(r"\{(\w[\w .-]*)\}")


class ParsedRow(NamedTuple):
    """The content of a raw row of a prompt source."""

    origin: str
    """File and line, for error messages."""
    prompt: dict | None
    """{prompt_id, messages, chosen?, rejected?, meta?}; None if the row has no prompt."""
    drop_reason: str = ""
    """Why the row has no prompt, such as `with an empty prompt`."""
    has_own_id: bool = False
    """Whether the prompt's id comes from the source. Otherwise it is a hash of the content."""
    pair_drop_reason: str = ""
    """Why the row's pair was dropped although its prompt was kept."""
    raw_count: int = 1
    """Number of raw rows that were combined."""


def check_format(name: str, columns: Columns, template: list[dict] | None) -> None:
    """Raise InputError for an unknown format, and for settings that a published data set's format would ignore."""
    if name not in FORMATS:
        raise InputError(f"prompts.format: {name} is not one of {', '.join(FORMATS)}")
    if name == "columns":
        return
    for key, is_set in [("columns", columns != Columns()), ("messages_template", template is not None)]:
        if is_set:
            raise InputError(f"prompts.{key}: only for prompts.format columns; {name} has fixed columns")


def parse_rows(
    raw_rows: Iterable[tuple[str, dict]],
    format_name: str,
    columns: Columns,
    template: list[dict] | None,
    keep: Sequence[str] = (),
) -> Iterator[ParsedRow]:
    """Yield the prompts of raw rows. Empty prompts are dropped in published data sets, but are errors in users' data.

    Args:
        raw_rows: (origin, raw row) from `open_source`.
        format_name: A key of FORMATS.
        columns: The columns of format columns.
        template: The messages of prompts.messages_template; None if it is not set.
        keep: Columns of the raw row that are copied into the prompt's meta.
    """
    for origin, raw_row, raw_count in grouped_rows(raw_rows, format_name):
        has_own_id = format_name == "columns" and raw_row.get("prompt_id") is not None
        try:
            row = apply_format(format_name, raw_row, origin)
            if row is None:
                raise UnusableRowError(DROP_REASONS[format_name])
            if template is not None:
                row = row | {columns.prompt: fill_template(template, row, origin)}
            prompt, pair_drop_reason = to_prompt(row, columns, origin)
        except UnusableRowError as error:
            yield ParsedRow(origin, None, str(error), raw_count=raw_count)
        except EmptyPromptError:
            if format_name == "columns":
                raise
            yield ParsedRow(origin, None, "with an empty prompt", raw_count=raw_count)
        else:
            first_row = raw_row["rows"][0] if format_name in GROUPED else raw_row
            prompt |= kept_columns(first_row, keep, prompt.get("meta"), origin)
            yield ParsedRow(origin, check_writable(prompt, origin), "", has_own_id, pair_drop_reason, raw_count)


def grouped_rows(raw_rows: Iterable[tuple[str, dict]], format_name: str) -> Iterator[tuple[str, dict, int]]:
    """Yield (origin, row, number of raw rows). Formats in GROUPED combine consecutive rows of a prompt: {rows: […]}."""
    if format_name not in GROUPED:
        yield from ((origin, row, 1) for origin, row in raw_rows)
        return
    for _, group in groupby(raw_rows, key=lambda item: item[1].get(GROUPED[format_name])):
        origins, rows = zip(*group, strict=True)
        yield origins[0], {"rows": list(rows)}, len(rows)


def kept_columns(row: dict, keep: Sequence[str], meta: object, origin: str) -> dict:
    """Return {meta} with the columns `keep` of a raw row; empty if there are no columns to keep.

    Raises:
        InputError: The row lacks one of the columns, or its own meta is not a mapping.
    """
    if not keep:
        return {}
    if not isinstance(meta, dict | None):
        raise InputError(f"{origin}: meta is {describe(meta)}, expected a mapping, to which prompts.keep adds columns")
    try:
        return {"meta": (meta or {}) | {name: value_at(row, name) for name in keep}}
    except InputError as error:
        raise InputError(f"{origin}: prompts.keep: {error}") from error


def to_prompt(row: dict, columns: Columns, origin: str) -> tuple[dict, str]:
    """Return a prompt row {prompt_id, messages, chosen?, rejected?, meta?}, and why its pair was dropped.

    Raw rows can have three forms: a prompt column (text or messages) with or without two responses, HH-RLHF
    transcripts, and conversations whose last message is the response. A column without a value counts as missing.

    Raises:
        InputError: The row has none of these forms, or an empty prompt.
        UnusableRowError: The row is dropped, and counted under this reason.
    """
    given = {side: row.get(getattr(columns, side)) for side in SIDES}
    pair = {side: value for side, value in given.items() if value is not None}
    text = row.get(columns.prompt)
    if any(map(is_conversation, pair.values())):
        parsed = parse_conversations(pair, text, origin)
    elif text is not None:
        responses = {side: as_response(value, origin) for side, value in pair.items()}
        parsed = ParsedPair(as_messages(text, origin), responses)
    elif len(pair) == 2:
        parsed = parse_transcripts(pair, origin)
    else:
        raise InputError(
            f"{origin}: missing {columns.prompt} (or both {columns.chosen} and {columns.rejected}); "
            f"found {', '.join(map(str, row)) or 'no fields'}; name the columns in prompts.columns"
        )
    prompt_id = str(row["prompt_id"]) if row.get("prompt_id") is not None else content_id(parsed.messages)
    meta = {"meta": row["meta"]} if "meta" in row else {}
    return {"prompt_id": prompt_id, "messages": parsed.messages} | parsed.responses | meta, parsed.dropped


def parse_template(text: str) -> list[dict]:
    """Return the messages of prompts.messages_template from the JSON text of a flag."""
    try:
        template = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{TEMPLATE}: not JSON ({error.msg} at column {error.colno}): {describe(text)}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{TEMPLATE}: {unreadable_json(error)}") from error
    return check_template(template)


def check_template(template: object) -> list[dict]:
    """Return the messages of a template. Raise InputError if it is not a list of messages that ends with the user."""
    if not isinstance(template, list):
        raise InputError(f"{TEMPLATE}: {describe(template)} is not a list of messages, each with role and content")
    try:
        return as_messages(template, TEMPLATE)
    except UnusableRowError as error:
        raise InputError(f"{TEMPLATE}: a message {error}, expected text with {{column}} placeholders") from error


def fill_template(template: list[dict], row: dict, origin: str) -> list[dict]:
    """Replace each `{column}` of a template by the row's value. Placeholders within values are not replaced."""

    def value(match: re.Match) -> str:
        filling = value_at(row, match[1])
        if not isinstance(filling, str | int | float):
            raise InputError(f"{match[1]} is {describe(filling)}, expected text or a number")
        return str(filling)

    try:
        return [message | {"content": PLACEHOLDER.sub(value, message["content"])} for message in template]
    except InputError as error:
        raise InputError(f"{origin}: {TEMPLATE}: {error}") from error


def content_id(messages: list[dict]) -> str:
    """Return a prompt's id as a hash of its content, so that it does not depend on the order of rows."""
    return (
        "p" + hashlib.sha256(json.dumps(messages, ensure_ascii=False).encode(errors="surrogatepass")).hexdigest()[:12]
    )
