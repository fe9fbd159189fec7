"""Hooks of mkdocs for the site (`make site`), which add pages for linked files outside docs/.

On GitHub, a page can link to any file of the repository. The site only has the pages of docs/, so these hooks add the
README, pages of other folders and linked source files, and rewrite the links. Headings keep GitHub's anchors.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^( *)```[^\n]*\n.*?^\1```[^\n]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
ROW = re.compile(r"^\|.*$", re.MULTILINE)  # of a table
CODE = re.compile(r"`[^`\n]+`")
OUTSIDE = re.compile(r"[a-z]+:|#|/")  # a URL, a heading of the same page, an absolute path
# The README is the start page, and the index of docs/ has a page of its own. SECURITY.md would collide with
# docs/security.md on file systems that ignore case.
RENAMED = {"README.md": "index.md", "docs/README.md": "contents.md", "SECURITY.md": "reporting.md"}
LANGUAGES = {".cff": "yaml", ".py": "python", ".smk": "python", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}


def site_path(path: str) -> str:
    """The path in the site for a file of the repository; a source file has a page that shows it."""
    if path in RENAMED:
        return RENAMED[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path.endswith(".md") else f"source/{path}.md"


def linked_file(page: str, target: str, root: Path = ROOT) -> str | None:
    """The file of the repository to which a page links; None for a URL, or if there is no such file.

    Args:
        page (str): The page's path in the repository.
        target (str): Target of the link, relative to the page and without an anchor. A folder means its README.
        root (Path): The repository.
    """
    if not target or OUTSIDE.match(target):
        return None
    path = normpath(PurePosixPath(page).parent / target)
    if path.startswith(".."):
        return None
    if (root / path).is_dir():
        path = f"{path}/README.md"
    return path if (root / path).is_file() else None


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Apply `change` to a page, except to its blocks of code."""
    parts, end = [], 0
    for block in FENCE.finditer(text):
        parts += [change(text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(text[end:])])


def links(page: str, text: str, root: Path = ROOT) -> Iterator[str]:
    """The files of the repository to which a page links."""
    for _, target, _ in LINK.findall(FENCE.sub("", text)):
        if (path := linked_file(page, target.partition("#")[0], root)) is not None:
            yield path


def site_markdown(page: str, text: str, root: Path = ROOT) -> str:
    """A page as the site needs it: links lead to where their files are, and in code of a table `\\|` becomes `|`."""
    folder = str(PurePosixPath(site_path(page)).parent)

    def rewritten(match: re.Match) -> str:
        target, mark, anchor = match[2].partition("#")
        if (path := linked_file(page, target, root)) is None:
            return match[0]
        return match[1] + relpath(site_path(path), folder) + mark + anchor + match[3]

    def unescaped(match: re.Match) -> str:
        return CODE.sub(lambda code: code[0].replace("\\|", "|"), match[0])

    return outside_code(text, lambda part: ROW.sub(unescaped, LINK.sub(rewritten, part)))


def source_page(path: str, text: str) -> str:
    """A page that shows a source file; it is excluded from the search."""
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall(r"`{3,}", text))])
    language = LANGUAGES.get(PurePosixPath(path).suffix, "text")
    return f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"


def added_pages(root: Path = ROOT) -> dict[str, str]:
    """The pages to add to those of docs/, by path in the site: all that are reachable from these and the README."""
    queue = ["README.md", *sorted(path.relative_to(root).as_posix() for path in root.glob("docs/**/*.md"))]
    seen, pages = set(queue), {}
    while queue:
        path = queue.pop()
        text = (root / path).read_text(encoding="utf-8")
        if path.endswith(".md"):
            new = {name for name in links(path, text, root) if name.endswith(".md") or not name.startswith("docs/")}
            queue += sorted(new - seen)
            seen |= new
            pages[site_path(path)] = site_markdown(path, text, root)
        else:
            pages[site_path(path)] = source_page(path, text)
    return {
        path: text for path, text in pages.items() if path in RENAMED.values() or not (root / "docs" / path).exists()
    }


def api_pages(api: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The pages of the API reference, which mkdocstrings fills from docstrings.

    Args:
        api (dict[str, dict[str, Any]]): For each page, a title, and modules with the names to document; without names,
            all are documented.
    """
    pages = {}
    for name, page in api.items():
        text = f"# {page['title']}\n"
        for module, members in page["modules"].items():
            text += f"\n::: prefloop.{module}\n"
            text += f"    options:\n      members: [{', '.join(members)}]\n" if members else ""
        pages[f"api/{name}.md"] = text
    return pages


def github_anchor(heading: str, separator: str) -> str:
    """The anchor that GitHub gives a heading: every space becomes a hyphen, and punctuation is removed."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)


def on_config(config: Any) -> Any:
    """Set options that are functions, which mkdocs.yml cannot contain."""
    from pymdownx.superfences import fence_code_format

    config.mdx_configs.setdefault("toc", {})["slugify"] = github_anchor
    diagrams = {"name": "mermaid", "class": "mermaid", "format": fence_code_format}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [diagrams]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in docs/."""
    from mkdocs.structure.files import File

    for path in [path for path in files.src_uris if f"docs/{path}" in RENAMED]:
        files.remove(files.get_file_from_path(path))
    for path, text in (added_pages() | api_pages(config.extra["api"])).items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Prepare a page of docs/; added pages are already prepared."""
    return site_markdown(f"docs/{page.file.src_uri}", markdown) if page.file.generated_by is None else markdown
