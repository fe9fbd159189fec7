"""From messages to token ids, the same way wherever a prompt is read: generation, scoring and training."""

from pathlib import Path

from prefloop.rows import InputError, first_line
from prefloop.startup import import_transformers

# For base models whose tokenizer has no chat template: the format of HH-RLHF's transcripts.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ {'system': '', 'user': '\n\nHuman: ', 'assistant': '\n\nAssistant: '}[message['role']] + message['content'] }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
)


def load_tokenizer(model: Path, trust_remote_code: bool = False):
    """The tokenizer of a model folder, with a chat template and a padding token whatever it came with."""
    transformers = import_transformers()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{model}: no tokenizer that transformers can load ({first_line(error)})") from error
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def prompt_ids(tokenizer, messages: list[dict]) -> list[int]:
    """The token ids of a conversation, ending where the assistant's answer begins; at most one BOS.

    The template writes its own special tokens; a BOS that the tokenizer would add is put first only
    where the template has none, so that it never stands there twice.
    """
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        start = messages[-1]["content"][:60]
        raise InputError(
            f"the model's chat template refuses roles {roles} ({error}); prompt: {start!r}; leave out such prompts"
        ) from error
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:1] != [bos] and tokenizer("")["input_ids"][:1] == [bos]:
        ids = [bos, *ids]
    return ids


def eos_ids(tokenizer, generation_config) -> list[int]:
    """Every token id that ends a response: the tokenizer's EOS and those of the model's generation config."""
    configured = generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [tokenizer.eos_token_id, *configured] if token is not None})
