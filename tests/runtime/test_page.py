"""The web page in headless Chromium, against one real server of two stages with an API key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from serving import Server, Stream, end_all, until

from fixtures.chromium import Browser, chromium, find_chromium
from fixtures.tiny_models import write_hf

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
    pytest.mark.timing,
]
KEY = "s3cret"
ANSWERED = "document.querySelector('#send').hidden === false && !document.querySelector('.answering')"


class Site:
    def __init__(self, server: Server, browser: Browser) -> None:
        self.server = server
        self.browser = browser

    def open(self, view: str) -> Browser:
        """Load the page with the key, as a tab that has it."""
        browser = self.browser
        browser.size(1180, 800)
        browser.open("about:blank")
        browser.open(f"http://127.0.0.1:{self.server.port}/#{view}")
        browser.until("document.querySelector('#model')?.textContent")
        # A random model would end its answer by chance.
        browser.run(
            "{ const plain = fetch; window.fetch = (url, options) => { if (!options?.body) return plain(url, options);"
            "const body = JSON.stringify({ ...JSON.parse(options.body), ignore_eos: true });"
            "return plain(url, { ...options, body }) } }"
        )
        return browser

    def ask(self, text: str, **settings: object) -> None:
        for name, value in settings.items():
            field = f"document.querySelector('[name={name}]')"
            change = f"checked = {json.dumps(value)}" if isinstance(value, bool) else f"value = {json.dumps(value)}"
            self.browser.run(f"{field}.{change}")
        self.browser.click("#prompt")
        self.browser.type(text)
        self.browser.press("Enter")

    def metric(self, name: str) -> float:
        text = self.server.http.get("/metrics").text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"gllm:{name}{{"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    assert CHROMIUM is not None
    folder = tmp_path_factory.mktemp("page")
    model = write_hf("llama", folder / "model", max_position_embeddings=16384)
    server = Server(model, folder / "err", "--pp", "2", "--api-key", KEY)
    server.http.headers["Authorization"] = f"Bearer {KEY}"
    try:
        with chromium(CHROMIUM) as browser:
            server.wait_ready()
            yield Site(server, browser)
    finally:
        end_all([server])


def test_1_the_page_asks_for_the_key_and_keeps_it_in_this_tab(site: Site) -> None:
    browser = site.browser
    browser.open(f"http://127.0.0.1:{site.server.port}/")
    browser.until("document.querySelector('#key-dialog').open")
    assert ("dialog", "API key") in browser.accessibility_tree()
    for key in ("wrong", KEY):
        browser.click("#key")
        browser.type(key)
        browser.press("Enter")
        if key == "wrong":
            browser.until("document.querySelector('#key-error').textContent.includes('refused')")
    browser.until("document.querySelector('#model').textContent === 'tiny'")
    assert browser.run("document.querySelector('#state').dataset.state") == "ready"
    assert browser.run("Object.values(sessionStorage)") == [KEY]
    assert browser.run("localStorage.length + document.cookie.length") == 0


def test_2_a_chat_streams_and_a_message_can_be_edited(site: Site) -> None:
    browser = site.open("chat")
    site.ask("the quick", max_tokens="40", temperature="0")
    browser.until(ANSWERED)
    assert re.search(r"\d+ \+ \d+ tokens", browser.run("document.querySelector('.assistant .tools').innerText"))
    first = browser.run("document.querySelector('.assistant .body').innerText")
    assert "complete" in browser.run("document.querySelector('#chat-state').textContent")
    site.ask("and more")
    browser.until(f"document.querySelectorAll('.message').length === 4 && {ANSWERED}")
    browser.run("document.querySelector('.user .tools button').click()")
    browser.until("document.activeElement.closest('.editor') !== null")
    browser.run("document.activeElement.select()")
    browser.type("the lazy dog")
    browser.press("Enter")
    browser.until(f"document.querySelectorAll('.message').length === 2 && {ANSWERED}")
    assert browser.run("document.querySelector('.user .body').innerText") == "the lazy dog"
    assert browser.run("document.querySelector('.assistant .body').innerText") != first


def test_3_escape_stops_an_answer_also_in_the_engine(site: Site) -> None:
    browser = site.open("chat")
    site.ask("the quick", max_tokens="15000", temperature="0")
    browser.until("document.querySelector('.assistant .body').innerText.length > 20")
    assert site.metric("num_requests_running") == 1
    browser.press("Escape")
    browser.until(ANSWERED)
    assert "stopped" in browser.run("document.querySelector('.assistant .tools').innerText")
    assert "stopped" in browser.run("document.querySelector('#chat-state').textContent")
    until(lambda: site.metric("num_requests_running") == 0, 10)


def test_4_token_probabilities_by_pointer_and_by_keyboard(site: Site) -> None:
    browser = site.open("chat")
    site.ask("the quick", max_tokens="12", temperature="0", logprobs=True)
    browser.until("document.querySelectorAll('.tokens span').length >= 10")
    browser.hover(".tokens span:nth-child(3)")
    rows = browser.until("document.querySelector('#token-tip') && document.querySelectorAll('#token-tip tr').length")
    assert rows == 5
    shares = browser.run(
        "[...document.querySelectorAll('#token-tip td:last-child')].map(x => parseFloat(x.textContent))"
    )
    assert shares == sorted(shares, reverse=True)
    browser.run("document.querySelector('.tokens span').focus()")
    browser.press("ArrowRight")
    assert browser.run("[...document.activeElement.parentElement.children].indexOf(document.activeElement)") == 1
    assert browser.run("document.activeElement.getAttribute('aria-describedby')") == "token-tip"
    browser.run("document.querySelector('[aria-pressed]').click()")
    browser.until("!document.querySelector('.tokens')")


def test_5_the_pipeline_shows_micro_batches_and_the_life_of_a_request(site: Site) -> None:
    browser = site.open("pipeline")
    browser.until("document.querySelector('#verdict').textContent.startsWith('Idle')")
    streams = [Stream(site.server, key=KEY, prompt="the quick " * 40, max_tokens=500) for _ in range(4)]
    browser.until("document.querySelectorAll('.requests tbody button').length === 4")
    browser.until("!document.querySelector('#verdict').textContent.startsWith('Idle')")
    assert "busy" in browser.run("document.querySelector('.card .value').textContent")
    browser.run("document.querySelector('canvas').focus()")
    browser.press("ArrowLeft")
    details = browser.until("/Micro-batch \\d+/.test(details.innerText) && details.innerText")
    assert "Stage 0" in details
    browser.click(".controls button")
    assert browser.run("document.querySelector('.controls button').getAttribute('aria-pressed')") == "true"
    browser.click(".controls button")
    browser.click(".requests tbody tr:last-child button")
    life = browser.until("details.innerText.includes('First token') && details.innerText")
    assert re.search(r"Prompt\s+\d+ tokens", life)
    assert browser.run("document.activeElement.id") == "details"
    for stream in streams:
        stream.result()
    browser.until("details.innerText.includes('at the length limit')")
    browser.until("document.querySelector('#verdict').textContent.startsWith('Idle')")


def test_6_a_killed_worker_is_seen_and_healed_and_the_answer_goes_on(site: Site) -> None:
    browser = site.open("chat")
    site.ask("the quick", max_tokens="1500", temperature="0")
    browser.until("document.querySelector('.assistant .body').innerText.length > 20")
    browser.run("location.hash = '#pipeline'")
    browser.until("document.querySelector('#verdict') && document.querySelectorAll('.card').length > 6")
    site.server.kill("worker-1")
    browser.until("document.querySelector('#verdict').textContent.startsWith('No engine serves')")
    assert browser.run("document.querySelector('.verdict').dataset.level") == "bad"
    browser.until("document.querySelector('#state').dataset.state === 'waiting'")
    browser.run("location.hash = '#chat'")
    assert browser.run("Boolean(document.querySelector('.answering'))"), "the answer pauses, and does not fail"
    browser.until("document.querySelector('#state').dataset.state === 'ready'", 60)
    browser.until(ANSWERED, 90)
    tools = browser.run("document.querySelector('.assistant .tools').innerText")
    assert "+ 1500 tokens" in tools
    assert not browser.run("document.querySelector('.assistant .error')")
    browser.run("location.hash = '#pipeline'")
    browser.until("!document.querySelector('#verdict').textContent.startsWith('No engine serves')")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [900, 400])
def test_7_nothing_is_cut_off(site: Site, width: int, dark: bool) -> None:
    browser = site.open("chat")
    browser.dark(dark)
    browser.size(width, 800)
    site.ask("word " * 60 + "x" * 300, max_tokens="20", temperature="0")
    browser.until(ANSWERED)
    for view in ("chat", "pipeline"):
        browser.run(f"location.hash = '#{view}'")
        browser.until(f"document.querySelector('#{view}').hidden === false")
        assert browser.run("document.documentElement.scrollWidth") <= width
        wide = browser.run(
            f"[...document.querySelectorAll('#{view} *, header *')].filter(e => e.checkVisibility()"
            "&& !e.closest('.scroll, .hidden, pre') && e.getBoundingClientRect().right > innerWidth + 1)"
            ".map(e => e.tagName + '.' + e.className)"
        )
        assert not wide
    # Text of both kinds is legible on both backgrounds (WCAG AA).
    colours = browser.run(
        "Object.fromEntries(['text', 'muted', 'error', 'accent', 'back', 'panel'].map(name => {"
        "const e = document.createElement('i'); e.style.color = `var(--${name})`; document.body.append(e);"
        "const c = getComputedStyle(e).color; e.remove(); return [name, c] }))"
    )
    for text in ("text", "muted", "error", "accent"):
        for back in ("back", "panel"):
            assert contrast(colours[text], colours[back]) >= 4.5, (text, back)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours `rgb(r, g, b)`, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("view", ["chat", "pipeline"])
def test_8_everything_has_a_name_and_is_reached_by_tab(site: Site, view: str) -> None:
    browser = site.open(view)
    controls = {"button", "link", "textbox", "combobox", "checkbox", "spinbutton", "slider", "image"}
    found = [(role, name) for role, name in browser.accessibility_tree() if role in controls]
    assert len(found) > 4
    assert all(name for _, name in found), found
    assert ("main", view.capitalize()) in browser.accessibility_tree()
    wanted = {"chat": "prompt", "pipeline": "CANVAS"}[view]
    browser.run("document.querySelector('#to-chat').focus()")
    reached = ["to-chat"]
    for _ in range(30):
        browser.press("Tab")
        reached.append(browser.run("document.activeElement.id || document.activeElement.tagName"))
        assert browser.run("getComputedStyle(document.activeElement).outlineStyle") != "none", reached
        if wanted in reached:
            break
    assert wanted in reached
    assert reached.index("to-pipeline") == 1


def test_9_nothing_was_refused_by_the_policy_and_no_script_failed(site: Site) -> None:
    """401 without the key and 503 while the engine was replaced are answers that the page expects."""
    expected = re.compile(r"status of (401|503)|ERR_ABORTED")
    assert not [one for one in site.browser.errors if not expected.search(one)]
