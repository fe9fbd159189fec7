"""The browse page: one HTML file with all its data.

Texts of models and data sets are untrusted. The page contains them as JSON without `<`, and workflow/browse/browse.js
shows them only as text. The content security policy allows only the page's own script and style, by checksum, and no
network access.
"""

import base64
import hashlib
import html
import importlib.util
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefloop.browse.columns import Column, Table
from prefloop.core.errors import InputError


def data_of(name: str, about: str, tables: Iterable[Table], maps: Iterable[dict]) -> dict:
    """Return the data of the page. Each text occurs once, in `texts`, and cells contain its index."""
    texts: dict[str, int] = {}

    def number_of(text: str | None) -> int | None:
        return None if text is None else texts.setdefault(text, len(texts))

    def value_of(value: Any, column: Column) -> Any:
        if value is None:
            return None
        if column.kind == "text":
            return number_of(value)
        if column.kind == "texts":
            return [number_of(text) for text in value]
        if column.kind == "series":
            return [rounded(item) for item in value]
        return rounded(value)

    return {
        "name": name,
        "about": about,
        "tables": [
            {
                "key": table.key,
                "label": table.label,
                "note": table.note,
                "columns": [column._asdict() for column in table.columns],
                "rows": [[value_of(row.get(column.key), column) for column in table.columns] for row in table.rows],
                "total": table.total,
                "drawn": table.drawn,
                "prioritized": table.prioritized,
                "tally": table.tally,
                "mean": table.mean,
            }
            for table in tables
        ],
        "maps": [
            found
            | {"points": [[rounded(x), rounded(y), cluster, number_of(t)] for x, y, cluster, t in found["points"]]}
            for found in maps
        ],
        "texts": list(texts),
    }


def rounded(value: Any) -> Any:
    """Return a float with six significant digits; any other value is unchanged."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def page_of(data: dict, template: Path) -> str:
    """Return the page: page.html of the folder `template` with DataTables, browse.css, browse.js and the data."""
    library_script, library_style = datatables()
    style, script = ((template / f"browse.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    style, script = f"{library_style}\n{style}", f"{library_script}\n{script}"
    parts = {
        "title": html.escape(f"{data['name']} – prefloop"),
        "policy": f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{checksum(style)}'; script-src '{checksum(script)}'",
        "style": style,
        "script": script,
        "data": as_json(data),
    }
    page = (template / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page)


def datatables() -> tuple[str, str]:
    """Return the script and the style of DataTables, which the package itables contains for pages without a network.

    The bundle is a module. Its export statement is replaced by the constant DataTable, which browse.js uses.
    """
    spec = importlib.util.find_spec("itables")  # only files of the package are needed, so it is not imported
    if spec is None or spec.origin is None:
        raise InputError("itables: not installed, but the browse page needs it; install environment.yml")
    folder = Path(spec.origin).parent / "html"
    script, style = ((folder / f"dt_bundle.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    script, exports = re.subn(r"export\{[^}]*?(\w+) as default[^}]*\};?", r"const DataTable=\1;", script)
    if exports != 1 or "</script" in script or "</style" in style:
        raise ValueError(f"{folder}/dt_bundle.js: cannot be put into a page; use the pinned version of itables")
    return script, style


def as_json(data: dict) -> str:
    """Return JSON without `<`, so that an HTML parser finds no end of the script and no comment in it."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def checksum(text: str) -> str:
    """Return the source expression of a script or style for a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
