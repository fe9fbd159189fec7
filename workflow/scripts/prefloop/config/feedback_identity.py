"""Which feedback a config names: an identity to compare, and the names that captions show.

Snakemake reads this at every start, so nothing heavy is imported here.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from prefloop.models.sources import public_name

# Settings of a judge that its answers depend on: of a server, and of a model that is loaded here.
SERVER_SETTINGS = ("base_url", "model", "max_tokens")
LOCAL_SETTINGS = ("tie_margin", "min_label_mass")
# Settings of any feedback that its output depends on if they are not the default, which older configs do not have.
OPTIONAL_SETTINGS: dict[str, Any] = {
    "output": None,
    "truncation_penalty": None,
    "length_penalty": None,
    "strip_thinking": True,
}
OPTIONAL_SETTINGS |= {"system_prompt": None, "chat_template_kwargs": {}, "template_date": None}
NO_OPTIONS: dict[str, Any] = {"drop": [], "rename": {}, "extra": {}}  # of judge.request


def feedback_identity(feedback: dict) -> str:
    """A feedback as a JSON object: `kind`, `name` and `template` for captions, and `digest` to compare.

    Two feedbacks have the same digest exactly if the settings that their output depends on are equal. A path counts as
    the file that it leads to, relative to the working directory if it is inside, so moving a project changes nothing.
    """
    kind = feedback["kind"]
    named = {"kind": kind, "name": "", "template": ""}
    if kind == "judge":
        judge = feedback["judge"]
        counted = {"template": resolved(judge["template"])}
        if feedback["model"]:
            counted |= {"loaded": resolved(feedback["model"])} | {key: judge[key] for key in LOCAL_SETTINGS}
        else:
            counted |= {key: judge[key] for key in SERVER_SETTINGS}
            request = judge.get("request", NO_OPTIONS)
            counted |= {"request": request} if request != NO_OPTIONS else {}
        named |= {
            "name": name_in_captions(feedback["model"] or judge["model"]),
            "template": name_in_captions(judge["template"]),
        }
    elif kind == "reward_model":
        counted = {"loaded": resolved(feedback["model"])}
        named["name"] = name_in_captions(feedback["model"])
    else:
        setting = feedback.get(kind) or ""
        module, colon, function = setting.partition(":")
        is_code = kind == "function" or module.endswith(".py")
        counted = {"setting": f"{resolved(file_of(module))}{colon}{function}" if is_code else setting}
        named["name"] = f"{name_in_captions(module)}{colon}{function}"
    counted |= {key: feedback[key] for key, usual in OPTIONAL_SETTINGS.items() if feedback.get(key, usual) != usual}
    settings = json.dumps({"kind": kind} | counted, sort_keys=True)
    return json.dumps(named | {"digest": hashlib.sha256(settings.encode()).hexdigest()[:16]}, ensure_ascii=False)


def file_of(module: str) -> str:
    """The path of a module of the user that is in the working directory; any other module or path as it is."""
    path = f"{module.replace('.', '/')}.py"
    return path if Path(path).is_file() else module


def resolved(source: str) -> str:
    """The path that a model or file is at; a hub id or a package as it is, without its checksum."""
    path = Path(source).expanduser()
    if not path.exists():
        return source.split("#")[0]
    real, here = path.resolve(), Path.cwd().resolve()
    return str(real.relative_to(here) if real.is_relative_to(here) else real)


def name_in_captions(source: str) -> str:
    """A model as captions name it: no checksum, and no folder of this machine."""
    return public_name(source.split("#")[0])
