"""The site contains pages outside docs/ and linked source files, its links work, and its menu lists all pages.

`make site` builds the site; these tests do not need mkdocs.
"""

import ast
import re
import runpy
from collections.abc import Iterator
from posixpath import dirname, join, normpath

import pytest
import yaml

from documented import ROOT, anchors, pages, without_code

HOOKS = runpy.run_path(str(ROOT / "tools/site_hooks.py"))
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
ADDED = HOOKS["added_pages"]()
API = HOOKS["api_pages"](SITE["extra"]["api"])


@pytest.fixture
def repository(tmp_path):
    """A repository with a page in docs/, files around it, and a README in a folder."""
    files = ("README.md", "docs/README.md", "docs/a.md", "docs/b/README.md", "docs/x.png", "rules/a.smk", "c/D.md")
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text\n")
    return tmp_path


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("README.md", "[a](docs/a.md#part)", "[a](a.md#part)"),
        ("README.md", "![x](docs/x.png)", "![x](x.png)"),
        ("README.md", "[all](docs/README.md)", "[all](contents.md)"),
        ("README.md", "[b](docs/b)", "[b](b/README.md)"),
        ("docs/a.md", "[start](../README.md#part)", "[start](index.md#part)"),
        ("docs/a.md", "[d](../c/D.md), [a](../rules/a.smk)", "[d](c/D.md), [a](source/rules/a.smk.md)"),
        ("docs/b/README.md", "[a](../../rules/a.smk)", "[a](../source/rules/a.smk.md)"),
        ("c/D.md", "[a](../docs/a.md)", "[a](../a.md)"),
        ("docs/a.md", "[web](https://example.org/a.md)", None),
        ("docs/a.md", "[here](#part)", None),
        ("docs/a.md", "[missing](../rules/b.smk)", None),
        ("docs/a.md", "[outside](../../c)", None),
        ("docs/a.md", "```\n[code](../c/D.md) \\|\n```", None),
        ("docs/a.md", "| `a \\| b` | \\|x\\| |", "| `a | b` | \\|x\\| |"),
    ],
)
def test_page_becomes_what_the_site_needs(repository, page, link, expected):
    assert HOOKS["site_markdown"](page, f"before\n\n{link}\n", repository) == f"before\n\n{expected or link}\n"


def test_pages_are_added_only_if_something_links_to_them(repository):
    """The link may come from an added page: a.md links to D.md, and D.md to a.smk."""
    (repository / "c/E.md").write_text("nothing links here\n")
    (repository / "docs/a.md").write_text("[d](../c/D.md)\n")
    (repository / "c/D.md").write_text("[a](../rules/a.smk)\n")
    added = HOOKS["added_pages"](repository)
    assert sorted(added) == ["c/D.md", "contents.md", "index.md", "source/rules/a.smk.md"]
    assert added["source/rules/a.smk.md"].endswith("# rules/a.smk\n\n```python\ntext\n```\n")
    assert added["c/D.md"] == "[a](../source/rules/a.smk.md)\n"


def test_fence_of_a_source_page_is_longer_than_inner_fences():
    assert HOOKS["source_page"]("a.md", "```\ncode\n```\n").endswith("````text\n```\ncode\n```\n````\n")


def pages_of_docs() -> dict[str, str]:
    """Return the site's version of the pages in docs/, by path in the site."""
    paths = [page.relative_to(ROOT).as_posix() for page in pages() if page.is_relative_to(ROOT / "docs")]
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in paths if path != "docs/README.md"}
    return {path.removeprefix("docs/"): HOOKS["site_markdown"](path, text) for path, text in texts.items()}


def test_links_stay_within_the_site():
    site = pages_of_docs() | ADDED | API
    assert len(site) > 80
    for page, text in site.items():
        for _, target, _ in (
            HOOKS["LINK"].findall(HOOKS["FENCE"].sub("", text)) if not page.startswith("source/") else []
        ):
            path = target.partition("#")[0]
            if path and not re.match("[a-z]+:", path):
                there = normpath(join(dirname(page), path))
                assert there in site or (ROOT / "docs" / there).is_file(), f"{page}: {target}"


def entries_of(menu: list) -> Iterator[str]:
    """Return the pages in a menu of mkdocs.yml."""
    for entry in menu:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from entries_of(value) if isinstance(value, list) else [value]


def test_menu_has_every_page_once():
    site = [path for path in pages_of_docs() | ADDED | API if not path.startswith("source/")]
    assert sorted(entries_of(SITE["nav"])) == sorted(site)


def test_reference_shows_only_documented_names():
    """Every module in the reference, and every name shown from it, exists and has a docstring."""
    for page in SITE["extra"]["api"].values():
        for module, members in page["modules"].items():
            path = ROOT / "workflow/scripts/prefloop" / f"{module.replace('.', '/')}.py"
            tree = ast.parse(path.read_text(encoding="utf-8"))
            defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
            assert members or defined, module
            assert ast.get_docstring(tree), module
            for name in members or defined:
                assert ast.get_docstring(defined[name]), f"{module}: {name}"


def test_headings_have_the_same_anchors_as_on_github():
    """tests/docs/test_docs.py checks links against GitHub's anchors."""
    heading = "Own readers, `where` a library exists: a–b & c"
    assert HOOKS["github_anchor"](heading.replace("`", ""), "-") == "own-readers-where-a-library-exists-ab--c"
    for page in pages():
        headings = re.findall(r"^#+ (.*)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
        texts = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "") for text in headings]
        assert {HOOKS["github_anchor"](text, "-") for text in texts} <= anchors(page), page
