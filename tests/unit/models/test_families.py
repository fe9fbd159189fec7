"""Conversations of well-known model families with the settings of docs/chat_models.md, on tiny random models."""

from pathlib import Path
from typing import NamedTuple

import pytest

import families
from conversations import asks
from prefloop.core.errors import InputError
from prefloop.models.chat import (
    PLAIN_TEMPLATE,
    assistant_turn,
    check_system_prompt,
    conversation_ids,
    conversation_text,
    eos_ids,
    example_ids,
    load_tokenizer,
    prompt_ids,
    read_format,
    response_text,
    settle_format,
    write_format,
)
from prefloop.models.fetch import fetch
from prefloop.models.positions import generation_config

ANSWER = "Jane Austen wrote it."
SYSTEM = {"role": "system", "content": "Be brief."}


class Recipe(NamedTuple):
    """The settings of docs/chat_models.md for a family, and the resulting prompt."""

    prompt: str
    """The prompt for SYSTEM, if the template allows it, and "Who wrote Emma?"."""
    end: str
    """The token that ends a turn."""
    kwargs: dict = {}  # noqa: RUF012 - never changed
    system: bool = True
    """Whether the template allows a system message."""
    lead: str = ""
    """The text that the template writes between the prompt and the answer."""


IM = "<|im_start|>{}\n{}<|im_end|>\n"
NO_THOUGHT = "<|im_start|>assistant\n<think>\n\n</think>\n"
RECIPES = {
    "qwen3": Recipe(
        IM.format("system", "Be brief.") + IM.format("user", "Who wrote Emma?") + NO_THOUGHT + "\n",
        "<|im_end|>",
        {"enable_thinking": False},
    ),
    "qwen3_base": Recipe(
        IM.format("system", "Be brief.") + IM.format("user", "Who wrote Emma?") + NO_THOUGHT + "\n",
        "<|im_end|>",
        {"enable_thinking": False},
    ),
    "llama3": Recipe(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 31 Jan 2025\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWho wrote Emma?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "gemma3": Recipe(
        "<bos><start_of_turn>user\nBe brief.\n\nWho wrote Emma?<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>"
    ),
    "gemma2": Recipe(
        "<bos><start_of_turn>user\nWho wrote Emma?<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>", system=False
    ),
    "mistral": Recipe("<s>[INST] Be brief.\n\nWho wrote Emma?[/INST]", "</s>", lead=" "),
    "phi4": Recipe(
        "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>Who wrote Emma?<|im_end|>"
        "<|im_start|>assistant<|im_sep|>",
        "<|im_end|>",
    ),
    "phi4_mini": Recipe("<|system|>Be brief.<|end|><|user|>Who wrote Emma?<|end|><|assistant|>", "<|end|>"),
    "smollm3": Recipe(
        IM.format("system", "Today Date: 31 January 2025\nReasoning Mode: /no_think\n\nBe brief.")
        + IM.format("user", "Who wrote Emma?")
        + NO_THOUGHT,
        "<|im_end|>",
        {"enable_thinking": False},
    ),
    "pythia": Recipe("Be brief.\n\nHuman: Who wrote Emma?\n\nAssistant:", "<|endoftext|>", lead=" "),
    "gpt2": Recipe("Be brief.\n\nHuman: Who wrote Emma?\n\nAssistant:", "<|endoftext|>", lead=" "),
}


class Model(NamedTuple):
    """A fetched tiny model of a family."""

    name: str
    recipe: Recipe
    manifest: Path

    @property
    def tokenizer(self):
        return load_tokenizer(self.manifest.parent)

    def chat(self, folder: Path):
        """Return the chat format of a run on 31 January 2025."""
        return settle_format(self.tokenizer, self.recipe.kwargs, "2025-01-31", folder / "chat.json")

    @property
    def messages(self) -> list[dict]:
        return [*([SYSTEM] if self.recipe.system else []), *asks("Who wrote Emma?")]


@pytest.fixture(scope="module", params=RECIPES)
def model(request, tmp_path_factory) -> Model:
    folder = tmp_path_factory.mktemp(request.param)
    families.make_family(folder / "hub", request.param)
    fetch(str(folder / "hub"), folder / "fetched")
    return Model(request.param, RECIPES[request.param], folder / "fetched/manifest.json")


def test_prompt_matches_the_configured_template(model, tmp_path):
    """Thinking is off, the date is fixed, a system message is added if allowed, and there is at most one BOS."""
    tokenizer, chat = model.tokenizer, model.chat(tmp_path)
    assert conversation_text(tokenizer, model.messages, chat) == model.recipe.prompt
    ids = prompt_ids(tokenizer, model.messages, chat)
    assert tokenizer.decode(ids) == model.recipe.prompt
    bos = families.FAMILIES[model.name].bos
    assert ids.count(tokenizer.bos_token_id) == (bos is not None)


def test_prompt_is_the_same_on_another_day_and_in_another_stage(model, tmp_path):
    """Stages read chat.json, and a run next week keeps its date."""
    write_format(tmp_path / "chat.json", model.chat(tmp_path), model.tokenizer)
    expected = prompt_ids(model.tokenizer, model.messages, model.chat(tmp_path))
    next_week = settle_format(model.tokenizer, model.recipe.kwargs, None, tmp_path / "chat.json")
    assert next_week.date == "2025-01-31"
    for chat in (read_format(tmp_path / "chat.json"), next_week):
        rendered = conversation_text(model.tokenizer, model.messages, chat)
        assert "2025" not in model.recipe.prompt or "2025" in rendered
    assert prompt_ids(model.tokenizer, model.messages, read_format(tmp_path / "chat.json")) == expected


def test_system_prompt_is_refused_if_the_template_refuses_it(model, tmp_path):
    if model.recipe.system:
        check_system_prompt(model.tokenizer, model.chat(tmp_path))
    else:
        with pytest.raises(InputError, match="^system_prompt: the model's chat template refuses system messages"):
            check_system_prompt(model.tokenizer, model.chat(tmp_path))


def test_turns_end_in_the_token_of_the_template(model, tmp_path):
    """Given responses end in this token, and sampled ones stop at it."""
    tokenizer, chat = model.tokenizer, model.chat(tmp_path)
    end = tokenizer.convert_tokens_to_ids(model.recipe.end)
    assert assistant_turn(tokenizer, chat).end == end
    ends = eos_ids(tokenizer, generation_config(model.manifest), chat)
    assert {end, tokenizer.eos_token_id} <= set(ends)
    _, response = example_ids(tokenizer, model.messages, ANSWER, chat)
    assert response.index(end) == len(response) - 1
    assert response_text(tokenizer, response, ends, chat) == ANSWER
    write_format(tmp_path / "written.json", chat, tokenizer)
    assert f'"end_of_turn": "{model.recipe.end}"' in (tmp_path / "written.json").read_text()


@pytest.mark.parametrize("answer", [ANSWER, "1815", "a", "two\n\nlines", "(yes)"])
def test_prompt_and_given_response_equal_the_finished_conversation(model, tmp_path, answer):
    """Holds for any text between the prompt and the answer."""
    tokenizer, chat = model.tokenizer, model.chat(tmp_path)
    assert assistant_turn(tokenizer, chat).lead == model.recipe.lead
    prompt, response = example_ids(tokenizer, model.messages, answer, chat)
    text = conversation_text(
        tokenizer, [*model.messages, {"role": "assistant", "content": answer}], chat, answered=True
    )
    transcript = conversation_ids(tokenizer, text)
    assert prompt == prompt_ids(tokenizer, model.messages, chat)
    assert [*prompt, *response[:-1]] == transcript[: len(prompt) + len(response) - 1]
    after = transcript[len(prompt) + len(response) - 1 :]
    assert after[:1] == response[-1:] or (after == [] and model.tokenizer.chat_template == PLAIN_TEMPLATE)


def test_earlier_turns_are_tokenized_like_given_responses(model, tmp_path):
    """History, sampled responses and given responses have the same format."""
    tokenizer, chat = model.tokenizer, model.chat(tmp_path)
    _, response = example_ids(tokenizer, model.messages, ANSWER, chat)
    history = [*model.messages, {"role": "assistant", "content": ANSWER}, {"role": "user", "content": "When?"}]
    ids = prompt_ids(tokenizer, history, chat)
    answer = response[:-1]
    assert any(ids[i : i + len(answer)] == answer for i in range(len(ids)))


def test_text_that_looks_like_an_end_stays_text(model, tmp_path):
    tokenizer, chat = model.tokenizer, model.chat(tmp_path)
    end = tokenizer.convert_tokens_to_ids(model.recipe.end)
    _, response = example_ids(tokenizer, model.messages, f"good {model.recipe.end} bad", chat)
    assert response.index(end) == len(response) - 1


def test_every_tokenizer_gets_a_padding_token(model):
    assert model.tokenizer.pad_token_id is not None
