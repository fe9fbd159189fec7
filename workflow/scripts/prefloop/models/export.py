"""Export models: merge a policy into a plain folder, and push a folder to the hub."""

import os
from collections import Counter
from math import prod
from pathlib import Path

from prefloop.core.errors import InputError, first_line, refused
from prefloop.models.fetch import write_model
from prefloop.models.weight_files import weight_files

STORED = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}  # safetensors' names to torch's
TOKEN = "HF_TOKEN"


def stored_dtype(folder: Path) -> str:
    """torch's name for the dtype of most parameters in a model folder.

    Raises:
        InputError: This dtype is not a plain floating-point format.
    """
    from safetensors import safe_open

    sizes: Counter[str] = Counter()
    for path in weight_files(Path(folder)):
        with refused(f"{path}: not a complete safetensors file"), safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                tensor = file.get_slice(name)
                sizes[tensor.get_dtype()] += prod(tensor.get_shape())
    dtype = sizes.most_common(1)[0][0]
    if dtype not in STORED:
        raise InputError(f"{folder}: stored in {dtype}, which a merged model cannot have; set export.dtype")
    return STORED[dtype]


def merge(model: Path, base: Path, policy: Path, manifest: Path, dtype: str = "base") -> str:
    """Write a policy as a plain model folder, merged in float32 and rounded once.

    Args:
        model (Path): Manifest of the model that the policy was trained on.
        base (Path): Manifest of the fetched model; `base` is its dtype.
        policy (Path): The policy.pt.
        manifest (Path): Where the new manifest goes, next to the merged model's files; written last.
        dtype (str): torch's name for the dtype of the merged weights, or `base`.

    Returns:
        str: torch's name for that dtype.

    Raises:
        InputError: The fetched model's dtype cannot be kept, or the policy belongs to another model.
    """
    import torch

    from prefloop.models.loading import load_merged

    name = stored_dtype(base.parent) if dtype == "base" else dtype
    merged, tokenizer = load_merged(model, policy, torch.float32, "cpu")
    write_model(merged.to(getattr(torch, name)), tokenizer, manifest, model, "merged policy of")
    return name


def push(folder: Path, repository: str, private: bool) -> str:
    """Upload a folder as the content of a repository on the hub.

    The token is read from the environment and sent only to the hub. Files of an earlier push that the folder no longer
    has are deleted.

    Args:
        folder (Path): What to upload.
        repository (str): owner/name; created if it does not exist.
        private (bool): Whether a new repository is private.

    Returns:
        str: The commit's address.

    Raises:
        InputError: There is no token, or the hub refuses.
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
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            delete_patterns=["*"],
            commit_message="Export by prefloop",
        )
    except (HTTPError, OSError, ValueError) as error:
        reason = first_line(error).replace(token, "[token]")
        raise InputError(f"export.hub_id: {repository} could not be pushed ({reason})") from error
    return str(commit)
