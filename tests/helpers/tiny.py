"""Tiny models that the tests build with transformers and align."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from prefloop.core.files import write_tensors
from prefloop.models.options import Lora
from prefloop.models.policies import Provenance, policy_content, trained_weights

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
ARCHITECTURES = {
    "llama": lambda **ids: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=512, **ids)
    ),
    "qwen": lambda **ids: transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8, max_position_embeddings=256, **ids)
    ),
    "gpt2": lambda **ids: transformers.GPT2LMHeadModel(  # absolute positions and its own dropout
        transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **ids)
    ),
    "gpt_neox": lambda **ids: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(**SIZES, max_position_embeddings=256, **ids)
    ),
}


def tokenizer(chat: bool = True) -> transformers.PreTrainedTokenizerFast:
    """Return a byte-pair tokenizer of 90 tokens that adds BOS, with or without a chat template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    alphabet = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:!?<>'\n")
    trainer = trainers.BpeTrainer(
        vocab_size=90, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(["the reply is good and the answer is bad"], trainer)
    from tokenizers.processors import TemplateProcessing

    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    if chat:
        fast.chat_template = TEMPLATE
    return fast


def make_model(folder: Path, architecture: str = "llama", chat: bool = True, seed: int = 0, tied: bool = False) -> Path:
    """Write a randomly initialized causal language model to `folder`; its responses are short."""
    torch.manual_seed(seed)
    words = tokenizer(chat)
    ids = {"vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    model = ARCHITECTURES[architecture](**ids, tie_word_embeddings=tied)
    for name, parameter in model.named_parameters():  # larger than the usual 0.02: outputs must depend on the context
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.12 if "embed" not in name else 0.5)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return Path(folder)


def make_reward_model(folder: Path, labels: int = 1, seed: int = 0) -> Path:
    """Write a randomly initialized sequence classifier to `folder`."""
    torch.manual_seed(seed)
    words = tokenizer()
    config = transformers.LlamaConfig(
        **SIZES, num_key_value_heads=2, vocab_size=len(words), num_labels=labels, pad_token_id=2
    )
    transformers.LlamaForSequenceClassification(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return Path(folder)


def write_policy(path: Path, model, manifest: Path, lora: Lora | None, seed: int = 0) -> None:
    """Write the current weights of `model` as the policy.pt of round 1."""
    provenance = Provenance(manifest, round_index=1, seed=seed, pairs_sha256="")
    content = policy_content(model, trained_weights(model, lora), lora, provenance, beta_state={"rule": "constant"})
    write_tensors(path, content)
