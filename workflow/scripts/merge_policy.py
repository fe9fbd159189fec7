"""Merge a trained policy into a model folder that transformers and vLLM load."""

from pathlib import Path

import torch

from _program import run
from prefloop.config.evaluation_settings import ExportConfig
from prefloop.core.progress import Summary
from prefloop.models.export import merge


def main(
    *,
    model: Path,
    base: Path,
    policy: Path,
    manifest: Path,
    dtype: str = ExportConfig.dtype,
    threads: int = 1,
) -> Summary:
    """Write the policy as one plain model, merged in float32 and rounded once.

    The folder has the weights as safetensors, the tokenizer, the generation config, and the chat template with which
    the policy was trained.

    Args:
        model: Manifest of the model that the policy was trained on.
        base: Manifest of the fetched model.
        policy: The policy.pt to merge.
        manifest: Output path for manifest.json, next to the merged model's files; written last.
        dtype: The dtype of the stored weights; base is that of the fetched model's weights.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    stored = merge(model, base, policy, manifest, dtype)
    return Summary(f"{policy} -> {manifest.parent} in {stored}")


run(main)
