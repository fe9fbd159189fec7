"""Read a model folder's manifest.json, which fetch_model writes, and record which models may run their own code."""

import contextlib
import os
from pathlib import Path
from typing import Any

from prefloop.core.errors import InputError, reason_of, short_repr
from prefloop.core.files import read_json, sha256_of
from prefloop.models.sources import hub_model

TRUSTED: set[Path] = set()  # what `trust` was called with in this process
FIELDS = {"source": str, "commit": str, "parameters": int, "active_parameters": int, "sha256": str, "files": dict}
KINDS = {str: "text", int: "a number", dict: "a mapping"}


def read_manifest(manifest: Path, *required: str) -> dict[str, Any]:
    """The content of a manifest.json.

    Raises:
        InputError: The file lacks a `required` field, or a field does not have the type that `write_manifest` writes.
    """
    content = read_json(manifest)
    for name, kind in FIELDS.items():
        value = content.get(name)
        if name not in content and name not in required:
            continue
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            found = f"{short_repr(value)} found" if name in content else "missing"
            raise InputError(f"{manifest}: {name}: {found}, expected {KINDS[kind]}; delete it to fetch the model again")
    return content


def check_weights(manifest: Path) -> None:
    """Check the SHA-256 of the weights in the manifest's folder, unless they are older than the manifest.

    Their ages are compared by ctime, the time of the last change of content or attributes, which programs cannot set.
    Hashing the weights renews the manifest's ctime, so that only one stage of a run hashes them.

    Raises:
        InputError: A file is missing or has changed.
    """
    files = read_manifest(manifest).get("files", {})
    folder, checked = Path(manifest).parent, Path(manifest).stat()
    changed = []
    for name, checksum in files.items():
        if not name.endswith(".safetensors"):
            continue
        path = folder / name
        if name != path.name or not os.path.isfile(path):  # noqa: PTH113 (also false for a name that no disk can hold)
            raise InputError(
                f"{path}: no such file, but {manifest} lists it; delete {manifest} to fetch the model again"
            )
        if path.stat().st_ctime_ns >= checked.st_ctime_ns:
            changed.append((path, checksum))
    for path, checksum in changed:
        if (found := sha256_of(path)) != checksum:
            raise InputError(
                f"{path}: its sha256 is {found[:12]}…, and {manifest} has {short_repr(checksum)[1:13]}…: the file is "
                f"damaged or was changed; delete {manifest} to fetch the model again"
            )
    if changed:
        with contextlib.suppress(OSError):  # another user's or on a read-only disk: the next stage hashes again
            os.utime(manifest, ns=(checked.st_atime_ns, checked.st_mtime_ns))


def trust(manifest: Path) -> None:
    """Let the model of a manifest run its own code in this process.

    Only programs call this, for models that the config trusts. A manifest.json cannot grant this itself, because third
    parties may have written it.
    """
    TRUSTED.add(Path(manifest).resolve())


def is_trusted(manifest: Path) -> bool:
    """Whether the model may run its own code: `trust_remote_code` of transformers' loaders."""
    return Path(manifest).resolve() in TRUSTED


def loading_problem(error: Exception, may_run_code: bool) -> str:
    """The reason why transformers could not load a model, which may or may not run its own code."""
    if not may_run_code and "trust_remote_code" in str(error):
        return "it needs code of its own; if you trust it, set trust_remote_code: true next to its name in config"
    return reason_of(error)


def parameter_count(manifest: Path) -> int:
    """Number of parameters that are used per token; for a mixture of experts, its active parameters."""
    content = read_manifest(manifest, "parameters")
    return int(content.get("active_parameters", content["parameters"]))


def load_name(manifest: Path) -> tuple[str, str | None]:
    """The name by which other programs load the model: on any machine if it is on the hub, else on this machine.

    Returns:
        tuple: The hub's id and the commit of a model from the hub; else the absolute path of the model's folder, and
            None.
    """
    content = read_manifest(manifest, "source")
    hub = hub_model(content["source"])
    if hub and "commit" in content:
        return hub.repository, content["commit"]
    return str(Path(manifest).parent.resolve()), None
