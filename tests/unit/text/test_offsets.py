"""Offsets of tokens in the text that they decode to."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gllm.gateway.protocol.logprobs import TextOffsets
from gllm.text.tokenizer import Tokenizer


@settings(max_examples=200)
@given(data=st.data())
def test_offsets_of_an_answer(smollm: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, smollm.vocab_size - 1), max_size=60))
    skip = data.draw(st.booleans())
    offsets = TextOffsets(smollm, skip_special_tokens=skip)
    text = smollm.decode(ids, skip_special_tokens=skip)
    for token in ids:
        at = offsets.add(token)
        spelled = smollm.token_text(token)
        if "\ufffd" not in spelled and not (skip and token in smollm.special_token_ids):
            assert text[at : at + len(spelled)] == spelled


@settings(max_examples=200)
@given(text=st.text(alphabet="ab\n \u00e9\u20ac\U0001f600", max_size=40))
def test_offsets_of_text(smollm: Tokenizer, text: str) -> None:
    ids = smollm.encode(text)
    offsets = TextOffsets(smollm, skip_special_tokens=True)
    answer = [offsets.add(token) for token in ids]
    assert offsets.prompt(text, ids) == answer
    for token, at in zip(ids, answer, strict=True):
        spelled = smollm.token_text(token)
        if "\ufffd" not in spelled:
            assert text[at : at + len(spelled)] == spelled
    assert offsets.add(ids[0] if ids else 0) == len(text), "the answer comes after the prompt"


@pytest.mark.parametrize("text", ["hello world", "h\U0001f600e\u00e9 o"])
def test_hidden_tokens_of_a_prompt_have_no_width(sentencepiece: Tokenizer, text: str) -> None:
    ids = sentencepiece.encode(text)
    assert ids[0] in sentencepiece.special_token_ids
    found = TextOffsets(sentencepiece, skip_special_tokens=True).prompt(text, ids)
    assert found[:2] == [0, 0]
    for token, at in list(zip(ids, found, strict=True))[2:]:
        spelled = sentencepiece.token_text(token)
        if "\ufffd" not in spelled:
            assert text[at : at + len(spelled)] == spelled
