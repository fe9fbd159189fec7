"""Which files of a model folder hold its weights, and how many parameters are in them."""

import os
import re
from collections import defaultdict
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.core.errors import InputError, refused, short_repr
from prefloop.core.files import read_json

if TYPE_CHECKING:
    import torch

POINTER = b"version https://git-lfs"  # the start of a file that git-lfs has not fetched
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# Tensors of experts: of one expert, or of all experts of a layer in one tensor.
EXPERT = re.compile(r"(.*\.experts)\.(?:expert_)?(\d+)\..*")
STACKED = re.compile(r".*\.(?:experts\..*|(?:input|output)_linear\.weight)")
ACTIVE = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "top_k_experts")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers loads: one file, or the shards of an index. Others are copies.

    Raises:
        InputError: The index is damaged, or names a file that does not exist.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        return []
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise InputError(f"{folder / INDEX}: weight_map is {short_repr(weight_map)}, expected a file for each weight")
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if Path(shard).name != shard:
            raise InputError(
                f"{folder / INDEX}: {short_repr(shard)} is not a file in this folder; download the model again"
            )
        if not os.path.isfile(folder / shard):  # noqa: PTH113 (also false for a name that no disk can hold)
            raise InputError(f"{folder}: {INDEX} names {shard}, which is not there; copy or download it")
    return [folder / shard for shard in shards]


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """The shape of each tensor of a safetensors file, read from its header.

    Raises:
        InputError: The file is not a safetensors file.
    """
    from safetensors import safe_open

    with path.open("rb") as start:
        if start.read(len(POINTER)) == POINTER:
            raise InputError(f"{path}: not a safetensors file; if it is a pointer to one, fetch it by `git lfs pull`")
    with refused(f"{path}: not a complete safetensors file; download it again"), safe_open(path, "numpy") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a dict)


def check_finite(folder: Path) -> None:
    """Check every weight, once per folder, when it is made. This takes a quarter of the time of its checksums.

    Raises:
        InputError: A weight is NaN or infinite.
    """
    from safetensors import safe_open

    for path in weight_files(folder):
        with refused(f"{path}: not a complete safetensors file; download it again"), safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and tensor.numel() and not all_finite(tensor):
                    raise InputError(
                        f"{path}: {name} has values that are NaN or infinite; download the model again, or name another"
                    )


def all_finite(tensor: "torch.Tensor") -> bool:
    """Whether all values are finite.

    Only minimum and maximum are tested, which are NaN if any value is. Testing all values takes ten times as long.
    """
    import torch

    values = tensor if tensor.element_size() > 1 else tensor.float()  # torch cannot compare numbers of 8 bits
    return bool(torch.stack(values.aminmax()).isfinite().all())


def count_parameters(folder: Path) -> dict[str, int]:
    """Numbers of parameters for a manifest.

    Returns:
        dict: `parameters`, where an output head that is tied to the embedding does not count, and for a mixture of
            experts `active_parameters`, those that are used per token.
    """
    config = read_json(folder / "config.json")
    shapes = {name: shape for path in weight_files(folder) for name, shape in tensor_shapes(path).items()}
    if setting(config, "tie_word_embeddings") and "lm_head.weight" in shapes:
        head = shapes.pop("lm_head.weight")
        if head not in shapes.values():  # the embedding, under this name only
            shapes["lm_head.weight"] = head
    total = sum(map(prod, shapes.values()))
    active = next((value for key in ACTIVE if (value := setting(config, key))), None)
    counts = active if isinstance(active, list) else [active or 0]
    if not all(type(count) is int for count in counts):
        raise InputError(f"{folder / 'config.json'}: {short_repr(active)} experts per token, expected a whole number")
    idle = idle_parameters(shapes, max(counts)) if active else 0
    return {"parameters": total} | ({"active_parameters": total - idle} if idle else {})


def idle_parameters(shapes: dict[str, list[int]], active: int) -> int:
    """The number of parameters that a token does not use, if it uses `active` experts per layer."""
    sizes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))  # by layer and expert
    idle = 0
    for name, shape in shapes.items():
        if match := EXPERT.fullmatch(name):
            sizes[match[1]][match[2]] += prod(shape)
        elif STACKED.fullmatch(name) and (len(shape) > 2 or name.endswith("bias")):
            idle += prod(shape[1:]) * max(0, shape[0] - active)
    for experts in sizes.values():
        idle += sum(experts.values()) * max(0, len(experts) - active) // len(experts)
    return idle


def setting(config: dict[str, Any], key: str) -> Any:
    """A setting of a model's config.json, or of the config of its language part within it."""
    sections = [config, *(value for value in config.values() if isinstance(value, dict))]
    return next((section[key] for section in sections if section.get(key) is not None), None)
