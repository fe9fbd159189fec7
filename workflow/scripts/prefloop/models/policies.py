"""policy.pt: what training added to a base model, and the provenance of both."""

import dataclasses
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from prefloop.core.errors import InputError, short_repr
from prefloop.core.files import read_tensors
from prefloop.models.distributed import gather_full
from prefloop.models.manifests import load_name, read_manifest
from prefloop.models.options import Lora
from prefloop.models.precision import master_of
from prefloop.models.quantization import quantization_of
from prefloop.models.weight_files import all_finite

if TYPE_CHECKING:
    from peft import LoraConfig

POLICY_FORMAT = "prefloop-policy-1"
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.bool)
# What `read_policy` expects in a policy.pt.
SHAPE_NUMBERS = ("r", "alpha", "dropout")  # in its `adapter`
CONTENT = {"base_model": str, "adapter": dict | None, "state_dict": dict, "beta_state": dict | None}


class Provenance(NamedTuple):
    """What a policy was trained from."""

    manifest: Path
    """Manifest of the base model."""
    round_index: int
    """From 1; 0 for supervised fine-tuning."""
    seed: int
    """The run's seed."""
    pairs_sha256: str
    """Checksum of the training data."""


def is_trained(policy: Path) -> bool:
    """Whether a policy file is a policy.pt; otherwise it is the manifest of the base model."""
    return Path(policy).suffix == ".pt"


def read_policy(path: Path) -> dict[str, Any]:
    """Read a policy.pt without executing code in it.

    Raises:
        InputError: The file is not a policy.pt, or its weights are not finite.
    """
    content = read_tensors(path)
    if content.get("format") != POLICY_FORMAT:
        raise InputError(f"{path}: not a policy of format {POLICY_FORMAT}")
    for name, kinds in CONTENT.items():
        if name not in content or not isinstance(content[name], kinds):
            problem = f"{name} is {short_repr(content[name])}" if name in content else f"no {name}"
            raise InputError(f"{path}: damaged: {problem}; recreate it")
    state = content["state_dict"]
    if (fault := no_weights(state) or no_adapter(content["adapter"], state)) is not None:
        raise InputError(f"{path}: {fault}; recreate it")
    return content


def no_weights(state: dict[str, Tensor]) -> str | None:
    """The reason why a state_dict is not one of trained weights; None if it is."""
    if not state:
        return "an empty state_dict"
    for name, tensor in state.items():
        is_plain = isinstance(name, str) and isinstance(tensor, Tensor) and tensor.layout == torch.strided
        is_plain = is_plain and tensor.device.type == "cpu"  # else it has no values, as on the device "meta"
        # A view can have far more elements than its storage.
        if not is_plain or tensor.nbytes > tensor.untyped_storage().nbytes() or tensor.dtype not in DTYPES:
            return f"{short_repr(name)} in its state_dict is not a weight"
        if tensor.is_floating_point() and tensor.numel() and not all_finite(tensor):
            return f"{name} has values that are NaN or infinite: the training that wrote it has diverged"
    return None


def no_adapter(shape: dict[str, Any] | None, state: dict[str, Tensor]) -> str | None:
    """The reason why `adapter` does not describe a state_dict's adapters; None if it does, or if there are none."""
    if shape is None:
        return None
    numbers = {name: shape[name] for name in SHAPE_NUMBERS if name in shape}
    is_finite = all(type(value) in (int, float) and math.isfinite(value) for value in numbers.values())
    if numbers.keys() != set(SHAPE_NUMBERS) or not is_finite or type(shape["r"]) is not int:
        return f"adapter is {short_repr(shape)}, expected numbers r, alpha and dropout"
    for name, value in shape.items():
        if name in ("rslora", "dora") and type(value) is bool:
            continue
        is_names = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if name not in SHAPE_NUMBERS and not (name == "target_modules" and is_names):
            return f"adapter.{name} is {short_repr(value)}, which no adapter has"
    if not 1 <= shape["r"] <= max((tensor.numel() for name, tensor in state.items() if "lora_A" in name), default=0):
        return f"adapter.r is {shape['r']}, which its state_dict does not have"
    return None


def adapter_shape(lora: Lora) -> dict[str, Any]:
    """What policy.pt stores as `adapter`: all numbers, and other settings only if they are not their defaults."""
    values = dataclasses.asdict(lora) | {"target_modules": list(lora.target_modules)}
    return {name: value for name, value in values.items() if name in SHAPE_NUMBERS or value}


def lora_of(shape: dict[str, Any]) -> Lora:
    """The settings that `adapter_shape` stored."""
    return Lora(**shape | {"target_modules": tuple(shape.get("target_modules", ()))})


def lora_config(lora: Lora, targets: list[str] | str, task: str) -> "LoraConfig":
    """peft's config of adapters on the layers `targets`."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft takes any number
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        task_type=task,
    )


def check_base(content: dict[str, Any], manifest: Path, policy: Path) -> None:
    """Check that a policy was trained on the manifest's base model, with the quantization with which it is loaded here.

    Raises:
        InputError: It was trained on another base model, or with another quantization of its weights.
    """
    base = read_manifest(manifest, "sha256")["sha256"]
    if content["base_model"] != base:
        trained_on = content["base_model"][:12]
        raise InputError(f"{policy}: trained on base model {trained_on}, but {manifest} is {base[:12]}; recreate it")
    trained_in, loaded_in = content.get("quantization"), quantization_of(manifest)
    if trained_in != loaded_in:
        raise InputError(
            f"{policy}: trained on base weights {stored_in(trained_in)}, which are loaded {stored_in(loaded_in)}; an "
            "adapter fits only the weights that it was trained on: set policy.quantization to match"
        )


def stored_in(quantization: str | None) -> str:
    """How weights are stored, in words."""
    return f"in {quantization or 'full precision'}"


def check_fit(found: dict[str, Tensor], expected: dict[str, Tensor], policy: Path, manifest: Path) -> None:
    """Check that weights have the names and shapes that a model expects; peft ignores names that it does not know.

    Raises:
        InputError: A weight is missing, unknown, or of another shape.
    """
    shapes = {name: tensor.shape for name, tensor in expected.items()}
    wrong = sorted(name for name in found.keys() | shapes if name not in found or found[name].shape != shapes.get(name))
    if wrong:
        raise InputError(
            f"{policy}: {len(wrong)} of its weights do not fit the model of {manifest}, such as {wrong[0]}; train it "
            "again with the installed versions of transformers and peft"
        )


def trained_weights(model: nn.Module, lora: Lora | None, keep: bool = True) -> dict[str, Tensor]:
    """A model's weights by name, unsharded and on the CPU; with `lora`, only those of the adapters.

    Trained weights are always float32: if they were rounded after each round, small changes would be lost. Weights that
    share a parameter, such as tied embeddings, share their copy, so that a file stores it once. Every process of a
    sharded model has to call this at the same time. Without `keep` the tensors are empty.
    """
    copies: dict[int, Tensor] = {}
    weights = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if lora is None or "lora_" in name:
            if id(tensor) not in copies:
                copies[id(tensor)] = gather_full(master_of(tensor), keep)
            weights[name] = copies[id(tensor)]
    return weights


def policy_content(
    model: nn.Module,
    weights: dict[str, Tensor],
    lora: Lora | None,
    provenance: Provenance,
    beta_state: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of a policy.pt.

    Args:
        model (nn.Module): The trained model.
        weights (dict): From `trained_weights`.
        lora (Lora | None): Shape of its adapters; None if all parameters were trained.
        provenance (Provenance): What it was trained from.
        beta_state (dict | None): State of the β rule.
    """
    if lora is not None:
        from peft import get_peft_model_state_dict

        weights = get_peft_model_state_dict(model, state_dict=weights)
    quantization = quantization_of(provenance.manifest)
    return {
        "format": POLICY_FORMAT,
        "base_model": read_manifest(provenance.manifest, "sha256")["sha256"],
        "adapter": None if lora is None else adapter_shape(lora),
        "state_dict": weights,
        "round": provenance.round_index,
        "seed": provenance.seed,
        "beta_state": beta_state,
        "pairs_sha256": provenance.pairs_sha256,
    } | ({"quantization": quantization} if quantization is not None else {})


def adapts_experts(content: dict[str, Any]) -> bool:
    """Whether a policy has adapters of experts, whose factors peft keeps in one tensor per layer."""
    shape, state = content["adapter"], content["state_dict"]
    return shape is not None and any(len(state[name]) != shape["r"] for name in state if "lora_A" in name)


def average_policies(
    reference: dict[str, Any] | None,
    policy: dict[str, Any],
    decay: float,
    initial: dict[str, Tensor] | None = None,
) -> dict[str, Any]:
    """decay · reference + (1 − decay) · policy: the reference `ema` of the next round.

    What adapters add to the weights, B A, is averaged, and not each factor: the factors of both are stacked, so that
    their ranks add up. The initial policy adds nothing to the weights.

    Args:
        reference (dict | None): Content of the reference's policy.pt; None for the initial policy.
        policy (dict): Content of the policy's policy.pt.
        decay (float): Weight of the reference.
        initial (dict | None): Parameters of the base model; needed if all parameters are trained and there is no
            reference.

    Returns:
        dict: The content of a policy.pt.

    Raises:
        InputError: The policy has adapters of experts, DoRA adapters, or other weights than the reference.
    """
    if reference is not None:
        is_full, names = [content["adapter"] is None for content in (reference, policy)], policy["state_dict"].keys()
        if len(set(is_full)) > 1 or reference["state_dict"].keys() != names:
            raise InputError("the policy has other weights than its reference; start the method again")
    if adapts_experts(policy):
        raise InputError(
            "adapters of experts cannot be averaged; take another kind of reference, or train.parameters full"
        )
    state, shape = policy["state_dict"], policy["adapter"]
    if shape is not None and shape.get("dora"):
        raise InputError("adapters with lora.dora cannot be averaged; take another kind of reference, or turn it off")
    if shape is None:
        old = initial if reference is None else reference["state_dict"]
        assert old is not None, "without a reference the initial parameters are needed"
        first = {tensor.data_ptr(): name for name, tensor in reversed(state.items())}  # tied weights share memory
        averaged: dict[str, Tensor] = {}
        for name, new in state.items():
            source = first[new.data_ptr()]
            averaged[name] = (
                averaged[source] if source in averaged else decay * old[name].float() + (1 - decay) * new.float()
            )
        return policy | {"state_dict": averaged}
    stacked = {}
    for name, new in state.items():
        new = (1 - decay) * new if "lora_B" in name else new
        if reference is not None:
            old = reference["state_dict"][name]
            new = torch.cat([decay * old, new], dim=1) if "lora_B" in name else torch.cat([old, new], dim=0)
        stacked[name] = new.contiguous()
    rank = shape["r"] + (reference["adapter"]["r"] if reference is not None else 0)
    growth = rank / shape["r"]
    alpha = shape["alpha"] * (math.sqrt(growth) if shape.get("rslora") else growth)  # the scale stays
    return policy | {"state_dict": stacked, "adapter": shape | {"r": rank, "alpha": alpha}}


def replace_adapter(folder: Path, model: Any, manifest: Path, state: dict[str, Tensor] | None) -> None:
    """Write the trained adapter as a PEFT folder that replaces an older one; it gets its name when it is complete.

    Args:
        folder (Path): Where the adapter goes.
        model (PeftModel): The trained model.
        manifest (Path): Manifest of the base model, which the adapter's config names as `load_name` does.
        state (dict | None): From `trained_weights`; None if all parameters were trained; then the older folder is only
            deleted.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    for stale in (folder, partial):
        shutil.rmtree(stale, ignore_errors=True)
    if state is not None:
        config = model.peft_config["default"]
        for targets in ("target_modules", "target_parameters"):  # sets, whose order differs between runs
            setattr(config, targets, sorted(getattr(config, targets) or []) or None)
        config.base_model_name_or_path, config.revision = load_name(manifest)
        if config.revision:  # a model of the hub, which the adapter's card names
            model.config.name_or_path = config.base_model_name_or_path
        model.save_pretrained(partial, state_dict=state)
        partial.rename(folder)


def write_adapter(folder: Path, content: dict[str, Any]) -> None:
    """Write the adapter of a policy.pt as a PEFT folder, without loading the base model's weights."""
    from safetensors.torch import save_file

    modules = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in content["state_dict"]}
    lora = lora_of(content["adapter"])
    folder.mkdir()
    lora_config(lora, list(lora.target_modules) or sorted(modules), "CAUSAL_LM").save_pretrained(str(folder))
    save_file(content["state_dict"], folder / "adapter_model.safetensors")
