"""Train a reward model on preference pairs: a sequence classifier with one logit and the Bradley-Terry loss."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from tyro.conf import arg

from _program import run
from prefloop.config.training_settings import RewardModelConfig
from prefloop.core.files import sha256_of, write_json
from prefloop.core.progress import Summary
from prefloop.core.seeds import rng_for, seed_for
from prefloop.feedback.reward_model import RewardModel, load_trainable_classifier
from prefloop.models.chat import ChatFormat
from prefloop.models.fetch import write_model
from prefloop.models.options import RuntimeConfig
from prefloop.models.policies import trained_weights
from prefloop.training.bradley_terry import RewardModelObjective, encode_pairs, reward_gaps
from prefloop.training.checkpoint import fingerprint
from prefloop.training.reward_pairs import load_pairs
from prefloop.training.reward_report import eval_report
from prefloop.training.run import TrainingFiles, TrainingJob, training_run
from prefloop.training.tracking import Tracking


@dataclass
class Files(TrainingFiles):
    """Inputs and outputs."""

    base: Path
    """Manifest of the encoder or language model to start from."""
    packaged: Path
    """The packaged set of pairs."""
    manifest: Path
    """Output path for manifest.json, next to the trained model's files."""
    report: Path
    """Output path for the report: held-out accuracy, calibration, and the accuracy of rules about length."""


def main(
    *,
    files: Annotated[Files, arg(name="")],
    settings: Annotated[RewardModelConfig, arg(name="")],
    runtime: Annotated[RuntimeConfig, arg(name="")],
    tracking: Tracking,
    threads: int = 1,
    date: str | None = None,
) -> Summary | None:
    """Train a reward model, and report its accuracy on held-out pairs.

    An interrupted run resumes from a folder next to that of `manifest`, with .partial appended to its name.

    Args:
        threads: CPU threads per process.
        date: Day that the chat template may print, as YYYY-MM-DD; by default today.
    """
    rows, unseen, account = load_pairs(settings, files.packaged)
    chat = ChatFormat(date=date)
    work = fingerprint(__file__, settings, {"inputs": [sha256_of(files.base), rows, date]})
    folder, seed = files.manifest.parent, settings.seed
    state = folder.with_name(f"{folder.name}.partial")
    job = TrainingJob("train_reward_model", files.base, state, work, seed_for(seed, "reward_model"), threads)
    with training_run(job, files, settings, runtime, tracking) as training:
        start = files.base, settings.parameters, settings.lora, settings.max_tokens, training.dtype
        network, tokenizer, note = load_trainable_classifier(*start)
        pairs, eval_pairs = encode_pairs(tokenizer, rows, chat), encode_pairs(tokenizer, unseen, chat)
        model = training.prepare(network)
        training.optimize(model, RewardModelObjective(model, tokenizer, pairs), seed_for(seed, "reward_model", "order"))
        weights = trained_weights(network, None, training.accelerator.is_main_process)
        if not training.end_processes():
            return None
        network, *_ = load_trainable_classifier(*start)  # unsharded, also after sharded training
        network.load_state_dict(weights)
        merged = network.merge_and_unload() if hasattr(network, "merge_and_unload") else network
        write_model(merged.to(torch.float32), tokenizer, files.manifest, files.base, "reward model on")
        batch_size = 2 * settings.micro_batch_size
        saved = RewardModel(files.manifest, batch_size, threads)  # loaded as feedback loads it
        gaps = reward_gaps(saved.model, saved.tokenizer, eval_pairs, batch_size)
        training.meter.forward(sum(pair.tokens for pair in eval_pairs))
        longer = np.array([len(row["chosen"]) - len(row["rejected"]) for row in unseen])
        measured = {"trained_pairs": len(rows)} | eval_report(gaps, longer, rng_for(seed, "reward_model", "report"))
        write_json(files.report, measured)
    if note:
        print(f"{folder.name}: {files.base.parent}: {note}")
    accuracy, low, high = measured["accuracy"]
    return Summary(
        f"{len(rows)} pairs trained on, {len(unseen)} held out",
        settings.epochs * len(rows),
        "pair",
        f"accuracy {accuracy:.3f} [{low:.3f}, {high:.3f}], longer wins {measured['longer_wins']:.3f}, shorter wins "
        f"{measured['shorter_wins']:.3f}, calibration error {measured['calibration_error']:.3f}; {account}",
        training.meter.seconds,
        f"{folder.name}: {measured['warning']}" if measured["warning"] else "",
    )


run(main)
