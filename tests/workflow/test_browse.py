"""The browse page in a real browser: searched, sorted, filtered, paged through, and given hostile text.

Skipped where no Chromium is installed; .ci/run installs Debian's where it can.
"""

import json
import subprocess
import sys

import pytest

from browsed import HELD_OUT, HOSTILE, write_experiment
from browser import Browser, program
from conftest import ROOT
from prefloop.browsing import Table
from prefloop.browsing.annotated import RESPONSES
from prefloop.browsing.page import data_of, page_of

CELLS = "[...document.querySelectorAll('tbody tr')].map(row => row.querySelector('td[data-label={}]').textContent)"
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
    """The page of a small experiment, written by the program without a config."""
    root = write_experiment(tmp_path_factory.mktemp("browsed") / "small")
    page = root.parent / "page.html"
    script = ROOT / "workflow/scripts/browse.py"
    done = subprocess.run([sys.executable, script, "--root", root, "--output", page], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return page


@pytest.fixture
def opened(browser, page):
    """Opens the page at an address, and sees at the end that it asked for nothing and complained of nothing."""
    browser.size(1280, 800)

    def open_at(address: str) -> Browser:
        browser.open(page, address)
        return browser

    yield open_at
    assert browser.js("window.hostile === undefined")
    assert browser.errors == []
    assert {url.partition(":")[0] for url in browser.requests} <= {"file", "about", "data"}


def cells(browser: Browser, label: str) -> list[str]:
    """The texts of a column of the table."""
    return browser.js(CELLS.format(json.dumps(label)))


def summary(browser: Browser) -> str:
    return browser.js("document.getElementById('summary').textContent")


def test_each_view_has_its_rows(opened):
    browser = opened("")
    tabs = browser.js("[...document.querySelectorAll('#views a')].map(tab => tab.textContent)")
    assert tabs == ["Pairs 96", "Responses 96", "Clusters 6", "Verdicts 30", f"Before and after {2 * HELD_OUT}"]
    for i, key in enumerate(["pairs", "responses", "clusters", "verdicts", "before-after"]):
        browser.click(f"#views a:nth-child({i + 1})")
        browser.until(f"location.hash === '#{key}'")
        browser.until(f"document.querySelectorAll('#views a')[{i}].getAttribute('aria-current') === 'page'")
        assert browser.js("document.querySelectorAll('tbody tr').length") == min(25, int(tabs[i].split()[-1]))


def test_searching_leaves_the_rows_that_hold_every_word(opened):
    browser = opened("#responses")
    browser.press("/")
    browser.type("VERY orchard")
    browser.until("document.getElementById('summary').textContent.includes('filtered from 96')")
    assert all(
        "orchard" in text or "orchard" in asked
        for text, asked in zip(cells(browser, "response"), cells(browser, "prompt"), strict=True)
    )
    assert all("very" in text for text in cells(browser, "response"))
    marks = browser.js("[...new Set([...document.querySelectorAll('tbody mark')].map(mark => mark.textContent))]")
    assert sorted(marks) == ["orchard", "very"]
    assert browser.js("location.hash") == "#responses?q=VERY+orchard"


def test_numbers_are_sorted_as_numbers_and_missing_ones_come_last(opened):
    browser = opened("#pairs?columns=score,gap,trained&per=100")
    button = "th button[data-column=score]"
    for direction in ("ascending", "descending"):
        browser.click(button)
        assert browser.js(f"document.querySelector('{button}').closest('th').ariaSort") == direction
        scores = cells(browser, "score")
        assert scores == ["20.000"] * 32 + ["–"] * 64
    browser.click(button)
    assert browser.js(f"document.querySelector('{button}').closest('th').ariaSort") is None
    assert cells(browser, "score")[:3] != ["20.000"] * 3
    browser.click("th button[data-column=gap]")
    gaps = list(map(float, cells(browser, "gap")))
    assert gaps == sorted(gaps)
    # Equal gaps keep the order of the rows, in which each prompt's trained pair has the largest.
    assert cells(browser, "trained") == ["no"] * 64 + ["yes"] * 32


def test_rewards_sort_by_size_not_by_letters(opened):
    browser = opened("#responses?sort=-reward&per=100")
    rewards = list(map(float, cells(browser, "reward")))
    assert rewards == sorted(rewards, reverse=True)
    assert rewards[0] == 16.0


def test_filters_of_words_numbers_and_texts(opened):
    browser = opened("#responses")
    browser.click("#filter")
    browser.js("""(() => {
        const choose = document.querySelector('select[data-filter=method]');
        choose.value = 'uniform';
        choose.dispatchEvent(new Event('change'));
        const least = document.querySelector('input[aria-label="reward, at least"]');
        least.value = '14.5';
        least.dispatchEvent(new Event('input'));
    })()""")
    assert set(cells(browser, "method")) == {"uniform"}
    assert sorted(map(float, cells(browser, "reward"))) == [14.5, 15.0, 15.0, 15.5, 16.0]
    assert browser.js("location.hash") == "#responses?method=uniform&reward=14.5.."
    browser.js("document.querySelector('input[data-filter=response]').focus()")
    browser.type("very very")
    browser.until("document.getElementById('summary').textContent.startsWith('1–2 of 2 rows')")
    browser.click("#active button[aria-label^='Remove filter method']")
    assert summary(browser).startswith("1–4 of 4 rows, filtered from 96")
    browser.click("#active .quiet")
    assert summary(browser).startswith("1–25 of 96 rows")
    assert browser.js("document.querySelector('select[data-filter=method]').value") == ""


def test_paging_shows_every_row_once(opened):
    browser = opened("#responses?columns=prompt_id,response,step,round")
    seen = []
    while True:
        seen += zip(*(cells(browser, label) for label in ("prompt id", "response")), strict=True)
        if browser.js("document.querySelector('#pages button:nth-of-type(3)').disabled"):
            break
        browser.click("#pages button:nth-of-type(3)")
    assert len(seen) == len(set(seen)) == 96
    assert "page=4" in browser.js("location.hash")


def test_a_row_opens_by_keyboard_and_shows_everything(opened):
    browser = opened("#pairs?trained=yes")
    browser.js("document.querySelector('tbody tr').focus()")
    browser.press("ArrowDown")
    browser.press("Enter")
    assert browser.js("document.activeElement.id") == "details"
    told = browser.js("document.getElementById('details').innerText")
    assert "dota answers 2 in round 1, step 1: the copper is very very fine." in told
    assert "dota answers 0 in round 1, step 1: the river is fine." in told
    for part in ("reward chosen 2.000", "reward rejected 1.000", "logp chosen −30.00", "logp ref rejected −9.00"):
        assert part in told.replace("\xa0", " ").replace("\n", " "), part
    browser.press("Escape")
    assert browser.js("document.getElementById('details').hidden")
    assert browser.js("document.activeElement.tagName") == "TR"
    browser.press("Enter")
    browser.click("#details .links a")
    # A link changes the address at once, and the rows only when the browser tells the page so.
    browser.until(f"new Set({CELLS.format(json.dumps('prompt'))}).size === 1")
    assert browser.js("location.hash").startswith("#pairs?prompt_id=%3Dtrain-1")
    assert set(cells(browser, "prompt")) == {"Prompt train 1: say something about a river."}


def test_the_map_chooses_a_cluster(opened):
    browser = opened("#clusters")
    assert browser.js("document.querySelectorAll('#map circle').length") == 24
    browser.click("#map circle[data-cluster='2']")
    assert cells(browser, "cluster") == ["2", "2"]
    assert browser.js("document.querySelectorAll('#map circle.faint').length") == 16
    assert browser.js("document.querySelector('#map .legend [aria-pressed=true]').textContent") == "2"
    browser.click("#map .legend [data-cluster='2']")
    assert cells(browser, "cluster") == ["0", "0", "1", "1", "2", "2"]
    assert cells(browser, "pulls") == ["6", "6", "5", "5", "5", "5"]


def test_verdicts_are_counted(opened):
    browser = opened("#verdicts?method=dota&round=2&outcome=win")
    assert summary(browser).startswith("1–5 of 5 rows, filtered from 30 · outcome: 5 win · mean change 3.000")
    browser = opened("#verdicts?method=dota&round=2")
    assert "outcome: 5 win, 1 loss · mean change 2.167" in summary(browser)


def test_before_and_after_stand_side_by_side_and_sort_by_change(opened):
    browser = opened("#before-after?method=uniform")
    browser.click("th button[data-column=change]")
    assert cells(browser, "change") == ["−2.000", "3.000", "3.000", "3.000", "3.000", "3.000"]
    assert cells(browser, "before")[0] == "the initial policy, prompt 0"
    assert cells(browser, "after")[0] == "uniform after round 2, prompt 0"
    assert (cells(browser, "reward before")[0], cells(browser, "reward after")[0]) == ("0.000", "−2.000")


def test_hostile_text_is_shown_and_inert(opened):
    browser = opened("#responses?row=0&q=" + "%3C/script%3E%3Cimg")
    assert cells(browser, "response") == [HOSTILE]
    assert browser.js("document.querySelector('#details section.response .text').textContent") == HOSTILE
    assert browser.js("document.querySelectorAll('img, tbody script, #details script').length") == 0
    assert browser.js("document.querySelectorAll('script').length") == 2
    hostile = "%22%3E%3Cimg%20src=x%20onerror=hostile=1%3E"
    opened(f"#responses?q={hostile}&response={hostile}&method={hostile}&sort={hostile}&columns={hostile}&row={hostile}")
    assert summary(browser) == "No row is like that."


def test_the_policy_lets_nothing_in_even_if_html_were_written(browser, page):
    """Were a text taken for HTML after all, its handler would not run and its picture would not be asked for."""
    browser.open(page)
    browser.requests.clear()
    browser.js("document.body.insertAdjacentHTML('beforeend', '<img src=http://127.0.0.1:9/x onerror=\"hostile=1\">')")
    browser.until("document.querySelector('img').complete")
    assert browser.js("window.hostile === undefined")
    assert browser.blocked == len(browser.requests) == 1
    browser.requests.clear()
    browser.errors.clear()


def test_a_phone_needs_no_scrolling_sideways(opened):
    browser = opened("#before-after")
    browser.size(390, 844)
    assert browser.js("document.documentElement.scrollWidth") <= 390
    assert browser.js("getComputedStyle(document.querySelector('#sort')).display") != "none"
    browser.click("tbody tr")
    pane = browser.js(
        "(() => { const box = document.getElementById('details').getBoundingClientRect();"
        " return [box.left, box.width]; })()"
    )
    assert pane == [0, 390]


def test_many_rows_are_searched_and_only_a_page_of_them_is_drawn(browser, tmp_path):
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
    browser.open(page, "#responses?sort=-reward&per=100")
    assert browser.js("document.querySelectorAll('tbody tr').length") == 100
    assert f"this page holds {MANY:,} of {2 * MANY:,} rows, drawn at random" in summary(browser)
    assert float(cells(browser, "reward")[0]) == 1.0
    browser.js("document.getElementById('search').focus()")
    browser.type("number 7777 ")
    browser.until("document.querySelectorAll('tbody tr').length === 2")
    assert {text.split()[2] for text in cells(browser, "response")} == {"7777", "17777"}
    browser.js("document.getElementById('search').select()")
    browser.type("number")
    browser.until("document.querySelectorAll('tbody tr').length === 100")
    browser.click("th button[data-column=response]")
    browser.until("document.querySelector('th[aria-sort=ascending] button')?.dataset.column === 'response'")
    assert cells(browser, "response")[1].startswith("response number 1 ")
    assert browser.js("document.querySelectorAll('tbody tr').length") == 100


def test_the_rule_makes_the_page_and_nothing_else_once_all_is_there(finished, copy_of, browser):
    """The rows of a real run; the page is the same when it is made again."""
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
    assert f"of {sum(lines)} rows" in summary(browser)
    browser.open(page, "#pairs?trained=yes")
    assert f"of {sum(trained)} rows" in summary(browser)
    browser.open(page, "#before-after?sort=change")
    changes = [float(text.replace("−", "-")) for text in cells(browser, "change")]
    assert changes == sorted(changes)
    assert browser.errors == []
