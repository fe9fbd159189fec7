"""Reading a model folder's manifest.json, which fetch_model writes, and which models may run code of their own."""

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
        InputError: It lacks a `required` field, or a field has another type than `write_manifest` gives it.
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

    Times are those of the last change of a file's content or attributes, which no program can set. Once the weights
    have been hashed, that time of the manifest is renewed, so that one stage of a run hashes them.

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
        with contextlib.suppress(OSError):  # of another user or on a read-only disk: the next stage hashes again
            os.utime(manifest, ns=(checked.st_atime_ns, checked.st_mtime_ns))


def trust(manifest: Path) -> None:
    """Let the model of a manifest run code of its own, in this process.

    Only programs call this, for the models that the config permits. manifest.json cannot: others may have written it.
    """
    TRUSTED.add(Path(manifest).resolve())


def is_trusted(manifest: Path) -> bool:
    """Whether the model may run code of its own: `trust_remote_code` of transformers' loaders."""
    return Path(manifest).resolve() in TRUSTED


def loading_problem(error: Exception, may_run_code: bool) -> str:
    """Why transformers could not load a model that may or may not run code of its own."""
    if not may_run_code and "trust_remote_code" in str(error):
        return "it needs code of its own; if you trust it, set trust_remote_code: true next to its name in config"
    return reason_of(error)


def parameter_count(manifest: Path) -> int:
    """Number of parameters that a token passes: of a mixture of experts, those of the experts that it is sent to."""
    content = read_manifest(manifest, "parameters")
    return int(content.get("active_parameters", content["parameters"]))


def load_name(manifest: Path) -> tuple[str, str | None]:
    """How any program on any machine, or else any program on this machine, loads the model.

    Returns:
        tuple: The hub's id and the commit of a model from the hub; else the absolute path of the model's folder, and
            None.
    """
    content = read_manifest(manifest, "source")
    hub = hub_model(content["source"])
    if hub and "commit" in content:
        return hub.repository, content["commit"]
    return str(Path(manifest).parent.resolve()), None
