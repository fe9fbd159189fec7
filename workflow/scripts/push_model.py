"""Push an exported model to the hub."""

from pathlib import Path

from _program import run
from prefloop.config.evaluation_settings import ExportConfig
from prefloop.core.files import write_json
from prefloop.core.progress import Summary
from prefloop.models.export import push


def main(*, manifest: Path, repository: str, private: bool = ExportConfig.private, output: Path) -> Summary:
    """Upload an exported model to a repository. The token is read from the environment variable HF_TOKEN.

    Args:
        manifest: manifest.json of the exported model, next to its other files.
        repository: The hub's id of the repository, owner/name; created if missing.
        private: Whether a new repository is private.
        output: Output path for the repository and the URL of the commit.
    """
    commit = push(manifest.parent, repository, private)
    write_json(output, {"repository": repository, "commit": commit})
    return Summary(f"{manifest.parent} -> {commit}")


run(main)
