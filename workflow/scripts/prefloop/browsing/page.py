"""The browse page itself: one HTML file that holds all it shows.

Texts are those of models and data sets and so untrusted: they stand in the page as JSON without a `<`, and
workflow/browse/browse.js shows them as text only. The page's policy allows its own script and style by their checksums
and nothing else, no network either.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable
from pathlib import Path

from prefloop.browsing import Column, Table


def data_of(name: str, about: str, tables: Iterable[Table], maps: Iterable[dict]) -> dict:
    """What the page is drawn from: `texts`, each once, and tables whose rows name texts by their number."""
    texts: dict[str, int] = {}

    def number_of(text: str | None) -> int | None:
        return None if text is None else texts.setdefault(text, len(texts))

    def value_of(value, column: Column):
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


def rounded(value):
    """A float with the six digits that anybody would look at; anything else as it is."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def page_of(data: dict, template: Path) -> str:
    """The page: page.html of the folder `template` with browse.css, browse.js and the data written into it."""
    style, script = ((template / f"browse.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
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


def as_json(data: dict) -> str:
    """JSON that no HTML parser takes for the end of a script or for a comment."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def checksum(text: str) -> str:
    """What a content security policy calls a script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
