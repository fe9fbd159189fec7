"""Tiny random models with the special tokens and the chat format of well-known families.

The templates were written for these tests and reproduce the families' conversation formats.
"""

import string
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 256}
TEXT = "Who wrote Emma? Jane Austen wrote it in 1815. What is the capital of France? Paris is. Be brief and kind."

QWEN3 = """{% for m in messages %}{% set body = m.content %}{% set thought = '' %}
{%- if m.role == 'assistant' and '</think>' in body %}
{%- set thought = body.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
{%- set body = body.split('</think>')[-1].lstrip('\\n') %}{% endif %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' and loop.last %}{{ '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}
{{- body + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"""

LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}
{%- else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}
{%- if messages[0].role == 'system' %}{% set rules = messages[0].content | trim %}{% set messages = messages[1:] %}
{%- else %}{% set rules = '' %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n' + rules + '<|eot_id|>' }}
{%- for m in messages %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

GEMMA3 = """{{- bos_token }}{% set first = '' %}
{%- if messages[0].role == 'system' %}{% set first = messages[0].content + '\\n\\n' %}{% set messages = messages[1:] %}
{%- endif %}{% for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + (first if loop.first else '') }}
{{- m.content | trim + '<end_of_turn>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

GEMMA2 = GEMMA3.replace("{% set first = messages", "{{ raise_exception('no system role') }}{% set first = messages")

MISTRAL = """{{- bos_token }}{% set rules = '' %}
{%- if messages[0].role == 'system' %}{% set rules = messages[0].content + '\\n\\n' %}{% set messages = messages[1:] %}
{%- endif %}{% for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- if m.role == 'user' %}{{ '[INST] ' + (rules if loop.first else '') + m.content + '[/INST]' }}
{%- else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"""

PHI4 = """{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""

PHI4_MINI = """{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"""

SMOLLM3 = """{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}
{%- if messages[0].role == 'system' %}{% set rules = messages[0].content %}{% set messages = messages[1:] %}
{%- else %}{% set rules = 'You are helpful.' %}{% endif %}
{{- '<|im_start|>system\\nToday Date: ' + strftime_now('%d %B %Y') + '\\nReasoning Mode: ' }}
{{- ('/think' if enable_thinking else '/no_think') + '\\n\\n' + rules + '<|im_end|>\\n' }}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' and not enable_thinking %}{{ '<think>\\n\\n</think>\\n' }}{% endif %}
{{- m.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if not enable_thinking %}{{ '<think>\\n\\n</think>\\n' }}{% endif %}{% endif %}"""


def llama_like(name: str) -> Callable:
    """Return a builder of a tiny decoder with rotary positions; `name` is the prefix of transformers' classes."""

    def build(**ids) -> transformers.PreTrainedModel:
        config = "Gemma3Text" if name == "Gemma3" else name
        heads = {"head_dim": 8, "layer_types": ["full_attention"] * 2} if name in ("Qwen3", "Gemma3") else {}
        settings = getattr(transformers, f"{config}Config")(**SIZES, **heads, **ids, tie_word_embeddings=False)
        return getattr(transformers, f"{name}ForCausalLM")(settings)

    return build


def gpt_neox(**ids) -> transformers.PreTrainedModel:
    sizes = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**sizes, **ids))


def gpt2(**ids) -> transformers.PreTrainedModel:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **ids))


@dataclass
class Family:
    """The properties that distinguish a model family."""

    build: Callable
    """Makes the model from the ids of its special tokens."""
    special: list[str]
    """Special tokens, in the order of their ids."""
    eos: str | None
    """The tokenizer's EOS, which is not always what ends a turn."""
    template: str | None = None
    bos: str | None = None
    """Put in front of every text by the tokenizer."""
    pad: str | None = None
    added: list[str] = field(default_factory=list)
    """Tokens that are added to the vocabulary and not special."""
    words: str = "bytes"
    """bytes (as GPT-2's), first (sentencepiece's space in front of the first word), or none (no such space)."""
    generation_eos: list[str] | None = None
    """EOS of the generation config, if it has others than the tokenizer."""


IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
THINK = ["<think>", "</think>"]
TURN = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
HEADER = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
FAMILIES = {
    "qwen3": Family(llama_like("Qwen3"), IM, IM[2], QWEN3, pad=IM[0], added=THINK),
    "qwen3_base": Family(llama_like("Qwen3"), IM, IM[0], QWEN3, pad=IM[0], added=THINK),
    "llama3": Family(
        llama_like("Llama"), HEADER, HEADER[4], LLAMA3, bos=HEADER[0], generation_eos=[HEADER[1], HEADER[4]]
    ),
    "gemma3": Family(
        llama_like("Gemma3"), TURN, "<eos>", GEMMA3, "<bos>", "<pad>", words="none", generation_eos=["<eos>", TURN[5]]
    ),
    "gemma2": Family(llama_like("Gemma3"), TURN, "<eos>", GEMMA2, "<bos>", "<pad>", words="none"),
    "mistral": Family(
        llama_like("Mistral"), ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], "</s>", MISTRAL, "<s>", words="first"
    ),
    "phi4": Family(llama_like("Phi3"), [*IM, "<|im_sep|>", "<|dummy|>"], IM[2], PHI4, pad="<|dummy|>"),
    "phi4_mini": Family(
        llama_like("Phi3"), [IM[0], "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"], IM[0], PHI4_MINI, pad=IM[0]
    ),
    "smollm3": Family(llama_like("SmolLM3"), IM, IM[2], SMOLLM3, pad=IM[2], added=THINK),
    "pythia": Family(gpt_neox, IM[:1], IM[0]),
    "gpt2": Family(gpt2, IM[:1], IM[0]),
}


def make_tokenizer(family: Family) -> transformers.PreTrainedTokenizerFast:
    """Return a byte-pair tokenizer of a few hundred tokens with the family's special tokens."""
    core = Tokenizer(models.BPE(unk_token=None if family.words == "bytes" else "<unk>"))
    alphabet = (
        [*pre_tokenizers.ByteLevel.alphabet()]
        if family.words == "bytes"
        else [*string.printable.split(" ")[0], "▁", "\n"]
    )
    if family.words == "bytes":
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    elif family.words == "first":
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        core.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    else:
        core.normalizer = normalizers.Replace(" ", "▁")
        core.decoder = decoders.Replace("▁", " ")
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=family.special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([TEXT] if family.words == "bytes" else TEXT.split(". "), trainer)
    core.add_tokens([AddedToken(word, special=False, normalized=False) for word in family.added])
    if family.bos is not None:
        tokens = [(family.bos, family.special.index(family.bos))]
        core.post_processor = processors.TemplateProcessing(single=f"{family.bos} $A", special_tokens=tokens)
    names = {"bos_token": family.bos, "eos_token": family.eos, "pad_token": family.pad}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, **{name: word for name, word in names.items() if word is not None}
    )
    tokenizer.chat_template = family.template
    return tokenizer


def make_family(folder: Path, name: str) -> Path:
    """Write a family's tiny model with random weights to `folder`."""
    torch.manual_seed(0)
    family = FAMILIES[name]
    tokenizer = make_tokenizer(family)
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    model = family.build(vocab_size=len(tokenizer), **ids)
    if family.generation_eos is not None:
        model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(family.generation_eos)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
