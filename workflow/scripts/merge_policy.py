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
    """Write the policy as one plain model: merged in float32 and rounded once.

    The folder has weights as safetensors, tokenizer, generation config and the chat template that the policy was
    trained with.

    Args:
        model: Manifest of the model that the policy was trained on.
        base: Manifest of the model as it was fetched.
        policy: The policy.pt to merge.
        manifest: Where manifest.json goes, next to the merged model's files; written last.
        dtype: Of the stored weights; base is that of the fetched model's weights.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    stored = merge(model, base, policy, manifest, dtype)
    return Summary(f"{policy} -> {manifest.parent} in {stored}")


run(main)
