"""Load models: a base model from its folder, and policies from what their policy.pt adds to it."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from prefloop.core.errors import InputError, SettingError, first_line, refused
from prefloop.core.joined_steps import keep
from prefloop.models._compat import is_quantized, register_lora_layer
from prefloop.models.chat import load_tokenizer
from prefloop.models.devices import allow_tf32, resolve_dtype, use_plain_attention_kernels
from prefloop.models.full_policies import empty_model, load_full
from prefloop.models.liger import uses_liger, with_liger
from prefloop.models.manifests import check_weights, is_trusted, loading_problem
from prefloop.models.options import Lora
from prefloop.models.policies import check_base, check_fit, is_trained, lora_config, lora_of, read_policy
from prefloop.models.positions import load_config
from prefloop.models.precision import cast_weights
from prefloop.models.quantization import quantization_of, quantized_loading
from prefloop.models.response_logprobs import Scorer, prepare_scorer
from prefloop.models.start_policies import check_adapter
from prefloop.models.startup import import_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Context = Callable[[], contextlib.AbstractContextManager[Any]]


def load_base(
    manifest: Path, dtype: torch.dtype, attention: str | None = None
) -> tuple[Any, "PreTrainedTokenizerBase"]:
    """Load a base model and its tokenizer.

    Args:
        manifest (Path): manifest.json in the model's folder.
        dtype (torch.dtype): The dtype of its weights, and of the arithmetic with quantized weights.
        attention (str | None): transformers' name of an implementation; None for the model's default.

    Returns:
        tuple: The PreTrainedModel and its tokenizer. Untyped, as transformers' types reject `model.to(device)`.

    Raises:
        InputError: The folder has no causal language model, weights are missing or have changed, or they cannot be
            quantized on this machine.
    """
    transformers = import_transformers()
    use_plain_attention_kernels()
    folder, remote = Path(manifest).parent, is_trusted(manifest)
    check_weights(manifest)
    options = quantized_loading(manifest, dtype)
    with refused(f"{folder}: no causal language model", lambda error: loading_problem(error, remote)):
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=remote,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            **options,
        )
    if loading["mismatched_keys"]:
        name, found, wanted = min(loading["mismatched_keys"])
        raise InputError(
            f"{folder}: {name} is {list(found)}, and {list(wanted)} by config.json; download the model again"
        )
    if missing := sorted(loading["missing_keys"]):
        raise InputError(
            f"{folder}: no causal language model, {len(missing)} weight(s) missing, such as {missing[0]}; "
            "name a model that was trained to generate text"
        )
    return with_liger(model, manifest), load_tokenizer(folder, remote)


def load_encoder(manifest: Path, device: str) -> tuple[Any, "PreTrainedTokenizerBase"]:
    """Load a model that embeds texts, without its head, and its tokenizer; the dtype is float32 on a CPU.

    Raises:
        InputError: transformers cannot load a model from the folder, or its weights have changed.
    """
    use_plain_attention_kernels()
    allow_tf32(device)
    folder, remote = Path(manifest).parent, is_trusted(manifest)
    check_weights(manifest)
    with refused(f"{folder}: no model that embeds text", lambda error: loading_problem(error, remote)):
        model = import_transformers().AutoModel.from_pretrained(
            folder, dtype=resolve_dtype(None, device), trust_remote_code=remote, use_safetensors=True
        )
    return model.to(device).eval(), load_tokenizer(folder, remote)


def loading_options(manifest: Path) -> list[Any]:
    """How this process loads policies of a manifest's model, apart from what the files say."""
    return [quantization_of(manifest), uses_liger(manifest)]


def load_policy(
    manifest: Path, policy: Path, dtype: torch.dtype, device: str
) -> tuple[nn.Module, "PreTrainedTokenizerBase"]:
    """Load a policy for scoring, and its tokenizer.

    An adapter is not merged. So `reference_for` can switch it off, and policy and reference share base weights that
    were rounded in the same way.

    Args:
        manifest (Path): Manifest of the base model.
        policy (Path): A policy.pt, or the base model's manifest for the policy before training.
        dtype (torch.dtype): The dtype of all weights.
        device (str): Where the model goes.

    Raises:
        InputError: policy.pt is not readable, or was trained on another base model.
    """
    content = read_policy(policy) if is_trained(policy) else None
    if content is not None and content["adapter"] is None:
        return load_full(content, manifest, policy, dtype, device)
    base, tokenizer = load_base(manifest, dtype)
    model = base if content is None else cast_weights(add_trained(base, content, manifest, policy), dtype)
    return model.to(device).eval(), tokenizer


def load_merged(
    manifest: Path, policy: Path, dtype: torch.dtype, device: str
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load a policy for generation, with its adapter merged into the base model, and its tokenizer.

    An unmerged adapter would cost two more products per layer and token. The adapter is merged in float32, and the
    result is rounded once. On a CPU, attention uses plain matrix products, which are faster there than the fused kernel
    for one query per row. Base weights in 4 bits are not merged, because that would round them again. Arguments and
    errors are those of `load_policy`.
    """
    if quantization_of(manifest) is not None:
        return load_policy(manifest, policy, dtype, device)  # type: ignore[return-value]
    attention = None if device.startswith("cuda") else "eager"
    content = read_policy(policy) if is_trained(policy) else None
    if content is not None and content["adapter"] is None:
        return load_full(content, manifest, policy, dtype, device, attention)
    base, tokenizer = load_base(manifest, dtype if content is None else torch.float32, attention)
    model: Any = base if content is None else add_trained(base, content, manifest, policy)
    if content is not None:
        model = model.merge_and_unload()
    return cast_weights(model, dtype).to(device).eval(), tokenizer  # type: ignore[return-value]


def add_trained(
    model: nn.Module, content: dict[str, Any], manifest: Path, policy: Path, name: str = "default"
) -> nn.Module:
    """Load a policy's adapter into its base model.

    Args:
        model (nn.Module): The base model, with or without adapters of other policies; changed in place.
        content (dict): What `read_policy` returns.
        manifest (Path): Manifest of the base model.
        policy (Path): The policy.pt, for error messages.
        name (str): The name of the adapter.

    Raises:
        InputError: The policy was trained on another base model, or its weights do not fit this one.
    """
    check_base(content, manifest, policy)
    state = content["state_dict"]
    if content["adapter"] is None:
        raise InputError(f"{policy}: all parameters were trained, expected an adapter; start that method again")
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    model = add_adapter(model, lora_of(content["adapter"]), name)
    check_fit(state, get_peft_model_state_dict(model, adapter_name=name), policy, manifest)
    set_peft_model_state_dict(model, state, adapter_name=name)
    return model


def add_adapter(model: nn.Module, lora: Lora, name: str = "default", task: str = "CAUSAL_LM") -> Any:
    """Add new LoRA adapters in float32 to a model, which may have others; with B = 0 they change nothing yet.

    Raises:
        InputError: peft cannot adapt the model.
        SettingError: The model has no linear layer of a name in `target_modules`, or adapters of experts have dropout.
    """
    from peft import PeftModel, get_peft_model

    from prefloop.models.fused_lora import LoraLinear

    check_targets(model, lora.target_modules)
    config = lora_config(lora, list(lora.target_modules) or "all-linear", task)
    if not is_quantized(model):  # peft has its own layers for quantized weights
        register_lora_layer(config, LoraLinear)
    try:
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
            return model
        return get_peft_model(model, config, name)  # type: ignore[arg-type]
    except ValueError as error:
        if lora.dropout and "lora_dropout" in str(error):
            problem = f"lora.dropout: {lora.dropout:g}, but adapters of experts cannot have dropout; set it to 0"
            raise SettingError(problem) from error
        raise InputError(f"peft cannot add adapters to {type(model).__name__} ({first_line(error)})") from error


def check_targets(model: nn.Module, targets: Sequence[str]) -> None:
    """Check that each target, which is a name or the end of a name, matches a linear layer of a model.

    Raises:
        SettingError: A target matches no layer; the message lists the model's layers.
    """
    if not targets:
        return
    from transformers.pytorch_utils import Conv1D

    head = getattr(model, "get_output_embeddings", lambda: None)()
    linear = [
        name.replace(".base_layer", "")
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and ".lora_" not in name
    ]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            known = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear}))
            raise SettingError(f"lora.target_modules: the model has no linear layer {target}; it has {known}")


def load_trainable(
    manifest: Path, policy: Path, parameters: str, lora: Lora, dtype: torch.dtype, reads_weights: bool = True
) -> tuple[nn.Module, "PreTrainedTokenizerBase"]:
    """Load a policy to train, and its tokenizer: trained parameters in float32, frozen ones in `dtype`.

    Args:
        manifest (Path): Manifest of the base model.
        policy (Path): As for `load_policy`.
        parameters (str): `lora` or `full`.
        lora (Lora): Shape of the adapters: of new ones, or of those that the policy has.
        dtype (torch.dtype): The dtype of frozen weights.
        reads_weights (bool): If false, no weights are loaded, because another process sends them (`wrap_model`).

    Raises:
        InputError: The policy was trained with other `parameters`, with adapters of another shape, or on another base
            model.
    """
    content = read_policy(policy) if is_trained(policy) else None
    is_full = parameters == "full"
    if content is not None:
        if (content["adapter"] is None) != is_full:
            raise InputError(f"{policy}: not trained with train.parameters {parameters}; start that method again")
        check_adapter(content, policy, lora)
    dtype = torch.float32 if is_full else dtype
    if not reads_weights:
        base = with_liger(empty_model(manifest, load_config(manifest), dtype), manifest)
        tokenizer = load_tokenizer(Path(manifest).parent, is_trusted(manifest))
        return base if is_full else add_adapter(base, lora), tokenizer
    if content is not None and is_full:
        return load_full(content, manifest, policy, dtype, "cpu")
    base, tokenizer = load_base(manifest, dtype)
    if content is not None:
        return add_trained(base, content, manifest, policy), tokenizer
    return base if is_full else add_adapter(base, lora), tokenizer


def reference_for(
    model: Any, policy: Path, reference: Path, manifest: Path, dtype: torch.dtype, device: str
) -> tuple[nn.Module, Context]:
    """The reference's model for a loaded policy, and a context in which it computes as the reference.

    Adapters share one copy of the base weights. The context disables the policy's adapter or switches to the
    reference's. If all parameters were trained, the reference is a second model, unless it is the policy itself.

    Args:
        model (nn.Module): The policy, loaded by `load_policy` with the same arguments.
        policy (Path): The policy's file.
        reference (Path): The reference's file, which is also a policy.pt or the manifest.
        manifest (Path): Manifest of the base model.
        dtype (torch.dtype): The dtype of all weights.
        device (str): Where the model is.
    """
    if policy == reference:
        return model, contextlib.nullcontext
    if not hasattr(model, "disable_adapter"):
        return load_policy(manifest, reference, dtype, device)[0], contextlib.nullcontext
    if not is_trained(reference):
        return model, model.disable_adapter
    add_trained(model, read_policy(reference), manifest, reference, "reference")
    cast_weights(model, dtype).to(device).eval()
    return model, lambda: active_adapter(model, "reference")


@contextlib.contextmanager
def active_adapter(model: Any, name: str) -> Any:
    """A context in which a model uses the adapter `name`; afterwards it uses the policy's own again."""
    model.set_adapter(name)
    try:
        yield
    finally:
        model.set_adapter("default")


class PolicyAndReference(NamedTuple):
    """Scorers of a policy and of its reference."""

    policy: Scorer
    reference: Scorer
    as_reference: Context
    """A context in which the reference's model computes as the reference."""
    passes: int
    """Forward passes that `read` needs: 1 if the policy is its own reference, else 2."""

    def read(self, reader: Callable[[Scorer], Tensor]) -> tuple[Tensor, Tensor]:
        """reader(policy) and reader(reference), without gradients."""
        with torch.no_grad():
            values = reader(self.policy)
            if self.passes == 1:
                return values, values
            with self.as_reference():
                return values, reader(self.reference)


def load_scorers(
    manifest: Path, policy: Path, reference: Path, dtype: torch.dtype, device: str
) -> tuple[PolicyAndReference, "PreTrainedTokenizerBase"]:
    """Load a policy and its reference for scoring, and the tokenizer; arguments and errors as for `load_policy`.

    If a program runs several steps in one call, they share the models.
    """
    return keep(load_policy_and_reference, manifest, policy, reference, dtype, device)


def load_policy_and_reference(
    manifest: Path, policy: Path, reference: Path, dtype: torch.dtype, device: str
) -> tuple[PolicyAndReference, "PreTrainedTokenizerBase"]:
    """As `load_scorers`, but always from the files."""
    model, tokenizer = load_policy(manifest, policy, dtype, device)
    reference_model, context = reference_for(model, policy, reference, manifest, dtype, device)
    scorer = prepare_scorer(model)
    reference_scorer = scorer if reference_model is model else prepare_scorer(reference_model)
    return PolicyAndReference(scorer, reference_scorer, context, 1 if policy == reference else 2), tokenizer
