"""Plain-text documents: a .txt file, or the rows of a .jsonl file."""

from pathlib import Path
from typing import NamedTuple

from prefloop.core.errors import InputError
from prefloop.core.jsonl import MAX_LINE, describe, iterate_rows


class Document(NamedTuple):
    """A text from a file."""

    number: int
    """The line of a .jsonl file, from 1; always 1 for a .txt file, which is one document."""
    text: str


def read_documents(path: Path, column: str = "text") -> tuple[list[Document], int]:
    """Read the documents of a file. Spaces and line ends are not changed.

    Args:
        path (Path): A .txt file, which is one document, or a .jsonl file with one document per row.
        column (str): Field that contains the text of a row.

    Returns:
        tuple: The documents, and how many empty ones were left out.

    Raises:
        InputError: The file is missing, is not UTF-8 or has no text, or a row has no text in `column`.
    """
    path = Path(path)
    if path.suffix == ".txt":
        documents = [Document(1, read_plain_text(path))]
    else:
        rows = enumerate(iterate_rows(path, [column], of_others=True), start=1)
        documents = [
            Document(number, document_text(row[column], column, f"{path}, line {number}")) for number, row in rows
        ]
    kept = [document for document in documents if document.text.strip()]
    if not kept:
        raise InputError(f"{path}: no text, expected a document; name another file")
    return kept, len(documents) - len(kept)


def read_plain_text(path: Path) -> str:
    """Read a .txt file of at most MAX_LINE bytes."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected plain text")
    if (size := path.stat().st_size) > MAX_LINE:
        problem = f"{size} bytes, expected at most {MAX_LINE} per document"
        raise InputError(f"{path}: {problem}; use a .jsonl file with one document per row")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error


def document_text(value: object, column: str, location: str) -> str:
    """Return a row's text. Raise an InputError that starts with `location` if it is not text, or not valid in UTF-8."""
    if not isinstance(value, str):
        raise InputError(f"{location}: {column} is {describe(value)}, expected text; see evaluation.perplexity.column")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        problem = f"half a surrogate pair, {error.object[error.start]!a}, which UTF-8 cannot encode; delete it"
        raise InputError(f"{location}: {column} has {problem}") from error
    return value
