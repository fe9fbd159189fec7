"""Load policies of which all parameters were trained from policy.pt alone, without the base model's weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from prefloop.core.errors import refused
from prefloop.models._compat import use_default_weight_names
from prefloop.models.chat import load_tokenizer
from prefloop.models.devices import use_plain_attention_kernels
from prefloop.models.liger import with_liger
from prefloop.models.manifests import is_trusted, loading_problem
from prefloop.models.policies import check_base, check_fit
from prefloop.models.positions import generation_config, load_config
from prefloop.models.startup import import_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_full(
    content: dict[str, Any],
    manifest: Path,
    policy: Path,
    dtype: torch.dtype,
    device: str,
    attention: str | None = None,
) -> tuple[Any, "PreTrainedTokenizerBase"]:
    """Load a policy of which all parameters were trained; the base model's weights are not read.

    Weights are copied to the device one by one. On a CPU, weights that have the right dtype already are memory-mapped
    and stay in the file until they are used or changed.

    Args:
        content (dict): What `read_policy` returns.
        manifest (Path): Manifest of the base model, whose folder has the config and the tokenizer.
        policy (Path): The policy.pt, for error messages.
        dtype (torch.dtype): The dtype of all weights.
        device (str): Where the model goes.
        attention (str | None): As for `load_base`.

    Returns:
        tuple: As for `load_base`.

    Raises:
        InputError: The policy was trained on another base model, or its weights do not fit this one.
    """
    check_base(content, manifest, policy)
    config, remote, state = load_config(manifest), is_trusted(manifest), content["state_dict"]
    empty = empty_model(manifest, config, dtype, attention)
    check_fit(state, empty.state_dict(), policy, manifest)
    own = dict(empty.named_parameters()) | dict(empty.named_buffers())  # tied weights have one name
    model = type(empty).from_pretrained(
        None,
        config=config,
        state_dict={name: tensor for name, tensor in state.items() if name in own},
        dtype=dtype,
        attn_implementation=attention,
        trust_remote_code=remote,
        device_map={"": device},
    )
    use_default_weight_names(model)
    model.config.name_or_path, model.generation_config = config.name_or_path, generation_config(manifest)
    return with_liger(model, manifest), load_tokenizer(Path(manifest).parent, remote)


def empty_model(manifest: Path, config: Any, dtype: torch.dtype | None = None, attention: str | None = None) -> Any:
    """A base model whose weights are on torch's device `meta` and take no memory.

    Args:
        manifest (Path): Manifest of the base model.
        config (Any): From `load_config`.
        dtype (torch.dtype | None): The dtype of its weights; None for the config's.
        attention (str | None): As for `load_base`.

    Raises:
        InputError: transformers has no causal language model for this config.
    """
    use_plain_attention_kernels()
    folder, remote = Path(manifest).parent, is_trusted(manifest)
    with (
        refused(f"{folder}: no causal language model", lambda error: loading_problem(error, remote)),
        torch.device("meta"),
    ):
        return import_transformers().AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention, trust_remote_code=remote
        )
