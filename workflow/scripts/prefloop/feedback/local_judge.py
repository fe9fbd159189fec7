"""A judge that is a causal language model on this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prefloop.config.feedback_settings import Judging
from prefloop.config.prompt_settings import ChatConfig
from prefloop.core.costs import Usage
from prefloop.core.errors import InputError
from prefloop.core.progress import Progress
from prefloop.feedback.answers import Answer
from prefloop.feedback.judgments import Question, read_template, render
from prefloop.feedback.model_chat import settle_chat, with_system
from prefloop.models.chat import prompt_ids

if TYPE_CHECKING:  # torch is imported only when a model is loaded
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


class LocalJudge:
    """A `Judge` that uses the next-token probabilities of a causal language model, without generating text.

    p(A) = mass of A / (mass of A and B), where a label's mass is the probability of all its single-token spellings.
    """

    def __init__(
        self, settings: Judging, manifest: Path, threads: int, batch_size: int, chat: ChatConfig | None = None
    ) -> None:
        import torch

        from prefloop.models.devices import allow_tf32, default_device, resolve_dtype
        from prefloop.models.loading import load_base
        from prefloop.models.manifests import parameter_count

        self.batch_size: int | None = batch_size
        self.tie_margin, self.min_label_mass = settings.tie_margin, settings.min_label_mass
        self.template, self.folder = read_template(settings.template), Path(manifest).parent
        self.device = default_device()
        allow_tf32(self.device)
        self.usage = Usage(self.device, parameter_count(manifest))
        self.model, self.tokenizer = load_base(manifest, resolve_dtype(settings.dtype, self.device))
        self.chat_config = chat or ChatConfig()
        self.chat = settle_chat(self.tokenizer, self.chat_config)
        self.labels = [label_tokens(self.tokenizer, label, self.folder) for label in ("A", "B")]
        torch.set_num_threads(threads)
        self.model.to(self.device).eval()

    def compare(self, questions: Sequence[Question]) -> list[Answer]:
        """p(A) for each question. An answer is invalid if A and B together have less than `min_label_mass`."""
        from prefloop.models.batching import batches_by_length

        texts = [render(self.template, question) for question in questions]
        conversations = [with_system([{"role": "user", "content": text}], self.chat_config) for text in texts]
        encoded = [prompt_ids(self.tokenizer, conversation, self.chat) for conversation in conversations]
        lengths = [len(ids) for ids in encoded]
        self.check_lengths(lengths)
        answers = [Answer(None)] * len(texts)
        with Progress("judge", len(texts), "question") as progress:
            for batch in batches_by_length(lengths, self.batch_size or len(texts)):
                logps, tokens = self.label_logps([encoded[i] for i in batch])
                masses, probabilities = logps.exp().sum(dim=1).tolist(), logps.softmax(dim=1)[:, 0].tolist()
                words = self.tokenizer.batch_decode([[token] for token in tokens])
                for i, mass, probability, word in zip(batch, masses, probabilities, words, strict=True):
                    is_valid = mass >= self.min_label_mass  # False for NaN
                    answers[i] = Answer(probability, word) if is_valid else Answer(None, word, "improbable")
                progress.update(len(batch), sum(lengths[i] for i in batch))
        self.usage.tokens_in += sum(lengths)
        return answers

    def check_lengths(self, lengths: Sequence[int]) -> None:
        """Raise InputError if a question has more tokens than the model has positions."""
        from prefloop.models.positions import position_limit

        limit = position_limit(self.model.config)
        if limit is not None and max(lengths, default=0) > limit:
            too_long = sum(length > limit for length in lengths)
            raise InputError(
                f"{self.folder}: reads {limit} tokens, and {too_long} of {len(lengths)} questions to the judge are "
                f"longer (up to {max(lengths)}): drop long prompts or use another judge"
            )

    def label_logps(self, prompts: Sequence[Sequence[int]]) -> tuple["Tensor", list[int]]:
        """Log-probabilities of the labels A and B as the next token after each prompt, and the most probable tokens.

        Args:
            prompts: Token ids of each prompt.

        Returns:
            tuple: Log-probabilities [prompts, 2], nats, float64; and one token id per prompt.
        """
        import torch

        from prefloop.models.batching import left_pad, positions_of

        ids, mask = (tensor.to(self.device) for tensor in left_pad(prompts, self.tokenizer.pad_token_id))
        with torch.no_grad():
            logits = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions_of(mask),
                logits_to_keep=torch.tensor([ids.shape[1] - 1], device=self.device),
                use_cache=False,
            ).logits[:, -1]
        logps = logits.double().log_softmax(dim=1)
        labels = torch.stack([logps[:, tokens].logsumexp(dim=1) for tokens in self.labels], dim=1)
        return labels, logps.argmax(dim=1).tolist()


def label_tokens(tokenizer: "PreTrainedTokenizerBase", label: str, folder: Path) -> list[int]:
    """The tokens that spell a label, alone and after a space.

    Some tokenizers add a space token in front of every text, so only the last token of a spelling is used.

    Raises:
        InputError: The tokenizer has no token for the label.
    """
    spellings = [tokenizer(text, add_special_tokens=False)["input_ids"][-1] for text in (label, f" {label}")]
    tokens = sorted({token for token in spellings if str(tokenizer.decode([token])).strip() == label})
    if not tokens:
        raise InputError(f"{folder}: cannot judge, its tokenizer has no token for {label}")
    return tokens
