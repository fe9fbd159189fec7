"""Untrusted cells of LaTeX and Markdown tables are plain text."""

import re
import runpy
import subprocess
import sys

import pandas as pd
import pytest

from conftest import ROOT
from prefloop.core.errors import InputError
from prefloop.report.tables import in_markdown, save_table, to_latex, with_interval

HOSTILE = [
    r"\input{/etc/passwd} \write18{touch pwned}",
    r"a & b \\ $x$ 100 % #1 {c} d_e ~ ^",
    "**b** _i_ `c` <script>alert(1)</script> &lt; | x",
    "![p](https://example.org/a.png) [a](javascript:alert(1)) www.example.org",
    "two\n\n| lines |\r\x1b[31m\u202ered",
]


def cells_of(latex: str) -> list[str]:
    body = latex.split("\\midrule\n")[1].split("\\bottomrule")[0]
    return [line.removesuffix(" \\\\").split(" & ")[1] for line in body.strip().splitlines()]


def test_latex_escapes_untrusted_commands(tmp_path):
    """Special characters are escaped in cells and headers. Only bold intervals keep their command."""
    data = pd.DataFrame({"m": [0.5, 1.0], "m_low": [0.25, 0.5], "m_high": [1.0, float("inf")]})
    cells = [*HOSTILE, with_interval(data, "m", data.index)[0], r"\textbf{\input{x}}"]
    to_latex(pd.DataFrame({"a": "x", "b_c": cells}), tmp_path / "t.tex")
    latex = (tmp_path / "t.tex").read_text()
    found = cells_of(latex)
    assert r"a & b\_c \\" in latex
    assert found[1] == (
        r"a \& b \textbackslash{}\textbackslash{} \$x\$ 100 \% \#1 \{c\} d\_e \textasciitilde{} \textasciicircum{}"
    )
    assert found[5:] == [r"\textbf{0.5 [0.25, 1]}", r"\textbf{\textbackslash{}input\{x\}}"]
    commands = {word for cell in found for word in re.findall(r"\\[A-Za-z]+", cell)}
    of_signs = {rf"\text{name}" for name in ("less", "greater", "bar")}  # other signs in LaTeX's default encoding
    assert commands == {r"\textbackslash", r"\textasciitilde", r"\textasciicircum", r"\textbf"} | of_signs
    assert all(cell.isprintable() for cell in found) and len(found) == len(cells)


def test_interval_without_a_finite_mean_is_a_dash():
    data = pd.DataFrame({"m": [float("nan"), float("inf")], "m_low": 0.0, "m_high": 1.0})
    assert with_interval(data, "m") == ["--", "--"]


def test_markdown_escapes_untrusted_markup():
    """Rows keep their number of cells, and numbers and method names are unchanged."""
    table = pd.DataFrame({"method": ["annotate_all", "b", "c", "d", "e"], "a|b": HOSTILE, "x": [0.5, 1.0, 2, 3, 1e9]})
    table["x_low"], table["x_high"] = [float("nan"), 0.5, 1, 2, 3], float("inf")
    lines = in_markdown(table).splitlines()
    assert lines[0] == r"| method | a\|b | x |" and len(lines) == 7
    assert lines[2].startswith("| annotate_all |") and lines[2].endswith("| 0.5 [--, --] |")
    assert lines[4].split(" | ", 1)[1] == (
        r"\*\*b\*\* \_i\_ \`c\` \<script>alert(1)\</script> \&lt; \| x | 2 [1, --] |"
    )
    assert r"!\[p]" not in lines[5] and r"]\(https\://example.org" in lines[5] and r"www\.example" in lines[5]
    assert all(line.isprintable() and len(re.findall(r"(?<!\\)\|", line)) == 4 for line in lines)


def test_broken_picture_raises_with_one_line(tmp_path):
    (tmp_path / "c.yaml").write_text("# About\nname: c\n")
    (tmp_path / "f.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    command = [sys.executable, ROOT / "workflow/scripts/make_gallery.py", "--config", "c.yaml", "--page", "p.md"]
    done = subprocess.run([*command, "--figures", "f.png"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: f.png: not an image; recreate it (")
    assert len(done.stderr.splitlines()) == 1


def test_gallery_page_shows_hostile_cells_as_text(tmp_path):
    """Someone else may have written the table to a shared folder."""
    (tmp_path / "c.yaml").write_text("# About\nname: c\n")
    save_table(tmp_path / "t.csv", pd.DataFrame({"answer": HOSTILE}), pd.DataFrame({"answer": HOSTILE}), "Caption.")
    command = [sys.executable, ROOT / "workflow/scripts/make_gallery.py", "--config", "c.yaml", "--page", "p.md"]
    done = subprocess.run([*command, "--tables", "t.csv"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "p.md").read_text()
    assert not re.search(r"(?<!\\)<script|\]\((https|javascript)", page)


def test_gallery_keeps_rows_and_deletes_earlier_pictures(tmp_path):
    """The gallery's rows of an experiment may have seeds that this run does not have."""
    (tmp_path / "c.yaml").write_text("# About\nname: c\n")
    save_table(tmp_path / "t.csv", pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]}), "Caption.")
    (tmp_path / "p/rows").mkdir(parents=True)
    for name in ("p/rows/spent.csv", "p/earlier.png", "p/notes.md"):
        (tmp_path / name).write_text("kept or not")
    command = [sys.executable, ROOT / "workflow/scripts/make_gallery.py", "--config", "c.yaml", "--page", "p.md"]
    subprocess.run([*command, "--tables", "t.csv"], cwd=tmp_path, check=True, capture_output=True)
    assert {path.name for path in (tmp_path / "p").rglob("*") if path.is_file()} == {"t.csv", "spent.csv", "notes.md"}


@pytest.mark.parametrize("page", ["p", "p.html", "p.md"])
def test_page_that_is_no_markdown_file_raises(tmp_path, page):
    """A folder as the page is refused before anything is deleted."""
    (tmp_path / "c.yaml").write_text("# About\nname: c\n")
    for folder in ("p", "p.md"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "kept.csv").write_text("a\n1\n")
    command = [sys.executable, ROOT / "workflow/scripts/make_gallery.py", "--config", "c.yaml", "--page", page]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"error: page: {page}, expected a file .md")
    assert (tmp_path / "p/kept.csv").is_file() and (tmp_path / "p.md/kept.csv").is_file()


def test_redrawing_reports_a_program_that_was_killed(tmp_path, monkeypatch):
    """Such a program has no message."""
    monkeypatch.syspath_prepend(str(ROOT / "workflow/scripts"))
    monkeypatch.setattr("_program.run", lambda main: None)
    run_program = runpy.run_path(str(ROOT / "workflow/scripts/redraw.py"))["run_program"]
    monkeypatch.setitem(run_program.__globals__, "SCRIPTS", tmp_path)
    (tmp_path / "plot.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with pytest.raises(InputError, match="plot: ended with exit status -9"):
        run_program("plot", {})


def test_gallery_page_links_long_tables_and_keeps_commands_together(tmp_path):
    (tmp_path / "c.yaml").write_text("# About.\n#\n# How:\n#   first \\\n#     more\n#   second\n# End.\nname: c\n")
    for name, rows in (("short", 60), ("long", 61)):
        frame = pd.DataFrame({"cell": range(rows)})
        save_table(tmp_path / f"{name}.csv", frame, frame, "Caption.")
    command = [sys.executable, ROOT / "workflow/scripts/make_gallery.py", "--config", "c.yaml", "--page", "p.md"]
    subprocess.run([*command, "--tables", "short.csv", "long.csv"], cwd=tmp_path, check=True, capture_output=True)
    page = (tmp_path / "p.md").read_text()
    assert page.startswith("# p\n\nAbout.\n\nHow:\n\n```\nfirst \\\n  more\nsecond\n```\n\nEnd.\n\n**short**")
    assert "| 59 |" in page and page.endswith("**long** ([CSV](p/long.csv))\n\n61 rows, in the file.\n")
