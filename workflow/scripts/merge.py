"""Merge a trained policy into a model folder that transformers and vLLM load."""

from pathlib import Path
from typing import Literal

import torch

from _program import run
from prefloop.exports import merge
from prefloop.progress import Summary


def main(
    *,
    model: Path,
    base: Path,
    policy: Path,
    manifest: Path,
    dtype: Literal["base", "bfloat16", "float16", "float32"] = "base",
    threads: int = 1,
) -> Summary:
    """Write the policy as one plain model: merged in float32 and rounded once.

    The folder has weights as safetensors, tokenizer, generation config and the chat template that the policy was
    trained with.

    Args:
        model: Manifest of the model that the policy is a change of.
        base: Manifest of the model as it was fetched.
        policy: The policy.pt to merge.
        manifest: Where manifest.json goes, beside the merged model's files; written last.
        dtype: What weights are stored in; base is what those of the fetched model are.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    word = merge(model, base, policy, manifest, dtype)
    return Summary(f"{policy} -> {manifest.parent} in {word}")


run(main)
