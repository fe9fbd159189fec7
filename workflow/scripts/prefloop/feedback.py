"""Who scores responses: a Python function, or a reward model. One number a response, larger is better."""

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefloop.chat import first_line, quiet_transformers
from prefloop.rows import InputError, read_json

Messages = list[dict]


@dataclass
class Settings:
    """Which feedback; the names are those of config's `feedback` and `evaluation.evaluator`."""

    kind: str = "function"
    """Word of FEEDBACK."""
    function: str | None = None
    """`module:function`, called with (prompts, responses), for kind function."""
    model: Path | None = None
    """Manifest of a fetched one-logit sequence classifier, for kind reward_model."""
    batch_size: int = 32
    """Responses scored at once by a reward model."""


def load_function(settings: Settings, threads: int) -> Callable:
    """The function that `module:function` names, importable from the working directory or the environment."""
    module_name, _, name = (settings.function or "").partition(":")
    if not module_name or not name:
        raise InputError(f"feedback.function: {settings.function!r}, expected module:function")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a person's module does at import
        raise InputError(f"feedback.function: cannot import {module_name} ({type(error).__name__}: {error})") from error
    finally:
        sys.path.pop(0)
    if not hasattr(module, name):
        raise InputError(f"feedback.function: module {module_name} has no {name}")
    return getattr(module, name)


class RewardModel:
    """A one-logit sequence classifier as a function of (prompts, responses), batched by length.

    Reads each conversation through the model's own chat template, or as a text pair where it has none.
    `tokens`, `parameters` and `device` are what the cost meter reads.
    """

    def __init__(self, settings: Settings, threads: int):
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from prefloop.models import default_device, parameter_count

        if settings.model is None:
            raise InputError("feedback.model: kind reward_model needs a model")
        quiet_transformers()
        folder, remote = Path(settings.model).parent, read_json(settings.model).get("trust_remote_code", False)
        try:
            self.model, loading = AutoModelForSequenceClassification.from_pretrained(
                folder, trust_remote_code=remote, output_loading_info=True
            )
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=remote)
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: no sequence classifier ({first_line(error)})") from error
        labels, missing = self.model.config.num_labels, sorted(loading["missing_keys"])
        if labels != 1:
            raise InputError(f"{folder}: a reward model has one logit, this classifier has {labels}")
        if missing:
            raise InputError(f"{folder}: not a trained reward model, it lacks {', '.join(missing)}")
        # Decoders find a row's last token by the padding token. A model that has none may end its rows in EOS,
        # which then cannot stand for padding: it reads one response at a time.
        self.batch_size = settings.batch_size if self.tokenizer.pad_token_id is not None else 1
        self.model.config.pad_token_id = self.tokenizer.pad_token_id
        self.tokenizer.truncation_side = "left"  # too long a conversation loses its start, not the response
        torch.set_num_threads(threads)
        self.device, self.tokens, self.parameters = default_device(), 0, parameter_count(settings.model)
        self.model.to(self.device).eval()

    def __call__(self, prompts: Sequence[Messages], responses: Sequence[str]) -> list[float]:
        import torch

        from prefloop.batching import batches_by_length

        encoded = [self.encode(p, r) for p, r in zip(prompts, responses, strict=True)]
        lengths = [len(e["input_ids"]) for e in encoded]
        rewards = [0.0] * len(encoded)
        for batch in batches_by_length(lengths, self.batch_size):
            rows = [encoded[i] for i in batch]
            padded = self.tokenizer.pad(rows, padding=len(rows) > 1, return_tensors="pt").to(self.device)
            with torch.no_grad():
                logits = self.model(**padded).logits[:, 0].float()
            for i, reward in zip(batch, logits.tolist(), strict=True):
                rewards[i] = reward
        self.tokens += sum(lengths)
        return rewards

    def encode(self, messages: Messages, response: str) -> dict:
        if self.tokenizer.chat_template is None:
            question = "\n".join(message["content"] for message in messages)
            return self.tokenizer(question, response, truncation=True)
        conversation = [*messages, {"role": "assistant", "content": response}]
        text = self.tokenizer.apply_chat_template(conversation, tokenize=False)
        return self.tokenizer(text, add_special_tokens=False, truncation=True)


FEEDBACK: dict[str, Callable[[Settings, int], Callable]] = {
    "function": load_function,
    "reward_model": RewardModel,
}


def rewards_of(
    function: Callable, prompts: Sequence[Messages], responses: Sequence[str], ids: Sequence[tuple[str, int]]
) -> list[float]:
    """Rewards [responses] of a feedback function, checked: one finite number a response.

    `ids` are (prompt_id, response_id), for the messages. Raises InputError if the function raises, returns
    another count, or returns something that is not a finite number.
    """
    name = getattr(function, "__name__", type(function).__name__)
    try:
        rewards = function(prompts, responses)
    except InputError:
        raise
    except Exception as error:
        culprit = find_culprit(function, prompts, responses, ids)
        raise InputError(f"feedback {name} raised {type(error).__name__}: {error}; first for {culprit}") from error
    try:
        rewards = list(rewards)
    except TypeError as error:
        raise InputError(f"feedback {name} returned {type(rewards).__name__}, expected a list of numbers") from error
    if len(rewards) != len(responses):
        raise InputError(f"feedback {name} returned {len(rewards)} rewards for {len(responses)} responses")
    for reward, (prompt_id, response_id) in zip(rewards, ids, strict=True):
        if not is_finite(reward):
            raise InputError(
                f"feedback {name} returned {reward!r} for prompt {prompt_id}, response {response_id}: "
                "every response needs a finite number"
            )
    return [float(reward) for reward in rewards]


def is_finite(reward) -> bool:
    try:
        return math.isfinite(reward)
    except TypeError:
        return False


def find_culprit(function: Callable, prompts, responses, ids) -> str:
    """The first response for which a raising function raises alone."""
    for prompt, response, (prompt_id, response_id) in zip(prompts, responses, ids, strict=True):
        try:
            function([prompt], [response])
        except Exception:
            return f"prompt {prompt_id}, response {response_id}"
    return "no single response: it raises only on all together"
