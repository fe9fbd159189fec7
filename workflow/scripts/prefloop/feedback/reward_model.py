"""Reward models: loading, scoring with, and preparing the training of sequence classifiers."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from prefloop.config.prompt_settings import ChatConfig
from prefloop.core.costs import Usage
from prefloop.core.errors import InputError, SettingError, refused
from prefloop.core.progress import Progress
from prefloop.feedback.judgments import Messages
from prefloop.feedback.model_chat import settle_chat, with_system
from prefloop.feedback.reward_sources import Request, check_rewards
from prefloop.models._compat import unwrapped
from prefloop.models.batching import batches_by_length, left_pad, right_pad
from prefloop.models.chat import DEFAULT_FORMAT, PLAIN_TEMPLATE, ChatFormat
from prefloop.models.chat_templates import check_chat_template, render_chat
from prefloop.models.devices import allow_tf32, default_device, resolve_dtype, use_plain_attention_kernels
from prefloop.models.loading import add_adapter
from prefloop.models.manifests import check_weights, is_trusted, loading_problem, parameter_count
from prefloop.models.options import Lora
from prefloop.models.startup import import_transformers

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

EXAMPLE: Messages = [{"role": "user", "content": "a"}]


class RewardModel:
    """A `RewardSource` whose rewards are one output of a trained classifier, usually its only logit."""

    def __init__(
        self,
        manifest: Path,
        batch_size: int,
        threads: int,
        output: int | str | None = None,
        dtype: str = "float32",
        chat: ChatConfig | None = None,
    ) -> None:
        """Load the classifier.

        Args:
            manifest (Path): Manifest in the classifier's folder.
            batch_size (int): Responses per batch.
            threads (int): CPU threads.
            output (int | str | None): The output that is the reward (`select_output`).
            dtype (str): Dtype of weights and computation, a `Dtype`. Rewards are always float32.
            chat (ChatConfig | None): Settings of the chat template; None for its defaults.

        Raises:
            InputError: The folder has no trained classifier, or `output` does not select one number.
        """
        self.device, folder = default_device(), Path(manifest).parent
        allow_tf32(self.device)
        self.usage = Usage(self.device, parameter_count(manifest))
        loaded = load_classifier(manifest, "no sequence classifier", dtype=resolve_dtype(dtype, self.device))
        if loaded.missing:
            raise InputError(f"{folder}: not a trained reward model, it lacks {', '.join(loaded.missing)}")
        if loaded.resized:
            raise InputError(
                f"{folder}: config.json and weights disagree on the size of {', '.join(loaded.resized)}; correct "
                "num_labels in config.json, or train a new head by naming it as the base of a reward model"
            )
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.chat_config = chat or ChatConfig()
        self.chat = settle_chat(self.tokenizer, self.chat_config)
        self.batch_size: int | None = batch_size
        torch.set_num_threads(threads)
        self.model.to(self.device).eval()  # type: ignore[arg-type]  # transformers' wrapper of `to` is mistyped
        with torch.no_grad():
            example = classify(self.model, self.tokenizer, [encode(self.tokenizer, EXAMPLE, "b")])
        self.output = select_output(example, self.model.config.id2label or {}, output, folder)

    def rewards(self, requests: Sequence[Request]) -> list[float]:
        """One number per response, computed in batches by length; InputError if a number is not finite."""
        conversations = [with_system(request.messages, self.chat_config) for request in requests]
        encoded = [
            encode(self.tokenizer, conversation, request.response, self.chat)
            for conversation, request in zip(conversations, requests, strict=True)
        ]
        lengths = [len(encoding["input_ids"]) for encoding in encoded]
        rewards = [0.0] * len(encoded)
        with Progress("reward model", len(encoded), "response") as progress:
            for batch in batches_by_length(lengths, self.batch_size or len(encoded)):
                with torch.no_grad():
                    outputs = classify(self.model, self.tokenizer, [encoded[i] for i in batch])
                for i, reward in zip(batch, self.output.read(outputs).tolist(), strict=True):
                    rewards[i] = reward
                progress.update(len(batch), sum(lengths[i] for i in batch))
        self.usage.tokens_in += sum(lengths)
        return check_rewards(rewards, requests, type(self).__name__)


class RewardOutput(NamedTuple):
    """The output of a classifier that is the reward: one number per conversation."""

    field: str
    """Name of a tensor that the classifier returns."""
    column: int
    """Column of the tensor."""

    def read(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The rewards [conversations], float32."""
        return as_columns(outputs[self.field])[:, self.column].float()


def as_columns(values: Tensor) -> Tensor:
    """A tensor with one or several numbers per conversation as [conversations, numbers]."""
    return values.reshape(len(values), -1)


def select_output(
    outputs: Mapping[str, Any], labels: Mapping[Any, str], wanted: int | str | None, folder: Path
) -> RewardOutput:
    """Select the output of a classifier that is the reward.

    Args:
        outputs (Mapping): The classifier's outputs for one conversation.
        labels (Mapping): id2label of its config: names of the logits.
        wanted (int | str | None): Index or label of a logit, or the name of a returned tensor with one number per
            conversation, such as that of a second head. None if there is only one logit.
        folder (Path): The classifier's folder, for error messages.

    Raises:
        SettingError: `wanted` is None although there are several logits, or the output does not exist.
    """
    logits = as_columns(outputs["logits"]).shape[1] if "logits" in outputs else 0
    names = [labels.get(i, str(i)) for i in range(logits)] if len(labels) == logits else list(map(str, range(logits)))
    others = [
        name for name, value in outputs.items() if isinstance(value, Tensor) and value.numel() == 1 and name != "logits"
    ]
    if wanted is None and logits == 1:
        return RewardOutput("logits", 0)
    if isinstance(wanted, int) and wanted < logits:
        return RewardOutput("logits", wanted)
    if wanted in names:
        return RewardOutput("logits", names.index(str(wanted)))
    if wanted in others:
        return RewardOutput(str(wanted), 0)
    known = ", ".join([f"{i} ({name})" if name != str(i) else name for i, name in enumerate(names)] + others)
    problem = "missing" if wanted is None else f"{wanted!r} is not an output"
    raise SettingError(f"output: {problem}; {folder} has {logits + len(others)} outputs, name one: {known}")


def classify(model: nn.Module, tokenizer: "PreTrainedTokenizerBase", encoded: Sequence["BatchEncoding"]) -> Any:
    """The outputs of a classifier for conversations, independent of the other conversations in the batch.

    Most decoders use the logits at the last token that is not the padding token. Many tokenizers pad with the token
    that ends a turn, so this function pads with a token that no conversation contains. Padding is on the right, where
    it affects neither positions nor causal attention. For models that use the logits at the last position, it is on the
    left.
    """
    rows = [encoding["input_ids"] for encoding in encoded]
    pad, config = padding_token(tokenizer, rows), unwrapped(model).config
    sections = (config, config.get_text_config())
    for section in sections:
        section.pad_token_id = pad
    pad_rows = left_pad if getattr(config, "summary_type", None) == "last" else right_pad
    ids, mask = pad_rows(rows, pad)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if "token_type_ids" in encoded[0]:
        inputs["token_type_ids"] = pad_rows([row["token_type_ids"] for row in encoded], tokenizer.pad_token_type_id)[0]
    device = next(model.parameters()).device
    with without_cache(sections):
        return model(**{name: tensor.to(device) for name, tensor in inputs.items()})


@contextlib.contextmanager
def without_cache(configs: Sequence[Any]) -> Iterator[None]:
    """Disable the KV cache of models with these configs within the context.

    Encoders and classifiers with custom code may reject the argument `use_cache` in their forward method.
    """
    saved = [(config, config.use_cache) for config in configs if hasattr(config, "use_cache")]
    for config, _ in saved:
        config.use_cache = False
    try:
        yield
    finally:
        for config, use_cache in saved:
            config.use_cache = use_cache


def padding_token(tokenizer: "PreTrainedTokenizerBase", rows: Sequence[Sequence[int]]) -> int:
    """The tokenizer's padding token if no row contains it; else a token that no row contains or that ends no row."""
    preferred = [] if tokenizer.pad_token_id is None else [tokenizer.pad_token_id]
    for used in ({token for row in rows for token in row}, {row[-1] for row in rows}):
        for token in chain(preferred, range(tokenizer.vocab_size)):
            if token not in used:
                return token
    raise InputError(
        f"batch_size: {len(rows)} conversations end in all {tokenizer.vocab_size} tokens, so none is left for "
        "padding; lower batch_size"
    )


class LoadedClassifier(NamedTuple):
    """A sequence classifier loaded from a folder."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    missing: list[str]
    """Names of weights that are missing in the folder; they are initialized at random."""
    resized: list[str]
    """Names of weights with another shape in the folder, with both shapes; they are initialized at random."""


def load_classifier(manifest: Path, problem: str, **options: Any) -> LoadedClassifier:
    """Load the classifier in the manifest's folder. `options` are those of transformers' from_pretrained.

    Raises:
        InputError: transformers cannot load a classifier (the message contains `problem`), or the shape of weights
            other than the head's does not match the config.
    """
    transformers = import_transformers()
    use_plain_attention_kernels()
    folder, remote = Path(manifest).parent, is_trusted(manifest)
    check_weights(manifest)
    with refused(f"{folder}: {problem}", lambda error: loading_problem(error, remote)):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=remote)
        model, loading = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder,
            trust_remote_code=remote,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            **options,
        )
    sizes = {name: f"{name} ({list(found)} and {list(wanted)})" for name, found, wanted in loading["mismatched_keys"]}
    if wrong := sorted(name for name in sizes if name.startswith(f"{model.base_model_prefix}.")):
        raise InputError(f"{folder}: weights do not fit config.json: {sizes[wrong[0]]}; download the model again")
    if tokenizer.chat_template is not None:
        check_chat_template(tokenizer, folder)
    tokenizer.truncation_side = "left"
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions -= module.padding_idx + 1  # RoBERTa's positions begin after that of padding
    if positions > 0:  # −1 for XLNet, whose positions are unlimited
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return LoadedClassifier(model, tokenizer, sorted(loading["missing_keys"]), [sizes[name] for name in sorted(sizes)])


def load_trainable_classifier(
    manifest: Path, parameters: str, lora: Lora, max_tokens: int, dtype: torch.dtype
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase", str]:
    """Load a base model with a head of one logit. Trained parameters are in float32.

    Args:
        manifest: Manifest of the base model.
        parameters: lora or full.
        lora: Shape of the adapters.
        max_tokens: Maximum number of tokens of a conversation; longer ones are truncated on the left.
        dtype: Dtype of the frozen parameters.

    Returns:
        tuple: The model, its tokenizer, and a note about replaced weights of the base model, empty if there are none.
    """
    full = parameters == "full"
    options = {"num_labels": 1, "dtype": torch.float32 if full else dtype}
    problem = "transformers cannot load it as a classifier"
    model, tokenizer, _, resized = load_classifier(manifest, problem, **options)
    tokenizer.model_max_length = min(max_tokens, tokenizer.model_max_length)
    # Other programs use the padding token to find a conversation's last token, so it must differ from the EOS token.
    ends = tokenizer.pad_token_id == tokenizer.eos_token_id
    model.config.pad_token_id = None if ends else tokenizer.pad_token_id
    model = model if full else add_adapter(model, lora, task="SEQ_CLS")
    for parameter in model.parameters():
        if parameter.requires_grad:  # includes the new head, which has the base's dtype
            parameter.data = parameter.data.float()
    return model, tokenizer, f"new head instead of {', '.join(resized)}" if resized else ""


def encode(
    tokenizer: "PreTrainedTokenizerBase", messages: Messages, response: str, chat: ChatFormat = DEFAULT_FORMAT
) -> "BatchEncoding":
    """Encode a conversation and a response for a reward model.

    The text is formatted with the model's chat template. Without a template, encoders get a text pair and decoders the
    plain template. A conversation that is too long is truncated at its start. The response is truncated only if it is
    too long without the conversation.

    Raises:
        InputError: The chat template does not support the roles of the conversation.
    """
    if tokenizer.chat_template is None and tokenizer.cls_token is not None:
        question = "\n".join(message["content"] for message in messages)
        fits = len(tokenizer("", response, verbose=False)["input_ids"]) < tokenizer.model_max_length
        return tokenizer(question, response, truncation="only_first" if fits else True)
    conversation = [*messages, {"role": "assistant", "content": response}]
    template = tokenizer.chat_template or PLAIN_TEMPLATE
    text = render_chat(tokenizer, conversation, "reward model", chat_template=template, **chat.variables)
    return tokenizer(text, add_special_tokens=False, truncation=True)
