"""Prompts have exactly one BOS, added by either the chat template or the tokenizer."""

import pytest

from prefloop.core.errors import InputError, SettingError
from prefloop.models.chat import load_tokenizer, parse_day, prompt_ids

QUESTION = [{"role": "user", "content": "why?"}]


def test_template_and_tokenizer_do_not_both_write_a_bos(model_folders):
    for name, folder in model_folders.items():
        ids = prompt_ids(load_tokenizer(folder), QUESTION)
        assert ids.count(0) == 1, name
        assert ids[0] == 0, name


def test_error_of_a_refused_role_names_the_prompt(model_folders):
    tokenizer = load_tokenizer(model_folders["llama"])
    tokenizer.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    with pytest.raises(InputError, match="refuses roles system, user .no system.; prompt: 'why.'"):
        prompt_ids(tokenizer, [{"role": "system", "content": "be kind"}, *QUESTION])


def test_tokenizer_without_a_template_uses_transcripts(model_folders):
    tokenizer = load_tokenizer(model_folders["gpt_neox"])
    text = tokenizer.apply_chat_template(
        [*QUESTION, {"role": "assistant", "content": "so."}, *QUESTION], tokenize=False, add_generation_prompt=True
    )
    assert text == "\n\nHuman: why?\n\nAssistant: so.\n\nHuman: why?\n\nAssistant:"


@pytest.mark.parametrize("text", ["20250131", "2025-W05-5", "31 Jan 2025", "2025-02-30", ""])
def test_days_in_other_forms_raise(text):
    assert parse_day("2025-01-31").day == 31
    with pytest.raises(SettingError, match="template_date: .*expected a day as YYYY-MM-DD"):
        parse_day(text)
