"""The page's modules in headless Chromium: Markdown without HTML, exports, folded reasoning, the verdict."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.applications import Starlette

from fixtures.chromium import Browser, chromium, find_chromium
from gllm.ui.page import Page

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


Sent = tuple[float, list[tuple[float, float]]]
"""When a micro-batch was sent, and (start, seconds) on each stage."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None
    config = uvicorn.Config(Page(Starlette()), port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    listener = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    with chromium(CHROMIUM) as tab:
        tab.open(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        yield tab
    server.should_exit = True
    thread.join(10)


UNSAFE = """<img src=x onerror=alert(1)> <script>alert(2)</script> [a](javascript:alert(3)) [b](data:text/html,x)
[c](https://example.com "t") ![d](https://example.com/x.png) [e](https://example.com/y)

<svg onload=alert(4)>

| a | b |
|---|---|
| `<b>` | **c** |

1. one
   - two *three*

```html
<b>not bold</b>
```"""


def test_text_of_a_model_never_becomes_html(browser: Browser) -> None:
    found = browser.run(
        f"import('/ui/markdown.js').then(({{ markdown }}) => {{ const d = document.createElement('div');"
        f"d.append(...markdown({json.dumps(UNSAFE)})); const tags = {{}};"
        "for (const e of d.querySelectorAll('*')) tags[e.tagName] = (tags[e.tagName] ?? 0) + 1;"
        "return { tags, links: [...d.querySelectorAll('a')].map(a => a.getAttribute('href')), text: d.textContent,"
        "attributes: [...d.querySelectorAll('*')].flatMap(e => e.getAttributeNames()) } })"
    )
    assert not {"IMG", "SCRIPT", "SVG", "B", "IFRAME"} & set(found["tags"])
    assert {tag: found["tags"][tag] for tag in ("TABLE", "OL", "UL", "PRE", "STRONG", "EM")} == dict.fromkeys(
        ("TABLE", "OL", "UL", "PRE", "STRONG", "EM"), 1
    )
    assert all(link.startswith("https://example.com") for link in found["links"])
    assert set(found["attributes"]) <= {"href", "target", "rel", "scope", "start", "data-language"}
    assert "<img src=x onerror=alert(1)>" in found["text"]
    refused = browser.run(
        "(() => { try { document.body.innerHTML = '<i>x</i>'; return '' } catch (e) { return e.name } })()"
    )
    assert refused == "TypeError", "trusted types"
    browser.errors.clear()


def test_reasoning_is_folded_and_tool_calls_are_shown_and_answered(browser: Browser) -> None:
    calls = [{"id": "c1", "name": "add", "arguments": '{"a":1}'}]
    shown = browser.run(
        "import('/ui/message.js').then(({ MessageView }) => { const m = { role: 'assistant', content: '',"
        f"reasoning: 'because', calls: {json.dumps(calls)}, tokens: [] }}; const view = new MessageView(m, {{}});"
        "document.querySelector('#conversation').append(view.element); view.draw(true);"
        "return [view.folded.open, view.folded.hidden, view.element.querySelector('.call').innerText,"
        "view.element.querySelector('form textarea').getAttribute('aria-label')] })"
    )
    assert shown == [False, False, 'Calls add\n{\n  "a": 1\n}', "Result of add"]
    exported = browser.run(
        "import('/ui/conversation.js').then(({ toApi, toMarkdown }) => { const m = [{ role: 'user', content: 'hi' },"
        "{ role: 'assistant', content: 'x', reasoning: 'r', calls: [{ id: 'c1', name: 'add', arguments: '{}' }] },"
        "{ role: 'tool', tool_call_id: 'c1', content: '2' }]; return [toApi('s', m), toMarkdown('tiny', 's', m)] })"
    )
    called = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    assert exported[0] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "x", "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    assert exported[1] == (
        "# Chat with tiny\n\n## System\n\ns\n\n## User\n\nhi\n\n## Assistant\n\n> r\n\nx\n\n"
        "```\nadd({})\n```\n\n## Tool result\n\n2\n"
    )


def verdict(browser: Browser, stages: list[float], sent_runs: list[Sent], running: int = 9) -> str:
    """The sentence for bubbles of stages, and for micro-batches with (start, seconds) on each stage."""
    tokens = {"prefill_tokens": 0, "decode_tokens": 1, "num_sequences": 1, "rows": []}
    batches = [{"step": step, "time": sent, **tokens} for step, (sent, _) in enumerate(sent_runs)]
    runs = [run for _, run in sent_runs]
    spans = [
        {"step": step, "stage": stage, "start": start, "seconds": seconds}
        for step, run in enumerate(runs)
        for stage, (start, seconds) in enumerate(run)
    ]
    done = [{"step": step, "time": max(start + seconds for start, seconds in run)} for step, run in enumerate(runs)]
    stats = {"num_running": running, "num_waiting": 0, "num_inflight": 2, "seconds_since_progress": 0, "kv_usage": 0}
    stats |= {"stages": [{"bubble": bubble, "busy": 1 - bubble} for bubble in stages]}
    events = {"time": done[-1]["time"], "sent": batches, "stages": spans, "done": done, "requests": [], "dropped": 0}
    return str(
        browser.run(
            "Promise.all([import('/ui/verdict.js'), import('/ui/pipeline_state.js')]).then(([v, p]) => {"
            f"const s = new p.PipelineState(); s.take({json.dumps(events | {'stats': stats, 'clock_shifts': []})});"
            "return v.verdict(s, null, 'chunked_prefill').text })"
        )
    )


def pipeline(seconds: list[tuple[float, float]], depth: int = 3) -> list[Sent]:
    """Run micro-batches through two stages, `depth` of them in flight. seconds: on each stage."""
    runs: list[Sent] = []
    free = [0.0, 0.0]
    done = [0.0] * depth
    for first, second in seconds:
        start = max(free[0], done[-depth])
        free[0] = start + first
        then = max(free[0], free[1])
        free[1] = then + second
        done.append(free[1])
        runs.append((done[-depth - 1], [(start, first), (then, second)]))
    return runs


def test_the_verdict_names_the_cause_of_bubbles(browser: Browser) -> None:
    even = [(0.1, 0.1)] * 50
    said = verdict(browser, [0.02, 0.03], pipeline(even))
    assert said == "Balanced: every stage computes at least 97 % of the time with work."
    said = verdict(browser, [0.5, 0.0], pipeline([(0.1, 0.2)] * 50))
    assert said == "Stage 1 is the slowest: bubbles of 50 % in stage 0."
    said = verdict(browser, [0.5, 0.5], pipeline(even, depth=1), running=1)
    assert said == "Too little work for 2 stages: bubbles of 50 % in stage 0."
    said = verdict(browser, [0.5, 0.5], pipeline(even, depth=1), running=9)
    assert said == "Requests are bunched: bubbles of 50 % in stage 0."
    said = verdict(browser, [0.2, 0.6], pipeline([(0.1, 0.1), (0.1, 0.1), (0.1, 0.1), (0.7, 0.7)] * 12))
    assert said == "Micro-batches are unequal: bubbles of 60 % in stage 1."
