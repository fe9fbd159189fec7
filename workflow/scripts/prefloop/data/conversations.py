"""Converts messages, conversations and transcripts to prompts: the {role, content} messages before the last answer."""

from typing import Any, NamedTuple

from prefloop.core.errors import InputError
from prefloop.core.jsonl import describe

SIDES = ("chosen", "rejected")
ROLES = ("system", "user", "assistant", "tool")
ASKING = ("user", "tool")  # roles that an assistant answers
LAST_TURN = "\n\nAssistant:"
DIFFERENT_HISTORY = "that differ before the last turn"

Messages = list[dict[str, str]]


class EmptyPromptError(InputError):
    """A prompt with a message that has no content."""


class UnusableRowError(Exception):
    """A row that cannot become a prompt. It is dropped, and counted under this reason."""


class ParsedPair(NamedTuple):
    """A prompt and its responses."""

    messages: Messages
    """The conversation before the responses."""
    responses: dict[str, str]
    """Responses by side, chosen and rejected. Either side may be missing."""
    dropped: str = ""
    """Why the responses were dropped; empty if they were not."""


def read_messages(value: Any, origin: str) -> Messages:
    """Return a list of messages as {role, content}. If a content has several text parts, they are joined.

    Raises:
        InputError: The value is not a list of messages.
        UnusableRowError: A message has content other than text.
    """
    if not isinstance(value, list) or not value:
        raise InputError(f"{origin}: {describe(value)}, expected text or a list of messages")
    for message in value:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            is_sharegpt = isinstance(message, dict) and "from" in message
            hint = "; from and value are read with format sharegpt" if is_sharegpt else ""
            raise InputError(
                f"{origin}: {describe(message)} is not a message: expected role ({', '.join(ROLES)}) and content{hint}"
            )
    return [{"role": message["role"], "content": text_of(message)} for message in value]


def text_of(message: dict) -> str:
    """Return a message's content as text; empty if it has none."""
    parts = message.get("content")
    parts = parts if isinstance(parts, list) else [parts]
    texts = [
        part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else part for part in parts
    ]
    if message.get("tool_calls") or not all(isinstance(text, str | None) for text in texts):
        raise UnusableRowError("with images or other content that is not text")
    return "".join(text or "" for text in texts)


def as_messages(value: Any, origin: str) -> Messages:
    """Return text or messages as a prompt. No message may be empty, and the last one must be the user's or a tool's."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise InputError(f"{origin}: the prompt is {describe(value)}, expected text or a list of messages")
    return check_prompt(read_messages(value, origin), origin)


def check_prompt(messages: Messages, origin: str) -> Messages:
    """Return the messages of a prompt. Raise InputError if one has no content or if the last one needs no answer."""
    for message in messages:
        if not message["content"].strip():
            raise EmptyPromptError(
                f"{origin}: empty prompt: a {message['role']} message has no content; delete the row"
            )
    if messages[-1]["role"] not in ASKING:
        raise InputError(f"{origin}: the last message is the {messages[-1]['role']}'s, expected the user's")
    if all(message["role"] != "user" for message in messages):
        raise UnusableRowError("without a user message")
    return messages


def as_response(value: Any, origin: str) -> str:
    """Return a response that is given as text. Raise InputError for any other value."""
    if not isinstance(value, str):
        raise InputError(f"{origin}: a response is {describe(value)}, expected text")
    return value


def is_conversation(value: Any) -> bool:
    """Whether a response is given as a conversation that ends with it, or as its message alone."""
    return isinstance(value, list | dict)


def parse_conversations(pair: dict[str, Any], prompt: Any, origin: str) -> ParsedPair:
    """Return the prompt and responses of conversations, each of which ends with a response.

    The prompt is the conversation before the assistant's last message, and the prompt column is ignored. Only if a
    conversation begins with the assistant, the prompt column is put before it.

    Args:
        pair: One conversation per side. One of two sides may be text, which is only the response.
        prompt: The prompt column, if the row has one.
        origin: File and line, for error messages.

    Raises:
        UnusableRowError: A conversation does not end with one answer to the user, or the two differ before that answer.
    """
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else None
    before = read_messages(prompt, origin) if isinstance(prompt, list) and prompt else before
    histories, responses = [], {}
    for side, value in pair.items():
        if not is_conversation(value):
            responses[side] = as_response(value, origin)
            continue
        history, responses[side] = split_conversation(value, before, origin)
        histories.append(history)
    if all(history == histories[0] for history in histories):
        return ParsedPair(check_prompt(histories[0], origin), responses)
    if before is None or not all(history[: len(before)] == before for history in histories):
        raise UnusableRowError("whose conversations differ before the last turn")
    return ParsedPair(check_prompt(before, origin), {}, DIFFERENT_HISTORY)


def split_conversation(value: Any, before: Messages | None, origin: str) -> tuple[Messages, str]:
    """Split a conversation into (messages of the prompt, last response), with the errors of `parse_conversations`."""
    messages = read_messages([value] if isinstance(value, dict) else value, origin)
    if messages[-1]["role"] != "assistant":
        raise UnusableRowError(f"ending with the {messages[-1]['role']}")
    history, response = messages[:-1], messages[-1]["content"]
    first_role = next(message["role"] for message in messages if message["role"] != "system")
    if before is not None and first_role == "assistant":
        history = before + history
    elif before is not None and before[0]["role"] == "system" and history[0]["role"] != "system":
        history = before[:1] + history
    if not history or history[-1]["role"] == "system":
        raise UnusableRowError("without a user message")
    if history[-1]["role"] == "assistant":
        raise UnusableRowError("with two answers in a row")
    return history, response


def parse_transcripts(pair: dict[str, Any], origin: str) -> ParsedPair:
    """Return the prompt (the text up to the last "\\n\\nAssistant:") and responses of two HH-RLHF transcripts.

    HH-RLHF itself has two kinds of faulty rows. If the transcripts differ before their last turn, the pair is dropped,
    and the prompt is that of the chosen one. If the assistant answers twice in a row, there is no prompt.
    """
    split = {side: split_transcript(value, origin) for side, value in pair.items()}
    history, _ = split["chosen"]
    if history and history[-1]["role"] == "assistant":
        raise UnusableRowError("with two answers in a row")
    if not history:
        raise InputError(f'{origin}: a transcript without a "\\n\\nHuman:" turn')
    check_prompt(history, origin)
    if history != split["rejected"][0]:
        return ParsedPair(history, {}, DIFFERENT_HISTORY)
    return ParsedPair(history, {side: response for side, (_, response) in split.items()})


def split_transcript(value: Any, origin: str) -> tuple[Messages, str]:
    """Split a transcript into (messages of the prompt, last response)."""
    if not isinstance(value, str) or LAST_TURN not in value:
        raise InputError(f'{origin}: expected a transcript with a "\\n\\nAssistant:" turn, or a list of messages')
    before, _, response = value.rpartition(LAST_TURN)
    if "\n\nHuman:" in response:
        raise UnusableRowError("ending with the user")
    return parse_turns(before), response.strip()


def parse_turns(transcript: str) -> Messages:
    """Convert HH-RLHF's "\\n\\nHuman: …\\n\\nAssistant: …" to messages. The first empty line may be missing.

    Raises:
        UnusableRowError: There is text before the first turn of the user.
    """
    messages = []
    before, *turns = f"\n\n{transcript.lstrip()}".split("\n\nHuman:")
    if turns and before.strip():
        raise UnusableRowError("with text before the first turn")
    for turn in turns:
        question, *answers = turn.split(LAST_TURN)
        messages.append({"role": "user", "content": question.strip()})
        messages += [{"role": "assistant", "content": answer.strip()} for answer in answers]
    return messages


def merge_roles(messages: Messages) -> Messages:
    """Merge messages for chat templates without a system role and without two messages of the same role in a row.

    System text is put at the start of the first user message. Merged texts are separated by an empty line.
    """
    system = [message["content"] for message in messages if message["role"] == "system"]
    merged: Messages = []
    for message in messages:
        if message["role"] == "system":
            continue
        texts = [message["content"]]
        if message["role"] == "user" and system:
            texts, system = [*system, *texts], []
        if merged and merged[-1]["role"] == message["role"]:
            texts = [merged.pop()["content"], *texts]
        merged.append({"role": message["role"], "content": "\n\n".join(texts)})
    return merged
