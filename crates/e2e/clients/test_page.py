"""The page in a headless Chromium against a real system. TANDEM_SCREENSHOTS=DIR saves screenshots of it."""

import os
import pathlib
import re
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

from conftest import ROOT

SECONDS = 60
DESKTOP, PHONE = {"width": 1440, "height": 1080}, {"width": 360, "height": 740}
SAMPLE = (ROOT / "models/demo/prompt.txt").read_text().removesuffix("\n")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        # In a container the tests run as root, and Chromium's sandbox does not start as root.
        browser = playwright.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


def _chromium():
    named = os.environ.get("TANDEM_CHROMIUM", "chromium")
    return next(str(path) for folder in ["", *os.environ["PATH"].split(":")] if (path := pathlib.Path(folder) / named).is_file())


@pytest.fixture
def opened(browser, server):
    """Opens the page. Checks at the end that every request stayed on its origin and that the console is empty."""
    requested = []
    complaints = []
    contexts = []

    def open_page(viewport=DESKTOP, scheme="light", expect_errors=False):
        context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SECONDS * 1000)
        page.on("request", lambda request: requested.append(request.url))
        if not expect_errors:
            page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        answer = page.goto(server.http)
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        expect(page.locator("#workers li")).to_have_count(2)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert {urlsplit(url).netloc for url in requested} == {urlsplit(server.http).netloc}
    assert complaints == []


def lane(page, index=0):
    return page.locator(".lane").nth(index)


def part(page, name, index=0):
    return lane(page, index).locator(f"[data-part={name}]")


def ended(page, lanes=1):
    for index in range(lanes):
        expect(lane(page, index)).to_have_attribute("data-state", "done", timeout=SECONDS * 1000)


def run_sample(page, **settings):
    page.get_by_role("button", name="Insert sample").click()
    if not page.locator("#settings").evaluate("details => details.open"):
        page.locator("summary").click()
    for name, value in settings.items():
        page.locator(f"[name='{name}']").fill(str(value))
    page.get_by_role("button", name="Run", exact=True).click()


def figures(page, index=0):
    rows = part(page, "figures", index).locator("div")
    return {row.locator("dt").inner_text(): row.locator("dd").inner_text() for row in rows.all()}


def keep(page, name):
    if folder := os.environ.get("TANDEM_SCREENSHOTS"):
        page.mouse.move(0, 0)
        page.screenshot(path=pathlib.Path(folder) / f"{name}.png", full_page=True)


def test_the_page_lists_the_workers(opened):
    page = opened()
    expect(page.locator("#pair")).to_contain_text("models/demo/target with models/demo/draft")
    roles = sorted(page.locator("#workers b").all_inner_texts())
    assert roles == ["draft", "target"]
    assert all("serving" in text for text in page.locator("#workers li").all_inner_texts())


def test_the_sample_is_that_of_the_bundled_pair(opened):
    page = opened()
    page.get_by_role("button", name="Insert sample").click()
    expect(page.get_by_label("Prompt")).to_have_value(SAMPLE)


def test_a_run_shows_text_tokens_tree_and_figures(opened):
    page = opened()
    run_sample(page, seed=7, stop=";")
    ended(page)
    text = part(page, "text").text_content()
    assert text.startswith(" SELECT")
    drafted, drawn = part(page, "text").locator(".drafted"), part(page, "text").locator(".drawn")
    assert drafted.count() > 5
    assert drawn.count() > 1
    # The difference is visible without colour.
    assert drawn.first.evaluate("token => getComputedStyle(token).textDecorationLine") == "underline"
    assert drafted.first.evaluate("token => getComputedStyle(token).textDecorationLine") == "none"

    shown = figures(page)
    assert int(shown["tokens/s"]) > 0
    assert float(shown["block efficiency"]) > 2
    assert int(shown["tokens"]) >= drafted.count()
    assert re.fullmatch(r"\d+(\.\d)? ms", shown["first token"])
    assert "not lossless" in part(page, "state").inner_text()
    assert "seed 7" in part(page, "state").inner_text()

    depths = part(page, "depths").get_attribute("aria-label")
    assert re.fullmatch(r"depth 1: \d+ %, depth 2: \d+ %, depth 3: \d+ %, depth 4: \d+ %", depths)
    times = part(page, "parts").locator("li").all_inner_texts()
    assert len(times) == 5
    assert sum(int(re.search(r"(\d+) %", time)[1]) for time in times) in range(97, 104)
    # Screen readers announce the text once, at the end.
    expect(page.get_by_role("status")).to_contain_text(text.strip())


def test_iterations_are_stepped_through(opened):
    page = opened()
    run_sample(page, seed=7, stop=";")
    ended(page)
    count = int(figures(page)["iterations"])
    expect(part(page, "step")).to_contain_text(f"Iteration {count} of {count}")
    part(page, "first").click()
    expect(part(page, "step")).to_contain_text(f"Iteration 1 of {count}")
    tree = part(page, "tree")
    path = tree.locator("g.accepted:not(.root)")
    assert path.count() == 4
    expect(tree.locator("g.bonus")).to_have_count(1)
    proposed = int(re.search(r"(\d+) proposed", part(page, "step").inner_text())[1])
    assert tree.locator("g").count() == proposed + 2
    # Tokens of this iteration are marked, later ones are dimmed.
    assert part(page, "text").locator(".now").count() == 5
    assert part(page, "text").locator(".later").count() == part(page, "text").locator(".token").count() - 5

    path.first.hover()
    expect(part(page, "detail")).to_have_text(re.compile(r"depth 1, accepted: Q −?\d+\.\d\d, P −?\d+\.\d\d, P − Q −?\d+\.\d\d"))
    part(page, "slider").focus()
    page.keyboard.press("ArrowRight")
    expect(part(page, "step")).to_contain_text(f"Iteration 2 of {count}")
    page.keyboard.press("Home")
    expect(part(page, "step")).to_contain_text("Iteration 1 of")
    part(page, "play").click()
    expect(part(page, "step")).to_contain_text(f"Iteration {count} of {count}", timeout=SECONDS * 1000)
    expect(part(page, "play")).to_have_text("Play")


def test_two_methods_side_by_side(opened):
    page = opened()
    page.locator("#method").select_option("exact-match")
    page.get_by_label("Side by side with another").check()
    run_sample(page, seed=7, stop=";")
    ended(page, 2)
    expect(lane(page, 0).locator("h2")).to_have_text("Exact match")
    expect(lane(page, 1).locator("h2")).to_have_text("Autoregressive")
    assert part(page, "text", 0).text_content() == part(page, "text", 1).text_content()
    expect(page.locator("#verdict")).to_have_text(re.compile(r"Exact match is \d+\.\d\d× as fast as Autoregressive, and wrote the same text\."))
    left, right = lane(page, 0).bounding_box(), lane(page, 1).bounding_box()
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    assert float(figures(page, 1)["block efficiency"]) == 1
    assert part(page, "text", 1).locator(".drafted").count() == 0

    page.locator("#order").select_option("together")
    page.locator("#method").select_option("mmtad")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(lane(page, 0).locator("h2")).to_have_text("MMTAD")
    ended(page, 2)


@pytest.mark.parametrize("method", ["mtad", "speculative", "specinfer", "mtjd"])
def test_every_method_runs(opened, method):
    page = opened()
    page.locator("#method").select_option(method)
    run_sample(page, seed=7)
    ended(page)
    assert int(figures(page)["tokens"]) > 5
    assert part(page, "tree").locator("g").count() > 1


def test_the_keyboard_alone(opened):
    page = opened()

    def tab_to(selector):
        element = page.locator(selector).first
        for _ in range(40):
            page.keyboard.press("Tab")
            if element.evaluate("e => e === document.activeElement"):
                seen = "e => getComputedStyle(e.querySelector?.('.box') ?? e)[e.tagName === 'g' ? 'strokeWidth' : 'outlineStyle']"
                assert element.evaluate(seen) not in ("none", "1px"), f"the focus on {selector} is not visible"
                return
        pytest.fail(f"Tab does not reach {selector}")

    tab_to("#prompt")
    page.keyboard.insert_text(SAMPLE)
    tab_to("#compare")
    page.keyboard.press("Space")
    tab_to("[name='seed']")
    page.keyboard.type("7")
    page.keyboard.press("Control+Enter")
    ended(page, 2)
    tab_to("[data-part=text]")
    tab_to("[data-part=back]")
    page.keyboard.press("Enter")
    tab_to("[data-part=tree] g[tabindex='0']")
    before = part(page, "detail").inner_text()
    page.keyboard.press("ArrowLeft")
    assert part(page, "detail").inner_text() != before
    assert page.locator("[data-part=tree]").first.locator("g:focus").count() == 1


def test_a_run_is_stopped(opened):
    page = opened()
    page.locator("#method").select_option("autoregressive")
    run_sample(page, max_tokens=400, temperature=100, top_k=0, top_p=1)
    expect(part(page, "text").locator(".token").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(lane(page)).to_have_attribute("data-state", re.compile("stopped|done"))
    expect(page.locator("#stop")).to_be_disabled()


def test_errors_show_the_message_of_the_server(opened):
    page = opened(expect_errors=True)
    run_sample(page, **{"decoding.beam_width": 33})
    expect(part(page, "problem")).to_contain_text("beam_width")
    expect(part(page, "problem")).to_contain_text("33")
    expect(page.locator("[name='decoding.beam_width']")).to_have_attribute("aria-invalid", "true")
    page.locator("[name='decoding.beam_width']").fill("4")
    page.keyboard.press("Control+Enter")
    ended(page)
    expect(part(page, "problem")).to_be_hidden()
    page.get_by_label("Prompt").fill("")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_have_text("Write a prompt, or insert the sample.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "viewport"), [("desktop", DESKTOP), ("phone", PHONE)])
def test_it_fits_and_can_be_read(opened, scheme, name, viewport):
    page = opened(viewport, scheme)
    if name == "desktop":
        page.get_by_label("Side by side with another").check()
    run_sample(page, seed=7, stop=";")
    ended(page, 2 if name == "desktop" else 1)
    for back in page.locator("[data-part=back]").all():
        back.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate(CONTRASTS) == []
    if name == "phone":
        page.locator("summary").click()
    keep(page, f"page-{name}-{scheme}")


# Controls without an accessible name, images without alternative text, and ids that are not unique.
NAMELESS = """() => {
  const named = (e) => e.labels?.length || e.getAttribute("aria-label") || (e.tagName === "BUTTON" && e.textContent.trim());
  const controls = [...document.querySelectorAll("input, select, textarea, button, [role=img], [role=region]")];
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  const images = [...document.images].filter((e) => !e.hasAttribute("alt"));
  return [...controls.filter((e) => !named(e)), ...images].map((e) => e.outerHTML)
    .concat(ids.filter((id, i) => ids.indexOf(id) !== i), document.documentElement.lang ? [] : ["no language"]);
}"""

# The contrast of every element's text with its background must be 4.5:1, as WCAG 2 AA requires, and that of borders of
# controls 3:1.
CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (color) => {
    const [r, g, b] = rgba(color).map((x) => (x / 255 <= 0.04045 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const background = (e) => {
    for (; e; e = e.parentElement) {
      const box = e instanceof SVGGElement && e.querySelector(".box");
      const color = box ? getComputedStyle(box).fill : getComputedStyle(e).backgroundColor;
      if (rgba(color)[3] === 255) return color;
    }
    return "white";
  };
  const bad = [];
  for (const e of document.querySelectorAll("body *")) {
    const style = getComputedStyle(e);
    const written = [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!e.checkVisibility() || e.disabled || e.closest("template")) continue;
    const color = e instanceof SVGElement ? style.fill : style.color;
    const contrast = ratio(color, background(e));
    if (written && contrast < 4.5) bad.push(`${e.tagName} ${e.className.baseVal ?? e.className} "${e.textContent.slice(0, 20)}" ${contrast.toFixed(2)}`);
    if (e.matches("input:not([type=checkbox], [type=range]), select, textarea, button:not(.link)")) {
      const edge = ratio(style.borderTopColor, background(e.parentElement));
      if (edge < 3) bad.push(`border of ${e.id || e.name} ${edge.toFixed(2)}`);
    }
  }
  return bad;
}"""
