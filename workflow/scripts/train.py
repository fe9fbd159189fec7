"""Train the policy on one round's pairs."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from _program import run
from prefloop.config.training_settings import TrainConfig
from prefloop.core.errors import section
from prefloop.core.files import checksums, sha256_of
from prefloop.core.progress import Summary
from prefloop.core.seeds import seed_for
from prefloop.models.chat import read_format
from prefloop.models.loading import load_trainable, loading_options
from prefloop.models.options import RuntimeConfig
from prefloop.models.policies import Provenance, is_trained, read_policy, replace_adapter
from prefloop.models.response_logprobs import prepare_scorer
from prefloop.training.checkpoint import fingerprint
from prefloop.training.preference import PreferenceObjective, tokenize_pairs
from prefloop.training.run import TrainingFiles, TrainingJob, first_to_last, training_run
from prefloop.training.snapshots import PolicySnapshots
from prefloop.training.tracking import Tracking


@dataclass
class Files(TrainingFiles):
    """Inputs and outputs."""

    model: Path
    """Manifest of the base model."""
    policy: Path
    """The policy before this round: a policy.pt, or the base model's manifest."""
    pairs: Path
    """The round's pairs, with the reference's log-probabilities."""
    output: Path
    """Output path for policy.pt."""
    chat: Path | None = None
    """The run's chat format, a chat.json; the template's own variables and today's date if not given."""


def main(
    *,
    files: Annotated[Files, arg(name="")],
    settings: Annotated[TrainConfig, arg(name="")],
    runtime: Annotated[RuntimeConfig, arg(name="")],
    tracking: Tracking,
    seed: int,
    round_index: Annotated[int, arg(name="round")],
    checkpoints: tuple[int, ...] = (),
    threads: int = 1,
) -> Summary | None:
    """Train the policy on one round's pairs, and write it as policy.pt and, with LoRA, as a PEFT folder adapter/.

    One process, or several under torchrun, give the same weights. An interrupted run resumes from its state in
    policy.partial/, next to policy.pt.

    Args:
        seed: The run's seed.
        round_index: Round, from 1.
        checkpoints: Optimizer steps after which the policy is stored as checkpoint-<step>/policy.pt next to output.
        threads: CPU threads per process.
    """
    pairs_sha256, folder = sha256_of(files.pairs), files.output.parent
    inputs = [*checksums(files.model, files.policy, files.chat), pairs_sha256, *loading_options(files.model)]
    work = fingerprint(__file__, settings, {"inputs": inputs, "run": [seed, round_index, checkpoints]})
    train_seed, columns = seed_for(seed, "train", round_index), {"round": round_index}
    job = TrainingJob("train", files.model, folder / "policy.partial", work, train_seed, threads, columns)
    with section("train"), training_run(job, files, settings, runtime, tracking) as training:
        network, tokenizer = load_trainable(
            files.model, files.policy, settings.parameters, settings.lora, training.dtype, training.reads_weights
        )
        pairs = tokenize_pairs(files.pairs, tokenizer, settings, files.model, read_format(files.chat))
        provenance = Provenance(files.model, round_index, seed, pairs_sha256)
        total = settings.epochs * math.ceil(len(pairs) / settings.batch_size)
        snapshots = PolicySnapshots(checkpoints, total, training, network, provenance)
        model = training.prepare(network)
        objective = PreferenceObjective(prepare_scorer(model), pairs, settings, training.accelerator, round_index)
        if settings.carry_beta and round_index > 1 and is_trained(files.policy):  # each run starts with a new rule
            objective.load_state_dict(read_policy(files.policy)["beta_state"] or {})
        steps = training.optimize(model, objective, train_seed, snapshots.save)
        weights = training.write_policy(files.output, network, provenance, objective.state_dict())
        if not training.end_processes():
            return None
        replace_adapter(folder / "adapter", network, files.model, weights if settings.parameters == "lora" else None)
        snapshots.publish(folder)
    accuracy = first_to_last(steps, "rewards/accuracies", 2)
    return Summary(
        f"round {round_index}, {len(pairs)} pairs, {len(steps)} steps",
        settings.epochs * len(pairs),
        "pair",
        f"loss {first_to_last(steps, 'loss')}, accuracy {accuracy}",
        training.meter.seconds,
    )


run(main)
