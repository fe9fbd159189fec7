"""Train a reward model on preference pairs: a sequence classifier with one logit, by the Bradley–Terry model."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from tyro.conf import arg

from _program import run
from prefloop.classifiers import RewardModel, encode, load_trainable_classifier
from prefloop.costs import CostMeter
from prefloop.fetch import write_model
from prefloop.manifests import parameter_count
from prefloop.models import default_device
from prefloop.optimisation import Optimisation, start, write_steps
from prefloop.partial import Partial, work_of
from prefloop.processes import Running, checkpoint_activations, together
from prefloop.progress import Summary
from prefloop.prompts import Columns, check_settings, prompt_rows, read_source, without_void_pairs
from prefloop.reward_models import Encoded, fit, half_of, report, reward_gaps, split_by_conversation, warning
from prefloop.rows import InputError, sha256_of, write_json
from prefloop.seeds import rng_for, seed_for
from prefloop.tracking import Tracking, start_trackers


def main(
    *,
    base: Path,
    source: str,
    packaged: Path,
    manifest: Path,
    report_file: Annotated[Path, arg(name="report")],
    metrics: Path,
    speed: Path,
    cost: Path,
    columns: Columns,
    settings: Annotated[Optimisation, arg(name="")],
    running: Annotated[Running, arg(name="")],
    tracking: Tracking,
    subset: str | None = None,
    split: str = "train",
    format: str = "columns",
    part: Literal["all", "first", "second"] = "all",
    take: int | None = None,
    held_out: float = 0.2,
    max_tokens: int = 512,
    seed: int = 0,
    threads: int = 1,
) -> Summary | None:
    """Train a reward model and report how it does on pairs it has not seen.

    Killed and started again it goes on from `manifest`'s folder with .partial after its name, as train does.

    Args:
        base: Manifest of the encoder or language model to start from.
        source: Preference pairs: packaged, a .jsonl or .jsonl.gz file, or hub:owner/name.
        packaged: The packaged set.
        manifest: Where manifest.json goes, beside the trained model's files.
        report_file: Where the report goes: held-out accuracy, calibration, and rules about length beside them.
        metrics: Where training.jsonl goes, one row an optimizer step.
        speed: Where the seconds and tokens a second of each step go, as CSV.
        cost: Where the cost goes.
        columns: Where the data set keeps what, for format columns.
        settings: How to train.
        running: How to go about it: nothing of it counts for the weights.
        tracking: Where to send the metrics besides.
        subset: A hub data set's configuration.
        split: A hub data set's split.
        format: A published data set by name, or columns.
        part: Which half of the conversations; two reward models on different halves share none.
        take: Keep this many pairs, drawn at random; all if not given.
        held_out: Share of the conversations kept for the report.
        max_tokens: Conversations are cut from the left to this many tokens.
        seed: Of the draw, the split, the new head and the order of examples.
        threads: CPU threads of each process.
    """
    device = default_device()
    accelerator, dtype = start(settings, device, threads, seed_for(seed, "reward_model"), tracking)
    meter = CostMeter("reward_model", parameter_count(base), device)
    check_settings(format, columns, None)
    rows, account = read_pairs(prompt_rows(read_source(source, packaged, subset, split), format, columns, None))
    rows = half_of(rows, part)
    if take is not None and take > len(rows):
        raise InputError(
            f"reward_models: take asks for {take} pairs, {source} has {len(rows)} in part {part}; {account}"
        )
    if not rows:
        raise InputError(f"reward_models: {source} has no preference pair in part {part}; {account}")
    rows = [rows[i] for i in rng_for(seed, "reward_model", "take").permutation(len(rows))[:take]]
    training, unseen = split_by_conversation(rows, held_out, rng_for(seed, "reward_model", "split"))
    start_from = base, settings.parameters, settings.lora, max_tokens, dtype
    model, tokenizer = load_trainable_classifier(*start_from)
    encoded = [
        [Encoded(*(encode(tokenizer, r["messages"], r[s]) for s in ("chosen", "rejected"))) for r in part_rows]
        for part_rows in (training, unseen)
    ]
    work = work_of(__file__, settings, inputs=[sha256_of(base), training], run=[seed, max_tokens])
    folder = manifest.parent.with_name(f"{manifest.parent.name}.partial")
    partial = Partial(folder, work, running.save_every, accelerator)
    meter.resume(partial.earlier_seconds, partial.resumed)
    start_trackers(tracking, accelerator, partial.steps)
    if running.gradient_checkpointing:
        checkpoint_activations(model)
    fit(
        model,
        tokenizer,
        encoded[0],
        settings,
        seed=seed_for(seed, "reward_model", "order"),
        accelerator=accelerator,
        on_step=lambda metrics: accelerator.log(metrics, step=metrics["step"]),
        sharding=running.sharding,
        partial=partial,
    )
    weights = {name: together(tensor) for name, tensor in model.state_dict().items()}
    accelerator.end_training()
    if not accelerator.is_main_process:
        return None
    meter.train(settings.epochs * sum(pair.tokens for pair in encoded[0]))
    model, _ = load_trainable_classifier(*start_from)  # whole again, if it was trained in shards
    model.load_state_dict(weights)
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    write_model(merged.to(torch.float32), tokenizer, manifest, base, "reward model on")
    batch_size = 2 * settings.micro_batch_size
    saved = RewardModel(manifest, batch_size, threads)  # as whoever asks it will read it
    gaps = reward_gaps(saved.model, saved.tokenizer, encoded[1], batch_size)
    meter.forward(sum(pair.tokens for pair in encoded[1]))
    longer = np.array([len(row["chosen"]) - len(row["rejected"]) for row in unseen])
    found = {"trained_pairs": len(training)} | report(gaps, longer, rng_for(seed, "reward_model", "report"))
    write_steps(metrics, speed, partial.steps)
    write_json(report_file, found | {"warning": warning(found)})
    if found_warning := warning(found):
        print(f"WARNING: {manifest.parent.name}: {found_warning}")
    meter.write(cost)
    partial.remove()
    accuracy, low, high = found["accuracy"]
    return Summary(
        f"{len(training)} pairs trained on, {len(unseen)} held out",
        settings.epochs * len(training),
        "pair",
        f"accuracy {accuracy:.3f} [{low:.3f}, {high:.3f}], longer wins {found['longer_wins']:.3f}, shorter wins "
        f"{found['shorter_wins']:.3f}, calibration error {found['calibration_error']:.3f}; {account}",
        meter.seconds,
    )


def read_pairs(found: Iterable[tuple[str, dict | str, bool]]) -> tuple[list[dict], str]:
    """Every preference pair once, whatever number a prompt has, and an account of what was dropped."""
    rows = [row for _, row, _ in found]
    usable, void = without_void_pairs([row for row in rows if not isinstance(row, str)])
    paired = [row for row in usable if "chosen" in row and "rejected" in row]
    once = {json.dumps([row["messages"], row["chosen"], row["rejected"]]): row for row in paired}
    dropped = {
        "repeated": len(paired) - len(once),
        "without a pair": len(rows) - len(paired) - sum(void.values()),
    } | void
    return list(once.values()), f"{len(rows)} rows; dropped {', '.join(f'{n} {why}' for why, n in dropped.items())}"


run(main)
