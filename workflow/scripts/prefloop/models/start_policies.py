"""Whether training can continue a policy."""

from pathlib import Path
from typing import Any

from prefloop.core.errors import InputError
from prefloop.models.manifests import read_manifest
from prefloop.models.options import Lora
from prefloop.models.policies import adapter_shape, check_base
from prefloop.models.sources import public_name


def check_start(content: dict[str, Any], policy: Path, manifest: Path, parameters: str, lora: Lora) -> None:
    """Check that training with these settings can continue a policy of another run.

    Training keeps the shape of the policy's adapters, so all of their settings have to agree.

    Args:
        content (dict): What `read_policy` returns.
        policy (Path): The policy.pt, for error messages.
        manifest (Path): Manifest of the base model.
        parameters (str): `lora` or `full`.
        lora (Lora): Shape of the adapters.

    Raises:
        InputError: The policy was trained on another base model, with another quantization, with other `parameters`, or
            with adapters of another shape.
    """
    base, trained_on = read_manifest(manifest, "source", "sha256"), content["base_model"]
    if trained_on != base["sha256"]:
        raise InputError(
            f"{policy}: trained on base model {trained_on[:12]}, and policy.model {public_name(base['source'])} is "
            f"{base['sha256'][:12]}; name the model that it was trained on, which after sft is the folder sft/model"
        )
    check_base(content, manifest, policy)
    shape = content["adapter"]
    if (shape is None) != (parameters == "full"):
        trained, other = ("all its parameters were trained", "full") if shape is None else ("it has adapters", "lora")
        raise InputError(f"{policy}: {trained}, and train.parameters is {parameters}; set it to {other}")
    check_adapter(content, policy, lora)


def check_adapter(content: dict[str, Any], policy: Path, lora: Lora) -> None:
    """Check that a policy's adapters have the shape of `train.lora`. A policy without adapters passes.

    Raises:
        InputError: They have another one.
    """
    if content["adapter"] is None:
        return
    found, wanted = comparable(content["adapter"]), comparable(adapter_shape(lora))
    names = [name for name in found if found[name] != wanted[name]]
    if names:
        differences = ", ".join(f"{name} {found[name]}, and train.lora.{name} is {wanted[name]}" for name in names)
        raise InputError(f"{policy}: its adapters have {differences}; set train.lora to match")


def comparable(shape: dict[str, Any]) -> dict[str, Any]:
    """The `adapter` of a policy.pt with all defaults, and with the names of layers sorted."""
    names = sorted(shape.get("target_modules", []))
    return shape | {"target_modules": names} | {name: shape.get(name, False) for name in ("rslora", "dora")}
