"""How a config names sources of prompts, and which files a stage reads for them.

Snakemake imports this module at every start, so it imports nothing heavy.
"""

import gzip
import re
import zlib
from itertools import islice
from pathlib import Path

from prefloop.config.declarations import defaults
from prefloop.config.prompt_settings import MixedSource
from prefloop.config.resolve import merged
from prefloop.core.own_functions import is_own, own_code

HUB = "hub:"
HUB_SOURCE = re.compile(r"hub:(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^@\s]+))?", re.ASCII)
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
SOURCE_FORM = (
    "packaged, a .jsonl, .json, .csv, .tsv or .parquet file (or .gz of it), a folder of save_to_disk, "
    "hub:owner/name or hub:owner/name@revision, or your function as my_data.py:rows"
)
SAVED_FILES = ("dataset_info.json", "dataset_dict.json")  # one of them is in each folder of save_to_disk


def suffix_of(source: str) -> str:
    """Return the extension of a readable file, such as `.csv` for rows.csv and rows.csv.gz; empty for other files."""
    suffix = Path(source.lower().removesuffix(".gz")).suffix
    return suffix if suffix in SUFFIXES else ""


def is_rows_function(source: str) -> bool:
    """Whether a source is a function of the user that yields rows."""
    return not source.startswith(HUB) and is_own(source)


def configured_sources(section: dict) -> list[dict]:
    """Return the source of a section, or each of its `sources` with all defaults; empty if it has neither."""
    if section.get("sources"):
        return [merged(defaults(MixedSource), source) for source in section["sources"]]
    return [section] if section.get("source") is not None else []


def source_files(section: dict) -> list[str]:
    """Return the existing files that a section's sources read. For functions, see `source_code`."""
    files: list[str] = []
    for source in (settings["source"] for settings in configured_sources(section)):
        if Path(source).is_dir():
            saved = (path for path in Path(source).rglob("*") if not path.name.startswith("cache-"))
            files += sorted(str(path) for path in saved if path.is_file())
        elif Path(source).is_file():
            files.append(source)
    return files


def source_code(section: dict) -> list[str]:
    """Return hashes of the user's functions among a section's sources."""
    sources = [settings["source"] for settings in configured_sources(section)]
    return [own_code(source) for source in sources if is_rows_function(source)]


def lines_up_to(source: str, enough: int) -> int | None:
    """Count the lines of a file of prompts, up to `enough`; None if the source does not have one line per row."""
    if suffix_of(source) != ".jsonl":
        return None
    try:
        if not Path(source).is_file():
            return None
        with (gzip.open if source.endswith(".gz") else open)(source, "rb") as lines:
            return sum(1 for _ in islice(lines, enough))
    except (OSError, EOFError, zlib.error):  # a later check or the stage that reads the file reports why
        return None
