"""Searching, sorting, filtering, paging and hostile text on the browse page in a real browser.

These tests are skipped without Chromium. .ci/run installs Debian's package where it can.
"""

import subprocess
import sys

import pytest

from browsed import HELD_OUT, HOSTILE, write_experiment
from browser import Browser, program
from conftest import ROOT
from prefloop.browse.annotated import RESPONSES
from prefloop.browse.arms import cluster_columns
from prefloop.browse.columns import Table
from prefloop.browse.page import data_of, page_of

HEADS = "[...document.querySelectorAll('#rows thead th')].map(th => th.querySelector('.dt-column-title').textContent)"
ROWS = "#rows tbody tr:not(:has(.dt-empty)):not(:has(.details))"
MANY = 20_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if program() is None:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Write the page of a small experiment with browse.py, without a config."""
    root = write_experiment(tmp_path_factory.mktemp("browsed") / "small")
    page = root.parent / "page.html"
    script = ROOT / "workflow/scripts/browse.py"
    done = subprocess.run([sys.executable, script, "--root", root, "--output", page], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return page


@pytest.fixture
def opened(browser, page):
    """Return a function that opens the page at an address. Check at the end for requests and errors."""
    browser.size(1280, 800)

    def open_at(address: str) -> Browser:
        browser.open(page, address)
        return browser

    yield open_at
    assert browser.js("window.hostile === undefined")
    assert browser.errors == []
    assert {url.partition(":")[0] for url in browser.requests} <= {"file", "about", "data"}


def cells(browser: Browser, label: str) -> list[str]:
    """Return the texts of a column of the table."""
    index = browser.js(HEADS).index(label)
    return browser.js(f"[...document.querySelectorAll('{ROWS}')].map(row => row.cells[{index}].textContent)")


def head(browser: Browser, label: str) -> str:
    """Return the CSS selector of a column's header."""
    return f"#rows thead th:nth-child({browser.js(HEADS).index(label) + 1})"


def sort_by(browser: Browser, label: str, direction: str) -> None:
    """Click a column's order button and wait until the table is sorted."""
    browser.click(f"{head(browser, label)} .dtcc-button_order")
    browser.until(f"document.querySelector('{head(browser, label)}').ariaSort === '{direction}'")


def info(browser: Browser) -> str:
    return browser.js("document.querySelector('.dt-info').textContent")


def summary(browser: Browser) -> str:
    return browser.js("document.getElementById('summary').textContent")


def search(browser: Browser, text: str) -> None:
    browser.press("/")
    browser.type(text)


def test_each_view_shows_its_rows(opened):
    browser = opened("")
    tabs = browser.js("[...document.querySelectorAll('#views a')].map(tab => tab.textContent)")
    assert tabs == ["Pairs 96", "Responses 96", "Clusters 6", "Judgments 30", f"Before and after {2 * HELD_OUT}"]
    for i, key in enumerate(["pairs", "responses", "clusters", "judgments", "before-after"]):
        browser.click(f"#views a:nth-child({i + 1})")
        browser.until(f"location.hash.startsWith('#{key}')")
        browser.until(f"document.querySelectorAll('#views a')[{i}].getAttribute('aria-current') === 'page'")
        assert browser.js(f"document.querySelectorAll('{ROWS}').length") == min(25, int(tabs[i].split()[-1]))


def test_search_keeps_rows_that_contain_all_words(opened):
    browser = opened("#responses")
    search(browser, "VERY orchard")
    browser.until("document.querySelector('.dt-info').textContent.includes('filtered from 96')")
    rows = list(zip(cells(browser, "prompt"), cells(browser, "response"), strict=True))
    assert rows and all("orchard" in "".join(row) and "very" in "".join(row) for row in rows)
    address = browser.js("location.hash")
    browser = opened("#pairs")
    browser = opened(address)
    assert cells(browser, "response") == [row[1] for row in rows], "the address includes the search"


def test_numbers_sort_numerically(opened):
    browser = opened("#responses")
    sort_by(browser, "reward", "ascending")
    rising = list(map(float, cells(browser, "reward")))
    sort_by(browser, "reward", "descending")
    falling = list(map(float, cells(browser, "reward")))
    assert rising == sorted(rising) and falling == sorted(falling, reverse=True) and falling[0] == 16.0


def test_missing_values_sort_last_in_both_directions(browser, tmp_path):
    rows = [{"response": str(i), "reward": None if i < 2 else float(i)} for i in range(12)]
    path = tmp_path / "missing.html"
    table = Table("responses", "Responses", "", RESPONSES, rows, len(rows))
    path.write_text(page_of(data_of("missing", "", [table], []), ROOT / "workflow/browse"), encoding="utf-8")
    browser.open(path, "#responses")
    for direction, expected in {"ascending": range(2, 12), "descending": range(11, 1, -1)}.items():
        sort_by(browser, "reward", direction)
        assert cells(browser, "reward") == [f"{i:.3f}" for i in expected] + ["–"] * 2


def test_columns_filter_by_text_and_number(opened):
    browser = opened("#responses")
    browser.click(f"{head(browser, 'method')} .dtcc-button_dropdown")
    browser.click(".dtcc-list-buttons button[aria-label=uniform]")
    browser.until("document.querySelector('.dt-info').textContent.includes('of 48 entries')")
    assert set(cells(browser, "method")) == {"uniform"}
    browser.click(f"{head(browser, 'reward')} .dtcc-button_dropdown")
    browser.js("""(() => {
        const dropdown = document.querySelector('.dtcc-dropdown');
        const choose = dropdown.querySelector('select');
        choose.value = 'greater';
        choose.dispatchEvent(new Event('input'));
        const least = dropdown.querySelector('input');
        least.value = '14';
        least.dispatchEvent(new Event('input'));
    })()""")
    browser.until("document.querySelector('.dt-info').textContent.includes('of 5 entries')")
    assert sorted(map(float, cells(browser, "reward"))) == [14.5, 15.0, 15.0, 15.5, 16.0]


def test_paging_shows_every_row_once(opened):
    browser = opened("#pairs")
    seen = []
    while True:
        seen += zip(*(cells(browser, label) for label in ("method", "prompt", "chosen", "rejected")), strict=True)
        if browser.js("document.querySelector('.dt-paging-button.next').classList.contains('disabled')"):
            break
        browser.click(".dt-paging-button.next")
    assert len(seen) == len(set(seen)) == 96


def test_keyboard_opens_the_details_of_a_row(opened):
    browser = opened("#pairs?trained=yes")
    browser.click(f"{ROWS} td")
    browser.press("Enter")  # closes the row that the click opened
    browser.until("document.querySelector('.details') === null")
    browser.press("ArrowDown")
    browser.press("Enter")
    browser.until("document.querySelector('.details') !== null")
    text = browser.js("document.querySelector('.details').innerText")
    assert "dota answers 2 in round 1, step 1: the copper is very very fine." in text
    assert "dota answers 0 in round 1, step 1: the river is fine." in text
    texts = "[...pair.children].map(node => node.textContent)"
    pairs = f"[...document.querySelectorAll('.details dl div')].map(pair => {texts})"
    numbers = browser.js(f"Object.fromEntries({pairs})")
    expected = {
        "reward chosen": "2.000",
        "reward rejected": "1.000",
        "logp chosen": "−30.00",
        "logp ref rejected": "−9.00",
    }
    assert numbers.items() >= expected.items()
    browser.click(".details .links a")
    browser.until("location.hash.startsWith('#pairs?prompt_id=train-1')")
    browser.until("document.getElementById('active').textContent.includes('train-1')")
    assert set(cells(browser, "prompt")) == {"Prompt train 1: say something about a river."}
    browser.click("#active button")
    browser.until("document.querySelector('.dt-info').textContent.includes('of 96 entries')")


def test_keys_of_a_text_field_do_not_move_between_cells(opened):
    browser = opened("#pairs")
    browser.click(f"{ROWS} td")
    browser.until("document.querySelectorAll('td.focus').length === 1")
    search(browser, "orchard")
    browser.press("ArrowDown")
    assert browser.js("document.querySelectorAll('td.focus').length") == 0
    assert browser.js("document.activeElement.value") == "orchard"
    browser.js("document.activeElement.blur()")
    browser.js("document.querySelector('[id^=keytable-focus-capture]').focus()")
    browser.until("document.querySelectorAll('td.focus').length === 1")
    browser.press("/")
    assert browser.js("document.activeElement.value") == "orchard", "also from the table's own input"


def page_with(path, tables, maps=()):
    """Write a page with these tables and maps and return its path."""
    path.write_text(page_of(data_of("small", "", tables, maps), ROOT / "workflow/browse"), encoding="utf-8")
    return path


def test_values_with_markup_are_found(browser, tmp_path):
    """A list of values filters by text, and a search sees line breaks as spaces."""
    rows = [{"method": m, "response": f"by {m}\nin lines", "reward": 1.0} for m in ("Q&A <b>", "dota", "dota")]
    browser.open(page_with(tmp_path / "marked.html", [Table("responses", "", "", RESPONSES, rows, 3)]), "#responses")
    browser.click(f"{head(browser, 'method')} .dtcc-button_dropdown")
    browser.click(".dtcc-list-buttons button:nth-child(2)")
    browser.until("document.querySelector('.dt-info').textContent.includes('of 1 entry')")
    assert cells(browser, "method") == ["Q&A <b>"]
    browser.open(tmp_path / "marked.html", "#responses")
    search(browser, '"dota in lines"')
    browser.until("document.querySelector('.dt-info').textContent.includes('of 2 entries')")


def test_sample_with_priorities_has_no_counts(browser, tmp_path):
    rows = [{"method": "dota", "finish_reason": "stop", "reward": 1.0}]
    table = Table("responses", "", "", RESPONSES, rows, 2, "finish_reason", "reward", "some first", prioritized=True)
    browser.open(page_with(tmp_path / "first.html", [table]), "#responses")
    assert summary(browser) == "this page holds 1 of 2 rows, some first"
    table.total = 1
    browser.open(page_with(tmp_path / "all.html", [table]), "#responses")
    assert summary(browser) == "finish: 1 stop · mean reward 1.000"


def test_map_selects_only_its_own_clusters(browser, tmp_path):
    """Two methods have clusters of their own, with the same numbers."""
    names = ("dota", "uniform")
    rows = [{"clusters": name, "cluster": c, "method": name, "seed": 0, "pulls": 1} for name in names for c in (0, 1)]
    rows = [row | dict.fromkeys(("drawn", "rewards", "means", "examples"), []) for row in rows]
    table = Table("clusters", "Clusters", "", cluster_columns(()), rows, 4)
    maps = [{"clusters": name, "total": 2, "points": [(0.0, 0.0, 0, "a"), (1.0, 1.0, 1, "b")]} for name in names]
    browser.open(page_with(tmp_path / "maps.html", [table], maps), "#clusters")
    browser.click("#map a")
    browser.until("location.hash.includes('clusters=uniform')")
    browser.until("document.querySelectorAll('#map circle').length === 2")
    browser.click("#map circle[data-cluster='1']")
    browser.until("document.querySelector('.dt-info').textContent.includes('of 1 entry')")
    assert cells(browser, "method") == ["uniform"]
    browser.open(tmp_path / "maps.html", "#clusters")
    browser.click("#map circle[data-cluster='1']")
    browser.until("document.querySelector('.dt-info').textContent.includes('of 1 entry')")
    assert cells(browser, "method") == ["dota"]


def test_search_and_order_survive_a_click_on_the_map(opened):
    browser = opened("#clusters")
    sort_by(browser, "reward", "ascending")
    sort_by(browser, "reward", "descending")
    search(browser, "dota")
    browser.until("document.querySelector('.dt-info').textContent.includes('of 3 entries')")
    browser.click("#map circle[data-cluster='2']")
    browser.until("document.querySelector('.dt-info').textContent.includes('of 1 entry')")
    browser.click("#active button")
    browser.until("document.querySelector('.dt-info').textContent.includes('of 3 entries')")
    rewards = list(map(float, cells(browser, "reward")))
    assert rewards == sorted(rewards, reverse=True)


def test_map_selects_a_cluster(opened):
    browser = opened("#clusters")
    assert browser.js("document.querySelectorAll('#map circle').length") == 24
    assert cells(browser, "pulls") == ["6", "6", "5", "5", "5", "5"]
    browser.click("#map circle[data-cluster='2']")
    browser.until("document.querySelectorAll('#map circle.faint').length === 16")
    assert cells(browser, "reward") and len(cells(browser, "reward")) == 2
    browser.click("#map circle[data-cluster='2']")
    browser.until("document.querySelectorAll('#map circle.faint').length === 0")
    assert len(cells(browser, "pulls")) == 6


def test_judgments_are_counted(opened):
    browser = opened("#judgments?method=dota&round=2&outcome=win")
    assert info(browser).startswith("Showing 1 to 5 of 5 entries")
    assert summary(browser) == "outcome: 5 win · mean change 3.000"
    browser = opened("#judgments?method=dota&round=2")
    assert summary(browser) == "outcome: 5 win, 1 loss · mean change 2.167"


def test_before_and_after_view_sorts_by_change(opened):
    browser = opened("#before-after?method=uniform")
    sort_by(browser, "change", "ascending")
    assert cells(browser, "change") == ["−2.000", "3.000", "3.000", "3.000", "3.000", "3.000"]
    assert cells(browser, "before")[0] == "the initial policy, prompt 0"
    assert cells(browser, "after")[0] == "uniform after round 2, prompt 0"
    assert (cells(browser, "reward before")[0], cells(browser, "reward after")[0]) == ("0.000", "−2.000")


def test_hostile_text_is_shown_as_plain_text(opened):
    browser = opened("#responses")
    assert cells(browser, "response")[0] == HOSTILE
    browser.click(f"{ROWS} td")
    browser.until("document.querySelector('.details') !== null")
    assert HOSTILE in browser.js("[...document.querySelectorAll('.details p')].map(p => p.textContent)")
    assert browser.js("document.querySelectorAll('img, tbody script').length") == 0
    assert browser.js("document.querySelectorAll('script').length") == 2
    hostile = "%22%3E%3Cimg%20src=x%20onerror=hostile=1%3E"
    opened(f"#responses?state={hostile}&response={hostile}&method={hostile}")
    assert browser.js("document.querySelector('.dt-empty').textContent") == "No row matches."


def test_content_security_policy_blocks_injected_html(browser, page):
    """Even if text were parsed as HTML, its handler would not run and its image would not load."""
    browser.open(page)
    browser.requests.clear()
    browser.js("document.body.insertAdjacentHTML('beforeend', '<img src=http://127.0.0.1:9/x onerror=\"hostile=1\">')")
    browser.until("document.querySelector('img').complete")
    assert browser.js("window.hostile === undefined")
    assert browser.blocked == len(browser.requests) == 1
    browser.requests.clear()
    browser.errors.clear()


def test_page_fits_the_width_of_a_phone(opened):
    browser = opened("#before-after")
    browser.size(390, 844)
    assert browser.js("document.documentElement.scrollWidth") <= 390


def test_many_rows_are_searchable_and_only_one_page_is_drawn(browser, tmp_path):
    rows = [
        {
            "method": "dota",
            "cluster": i % 8,
            "prompt_id": f"p{i // 4}",
            "prompt": f"prompt {i // 4} " + "asks for much " * 10,
            "response": f"response number {i} " + "and so on " * 40,
            "reward": (i * 7919 % MANY) / MANY,
        }
        for i in range(MANY)
    ]
    table = Table("responses", "Responses", "", RESPONSES, rows, 2 * MANY, mean="reward")
    page = tmp_path / "many.html"
    page.write_text(page_of(data_of("many", "", [table], []), ROOT / "workflow/browse"), encoding="utf-8")
    browser.size(1280, 800)
    browser.open(page, "#responses")
    assert browser.js(f"document.querySelectorAll('{ROWS}').length") == 25
    assert f"this page holds {MANY:,} of {2 * MANY:,} rows, drawn at random" in summary(browser)
    sort_by(browser, "reward", "ascending")
    assert float(cells(browser, "reward")[1]) == pytest.approx(1 / MANY, abs=1e-3)
    search(browser, '"number 7777 and"')
    browser.until(f"document.querySelectorAll('{ROWS}').length === 1")
    assert cells(browser, "response")[0].startswith("response number 7777 and")


def test_browse_target_runs_only_its_own_rule(finished, copy_of, browser):
    """The page has the rows of a real run, and writing it again gives the same bytes."""
    assert finished.jobs("browse") == {"browse"}
    directory = copy_of(finished)
    done = directory.run("browse")
    assert done.returncode == 0, done.stdout
    page = directory.path / "results/tiny/browse.html"
    first = page.read_bytes()
    assert directory.jobs("browse") == set()
    with (directory.path / "workflow/browse/browse.css").open("a") as file:
        file.write("/* edited */\n")
    assert directory.jobs("browse") == {"browse"}
    page.unlink()
    (directory.path / "workflow/browse/browse.css").write_text((ROOT / "workflow/browse/browse.css").read_text())
    assert directory.run("browse").returncode == 0
    assert page.read_bytes() == first

    results = directory.path / "results/tiny"
    lines = [len(path.read_text().splitlines()) for path in results.glob("*/seed-*/round-*/step-*/rewards.jsonl")]
    trained = [len(path.read_text().splitlines()) for path in results.glob("*/seed-*/round-*/pairs.jsonl")]
    browser.open(page, "#responses")
    assert f"of {sum(lines)} entries" in info(browser)
    browser.open(page, "#pairs?trained=yes")
    assert f"of {sum(trained)} entries" in info(browser)
    assert browser.errors == []
