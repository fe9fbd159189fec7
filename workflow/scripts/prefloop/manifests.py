"""What a model folder's manifest.json, which fetch_model writes, says to those that load it."""

from pathlib import Path

from prefloop.rows import read_json


def trusted(manifest: Path) -> bool:
    """Whether config lets the model run code of its own, `trust_remote_code` of transformers' loaders."""
    return read_json(manifest).get("trust_remote_code", False)


def parameter_count(manifest: Path) -> int:
    """Parameters of the model."""
    return read_json(manifest)["parameters"]
