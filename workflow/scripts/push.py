"""Push an exported model to the hub."""

from pathlib import Path

from _program import run
from prefloop.exports import push
from prefloop.progress import Summary
from prefloop.rows import write_json


def main(*, manifest: Path, repository: str, private: bool = True, output: Path) -> Summary:
    """Make an exported model the content of a repository; the token is read from the environment variable HF_TOKEN.

    Args:
        manifest: manifest.json of the exported model, beside its other files.
        repository: The hub's id of the repository, owner/name; made if it is not there.
        private: Whether a new repository is private.
        output: Where the repository and the commit's address go.
    """
    commit = push(manifest.parent, repository, private)
    write_json(output, {"repository": repository, "commit": commit})
    return Summary(f"{manifest.parent} -> {commit}")


run(main)
