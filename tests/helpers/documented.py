"""The commands in the documentation, and dry runs of the Snakemake commands."""

import gzip
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from snakemake_runs import run_snakemake

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`((?:[A-Z_]+=\S+ )?(?:snakemake|make|pytest|python|pip|ruff|snakefmt) [^`]+)`")
SHELL = ("", "sh", "bash")  # a block without a language contains commands
# Reward functions and a config that pages use as examples of a reader's own files.
OWN_REWARDS = "def helpful(prompts, responses):\n    return [0.0 for _ in responses]\n"
OWN_EVALUATION = OWN_REWARDS.replace("helpful", "complete")
OWN_CONFIG = """name: mine
policy: {model: my/model}
prompts: {source: packaged, take: 400}
bandit: {budget: 64}
feedback: {function: "my_rewards:helpful"}
evaluation: {evaluator: {kind: reward_model, model: my/reward-model}}
"""


def pages() -> list[Path]:
    """Return the paths of all documentation pages, sorted."""
    return sorted(
        [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("tests/**/*.md")]
    )


def without_code(text: str) -> str:
    """Return a page's text without its code blocks."""
    return FENCE.sub("", text)


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub generates for a page's headings; repeated headings get a number."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


def commands_of(page: Path) -> list[str]:
    """Return the commands in a page's code blocks and sentences, without comments.

    In a sentence, code with a placeholder (`…`, `<name>`) is not a command.
    """
    text = page.read_text(encoding="utf-8")
    found = [line for _, language, body in FENCE.findall(text) if language in SHELL for line in commands_in(body)]
    prose = re.sub(r"\s*\n\s*", " ", FENCE.sub("", text))
    spoken = [words for words in INLINE.findall(prose) if "…" not in words and "<" not in words]
    return [*found, *(command for words in spoken for command in commands_in(words))]


def written() -> dict[str, str]:
    """Map every documented command to a page that contains it."""
    return {command: str(page.relative_to(ROOT)) for page in pages() for command in commands_of(page)}


def commands_in(block: str) -> Iterator[str]:
    """Yield the commands of a block without comments.

    Lines that end in a backslash are joined, lines are split at `&&`, and variables set in the block are replaced.
    """
    variables: dict[str, str] = {}
    for line in block.replace("\\\n", " ").splitlines():
        line = re.sub(r"(^|\s)#\s.*$", "", line).strip()
        for words in filter(None, re.split(r"\s+&&\s+", line)):
            if assignment := re.fullmatch(r"(\w+)='([^']*)'", words):
                variables[assignment[1]] = assignment[2]
                continue
            for name, value in variables.items():
                words = words.replace(f"${name}", value)
            yield re.sub(r"\s+", " ", words)


def project_in(folder: Path) -> Path:
    """Fill a folder with links to the project's sources and with example files, but no results; return it."""
    for name in [
        "Snakefile",
        "rules",
        "workflow",
        "experiments",
        "environment.yml",
        "profiles",
        "config.yaml",
        "docs",
        "tests",
    ]:
        (folder / name).symlink_to(ROOT / name)
    (folder / "my_rewards.py").write_text(OWN_REWARDS)
    (folder / "my_evaluation.py").write_text(OWN_EVALUATION)
    (folder / "my_data.py").write_text("def rows():\n    yield {'prompt': 'a'}\n")
    (folder / "hh_harmless_base_test.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 2312))
    (folder / "mine.yaml").write_text(OWN_CONFIG)
    return folder


def dry_run(folder: Path, command: str) -> str:
    """Return the output of a dry run without conda.

    Raises:
        AssertionError: Snakemake fails.
    """
    command = command.replace("/path/to/prefloop", str(ROOT))
    words = [word for word in shlex.split(command) if word != "--use-conda"]
    cores = [] if "--cores" in words else ["--cores", "1"]
    done = run_snakemake([*words[1:], *cores, "--dry-run", "--printshellcmds"], folder)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}"
    return done.stdout
