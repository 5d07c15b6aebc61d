"""The built book in a browser: what is drawn, clicked, searched, read on a phone and printed, with nothing fetched.

Pages open from the disk. The browser is Debian's Chromium; where there is none, the tests are skipped.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect, sync_playwright


def runs(command: str) -> bool:
    """Whether this is a browser: Ubuntu has a command of this name that only says where to find one."""
    return subprocess.run([command, "--version"], capture_output=True, check=False).returncode == 0


FOUND = filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"]))
CHROMIUM = next(filter(runs, FOUND), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path (Debian: apt-get install chromium)")

ROOT = Path(__file__).parents[1]
# The pages of the package share one template: a few of them stand for all in what takes long.
SAMPLES = {"stlib.data.windows", "stlib.data.worlds", "stlib.metrics"}
DESKTOP = {"width": 1200, "height": 800}
PHONE = {"width": 360, "height": 740}
PAPER = {"width": 718, "height": 1000}  # A4 less two margins of 1 cm, at 96 dots per inch

# Seen elements that begin or end outside the window or outside a box that clips them. What a box scrolls is in reach,
# unless `scrolled` asks for it too, as paper does. MathJax's text for screen readers is nowhere to be seen.
CUT = """(scrolled) => [...document.querySelectorAll("article.bd-article *")].filter((e) => {
    const box = e.getBoundingClientRect();
    if (!box.width || !e.checkVisibility() || e.closest("mjx-assistive-mml, svg, .visually-hidden")) return false;
    for (let p = e.parentElement; p; p = p.parentElement) {
        const edge = p === document.body ? {left: 0, right: innerWidth} : p.getBoundingClientRect();
        const overflow = p === document.body ? "hidden" : getComputedStyle(p).overflowX;
        if (overflow === "visible" || (box.left > edge.left - 1 && box.right < edge.right + 1)) continue;
        if (scrolled || !["auto", "scroll"].includes(overflow)) return true;
        return false;
    }
    return false;
}).map((e) => `${e.tagName} ${e.className}: ${e.textContent.trim().slice(0, 60)}`)"""

# A page of code has thousands of coloured words in a few dozen colours. One word of each is enough to measure.
ONE_WORD_A_COLOUR = """() => {
    const known = new Set();
    for (const word of document.querySelectorAll("div.highlight pre span[class]")) {
        const kind = word.className + (word.closest(".cell_output") ? " output" : "");
        if (known.has(kind)) word.replaceWith(...word.childNodes);
        known.add(kind);
    }
    document.querySelectorAll("div.highlight pre").forEach((e) => e.normalize());
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--host-resolver-rules=MAP * ~NOTFOUND"],
            ignore_default_args=["--hide-scrollbars"],  # they take room on most desktops
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(browser, built, page):
    """The page as a first visitor sees it, and what went wrong on the way."""
    context = browser.new_context(viewport=DESKTOP, offline=True, reduced_motion="reduce")
    context.set_default_timeout(10_000)
    tab, faults = context.new_page(), []
    tab.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or faults.append(f"asks for {r.url}"))
    tab.on("requestfailed", lambda request: faults.append(f"failed: {request.url[:200]}"))
    tab.on("console", lambda message: message.type == "error" and faults.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: faults.append(f"error: {error}"))
    tab.goto((built / page).as_uri())
    tab.evaluate("() => window.MathJax?.startup?.promise")
    tab.add_style_tag(content="* { transition: none !important; animation: none !important; }")
    tab.evaluate("() => document.fonts.ready.then(() => null)")
    yield tab, faults
    context.close()


@pytest.fixture
def tab(opened) -> Page:
    """The page at a desktop's width, in light colours, with everything folded."""
    tab, _ = opened
    tab.emulate_media(media="screen", color_scheme="light")
    tab.set_viewport_size(DESKTOP)
    unfold(tab, False)
    return tab


@pytest.fixture
def is_sample(page):
    if page.startswith("api/") and Path(page).stem not in SAMPLES:
        pytest.skip("other pages of the package stand for this one")


def unfold(tab: Page, open: bool) -> None:
    tab.evaluate("(open) => document.querySelectorAll('main details').forEach((e) => { e.open = open; })", open)


def test_page_opens_without_fault_and_asks_for_nothing_from_elsewhere(opened):
    _, faults = opened
    assert faults == []


def test_every_equation_is_set(tab):
    # MathJax does not complain of an unknown command: it sets its name in red.
    unset = """() => [...document.querySelectorAll(".math")].filter((e) =>
        e.querySelectorAll("mjx-container > mjx-math").length !== 1
        || e.querySelector("mjx-merror, [style*='color: red']")).map((e) => e.textContent)"""
    assert tab.evaluate(unset) == []


@pytest.mark.usefixtures("is_sample")
def test_folded_cells_unfold_and_fold(tab):
    for cell in tab.locator("div.cell > details").all():
        code, click = cell.locator("pre").first, cell.locator("summary").click
        expect(code).not_to_be_visible()
        click()
        expect(code).to_be_visible()
        assert code.inner_text().strip()
        click()
        expect(code).not_to_be_visible()


def test_frame_players_play_stop_and_follow_the_slider(tab, page):
    sources = {".ipynb": 'class=\\"frame-player\\"', ".md": "_player.html"}  # in an output, or included from a file
    paths = {(ROOT / "book" / page).with_suffix(suffix): sign for suffix, sign in sources.items()}
    players = tab.locator(".frame-player").all()
    assert len(players) == sum(path.read_text().count(sign) for path, sign in paths.items() if path.exists())
    for player in players:
        picture, button, slider = (player.locator(name) for name in ("img", "button", "input"))
        first = picture.get_attribute("src")
        button.click()
        expect(picture).not_to_have_attribute("src", first)
        button.click()
        stopped = picture.get_attribute("src")
        tab.wait_for_timeout(800)  # two frames
        assert picture.get_attribute("src") == stopped
        slider.fill(slider.get_attribute("max"))
        assert picture.get_attribute("src") not in (first, stopped)
        slider.fill("0")
        assert picture.get_attribute("src") == first
        assert picture.evaluate("(e) => e.complete && e.naturalWidth > 0")


def test_page_fits_a_phone(tab):
    tab.set_viewport_size(PHONE)
    unfold(tab, True)
    assert tab.evaluate(CUT, False) == []
    assert tab.evaluate("() => document.scrollingElement.scrollWidth") <= PHONE["width"]


def test_code_fits_its_box(tab):
    unfold(tab, True)
    wide = tab.evaluate("""() => [...document.querySelectorAll("div.cell_input pre")].map((e) =>
        [e.scrollWidth - e.clientWidth, Math.max(...e.textContent.split("\\n").map((line) => line.length))])""")
    assert [pair for pair in wide if pair[0] > 0] == []
    assert max((length for _, length in wide), default=0) <= 84


@pytest.mark.usefixtures("is_sample")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_is_accessible(tab, theme):
    tab.emulate_media(color_scheme=theme)
    expect(tab.locator("html")).to_have_attribute("data-theme", theme)
    unfold(tab, True)
    tab.evaluate(ONE_WORD_A_COLOUR)
    options = {"resultTypes": ["violations"]}
    if theme == "dark":  # only the colours differ
        options["runOnly"] = ["color-contrast", "link-in-text-block"]
    found = Axe().run(tab, options=options).response["violations"]
    assert [
        f"{finding['id']}: {node['target']} {node['failureSummary']}"
        for finding in found
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
    ] == []


@pytest.mark.usefixtures("is_sample")
def test_print_leaves_out_what_cannot_be_clicked_and_cuts_nothing(tab):
    for height in (2000, 1000):  # who scrolls up is offered a way back to the top
        tab.evaluate("(height) => scrollTo(0, height)", height)
        tab.wait_for_timeout(100)
    tab.emulate_media(media="print")
    tab.set_viewport_size(PAPER)
    seen = tab.evaluate("""() => [...document.querySelectorAll(`.bd-sidebar, .bd-header, .bd-header-article, .bd-footer,
        .prev-next-area, .headerlink, #pst-back-to-top, button, input, summary`)]
        .filter((e) => e.checkVisibility({visibilityProperty: true}) && e.getBoundingClientRect().width)
        .map((e) => `${e.tagName} ${e.className}`)""")
    assert seen == []
    # A solution stays folded on paper, unless its reader unfolded it.
    assert tab.locator("div.cell > details pre").filter(visible=True).count() == 0
    unfold(tab, True)
    assert tab.evaluate(CUT, True) == []


def test_search_finds_a_chapter(browser, built):
    context = browser.new_context(offline=True)
    tab = context.new_page()
    tab.goto((built / "search.html").as_uri() + "?q=variogram")
    expect(tab.locator("#search-results .search-summary")).to_contain_text("Search finished")
    found = tab.locator("#search-results ul.search > li > a").evaluate_all("(all) => all.map((e) => e.href)")
    assert "spacetime-data.html" in [address.split("?")[0].rsplit("/")[-1] for address in found]
    context.close()
