"""Read a model's configs: how many tokens it can read (its positions), its vocabulary, and how it generates."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.core.errors import InputError, refused, short_repr
from prefloop.core.row_fields import wrong_field
from prefloop.models.manifests import is_trusted, loading_problem
from prefloop.models.startup import import_transformers

if TYPE_CHECKING:
    from transformers import GenerationConfig


def check_positions(manifest: Path, tokens: int) -> None:
    """Raise InputError if the longest prompt and response, `tokens` in all, exceed the positions of the model."""
    limit = max_positions(manifest)
    if limit is not None and tokens > limit:
        raise InputError(
            f"{manifest}: the longest prompt and its response come to {tokens} tokens, and the model has {limit} "
            "positions; lower max_new_tokens, prompts.max_prompt_tokens or prompts.max_response_tokens"
        )


def check_vocabulary(manifest: Path, rows: Iterable[dict], names: Sequence[str], file: Path) -> None:
    """Check the token ids in the fields `names` of a file's rows; a row may lack some of the fields.

    An unknown id raises an index error on a CPU, and on a GPU it ends the process.

    Raises:
        InputError: An id is not in the vocabulary of the manifest's model.
    """
    size = load_config(manifest).get_text_config().vocab_size
    for number, row in enumerate(rows, start=1):
        location = f"{file}: prompt {row['prompt_id']}" if "prompt_id" in row else f"{file}, line {number}"
        given = [name for name in names if name in row]
        if wrong := wrong_field(row, given):
            raise InputError(f"{location}: {wrong[0]}: expected {wrong[1]}; make the file again")
        for name in given:
            if row[name] and not (min(row[name]) >= 0 and max(row[name]) < size):
                unknown = next(token for token in row[name] if not 0 <= token < size)
                raise InputError(
                    f"{location}: {name} has {short_repr(unknown)}, but the model of {manifest} "
                    f"has tokens 0 to {size - 1}; make the file again"
                )


def max_positions(manifest: Path) -> int | None:
    """The positions of the model in the manifest's folder; None if it has no limit, as with ALiBi."""
    config = load_config(manifest)
    with refused(f"{Path(manifest).parent}/config.json: transformers cannot read it"):
        return position_limit(config)


def load_config(manifest: Path) -> Any:
    """transformers' config of the model in the manifest's folder; InputError if transformers cannot load one."""
    folder, remote = Path(manifest).parent, is_trusted(manifest)
    with refused(f"{folder}/config.json: transformers cannot read it", lambda error: loading_problem(error, remote)):
        return import_transformers().AutoConfig.from_pretrained(folder, trust_remote_code=remote)


def generation_config(manifest: Path) -> "GenerationConfig":
    """The generation config of the model in the manifest's folder; its weights are not loaded."""
    GenerationConfig, folder = import_transformers().GenerationConfig, Path(manifest).parent
    if (folder / "generation_config.json").is_file():
        with refused(f"{folder}/generation_config.json: transformers cannot read it"):
            return GenerationConfig.from_pretrained(folder)
    config = load_config(manifest)
    with refused(f"{folder}/config.json: transformers cannot read it"):
        return GenerationConfig.from_model_config(config)


def position_limit(config: Any) -> int | None:
    """`max_position_embeddings` of a model's config (GPT-2's n_positions), increased if rotary positions are scaled.

    None if there is no limit. A sliding window is not a limit: tokens outside it are read, but not attended to.
    """
    config = config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None or limit <= 0:  # -1 means no limit, too
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    kind, factor = rope.get("rope_type"), rope.get("factor")
    if factor and kind in ("linear", "dynamic", "yarn"):
        before = rope.get("original_max_position_embeddings") or limit
        limit = max(limit, int(before * factor))
    return limit
