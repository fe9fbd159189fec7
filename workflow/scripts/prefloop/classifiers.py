"""Reward models: sequence classifiers of one logit, to ask and to train."""

from collections.abc import Sequence
from pathlib import Path

import torch

from prefloop.batching import batches_by_length
from prefloop.chat import PLAIN_TEMPLATE
from prefloop.manifests import parameter_count, trusted
from prefloop.models import add_adapter, default_device
from prefloop.policies import Lora
from prefloop.progress import Progress
from prefloop.rows import InputError, first_line
from prefloop.startup import import_transformers
from prefloop.verdicts import Messages


class RewardModel:
    """A trained classifier as a function of (prompts, responses), batched by length.

    Reads each conversation as `encode` says; its rewards are logits, in float32. Raises InputError if the folder has no
    trained classifier of one logit. `tokens`, `parameters` and `device` are what the cost meter reads.
    """

    def __init__(self, manifest: Path, batch_size: int, threads: int):
        self.model, self.tokenizer, lacking = load_classifier(manifest, "no sequence classifier")
        folder, labels = Path(manifest).parent, self.model.config.num_labels
        if labels != 1:
            raise InputError(f"{folder}: a reward model has one logit, this classifier has {labels}; name another")
        if lacking:
            raise InputError(f"{folder}: not a trained reward model, it lacks {', '.join(lacking)}")
        # Decoders find a row's last token by the padding token. A model that has none may end its rows in EOS,
        # which then cannot stand for padding: it reads one response at a time.
        self.batch_size = batch_size if self.tokenizer.pad_token_id is not None else 1
        self.model.config.pad_token_id = self.tokenizer.pad_token_id
        torch.set_num_threads(threads)
        self.device, self.tokens, self.parameters = default_device(), 0, parameter_count(manifest)
        self.model.to(self.device).eval()

    def __call__(self, prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
        encoded = [encode(self.tokenizer, p, r) for p, r in zip(prompts, responses, strict=True)]
        lengths = [len(e["input_ids"]) for e in encoded]
        rewards = [0.0] * len(encoded)
        with Progress("reward model", len(encoded), "response") as progress:
            for batch in batches_by_length(lengths, self.batch_size):
                rows = [encoded[i] for i in batch]
                padded = self.tokenizer.pad(rows, padding=len(rows) > 1, return_tensors="pt").to(self.device)
                with torch.no_grad():
                    logits = self.model(**padded).logits[:, 0].float()
                for i, reward in zip(batch, logits.tolist(), strict=True):
                    rewards[i] = reward
                progress.update(len(batch), sum(lengths[i] for i in batch))
        self.tokens += sum(lengths)
        return rewards


def load_classifier(manifest: Path, otherwise: str, **options) -> tuple:
    """The classifier in the manifest's folder, its tokenizer, and the names of weights that the folder lacks.

    Raises InputError, in the words of `otherwise`, if transformers finds no classifier there.
    """
    transformers = import_transformers()
    folder, remote = Path(manifest).parent, trusted(manifest)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=remote)
        model, loading = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, trust_remote_code=remote, output_loading_info=True, **options
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: {otherwise} ({first_line(error)})") from error
    tokenizer.truncation_side = "left"
    return model, tokenizer, sorted(loading["missing_keys"])


def load_trainable_classifier(manifest: Path, parameters: str, lora: Lora, max_tokens: int, dtype: torch.dtype):
    """The base model with a new head of one logit, in float32 where it is trained, and its tokenizer."""
    full = parameters == "full"
    options = {"num_labels": 1, "dtype": torch.float32 if full else dtype}
    model, tokenizer, _ = load_classifier(manifest, "no model that transformers can make a classifier of", **options)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    positions = getattr(model.config, "max_position_embeddings", None) or max_tokens
    tokenizer.model_max_length = min(max_tokens, tokenizer.model_max_length, positions)
    model.config.pad_token_id = tokenizer.pad_token_id
    model = model if full else add_adapter(model, lora, task="SEQ_CLS")
    for parameter in model.parameters():
        if parameter.requires_grad:  # the new head too, which came in the base's dtype
            parameter.data = parameter.data.float()
    return model, tokenizer


def encode(tokenizer, messages: Messages, response: str) -> dict:
    """A conversation and a response to it as a reward model reads them.

    In its chat template; an encoder without one as a text pair, a decoder without one in the plain template. Too
    long a conversation loses its start, and the response nothing unless it is too long by itself.
    """
    if tokenizer.chat_template is None and tokenizer.cls_token is not None:
        question = "\n".join(message["content"] for message in messages)
        fits = len(tokenizer("", response, verbose=False)["input_ids"]) < tokenizer.model_max_length
        return tokenizer(question, response, truncation="only_first" if fits else True)
    conversation = [*messages, {"role": "assistant", "content": response}]
    template = tokenizer.chat_template or PLAIN_TEMPLATE
    text = tokenizer.apply_chat_template(conversation, chat_template=template, tokenize=False)
    return tokenizer(text, add_special_tokens=False, truncation=True)
