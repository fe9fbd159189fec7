"""Private and unstable APIs of torch, transformers, peft and liger-kernel: the one place to look at after an upgrade.

* torch: `torch.cpu._is_avx512_bf16_supported` and `_is_amx_tile_supported` decide what dtype `auto` is on a CPU.
* torch: `torch.ops.mkldnn._is_mkldnn_bf16_supported`, `_reorder_linear_weight` and `_linear_pointwise` keep weights in
  oneDNN's layout.
* transformers: `config._attn_implementation`, `AttentionInterface`, `AttentionMaskInterface`, `masking_utils` and
  `sdpa_attention_forward` let a model use our attention functions.
* transformers: `model._no_split_modules` names the classes of a model's layers.
* transformers: module paths that start with `transformers.models.`, modules named `rotary_emb` or `wpe`,
  `config.layer_types` and `config.sliding_window` show whether responses can share a sequence.
* transformers: `model._weight_conversions` has the names under which weights are saved.
* transformers: `model.is_loaded_in_4bit` marks a model that bitsandbytes has quantized.
* liger-kernel: `_apply_liger_kernel_to_instance` and `MODEL_TYPE_TO_APPLY_LIGER_FN` patch a loaded model.
* peft: `LoraConfig._register_custom_module` makes peft use `fused_lora.LoraLinear`.
* all: `module.forward` is replaced, to read the output head's input and to checkpoint layers.

Elsewhere, `kv_cache` subclasses transformers' `DynamicLayer`, `fused_lora` subclasses peft's LoRA `Linear`, and
`startup` hides scikit-learn while transformers is imported.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from peft import LoraConfig

Attention = Callable[..., tuple[Tensor, None]]


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def has_onednn_bf16() -> bool:
    """Whether this PyTorch and this CPU have oneDNN's matrix product in bfloat16."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def onednn_weight(weight: Tensor) -> Tensor:
    """A linear layer's weight in the layout that oneDNN multiplies.

    Args:
        weight (Tensor): [out, in], bfloat16.

    Returns:
        Tensor: The same weight in an opaque layout, which only `onednn_linear` can read.
    """
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())


def onednn_linear(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """states Wᵀ + bias with a weight from `onednn_weight`: [..., in] to [..., out]."""
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")


def unwrapped(model: nn.Module) -> Any:
    """The model without the wrapper of torch.distributed, but with its adapters."""
    return getattr(model, "module", model)


def text_config(model: nn.Module) -> Any:
    """The config of a model's language part."""
    return unwrapped(model).config.get_text_config()


def output_head(model: nn.Module) -> Any:
    """The module that turns last hidden states into logits."""
    return unwrapped(model).get_output_embeddings()


def model_layers(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks, whose classes a transformers model lists in `_no_split_modules`."""
    names = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    return [module for module in model.modules() if type(module).__name__ in names]


def use_default_weight_names(model: nn.Module) -> None:
    """Make `save_pretrained` use the weight names of published checkpoints of the model's class.

    Otherwise it uses the names under which the weights were loaded.
    """
    vars(model).pop("_weight_conversions", None)


# Fields of a generation config that greedy decoding ignores.
SAMPLING_VALUES = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def prepare_to_save(model: nn.Module) -> None:
    """Make a generation config valid that has values for sampling without `do_sample`, as some published ones have.

    `from_pretrained` accepts it, and `save_pretrained` refuses it. Without any `do_sample` it is set to true, because
    the values are meant. If it is false, the values are removed.
    """
    settings: Any = getattr(model, "generation_config", None)
    if settings is None:
        return
    try:
        settings.validate(strict=True)
    except ValueError:
        if settings.do_sample is None:
            settings.do_sample = True
        else:
            settings.update(**dict.fromkeys(SAMPLING_VALUES))


def is_quantized(model: nn.Module) -> bool:
    """Whether a model's base weights are quantized to 4 bits; the model may have adapters."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def liger_model_types() -> set[str]:
    """The `model_type`s of transformers for which Liger has kernels."""
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    return set(MODEL_TYPE_TO_APPLY_LIGER_FN)


def apply_liger(model: nn.Module) -> None:
    """Use Liger's kernels for a model's norms, rotary positions and gated MLPs, not for its forward pass or loss."""
    from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance

    layers = {"rope": True, "rms_norm": True, "swiglu": True, "geglu": True}
    _apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False, **layers)


def register_lora_layer(config: "LoraConfig", layer: type[nn.Module]) -> None:
    """Make peft adapt every nn.Linear with `layer`. Saved adapters do not name it and load with peft's own class."""
    config._register_custom_module({nn.Linear: layer})


def replace_forward(module: nn.Module, forward: Callable) -> None:
    """Make `module(...)` compute forward(...)."""
    module.forward = forward  # type: ignore[method-assign]


@contextlib.contextmanager
def patched_forward(module: nn.Module, forward: Callable[[Callable, Tensor], Tensor]) -> Iterator[None]:
    """Within the context, `module(states)` computes `forward(original_forward, states)`.

    Callers still call the whole model, including its wrappers.
    """
    own, was_replaced = module.forward, "forward" in vars(module)
    replace_forward(module, lambda states: forward(own, states))
    try:
        yield
    finally:
        if was_replaced:
            replace_forward(module, own)
        else:
            del module.forward


@contextlib.contextmanager
def probing(model: nn.Module) -> Iterator[None]:
    """A context for test runs of a model: no gradients are computed, and the global RNG state is restored."""
    # Without a list, torch saves the state of every GPU of the machine, and warns if there are several.
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
        yield
    # FSDP2 keeps the outermost parameters unsharded until a backward pass, but an optimizer needs their shards.
    reshard = getattr(model, "reshard", None)
    if reshard is not None:
        reshard()


def sdpa(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any) -> Tensor:
    """transformers' scaled dot-product attention.

    Args:
        module (nn.Module): The attention layer that calls this function.
        query (Tensor): [rows, heads, tokens, size].
        key (Tensor): [rows, groups, length, size].
        value (Tensor): [rows, groups, length, size].
        mask (Tensor | None): bool [rows, 1, tokens, length]; None for causal attention.
        **options: Everything else that the layer passes to its attention.

    Returns:
        Tensor: [rows, tokens, heads, size].
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, mask, **options)[0]


def use_attention(
    model: nn.Module,
    name: str,
    attention: Attention,
    mask: str,
    is_supported: Callable[[tuple[Any, ...], dict[str, Any]], bool],
    inputs: dict[str, Any],
) -> bool:
    """Replace a model's attention by our own function, if all of its layers support it.

    The model is run once on `inputs`. If a layer does not call the function, or calls it with unsupported options, the
    model keeps its previous attention.

    Args:
        model (nn.Module): Changed in place: its config names the attention that it uses.
        name (str): The attention's name among those of transformers.
        attention (Attention): Takes (module, query, key, value, attention_mask, **options).
        mask (str): Which of transformers' masks it reads: `sdpa_mask` or `eager_mask`.
        is_supported (Callable): Whether `attention` supports a call; called with the arguments and options of that
            call.
        inputs (dict): Keyword arguments of the model.

    Returns:
        bool: Whether the model uses `attention` from now on.
    """
    from transformers import AttentionInterface, AttentionMaskInterface, masking_utils

    config, calls = text_config(model), []

    def recorded(*states: Any, **options: Any) -> tuple[Tensor, None]:
        calls.append(is_supported(states, options))
        return attention(*states, **options)

    previous = config._attn_implementation
    AttentionMaskInterface.register(name, getattr(masking_utils, mask))
    AttentionInterface.register(name, recorded)
    config._attn_implementation = name
    with probing(model):
        model(**inputs)
    AttentionInterface.register(name, attention)
    if calls == [True] * config.num_hidden_layers:
        return True
    config._attn_implementation = previous
    return False


def may_share_sequences(model: nn.Module, names: tuple[str, ...]) -> bool:
    """Whether a model's code and config allow several responses in one sequence.

    The code must come from transformers, a token's position must come from `position_ids` alone, and every layer must
    accept any mask. Sliding windows, recurrent layers and attention with a distance bias rule it out.

    Args:
        model (nn.Module): A causal language model, adapters and wrappers included.
        names (tuple[str, ...]): Attention implementations that can be replaced.
    """
    config, base = text_config(model), unwrapped(model)
    base = base.get_base_model() if hasattr(base, "get_base_model") else base
    defined_in = next(c.__module__ for c in type(base).__mro__ if not c.__module__.startswith("torch."))
    return (
        defined_in.startswith("transformers.models.")
        and config._attn_implementation in names
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and getattr(config, "sliding_window", None) is None
        and any(name.rsplit(".", 1)[-1] in ("rotary_emb", "wpe") for name, _ in base.named_modules())
        and any(p.kind is p.VAR_KEYWORD for p in inspect.signature(base.forward).parameters.values())
    )
