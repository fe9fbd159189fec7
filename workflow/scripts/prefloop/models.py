"""Loading models: a base model from its folder, and policies as what policy.pt makes of it."""

import contextlib
from pathlib import Path

import torch

from prefloop.chat import load_tokenizer
from prefloop.manifests import trusted
from prefloop.policies import Lora, check_base, is_trained, read_policy
from prefloop.rows import InputError, first_line
from prefloop.startup import import_transformers

DTYPES = ("auto", "bfloat16", "float32")


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(name: str, device: str) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it fast, else float32; other names are torch's."""
    if name not in DTYPES:
        raise InputError(f"dtype: {name!r} is none of {', '.join(DTYPES)}")
    if name != "auto":
        return getattr(torch, name)
    if device.startswith("cuda"):
        fast = torch.cuda.get_device_capability()[0] >= 8
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def load_base(manifest: Path, dtype: torch.dtype, attention: str | None = None):
    """The model whose folder holds `manifest`, and its tokenizer; `attention` is transformers' implementation."""
    transformers = import_transformers()
    folder, remote = Path(manifest).parent, trusted(manifest)
    try:
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=remote,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: no causal language model ({first_line(error)})") from error
    if missing := sorted(loading["missing_keys"]):
        raise InputError(
            f"{folder}: no causal language model, it lacks {len(missing)} of its weights, as {missing[0]}; "
            "name a model that was trained to write"
        )
    return model, load_tokenizer(folder, remote)


def generation_config(manifest: Path):
    """The generation config of the model whose folder holds `manifest`, without its weights."""
    transformers = import_transformers()
    folder, remote = Path(manifest).parent, trusted(manifest)
    if (folder / "generation_config.json").is_file():
        return transformers.GenerationConfig.from_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=remote)
    return transformers.GenerationConfig.from_model_config(config)


def load_policy(manifest: Path, policy: Path, dtype: torch.dtype, device: str):
    """A policy for scoring, and its tokenizer.

    `policy` is either the base model's own manifest (the policy before training) or a policy.pt, whose
    adapter stays unmerged: `reference_for` can switch it off, and policy and reference share base weights
    rounded in the same way. Raises InputError if policy.pt was trained on another base model.
    """
    model, tokenizer = load_base(manifest, dtype)
    if is_trained(policy):
        model = add_trained(model, read_policy(policy), manifest, policy).to(dtype)
    return model.to(device).eval(), tokenizer


def load_merged(manifest: Path, policy: Path, dtype: torch.dtype, device: str):
    """A policy for generation, and its tokenizer: one plain model, the adapter merged into it.

    Merged in float32 and rounded once afterwards: adapters left apart are two more products a layer and token.
    On a CPU decoding attends by plain matrix products, which there are faster than the fused kernel for
    one query a row.
    """
    attention = None if device.startswith("cuda") else "eager"
    model, tokenizer = load_base(manifest, torch.float32 if is_trained(policy) else dtype, attention)
    if is_trained(policy):
        model = add_trained(model, read_policy(policy), manifest, policy)
        model = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    return model.to(dtype).to(device).eval(), tokenizer


def add_trained(model, saved: dict, manifest: Path, policy: Path, name: str = "default"):
    """Put a policy.pt's weights onto its base model: an adapter called `name`, or all parameters."""
    check_base(saved, manifest, policy)
    if saved["adapter"] is None:
        model.load_state_dict(saved["state_dict"])
        return model
    from peft import set_peft_model_state_dict

    model = add_adapter(model, Lora(**saved["adapter"]), name)
    set_peft_model_state_dict(model, saved["state_dict"], adapter_name=name)
    return model


def add_adapter(model, lora: Lora, name: str = "default", task: str = "CAUSAL_LM"):
    """Wrap a model with new LoRA adapters in float32, or give a wrapped one more; B = 0, so nothing moves yet."""
    from peft import LoraConfig, PeftModel, get_peft_model

    from prefloop.lora_linear import LoraLinear

    shape = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear", task_type=task
    )
    # peft's experimental way to be given a layer; the class is not saved, and peft reads the folder with its own
    shape._register_custom_module({torch.nn.Linear: LoraLinear})
    if isinstance(model, PeftModel):
        model.add_adapter(name, shape)
        return model
    return get_peft_model(model, shape, name)


def load_trainable(manifest: Path, policy: Path, parameters: str, lora: Lora, dtype: torch.dtype):
    """A policy to train on, and its tokenizer: trained parameters in float32, frozen ones in `dtype`.

    `policy` is as for `load_policy`; the untrained one gets new adapters where `parameters` is lora.
    """
    saved = read_policy(policy) if is_trained(policy) else None
    full = parameters == "full"
    network, tokenizer = load_base(manifest, torch.float32 if full else dtype)
    if saved is not None:
        if (saved["adapter"] is None) != full:
            raise InputError(f"{policy}: not trained with train.parameters {parameters}; start that method anew")
        network = add_trained(network, saved, manifest, policy)
    elif not full:
        network = add_adapter(network, lora)
    return network, tokenizer


def reference_for(network, policy: Path, reference: Path, manifest: Path, dtype: torch.dtype, device: str):
    """The model that speaks for the reference beside a loaded policy, and a context in which it does.

    `policy` and `reference` are files as for `load_policy`. With adapters both share one copy of the base
    weights: the context switches the policy's adapter off, or to the reference's. A policy whose every
    parameter was trained needs another model beside it, unless it is its own reference.
    """
    if policy == reference:
        return network, contextlib.nullcontext
    if not hasattr(network, "disable_adapter"):
        return load_policy(manifest, reference, dtype, device)[0], contextlib.nullcontext
    if not is_trained(reference):
        return network, network.disable_adapter
    add_trained(network, read_policy(reference), manifest, reference, "reference")
    network.to(dtype).to(device).eval()
    return network, lambda: adapter(network, "reference")


@contextlib.contextmanager
def adapter(network, name: str):
    """Within the context `network` runs with the adapter `name`, after it with the policy's own."""
    network.set_adapter(name)
    try:
        yield
    finally:
        network.set_adapter("default")
