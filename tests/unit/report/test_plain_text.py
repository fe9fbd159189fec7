"""The report shows untrusted captions, facts and names as plain text."""

import base64
import html
import re
from pathlib import Path
from types import SimpleNamespace

import jinja2
import pytest
from docutils.core import publish_parts

from conftest import ROOT
from prefloop.report.captions import escaped, read_caption, write_caption

TEMPLATES = ROOT / "workflow/report"
HOSTILE = [
    '{{ cycler.__init__.__globals__.os.system("touch pwned") }}',
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    ".. include:: secret.txt",
    ".. raw:: html",
    "   <script>alert(1)</script>",
    ".. image:: secret.txt",
    ".. |x| replace:: y",
    "`text <javascript:alert(1)>`_ name_ |x| **bold** [1]_ :raw:`x`",
    "https://example.org and <b>me</b> & you",
    "=====",
    "1. first",
    "::",
]


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("secret.txt").write_text("the secret")
    folder = Path("results/tiny/figures")
    folder.mkdir(parents=True)
    return folder.parent


def render(template: str, pictures: tuple[Path, ...] = (), **snakemake) -> str:
    """Render a page from a template of the clone as Snakemake's report does; `pictures` are in the report."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    categories = {"question": {None: [SimpleNamespace(path=path) for path in pictures]}}
    text = environment.from_string((TEMPLATES / template).read_text()).render(
        snakemake=SimpleNamespace(**snakemake), categories=categories
    )
    return publish_parts(text, writer="html")["html_body"]


def caption_page(path: Path) -> str:
    return render("caption.rst", output=SimpleNamespace(caption=path))


def first_page(*pictures: Path, **config) -> str:
    given = {"name": "tiny", "compare": ["a_"], "figures": ["b", "a"], "policy": {"model": "x"}}
    return render("workflow.rst", pictures, config=given | config)


def shown(page: str) -> list[str]:
    """Return the texts of a page's paragraphs and items, and check that there are no other elements."""
    assert set(re.findall(r"<(\w+)", page)) <= {"div", "main", "p", "ul", "li", "strong"}
    assert "the secret" not in page
    assert not Path("pwned").exists()
    texts = [text for _, text in re.findall(r"<(p|li)>(.*?)</\1>", page, re.DOTALL)]
    return [html.unescape(re.sub(r"<[^>]*>", "", text)).strip() for text in texts]


def test_planted_caption_is_text(results):
    path = results / "figures/a.rst"
    path.write_text("\n\n".join(HOSTILE))
    assert shown(caption_page(path)) == [text.strip() for text in HOSTILE]


def test_planted_facts_are_text(results):
    (results / "run.rst").write_text("".join(f"* {text}\n" for text in HOSTILE))
    page = first_page()
    assert shown(page)[1:] == [text.strip() for text in HOSTILE]
    assert page.count("<li>") == len(HOSTILE)


@pytest.mark.parametrize(
    "name", [*HOSTILE, "a\n\n.. include:: secret.txt", "a\u2028.. include:: secret.txt", "m_", "\\"]
)
def test_names_on_the_first_page_are_text(results, name):
    (results / "run.rst").write_text("* A fact.\n")
    heading, fact = shown(first_page(policy={"model": name}))
    assert heading.endswith(f"Policy: {' '.join(name.split('#')[0].split())}.")
    assert "experiment tiny: a_." in heading
    assert fact == "A fact."


def test_first_page_opens_on_the_first_figure(results):
    """With its caption, and within the page. A listed figure that was not drawn is skipped."""
    (results / "run.rst").write_text("* A fact.\n")
    figure = results / "figures/cost_to_reach.svg"
    figure.write_text(svg := '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><!-- é --></svg>\n')
    figure.with_suffix(".rst").write_text("The caption.\n")
    page = first_page(figure.with_suffix(".png"), figures=["quality", "cost_to_reach"])
    (uri,) = re.findall(r'<img [^>]*src="data:image/svg\+xml;base64,([^"]*)"', page)
    assert '<img alt="cost to reach" ' in page
    assert base64.b64decode(uri).decode().strip() == svg.strip()
    assert page.index("<img") < page.index("The caption.") < page.index("experiment")
    assert "<img" not in first_page()


@pytest.mark.parametrize("text", [*HOSTILE, "a_b is 95 % [0.1, 0.2] \\ better*", "{{ '{' }}"])
def test_written_caption_is_shown_unchanged(results, text):
    path = results / "figures/a.rst"
    write_caption(path, text)
    assert shown(caption_page(path)) == [text.strip()]
    assert read_caption(path) == path.read_text().strip()


@pytest.mark.parametrize("text", ["<img src=x onerror=alert(1)>", "[a](javascript:b)", "![a][b]", "`x`", "**x**"])
def test_markup_in_a_planted_caption_is_escaped(results, text):
    path = results / "figures/a.rst"
    path.write_text(text)
    assert read_caption(path) == escaped(text)
    assert not re.search(r"(?<!\\)[<*`]|\][(\[]", read_caption(path))


def test_missing_caption_raises(results):
    with pytest.raises(Exception, match="Problems with .include. directive path"):
        caption_page(results / "figures/none.rst")
