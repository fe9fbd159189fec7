"""Exported models: what their weights are stored in, and how they get to the hub."""

import os
from collections import Counter
from math import prod
from pathlib import Path

from prefloop.fetch import write_model
from prefloop.rows import InputError, first_line

STORED = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}  # safetensors' words and torch's
TOKEN = "HF_TOKEN"


def stored_dtype(folder: Path) -> str:
    """torch's name for what most parameters of a model folder are stored in; InputError if that is no plain float."""
    from safetensors import safe_open

    sizes: Counter = Counter()
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                part = file.get_slice(name)
                sizes[part.get_dtype()] += prod(part.get_shape())
    word = sizes.most_common(1)[0][0]
    if word not in STORED:
        raise InputError(f"{folder}: stored in {word}, which no merged model can be; name export.dtype")
    return STORED[word]


def merge(model: Path, base: Path, policy: Path, manifest: Path, dtype: str = "base") -> str:
    """Write a policy as a plain model folder: merged in float32, rounded once. Returns torch's name of its dtype.

    `model` is the manifest of the model that the policy is a change of, `base` that of the fetched one, whose dtype
    `base` means; `manifest`, beside the merged model's files, is written last.
    """
    import torch

    from prefloop.models import load_merged

    word = stored_dtype(base.parent) if dtype == "base" else dtype
    merged, tokenizer = load_merged(model, policy, torch.float32, "cpu")
    write_model(merged.to(getattr(torch, word)), tokenizer, manifest, model, "merged policy of")
    return word


def push(folder: Path, repository: str, private: bool) -> str:
    """Make a folder the content of a repository on the hub, and return the commit's address.

    The token is read from the environment and goes to the hub alone. Files that an earlier push left and the folder
    no longer has are deleted. InputError without a token, and if the hub refuses.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise InputError(
            f"environment variable {TOKEN}: not set; pushing to {repository} needs a token of the hub with write access"
        )
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            delete_patterns=["*"],
            commit_message="Export by prefloop",
        )
    except (HTTPError, OSError, ValueError) as error:
        reason = first_line(error).replace(token, "[token]")
        raise InputError(f"export.hub_id: {repository} could not be pushed ({reason})") from error
    return str(done)
