"""Identities of feedback, by which experiments are compared, and the names that captions show.

Snakemake imports this module at every start, so it imports nothing heavy.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefloop.config.resolve import COMBINED, feedback_sources
from prefloop.core.own_functions import split
from prefloop.models.sources import public_name

# Settings that affect the answers of a judge, on a server or as a local model.
SERVER_SETTINGS = ("base_url", "model", "max_tokens")
LOCAL_SETTINGS = ("tie_margin", "min_label_mass")
# Settings that affect any feedback's output, with defaults. Older configs lack them, so defaults are not counted.
OPTIONAL_SETTINGS: dict[str, Any] = {
    "output": None,
    "truncation_penalty": None,
    "length_penalty": None,
    "strip_thinking": True,
}
OPTIONAL_SETTINGS |= {"system_prompt": None, "chat_template_kwargs": {}, "template_date": None}
NO_OPTIONS: dict[str, Any] = {"drop": [], "rename": {}, "extra": {}}  # of judge.request


def feedback_identity(feedback: dict) -> str:
    """Return a feedback as a JSON object: `kind`, `name` and `template` for captions, and `digest` for comparison.

    Two feedbacks have the same digest if and only if all settings that affect their output are equal. Paths are
    resolved. Those inside the working directory are relative to it, so moving a project does not change the digest.
    """
    kind = feedback["kind"]
    shown = {"kind": kind, "name": "", "template": ""}
    counted: dict[str, Any]
    if kind == "judge":
        judge = feedback["judge"]
        counted = {"template": resolved(judge["template"])}
        if feedback["model"]:
            counted |= {"loaded": resolved(feedback["model"])} | {key: judge[key] for key in LOCAL_SETTINGS}
            counted |= {"dtype": judge["dtype"]} if judge.get("dtype") else {}
        else:
            counted |= {key: judge[key] for key in SERVER_SETTINGS}
            request = judge.get("request", NO_OPTIONS)
            counted |= {"request": request} if request != NO_OPTIONS else {}
        shown |= {
            "name": name_in_captions(feedback["model"] or judge["model"]),
            "template": name_in_captions(judge["template"]),
        }
    elif kind in COMBINED:
        sources = [(source["weight"], json.loads(feedback_identity(source))) for source in feedback_sources(feedback)]
        counted = {"sources": sorted([weight, identity["digest"]] for weight, identity in sources)}
        names = [(f"{weight:g} · " if kind == "sum" else "") + identity["name"] for weight, identity in sources]
        shown["name"] = (" + " if kind == "sum" else ", ").join(names)
    elif kind == "reward_model":
        counted = {"loaded": resolved(feedback["model"])}
        counted |= {"dtype": feedback["dtype"]} if feedback.get("dtype", "float32") != "float32" else {}
        shown["name"] = name_in_captions(feedback["model"])
    else:
        setting = feedback.get(kind) or ""
        module, colon, function = setting.partition(":")
        is_code = kind == "function" or module.endswith(".py")
        counted = {"setting": f"{resolved(file_of(module))}{colon}{function}" if is_code else setting}
        shown["name"] = f"{name_in_captions(module)}{colon}{function}"
    counted |= {key: feedback[key] for key, usual in OPTIONAL_SETTINGS.items() if feedback.get(key, usual) != usual}
    settings = json.dumps({"kind": kind} | counted, sort_keys=True)
    return json.dumps(shown | {"digest": hashlib.sha256(settings.encode()).hexdigest()[:16]}, ensure_ascii=False)


def column_names(sources: Sequence[dict]) -> list[str]:
    """Return the column names of several sources: their own names, their functions' names, or source_<position>."""
    return [
        source["name"]
        or (split(source["function"])[1] if source["kind"] == "function" and source["function"] else "")
        or f"source_{position}"
        for position, source in enumerate(sources, start=1)
    ]


def file_of(module: str) -> str:
    """Return the path of a user's module in the working directory. Any other module or path is unchanged."""
    path = f"{module.replace('.', '/')}.py"
    return path if Path(path).is_file() else module


def resolved(source: str) -> str:
    """Return the resolved path of a model or file. A hub id or package is unchanged except for its checksum."""
    path = Path(source).expanduser()
    if not path.exists():
        return source.split("#")[0]
    real, here = path.resolve(), Path.cwd().resolve()
    return str(real.relative_to(here) if real.is_relative_to(here) else real)


def name_in_captions(source: str) -> str:
    """Return a model's name for captions, without its checksum and without folders of this machine."""
    return public_name(source.split("#")[0])
