"""Names of models: a hub id with or without a revision, a local folder, or a file in a package.

Snakemake imports this at every start, so it must not import anything heavy.
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)  # owner/name
HUB_MODEL = re.compile(
    rf"(?P<repository>(?:{HUB_ID.pattern}|[A-Za-z0-9][\w.-]*))(?:@(?P<revision>[\w.-]+(?:/[\w.-]+)*))?", re.ASCII
)


class HubModel(NamedTuple):
    """A model on the hub."""

    repository: str
    """owner/name; models of the hub's first years have only a name."""
    revision: str | None
    """Branch, tag or commit; None is the main branch."""


def hub_model(source: str) -> HubModel | None:
    """The model on the hub that a source names, with or without @revision; None if the source has another form.

    A local folder may have a name of this form. It takes precedence, because `fetch` looks for it first.
    """
    match = HUB_MODEL.fullmatch(source)
    return HubModel(match["repository"], match["revision"]) if match else None


def model_name(source: str) -> str:
    """The name of a model's folder in results/models: readable, and distinct for distinct sources."""
    hub = hub_model(source)
    path = hub.repository if hub else source.split("#")[0].rstrip("/")
    last = path.split("/")[-1].removesuffix(".gguf") + (f"-{hub.revision}" if hub and hub.revision else "")
    readable = "".join(c if c.isalnum() or c in "._-" else "-" for c in last).lstrip(".") or "model"
    return f"{readable[:80]}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


def public_name(source: str) -> str:
    """The name of a model or file in captions and cards; of an absolute or home path, only the last part is shown."""
    return Path(source).name if source.startswith(("/", "~")) else source
