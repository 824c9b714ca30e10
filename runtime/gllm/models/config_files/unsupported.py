"""The family that a config.json names, and the error for a model that does not run here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gllm.checkpoint.fields import Fields
from gllm.models.family import Family

_CLASSIFIER = re.compile(r"For(Sequence|Token|Audio|Image|Video)Classification|ForQuestionAnswering|Reward|ForMultiple")
_EMBEDDING = re.compile(r"(ForMaskedLM|ForPreTraining|ForTextEncoding|Embedding\w*|(?<!LMHead)Model)$")
_ENCODER_DECODERS = ("t5", "bart", "mbart", "whisper", "pegasus", "marian", "m2m_100", "nllb-moe")


def find_family(config: Fields, families: Sequence[Family]) -> Family:
    """Return the family of the model's class. Raises ValueError, which says what the model is and what is similar."""
    by_type = {family.model_type: family.architecture for family in reversed(families)}
    names = config.get("architectures") or [by_type.get(str(config.get("model_type")))]
    name = names[0] if isinstance(names, list) else names
    for family in families:
        if name == family.architecture or name in family.aliases:
            return family
    raise config.error("architectures", f"{name!r} is not supported{_explain(config, name, families)}")


def _explain(config: Fields, name: Any, families: Sequence[Family]) -> str:
    if isinstance(name, str):
        if _CLASSIFIER.search(name):
            return ": it classifies or scores text and is not a generator; serve a model for causal language modeling"
        if _EMBEDDING.search(name):
            return ": it makes embeddings and is not a generator; serve a model for causal language modeling"
        if str(config.get("model_type")).lower() in _ENCODER_DECODERS:
            return ": it is an encoder-decoder model; only decoder-only models run here"
        if "ForConditionalGeneration" in name or config.get("vision_config") or config.get("text_config"):
            return f": it is multimodal, and only text models run here{_text_part(config, name, families)}"
    nearest = _same_word(name, families)
    if nearest:
        return f"; the nearest supported is {', '.join(nearest)}"
    return f"; supported are {', '.join(family.architecture for family in families)}"


def _text_part(config: Fields, name: str, families: Sequence[Family]) -> str:
    """Return the text model inside a multimodal one, if it would run alone, else supported models of similar name."""
    text = config.get("text_config")
    inner = str(text.get("model_type") if isinstance(text, dict) else None).removesuffix("_text")
    for family in families:
        if family.model_type == inner:
            return f": its text part is a {family.architecture}, which runs when saved as a model of its own"
    nearest = _same_word(name, families)
    return f"; the nearest text model is {', '.join(nearest)}" if nearest else ""


def _same_word(name: Any, families: Sequence[Family]) -> list[str]:
    """Return the supported classes whose name begins with the same word, such as Qwen."""

    def word(text: str) -> str:
        match = re.match(r"[A-Z]+[a-z]*", text)
        return match[0].lower() if match else ""

    known = [family.architecture for family in families]
    return [other for other in known if isinstance(name, str) and word(other) == word(name)]
