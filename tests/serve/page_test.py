"""The page, driven in a Chromium that is installed."""

import contextlib
import re
import shutil
import threading

import pytest
import uvicorn
from serve.app_test import FILES
from serve.conftest import png

from coca_jax.image_search import ImageIndex
from coca_jax.serve.app import make_app
from coca_jax.serve.limits import Limits
from coca_jax.serve.server import bind, url
from coca_jax.serve.service import Served, Service

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
LIMITS = Limits(max_batch=8, max_bytes=200_000, max_pixels=10_000)
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}


@pytest.fixture(scope="module")
def base(model, tmp_path_factory):
    """The URL of a server with a small index, in a thread of this process."""
    folder = tmp_path_factory.mktemp("indexed")
    for i in range(3):
        (folder / f"{i}.png").write_bytes(FILES[i])

    def embed(paths):
        pixels, errors = model.read_images(paths)
        return model.encode_image(pixels), errors

    index = ImageIndex(tmp_path_factory.mktemp("index"), folder, "tiny")
    index.update(embed)
    served = Served(model, "tiny", writes_answers=True, index=index)
    opened = bind("127.0.0.1", 0)
    config = uvicorn.Config(make_app(Service(served, LIMITS)), log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([opened],))
    thread.start()
    yield url(opened)
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, base):
    """Opens the page; a script's error, or a request to another server, fails the test."""
    contexts, problems = [], []

    def open_page(**options):
        context = browser.new_context(**options)
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: r.url.startswith((base, "blob:")) or problems.append(r.url))
        page.goto(base)
        page.wait_for_selector("main:not([hidden])")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


def choose(page, data=FILES[1], name="a.png"):
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})


def letters(text):
    """The letters of a text: a model of random parameters also writes what cannot be shown."""
    return re.sub("[^a-z]", "", text)


def lit(page):
    """Whether a map is drawn: the image is shaded, and not everywhere alike."""
    return page.evaluate(
        """() => {
          const canvas = document.querySelector("#overlay.on");
          if (!canvas) return false;
          const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          const alphas = new Set(data.filter((_, i) => i % 4 == 3));
          return alphas.size > 2;
        }"""
    )


def test_an_image_is_captioned_and_words_show_their_maps(open_page, model, tmp_path):
    page = open_page()
    choose(page)
    page.wait_for_selector("[data-method=sample] .word")
    (tmp_path / "a.png").write_bytes(FILES[1])
    (expected,) = model.caption(model.preprocess([tmp_path / "a.png"]))
    greedy = page.locator("[data-method=greedy]")
    shown = greedy.locator(".words").inner_text()
    assert letters(shown) == letters(expected.text) != ""
    nats = re.search(r"log p −([\d.]+)", greedy.inner_text())[1]
    assert -float(nats) == pytest.approx(expected.log_probability, abs=0.006)
    assert page.locator("[data-method=beam] li").count() == 3
    assert page.locator("[data-method=sample] li").count() == 3
    assert not lit(page)
    word = greedy.locator(".word").first
    word.hover()
    assert lit(page) and word.inner_text() in page.locator("#hint").inner_text()
    page.mouse.move(0, 0)
    assert not lit(page)


def test_the_keyboard_is_enough(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    choose(page)
    page.wait_for_selector("[data-method=sample] .word")
    words = page.locator("[data-method=beam] .words").first.locator(".word")
    words.first.focus()
    assert lit(page)
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == words.nth(1).inner_text()
    page.keyboard.press("Enter")
    assert words.nth(1).get_attribute("aria-pressed") == "true"
    page.keyboard.press("Tab")  # to the next caption: one stop for each
    assert page.evaluate("document.activeElement.closest('li')") is not None
    page.focus("#labels")
    assert lit(page)  # what was chosen stays
    page.keyboard.type("a ring, a star")
    page.keyboard.press("Enter")
    page.wait_for_selector("#classify .bars")
    assert page.locator("#classify li").count() == 2


def test_labels_questions_and_search_on_a_phone(open_page):
    page = open_page(**PHONE)
    page.fill("#labels", "a ring")
    page.tap("#classify button")
    assert "Choose an image first" in page.locator("#classify .result").inner_text()
    choose(page)
    page.wait_for_selector("#classify .bars")  # the labels that are there are compared at once
    page.fill("#question", "a red")
    page.tap("#answer button")
    page.wait_for_selector("#answer .said")
    page.fill("#query", "a ring")
    page.tap("#search button")
    page.wait_for_selector("#search .grid img")
    page.tap("#similar")
    first = page.locator("#search .grid li", has_text="1.000").locator("img")
    first.scroll_into_view_if_needed()
    assert first.get_attribute("alt") == "1.png"
    first.evaluate("image => image.decode()")  # fails unless it is an image
    assert page.locator("#search .grid img").count() == 3
    page.wait_for_selector("[data-method=sample] .word")
    page.locator("[data-method=greedy] .word").first.tap()
    assert lit(page)
    wide = page.evaluate(
        """() => [...document.querySelectorAll("main *")]
          .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
          .map((one) => one.outerHTML.slice(0, 200))"""
    )
    assert not wide


REFUSED = [
    (b"a text", "a.txt", "cannot be read as an image"),
    (png(0, 200, 90), "b.png", "90 x 200 pixels"),
    (bytes(300_000), "c.png", "at most 0.2 MB"),
]


@pytest.mark.parametrize(("data", "name", "message"), REFUSED)
def test_a_file_that_is_refused_is_explained_and_another_one_taken(open_page, data, name, message):
    page = open_page()
    choose(page, data, name)
    alert = page.wait_for_selector("[role=alert]")
    assert message in alert.inner_text() and page.locator(".word").count() == 0
    choose(page)
    page.locator("[data-method=greedy] .word").first.click()
    assert page.locator("[role=alert]").count() == 0
    choose(page, data, name)
    page.wait_for_selector("[role=alert]")
    assert not lit(page) and not page.locator("#hint").inner_text()


def test_a_server_that_is_gone_or_fails_is_explained_and_asked_again(open_page):
    page = open_page()
    page.route("**/v1/caption", lambda route: route.abort())
    choose(page)
    assert "cannot be reached" in page.wait_for_selector("[role=alert]").inner_text()
    page.unroute("**/v1/caption")
    page.route("**/v1/caption", lambda route: route.fulfill(status=503, body="{}"))
    page.click("button:text('Try again')")
    page.wait_for_selector("text=The server is busy")
    page.unroute("**/v1/caption")
    page.click("button:text('Try again')")
    page.wait_for_selector("[data-method=greedy] .words")


def test_a_slow_answer_does_not_replace_a_newer_one(open_page):
    page = open_page()
    choose(page)
    page.wait_for_selector("[data-method=sample] .word")
    held = []
    page.route("**/v1/*", lambda route: held.append(route) if len(held) < 2 else route.continue_())
    page.fill("#labels", "first, old")
    page.click("#classify button")
    page.fill("#query", "a ring")
    page.click("#search button:text('Search')")
    page.wait_for_timeout(200)
    assert len(held) == 2
    page.fill("#labels", "second, new")
    page.click("#classify button")
    page.click("#similar")
    page.wait_for_selector("#classify .bars >> text=second")
    page.wait_for_selector("#search .grid img")
    shown = page.locator("#search .grid").inner_text()
    for route in held:
        content = '{"images": [[{"label": "first", "probability": 1, "score": 1}]], "matches": []}'
        with contextlib.suppress(sync_api.Error):  # its request was aborted
            route.fulfill(body=content, content_type="application/json")
    page.wait_for_timeout(200)
    assert "second" in page.locator("#classify .bars").inner_text()
    assert page.locator("#search .grid").inner_text() == shown


def test_dropped_and_pasted_images_are_taken(open_page):
    page = open_page()
    for kind in ("drop", "paste"):
        page.evaluate(
            """([kind, bytes]) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], `${kind}.png`, {type: "image/png"}));
              const init = {bubbles: true, cancelable: true};
              dispatchEvent(kind == "drop"
                ? new DragEvent("drop", {...init, dataTransfer: data})
                : new ClipboardEvent("paste", {...init, clipboardData: data}));
            }""",
            [kind, list(FILES[0])],
        )
        page.wait_for_selector(f"img[alt='The chosen image, {kind}.png']")
        page.wait_for_selector("[data-method=sample] .word")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_background(open_page, scheme):
    """Contrast of at least 4.5, as WCAG 2 asks for."""
    page = open_page(color_scheme=scheme)
    ratios = page.evaluate(
        """() => {
          const style = getComputedStyle(document.documentElement);
          const light = (name) => {
            const hex = style.getPropertyValue(name).trim().slice(1);
            const parts = [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
            const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            const [r, g, b] = parts.map(linear);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const pairs = [["--ink", "--paper"], ["--ink", "--card"], ["--muted", "--paper"],
            ["--muted", "--card"], ["--accent", "--paper"], ["--accent", "--card"],
            ["--accent", "--soft"], ["--on-accent", "--accent"], ["--bad", "--bad-soft"]];
          return Object.fromEntries(pairs.map(([a, b]) => {
            const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
            return [`${a} on ${b}`, (high + 0.05) / (low + 0.05)];
          }));
        }"""
    )
    assert all(ratio >= 4.5 for ratio in ratios.values()), ratios


def test_everything_to_operate_has_a_name(open_page):
    page = open_page()
    choose(page)
    page.wait_for_selector("[data-method=sample] .word")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, a, img, section")]
          .filter((one) => !(one.innerText || one.alt || one.ariaLabel || one.labels?.length))
          .map((one) => one.outerHTML)"""
    )
    assert not nameless
