"""The page of runs in a real browser: nothing on its console, curves, a search, phone and desktop, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from r0.report.page import write_page
from tests.browser import Browser, find_browser
from tests.unit.test_report import HOSTILE, opened, rerank_run, training_run

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium or Chrome is installed here")
DESKTOP, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page of a training run and a rerank run, whose texts are hostile."""
    folder = tmp_path_factory.mktemp("pages")
    write_page(opened(training_run(folder / "one", text=HOSTILE), rerank_run(folder)), folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests."""
    assert PROGRAM is not None
    with Browser(PROGRAM, tmp_path_factory.mktemp("profile")) as found:
        yield found


def test_the_page_draws_its_curves_finds_what_is_typed_and_says_nothing_on_the_console(pages: Path, browser: Browser) -> None:
    browser.open(pages, *DESKTOP)
    assert browser.evaluate("document.querySelectorAll('.plot .trace, .plot .point').length") > 20
    assert browser.evaluate("document.querySelector('.plot .trace path').getAttribute('d').length") > 20
    browser.type_into("#sample-filters input[type=search]", "needle3 STEP")
    shown = browser.wait_for("document.querySelector('#sample-filters .count').textContent.includes('match')"
                             " && [...document.querySelectorAll('#sample-list h3')].map((one) => one.textContent)")  # fmt: skip
    assert set(shown) == {"needle3?"}
    assert browser.evaluate("document.querySelector('#sample-list mark').textContent") == "needle3"
    browser.type_into("#query-filters input[type=search]", "q1")
    ids = "document.querySelector('#query-list').textContent"
    browser.wait_for(f"{ids}.includes('query q1') && !{ids}.includes('query q0')")
    assert browser.evaluate("window.pwned === undefined && document.querySelectorAll('main img, main script').length === 0")
    assert browser.said == []
    assert {address.partition(":")[0] for address in browser.asked} <= {"file", "data", "blob"}


@pytest.mark.slow
def test_a_violation_can_be_chosen(pages: Path, browser: Browser) -> None:
    browser.open(pages, *DESKTOP)
    choose = "const one = document.querySelector('#sample-filters [name=violation]'); one.value = 'cut';"
    browser.evaluate(f"(() => {{ {choose} one.dispatchEvent(new Event('input', {{bubbles: true}})) }})()")
    browser.wait_for("document.querySelector('#sample-filters .count').textContent.includes('match')")
    cards = browser.evaluate("[...document.querySelectorAll('#sample-list .item')].map((one) => one.textContent)")
    assert cards
    assert all("· cut" in card for card in cards)


@pytest.mark.parametrize(
    ("size", "dark"),
    [
        pytest.param(DESKTOP, False, id="desktop-light"),
        pytest.param(PHONE, True, id="phone-dark"),
        pytest.param(DESKTOP, True, id="desktop-dark", marks=pytest.mark.slow),
        pytest.param(PHONE, False, id="phone-light", marks=pytest.mark.slow),
    ],
)
def test_the_page_fits_and_its_text_stands_out(pages: Path, browser: Browser, size: tuple[int, int], dark: bool) -> None:
    browser.open(pages, *size, dark=dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= size[0]
    for selector in ("h1", ".note", ".meta", "nav a", ".good", ".bad", ".plot .xtick text"):
        assert browser.evaluate(CONTRAST % selector) >= 4.5, selector
    levels = browser.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((one) => Number(one.tagName[1]))")
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert browser.said == []


CONTRAST = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((one) => one / 255)
    .map((one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
  const element = document.querySelector('%s'), style = getComputedStyle(element);
  let under = element;
  while (under && !(parse(getComputedStyle(under).backgroundColor)[3] ?? 1)) under = under.parentElement;
  const text = light(parse(element instanceof SVGElement ? style.fill : style.color));
  const paper = light(parse(getComputedStyle(under).backgroundColor));
  return (Math.max(text, paper) + 0.05) / (Math.min(text, paper) + 0.05);
})()"""
