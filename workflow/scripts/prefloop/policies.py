"""policy.pt: what training added to a base model, and where it came from."""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from prefloop.processes import together
from prefloop.rows import InputError, read_json, read_tensors

FORMAT = "prefloop-policy-1"


@dataclass
class Lora:
    """Low-rank adapters on every linear layer but the language-model head (Hu et al. 2021)."""

    r: int = 16
    """Rank of each adapter."""
    alpha: float = 32.0
    """Scale: an adapter's output is multiplied by alpha / r."""
    dropout: float = 0.0
    """Probability of dropping an adapter's input during training."""


def is_trained(policy: Path) -> bool:
    """Whether a policy file is a policy.pt rather than the manifest of the base model."""
    return Path(policy).suffix == ".pt"


def read_policy(path: Path) -> dict:
    """Read a policy.pt without executing anything in it; InputError if it is not one."""
    saved = read_tensors(path)
    if saved.get("format") != FORMAT:
        raise InputError(f"{path}: not a policy of format {FORMAT}")
    return saved


def check_base(saved: dict, manifest: Path, policy: Path) -> None:
    """Raise InputError if a policy.pt's content was trained on another base model than the manifest's."""
    base = read_json(manifest)["sha256"]
    if saved["base_model"] != base:
        raise InputError(
            f"{policy}: trained on base model {saved['base_model'][:12]}, but {manifest} is {base[:12]}; make it again"
        )


def trained_weights(model, lora: Lora | None) -> dict:
    """A model's weights (the adapters' alone with LoRA) by name, whole and on the CPU; every process has to ask."""
    state = model.state_dict()
    return {name: together(tensor) for name, tensor in state.items() if lora is None or "lora_" in name}


def policy_content(
    *,
    model,
    weights: dict,
    lora: Lora | None,
    manifest: Path,
    round: int,
    seed: int,
    beta_state: dict | None = None,
    pairs_sha256: str,
) -> dict:
    """The content of a policy.pt: `trained_weights`, and where they come from."""
    if lora is not None:
        from peft import get_peft_model_state_dict

        weights = get_peft_model_state_dict(model, state_dict=weights)
    return {
        "format": FORMAT,
        "base_model": read_json(manifest)["sha256"],
        "adapter": None if lora is None else dataclasses.asdict(lora),
        "state_dict": weights,
        "round": round,
        "seed": seed,
        "beta_state": beta_state,
        "pairs_sha256": pairs_sha256,
    }


def average(reference: dict | None, policy: dict, decay: float, initial: dict | None = None) -> dict:
    """decay·reference + (1 − decay)·policy as the content of a policy.pt: the reference `ema` of the next round.

    `reference` is None for the initial policy, whose parameters are `initial` where all of them are trained.
    Adapters are averaged as what they add to the weights, B·A, and not factor by factor: the factors of both are
    stacked, so that ranks add up (the initial policy adds nothing).
    """
    state = policy["state_dict"]
    if policy["adapter"] is None:
        old = reference["state_dict"] if reference else initial
        mixed = {name: decay * old[name].float() + (1 - decay) * new.float() for name, new in state.items()}
        return policy | {"state_dict": mixed}
    shape, mixed = policy["adapter"], {}
    for name, new in state.items():
        new = (1 - decay) * new if "lora_B" in name else new
        if reference:
            old = reference["state_dict"][name]
            new = torch.cat([decay * old, new], dim=1) if "lora_B" in name else torch.cat([old, new], dim=0)
        mixed[name] = new.contiguous()
    rank = shape["r"] + (reference["adapter"]["r"] if reference else 0)
    return policy | {"state_dict": mixed, "adapter": shape | {"r": rank, "alpha": shape["alpha"] * rank / shape["r"]}}


def replace_adapter(folder: Path, network, state: dict | None) -> None:
    """Put the trained adapter where an older one may lie, under its name only when whole; none if all was trained.

    `state` are the adapter's weights as `trained_weights` gathered them.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    for stale in (folder, partial):
        shutil.rmtree(stale, ignore_errors=True)
    if state is not None:
        settings = network.peft_config["default"]
        settings.target_modules = sorted(settings.target_modules)  # a set, written in another order each time
        network.save_pretrained(partial, state_dict=state)
        partial.rename(folder)


def write_adapter(folder: Path, saved: dict) -> None:
    """Write the adapter of a policy.pt as a PEFT folder; the base model's weights need not be loaded for that."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    modules = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in saved["state_dict"]}
    shape = saved["adapter"]
    folder.mkdir()
    LoraConfig(
        r=shape["r"],
        lora_alpha=shape["alpha"],
        lora_dropout=shape["dropout"],
        target_modules=sorted(modules),
        task_type="CAUSAL_LM",
    ).save_pretrained(folder)
    save_file(saved["state_dict"], folder / "adapter_model.safetensors")
