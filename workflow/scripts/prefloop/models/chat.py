"""Convert messages to token ids and back, in the same way in every stage."""

import datetime
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prefloop.core.errors import InputError, SettingError, refused, section, short_repr
from prefloop.core.files import read_json, write_json
from prefloop.models.chat_templates import RefusedRolesError, check_chat_template, render_chat
from prefloop.models.manifests import loading_problem
from prefloop.models.startup import import_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[dict[str, str]]

# For base models whose tokenizer has no chat template: the format of HH-RLHF's transcripts.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ {'system': '', 'user': '\n\nHuman: ', 'assistant': '\n\nAssistant: '}[message['role']] + message['content'] }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)
# Template variables that this module sets, and options of transformers' renderer.
RESERVED = ("add_generation_prompt", "continue_final_message", "messages", "strftime_now", "tokenize")
ANSWER = "prefloop"  # a placeholder answer, to see what a template writes around it


@dataclass(frozen=True, eq=False)
class ChatFormat:
    """How a chat template is filled.

    A run uses one format, so that a conversation has the same token ids in every stage and on every day.
    `prepare_prompts` stores the policy's format as chat.json.
    """

    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Variables of the template, such as enable_thinking."""
    date: str | None = None
    """The day that the template may print, as YYYY-MM-DD; None is today."""

    @property
    def variables(self) -> dict[str, Any]:
        """The template's variables other than the messages. `strftime_now` replaces transformers' clock."""
        if self.date is None:
            return self.template_kwargs
        return self.template_kwargs | {"strftime_now": datetime.datetime.fromisoformat(self.date).strftime}


DEFAULT_FORMAT = ChatFormat()


class AssistantTurn(NamedTuple):
    """What a chat template writes around an assistant's turn."""

    lead: str
    """Text between the generation prompt and the answer, such as the space in "Assistant: yes"."""
    tail: str
    """Text between the answer and the end token."""
    rest: str
    """The end token, if the template writes one, and what follows."""
    end: int
    """Token id that ends the turn: the first special token after the answer, else the tokenizer's EOS."""


def load_tokenizer(model: Path, trust_remote_code: bool = False) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model folder, and add a chat template or padding token if it has none.

    Of several named chat templates, it keeps only the one named default.

    Raises:
        InputError: transformers cannot load a tokenizer from the folder, or the tokenizer has no token that ends a
            turn.
    """
    transformers = import_transformers()
    with refused(
        f"{model}: no tokenizer that transformers can load", lambda error: loading_problem(error, trust_remote_code)
    ):
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
    if isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = default_template(tokenizer.chat_template, model)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    else:
        check_chat_template(tokenizer, model)
    if tokenizer.pad_token_id is None:
        try:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(assistant_turn(tokenizer).end)
        except InputError as error:
            raise InputError(f"{model}: {error}") from error
    return tokenizer


def default_template(templates: dict[str, str], model: Path) -> str:
    """The default one of a tokenizer's named chat templates; InputError if no template has this name."""
    if "default" not in templates:
        raise InputError(f"{model}: chat templates {', '.join(templates)}, expected one with the name default")
    return templates["default"]


def conversation_text(
    tokenizer: "PreTrainedTokenizerBase", messages: Messages, chat: ChatFormat = DEFAULT_FORMAT, answered: bool = False
) -> str:
    """The text of a conversation, up to the start of the assistant's answer.

    If the conversation is `answered`, its last message is the answer and part of the text.

    Raises:
        RefusedRolesError: The chat template does not allow this order of roles.
    """
    return render_chat(tokenizer, messages, add_generation_prompt=not answered, **chat.variables)


def conversation_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """The token ids of a rendered conversation, with at most one BOS.

    The chat template writes its own special tokens. The tokenizer's BOS is prepended only if the template wrote none.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:1] != [bos] and tokenizer("")["input_ids"][:1] == [bos]:
        ids = [bos, *ids]
    return ids


def prompt_ids(
    tokenizer: "PreTrainedTokenizerBase", messages: Messages, chat: ChatFormat = DEFAULT_FORMAT
) -> list[int]:
    """The token ids of a conversation, up to the start of the assistant's answer; errors as for `conversation_text`."""
    return conversation_ids(tokenizer, conversation_text(tokenizer, messages, chat))


def example_ids(
    tokenizer: "PreTrainedTokenizerBase", messages: Messages, text: str, chat: ChatFormat = DEFAULT_FORMAT
) -> tuple[list[int], list[int]]:
    """The token ids of a prompt and of a given response to it, which end with the end-of-turn token.

    Together they are the tokens of the finished conversation as the chat template writes it. The response is tokenized
    on its own if it contains text that looks like a special token, which must stay text, or if the template or the
    tokenizer writes the prompt differently once it is answered.
    """
    prompt, turn = prompt_ids(tokenizer, messages, chat), assistant_turn(tokenizer, chat)

    def as_text(answer: str) -> list[int]:
        return list(tokenizer(answer, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    if tokenizer(text, add_special_tokens=False)["input_ids"] == as_text(text):
        answer = {"role": "assistant", "content": text}
        finished = conversation_text(tokenizer, [*messages, answer], chat, answered=True)
        ids = conversation_ids(tokenizer, finished.removesuffix(turn.rest))
        if finished.endswith(turn.rest) and ids[: len(prompt)] == prompt:
            return prompt, [*ids[len(prompt) :], turn.end]
    return prompt, [*as_text(turn.lead + text), turn.end]


def response_ids(
    tokenizer: "PreTrainedTokenizerBase", messages: Messages, text: str, chat: ChatFormat = DEFAULT_FORMAT
) -> list[int]:
    """The token ids of a given response, as in `example_ids`."""
    return example_ids(tokenizer, messages, text, chat)[1]


def response_text(
    tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], ends: Sequence[int], chat: ChatFormat = DEFAULT_FORMAT
) -> str:
    """The text of a response, without a final token in `ends` and without the space that the template writes before
    every answer."""
    written = list(ids[:-1] if ids and ids[-1] in ends else ids)
    text = str(tokenizer.decode(written, skip_special_tokens=True))
    lead = assistant_turn(tokenizer, chat).lead
    return text.removeprefix(lead) if lead.isspace() else text


def eos_ids(
    tokenizer: "PreTrainedTokenizerBase", generation_config: Any, chat: ChatFormat = DEFAULT_FORMAT
) -> list[int]:
    """All token ids that end a response: EOS, the template's end-of-turn token, and those of the generation config."""
    configured = generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    ends = [tokenizer.eos_token_id, assistant_turn(tokenizer, chat).end, *configured]
    return sorted({token for token in ends if token is not None})


def assistant_turn(tokenizer: "PreTrainedTokenizerBase", chat: ChatFormat = DEFAULT_FORMAT) -> AssistantTurn:
    """What the chat template writes around an assistant's turn, found by rendering an answered conversation.

    Raises:
        InputError: The template does not end a turn with a special token, and the tokenizer has no EOS.
    """
    return probe_turn(tokenizer, chat, str(tokenizer.chat_template))


@lru_cache(maxsize=8)
def probe_turn(tokenizer: "PreTrainedTokenizerBase", chat: ChatFormat, template: str) -> AssistantTurn:
    """Compute `assistant_turn`; `template` is only a key of the cache."""
    question = {"role": "user", "content": "Hi"}
    try:
        finished = conversation_text(
            tokenizer, [question, {"role": "assistant", "content": ANSWER}], chat, answered=True
        )
        before, found, after = finished.rpartition(ANSWER)
        prompt = conversation_text(tokenizer, [question], chat)
    except RefusedRolesError:
        before, found, after, prompt = "", "", "", ""
    lead = before.removeprefix(prompt) if found and before.startswith(prompt) else ""
    tokens = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    ends = [(after.find(word), -len(word), number) for word, number in tokens.items() if word.strip() and word in after]
    if ends:
        start, _, end = min(ends)
        return AssistantTurn(lead, after[:start], after[start:], end)
    if tokenizer.eos_token_id is None:
        raise InputError(
            "the tokenizer has no eos_token, and the chat template does not end an answer with a special token, so "
            "responses would never end; add an eos_token to tokenizer_config.json"
        )
    return AssistantTurn(lead, "", after, tokenizer.eos_token_id)


def settle_format(
    tokenizer: "PreTrainedTokenizerBase", template_kwargs: dict[str, Any], date: str | None, stored: Path | None = None
) -> ChatFormat:
    """The chat format of a run, from its settings.

    A `date` is also passed as the variable `date_string` to templates that read it; without a `date` they print their
    own. The default is the date of an earlier chat.json (`stored`), else today.

    Raises:
        SettingError: The date is invalid, or the template does not read one of the variables.
    """
    template = str(tokenizer.chat_template)
    words = set(re.findall(r"\w+", template))
    for name in template_kwargs:
        if name in RESERVED or name not in words:
            close = difflib.get_close_matches(name, words - set(RESERVED), n=1)
            hint = f"did you mean {close[0]}?" if close else "leave it out"
            raise SettingError(f"chat_template_kwargs: {name} is not a variable of the model's chat template; {hint}")
    if date is not None:
        day = parse_day(date)
        if "date_string" in words:
            template_kwargs = {"date_string": f"{day:%d %b %Y}"} | template_kwargs
    elif stored is not None and stored.is_file():
        date = read_format(stored).date
    return ChatFormat(template_kwargs, date or datetime.date.today().isoformat())


def check_system_prompt(tokenizer: "PreTrainedTokenizerBase", chat: ChatFormat) -> None:
    """Raise SettingError if the chat template refuses a system message."""
    try:
        conversation_text(
            tokenizer, [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}], chat
        )
    except RefusedRolesError as error:
        raise SettingError(
            "system_prompt: the model's chat template refuses system messages; leave it out, or write the text into "
            "the user's message by prompts.messages_template"
        ) from error


def parse_day(text: str) -> datetime.date:
    """A day written YYYY-MM-DD; SettingError for any other text."""
    problem = f"template_date: {text!r}, expected a day as YYYY-MM-DD, such as 2025-01-31"
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError as error:
        raise SettingError(problem) from error
    if text != day.isoformat():  # Python also reads other forms, such as 20250131
        raise SettingError(problem)
    return day


def write_format(path: Path, chat: ChatFormat, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Write chat.json: the format and, for information, the token that ends an assistant's turn."""
    end = tokenizer.convert_ids_to_tokens(assistant_turn(tokenizer, chat).end)
    write_json(path, {"template_kwargs": chat.template_kwargs, "date": chat.date, "end_of_turn": end})


def read_format(path: Path | None) -> ChatFormat:
    """Read the chat format from a chat.json; the default format if the path is None."""
    if path is None:
        return DEFAULT_FORMAT
    stored = read_json(path)
    for name, kinds in (("template_kwargs", dict), ("date", str | None)):
        if name not in stored or not isinstance(stored[name], kinds):
            problem = f"{name} is {short_repr(stored[name])}" if name in stored else f"missing '{name}'"
            raise InputError(f"{path}: {problem}; run rule prepare_prompts again")
    if stored["date"] is not None:
        with section(str(path)):
            parse_day(stored["date"])
    return ChatFormat(stored["template_kwargs"], stored["date"])
