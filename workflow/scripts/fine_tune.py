"""Supervised fine-tuning on the chosen responses: the result is the initial policy and its reference."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from tyro.conf import arg

from _program import run
from prefloop.config.training_settings import SFTConfig
from prefloop.core.errors import InputError
from prefloop.core.files import checksums, sha256_of
from prefloop.core.jsonl import read_rows
from prefloop.core.progress import Summary
from prefloop.core.seeds import seed_for
from prefloop.models.chat import read_format
from prefloop.models.fetch import write_model
from prefloop.models.loading import load_merged, load_trainable
from prefloop.models.options import RuntimeConfig
from prefloop.models.policies import Provenance
from prefloop.models.response_logprobs import prepare_scorer
from prefloop.training.checkpoint import fingerprint
from prefloop.training.run import TrainingFiles, TrainingJob, first_to_last, training_run
from prefloop.training.sft import SFTObjective, tokenize_examples
from prefloop.training.tracking import Tracking


@dataclass
class Files(TrainingFiles):
    """Inputs and outputs."""

    model: Path
    """Manifest of the model to fine-tune."""
    prompts: Path
    """Training prompts with `chosen`."""
    output: Path
    """Output path for policy.pt."""
    manifest: Path
    """Output path for manifest.json, next to the fine-tuned model's files; written last."""
    chat: Path | None = None
    """The run's chat format, a chat.json; the template's own variables and today's date if not given."""


def main(
    *,
    files: Annotated[Files, arg(name="")],
    settings: Annotated[SFTConfig, arg(name="")],
    runtime: Annotated[RuntimeConfig, arg(name="")],
    tracking: Tracking,
    threads: int = 1,
) -> Summary | None:
    """Fine-tune the model on the data set's chosen responses, and write it as policy.pt and as a model folder.

    The folder has the full model, with adapters merged. Later stages use it as their base model, so that their
    reference is the fine-tuned policy. An interrupted run resumes from policy.partial/, as in train.

    Args:
        threads: CPU threads per process.
    """
    prompts_sha256, sft_seed = sha256_of(files.prompts), seed_for(settings.seed, "sft")
    inputs = [*checksums(files.model, files.chat), prompts_sha256]
    work = fingerprint(__file__, settings, {"inputs": inputs})
    job = TrainingJob("fine_tune", files.model, files.output.parent / "policy.partial", work, sft_seed, threads)
    with training_run(job, files, settings, runtime, tracking) as training:
        network, tokenizer = load_trainable(
            files.model, files.model, settings.parameters, settings.lora, training.dtype, training.reads_weights
        )
        rows = read_rows(files.prompts, ["prompt_id", "messages"])
        answered = [row for row in rows if "chosen" in row]
        if not answered:
            raise InputError(
                f"{files.prompts}: no prompt comes with a chosen response; choose another prompts.source, or no sft"
            )
        limit, chat = settings.max_response_tokens, read_format(files.chat)
        examples = tokenize_examples(answered, tokenizer, limit, files.model, chat)
        model = training.prepare(network)
        objective = SFTObjective(prepare_scorer(model), examples)
        steps = training.optimize(model, objective, sft_seed)
        training.write_policy(files.output, network, Provenance(files.model, 0, settings.seed, prompts_sha256))
        if not training.end_processes():
            return None
        merged, _ = load_merged(files.model, files.output, torch.float32, "cpu")
        write_model(merged, tokenizer, files.manifest, files.model, "fine-tuned")
    return Summary(
        f"{len(examples)} responses, {len(rows) - len(examples)} prompts without one, {len(steps)} steps",
        settings.epochs * len(examples),
        "response",
        f"loss {first_to_last(steps, 'loss')} nats per token",
        training.meter.seconds,
    )


run(main)
