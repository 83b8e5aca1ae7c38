"""The built site: links, search and errors in a real browser, and that a phone can show it; `make docs` runs it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "site"
CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
PAGES = sorted(page for page in SITE.rglob("*.html") if page.name != "404.html")
PHONE, SCREEN = 400, 1400
pytestmark = pytest.mark.site


class Page(HTMLParser):
    """What a page links to, loads, and can be linked at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.without_words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {str(found[name]) for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        if tag in ("script", "img", "iframe") and found.get("src"):
            self.loaded.append(str(found["src"]))
        if tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(str(found["href"]))
        if tag == "img" and not found.get("alt"):
            self.without_words.append(str(found.get("src")))


@pytest.fixture(scope="module")
def parsed() -> dict[Path, Page]:
    assert len(PAGES) > 40, "no site is built here: run `make docs`"
    return {path.resolve(): Page(path) for path in PAGES}


def test_links_and_anchors_lead_somewhere(parsed: dict[Path, Page]) -> None:
    broken = []
    for path, page in parsed.items():
        for link in [*page.links, *page.loaded]:
            address, anchor = urldefrag(link)
            if re.match(r"\w+:", address):
                continue
            target = (path.parent / unquote(address.partition("?")[0])).resolve() if address else path
            target = target / "index.html" if target.is_dir() else target
            here = target in parsed and anchor and unquote(anchor) not in parsed[target].anchors
            if not target.exists() or (here and anchor != "__skip"):
                broken.append(f"{path.relative_to(SITE)} -> {link}")
    assert not broken


def test_pages_load_nothing_from_elsewhere(parsed: dict[Path, Page]) -> None:
    elsewhere = {source for page in parsed.values() for source in page.loaded if re.match(r"(\w+:)?//", source)}
    assert not elsewhere
    for style in SITE.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", style.read_text(encoding="utf-8")), style


def test_every_picture_says_in_words_what_it_shows(parsed: dict[Path, Page]) -> None:
    assert not [name for page in parsed.values() for name in page.without_words]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    closed = "--host-resolver-rules=MAP * ~NOTFOUND"  # as without a network
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", closed):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


def shown(driver: Any, width: int, *, dark: bool = False) -> None:
    """Show the next pages on a screen so wide."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


#: Lowest contrast between the text of a page and what it stands on, by WCAG's formula.
CONTRAST = """
const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                     return 0.2126 * r + 0.7152 * g + 0.0722 * b };
const parts = text => text.match(/[\\d.]+/g).map(Number);
const ground = e => { for (; e; e = e.parentElement) { const c = parts(getComputedStyle(e).backgroundColor);
                      if (c.length < 4 || c[3] > 0.9) return c } return [255, 255, 255] };
const over = (c, g) => c.length < 4 ? c : c.slice(0, 3).map((v, i) => v * c[3] + g[i] * (1 - c[3]));
const all = [...document.querySelectorAll('article p, article li, article td, article a, article h1, article h2')]
  .filter(e => e.innerText.trim() && !e.classList.contains('headerlink'));
return Math.min(...all.map(e => { const g = ground(e), c = over(parts(getComputedStyle(e).color), g);
  const [a, b] = [light(c), light(g)].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05) }));
"""


@pytest.mark.parametrize(("width", "dark"), [(PHONE, False), (SCREEN, True)], ids=["phone, light", "screen, dark"])
def test_pages_are_readable_and_without_errors(browser: Any, width: int, dark: bool) -> None:
    shown(browser, width, dark=dark)
    faults = []
    for page in PAGES:
        browser.get(page.resolve().as_uri())
        needed = browser.execute_script("return document.documentElement.scrollWidth")
        if needed > width:
            faults.append(f"{page.name}: {needed} pixels wide on {width}")
        faults += [f"{page.name}: {entry['message']}" for entry in browser.get_log("browser")]
        contrast = browser.execute_script(CONTRAST)
        if contrast < 4.5:
            faults.append(f"{page.name}: text with a contrast of {contrast:.2f}")
    assert not faults


def test_search_finds_without_a_server_or_a_network(browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    shown(browser, SCREEN)
    browser.get((SITE / "methods" / "pgd.html").resolve().as_uri())
    box = WebDriverWait(browser, 30).until(lambda d: d.find_element(By.CSS_SELECTOR, ".md-search__input"))
    WebDriverWait(browser, 30).until(lambda _: box.is_displayed())
    box.click()
    box.send_keys("dropout masks of the teacher")
    links = WebDriverWait(browser, 30).until(lambda d: d.find_elements(By.CSS_SELECTOR, ".md-search-result__link"))
    found = [link.get_attribute("href") for link in links]
    assert any("bregman.html" in str(link) for link in found), found


def test_colors_follow_the_reader(browser: Any) -> None:
    grounds = {}
    for dark in (False, True):
        shown(browser, SCREEN, dark=dark)
        browser.get((SITE / "index.html").resolve().as_uri())
        browser.execute_script("localStorage.clear()")
        browser.refresh()
        grounds[dark] = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert grounds[False] == "rgb(255, 255, 255)"
    assert sum(map(int, re.findall(r"\d+", grounds[True])[:3])) < 150
