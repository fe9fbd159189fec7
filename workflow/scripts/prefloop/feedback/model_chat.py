"""Chat templates of judges and reward models: variables, date and system message."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from prefloop.config.prompt_settings import ChatConfig
from prefloop.models.chat import ChatFormat, check_system_prompt, read_format, settle_format

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@runtime_checkable
class ReadsChat(Protocol):
    """A judge or reward model that reads conversations through a chat template on this machine."""

    chat_config: ChatConfig
    chat: ChatFormat


def settle_chat(tokenizer: "PreTrainedTokenizerBase", config: ChatConfig) -> ChatFormat:
    """The chat format for the settings of a model; SettingError if its template does not support them."""
    chat = settle_format(tokenizer, config.chat_template_kwargs, config.template_date)
    if config.system_prompt is not None and tokenizer.chat_template is not None:
        check_system_prompt(tokenizer, chat)
    return chat


def share_date(source: object, stored: Path | None) -> None:
    """Let the template of a judge or reward model print the date in a chat.json, unless its settings name a date."""
    if stored is not None and isinstance(source, ReadsChat) and source.chat_config.template_date is None:
        source.chat = replace(source.chat, date=read_format(stored).date)


def with_system(messages: Sequence[dict], config: ChatConfig) -> list[dict]:
    """The conversation with the system message of the settings in front, unless it already has one."""
    if config.system_prompt is None or (messages and messages[0]["role"] == "system"):
        return list(messages)
    return [{"role": "system", "content": config.system_prompt}, *messages]
