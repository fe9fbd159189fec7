"""Find keys and passwords in the files of the repository, by the formats of the services that issue them.

Formats give no false alarms, unlike measures of randomness, because pages are full of checksums. The places are
printed, but not the secrets.
"""

import os
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parent.parent
FORMS = {
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a key of AWS": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a key of OpenAI": r"\bsk-[\w-]{0,100}T3BlbkFJ[\w-]{10,}",
    "a key of Anthropic": r"\bsk-ant-[a-z0-9]+-[\w-]{40,}",
    "a token of GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{40,})",
    "a token of GitLab": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "a token of Hugging Face": r"\bhf_[A-Za-z0-9]{30,}",
    "a token of PyPI": r"\bpypi-[A-Za-z0-9_-]{50,}",
    "a token of Slack": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "a key of Google": r"\bAIza[A-Za-z0-9_-]{35}",
    "a key of Weights & Biases": r"\bWANDB_API_KEY\s*[=:]\s*['\"]?[0-9a-f]{40}",
    "a JSON Web Token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
}
PATTERN = re.compile("|".join(f"(?P<f{index}>{form})" for index, form in enumerate(FORMS.values())))


def secrets_in(text: str) -> Iterator[tuple[int, str]]:
    """Line and kind of every secret in a text."""
    for match in PATTERN.finditer(text):
        index = int((match.lastgroup or "f0")[1:])
        yield text.count("\n", 0, match.start()) + 1, list(FORMS)[index]


def repository_files() -> Iterator[Path]:
    """The files that could be committed, which .gitignore does not match. git itself is not needed."""
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    ignored = [".git", *(line.rstrip("/") for line in lines if not line.startswith("!"))]

    def is_ignored(path: Path) -> bool:
        relative = path.relative_to(ROOT).as_posix()
        return any(fnmatch(path.name, pattern) or fnmatch(relative, pattern) for pattern in ignored)

    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not is_ignored(Path(folder, name))]
        yield from (path for name in sorted(names) if (path := Path(folder, name)).is_file() and not is_ignored(path))


def main() -> None:
    """Print all places and exit with 1 if a file has a secret."""
    files = list(repository_files())
    found = [
        f"{path.relative_to(ROOT)}:{line}: {kind}; revoke it, then remove it from every commit"
        for path in files
        for line, kind in secrets_in(path.read_text(encoding="utf-8", errors="replace"))
    ]
    if found:
        sys.exit("\n".join(found))
    print(f"check_secrets: none in {len(files)} files")


if __name__ == "__main__":
    main()
