from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gllm.text.output.detokenizer import TextStream
from gllm.text.output.stop_strings import StopStrings
from gllm.text.tokenizer import Tokenizer


def chunked(ids: list[int], sizes: list[int]) -> list[list[int]]:
    """Cuts ids into pieces of the given sizes (cycled)."""
    pieces, start, turn = [], 0, 0
    while start < len(ids):
        size = sizes[turn % len(sizes)] if sizes else 1
        pieces.append(ids[start : start + size])
        start, turn = start + size, turn + 1
    return pieces


def stream(tokenizer: Tokenizer, pieces: list[list[int]], **options: object) -> tuple[str, str | None]:
    texts = TextStream(tokenizer, **options)  # type: ignore[arg-type]  # options are spelled by each test
    out = "".join(texts.feed(piece) for piece in pieces)
    return out + texts.finish(), texts.stop_reason


def naive_stop(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """The definition: the match that ends first, of several the longest."""
    found = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not found:
        return text, None
    end, _, stop = min(found)
    return text[: end if include else end - len(stop)], stop


@settings(max_examples=200)
@given(data=st.data())
def test_feeds_add_up_to_decode(smollm: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, smollm.vocab_size - 1), max_size=60))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    skip = data.draw(st.booleans())
    text, _ = stream(smollm, chunked(ids, sizes), skip_special_tokens=skip)
    assert text == smollm.decode(ids, skip_special_tokens=skip)


@settings(max_examples=200)
@given(data=st.data())
def test_stop_strings_equal_naive_search(smollm: Tokenizer, data: st.DataObject) -> None:
    text = data.draw(st.text(alphabet="ab\n c\u00e9\U0001f600", max_size=80))
    stops = data.draw(
        st.lists(st.text(alphabet="ab\n \u00e9\U0001f600", min_size=1, max_size=6), min_size=1, max_size=4)
    )
    include = data.draw(st.booleans())
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    ids = smollm.encode(text)
    assert stream(smollm, chunked(ids, sizes), stop=StopStrings(stops), include_stop=include) == naive_stop(
        text, stops, include
    )


@settings(max_examples=200)
@given(data=st.data())
def test_stop_strings_that_end_within_min_tokens_do_not_count(smollm: Tokenizer, data: st.DataObject) -> None:
    text = data.draw(st.text(alphabet="ab", max_size=60))
    stops = data.draw(st.lists(st.text(alphabet="ab", min_size=1, max_size=9), min_size=1, max_size=30))
    ids = [token for char in text for token in smollm.encode(char)]
    least = data.draw(st.integers(0, 60))
    ends = [
        (end, -len(stop), stop)
        for end in range(least + 1, len(text) + 1)
        for stop in stops
        if text[:end].endswith(stop)
    ]
    end, _, stop = min(ends, default=(len(text), 0, None))
    expected = text[: end - len(stop or "")]
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    assert stream(smollm, chunked(ids, sizes), stop=StopStrings(stops), min_tokens=least) == (expected, stop)


def test_many_long_stop_strings_cost_little() -> None:
    """Strings that overlap themselves and each other: the worst for a search that starts again at each character."""
    stops = StopStrings(["a" * length + "b" for length in range(1, 1000)] + ["a" * 5000])
    state = ""
    for _ in range(4999):
        state = stops.advance(state, "a")
        assert stops.completed(state) is None
    assert stops.completed(stops.advance(state, "b")) == "a" * 999 + "b"
    assert stops.completed(stops.advance(state, "a")) == "a" * 5000


@settings(max_examples=100)
@given(data=st.data())
def test_never_shows_what_may_become_a_stop_string(smollm: Tokenizer, data: st.DataObject) -> None:
    text = data.draw(st.text(alphabet="ab", max_size=40))
    stop = data.draw(st.text(alphabet="ab", min_size=1, max_size=6))
    texts = TextStream(smollm, stop=StopStrings([stop]))
    expected, _ = naive_stop(text, [stop], include=False)
    shown = ""
    for token in smollm.encode(text):
        shown += texts.feed([token])
        assert expected.startswith(shown)


def test_holds_back_no_more_than_needed(smollm: Tokenizer) -> None:
    texts = TextStream(smollm, stop=StopStrings(["STOP"]))
    ids = [token for char in "xxSTxSTO" for token in smollm.encode(char)]
    assert [texts.feed([token]) for token in ids] == ["x", "x", "", "", "STx", "", "", ""]
    assert texts.finish() == "STO"
    assert texts.stop_reason is None


def test_counts_tokens_up_to_the_stop_string(smollm: Tokenizer) -> None:
    ids = [token for char in "abcdef" for token in smollm.encode(char)]
    texts = TextStream(smollm, stop=StopStrings(["cd"]))
    assert texts.feed(ids) == "ab"
    assert texts.num_tokens == 4
    assert texts.feed(ids) == ""
    assert texts.finish() == ""
    assert texts.num_tokens == 4


def test_partial_characters_wait(smollm: Tokenizer) -> None:
    ids = smollm.encode("\U0001f9a9")
    assert len(ids) > 1
    texts = TextStream(smollm)
    assert [texts.feed([token]) for token in ids] == [""] * (len(ids) - 1) + ["\U0001f9a9"]
    cut = TextStream(smollm)
    assert cut.feed(ids[:-1]) == ""
    assert cut.finish() == "\ufffd"


@pytest.mark.parametrize("token", [-1, 49152, 10**9])
def test_ids_beyond_the_vocabulary_show_nothing(smollm: Tokenizer, token: int) -> None:
    assert TextStream(smollm).feed([token, *smollm.encode("a")]) == "a"
    assert smollm.decode([token, *smollm.encode("a")]) == "a"


def test_sentencepiece_leading_space(sentencepiece: Tokenizer) -> None:
    ids = sentencepiece.encode("hello world", add_special_tokens=False)
    assert stream(sentencepiece, [[token] for token in ids])[0] == "hello world"
    assert stream(sentencepiece, [ids], keep_leading_space=True)[0] == " hello world"
    special = [*sentencepiece.encode("<s>", add_special_tokens=False), *ids]
    assert stream(sentencepiece, [special], skip_special_tokens=False)[0] == sentencepiece.decode(special, False)


def test_sentencepiece_byte_fallback_is_assembled(sentencepiece: Tokenizer) -> None:
    text = "h\U0001f600e"
    ids = sentencepiece.encode(text, add_special_tokens=False)
    assert len(ids) > 5
    assert stream(sentencepiece, [[token] for token in ids])[0] == text
