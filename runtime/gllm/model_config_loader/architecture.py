"""Which class a config.json names, and what is said of one that does not run here."""

from __future__ import annotations

import re
from typing import Any

from gllm.model_config_loader.families import MODEL_TYPES, SUPPORTED_ARCHITECTURES
from gllm.model_config_loader.fields import Fields

_ALIASES = {"LLaMAForCausalLM": "LlamaForCausalLM"}
"""Names of the first conversions of LLaMA."""
_CLASSIFIER = re.compile(r"For(Sequence|Token|Audio|Image|Video)Classification|ForQuestionAnswering|Reward|ForMultiple")
_EMBEDDING = re.compile(r"(ForMaskedLM|ForPreTraining|ForTextEncoding|Embedding\w*|(?<!LMHead)Model)$")
_ENCODER_DECODERS = ("t5", "bart", "mbart", "whisper", "pegasus", "marian", "m2m_100", "nllb-moe")


def load_architecture(config: Fields) -> str:
    """The supported class. ValueError names what the model is instead, and what of its kind would run."""
    names = config.get("architectures") or [MODEL_TYPES.get(str(config.get("model_type")))]
    name = names[0] if isinstance(names, list) else names
    name = _ALIASES.get(name, name) if isinstance(name, str) else name
    if name not in SUPPORTED_ARCHITECTURES:
        raise config.error("architectures", f"{name!r} is not supported{_explain(config, name)}")
    return str(name)


def _explain(config: Fields, name: Any) -> str:
    if isinstance(name, str):
        if _CLASSIFIER.search(name):
            return ": it classifies or scores text and is not a generator; serve a model for causal language modeling"
        if _EMBEDDING.search(name):
            return ": it makes embeddings and is not a generator; serve a model for causal language modeling"
        if str(config.get("model_type")).lower() in _ENCODER_DECODERS:
            return ": it is an encoder-decoder model; only decoder-only models run here"
        if "ForConditionalGeneration" in name or config.get("vision_config") or config.get("text_config"):
            return f": it is multimodal, and only text models run here{_text_part(config, name)}"
    nearest = _same_family(name)
    if nearest:
        return f"; the nearest supported is {', '.join(nearest)}"
    return f"; supported are {', '.join(SUPPORTED_ARCHITECTURES)}"


def _text_part(config: Fields, name: str) -> str:
    """The text model inside a multimodal one, if it would run alone, else its relatives."""
    text = config.get("text_config")
    inner = text.get("model_type") if isinstance(text, dict) else None
    part = MODEL_TYPES.get(str(inner).removesuffix("_text"))
    if part is not None:
        return f": its text part is a {part}, which runs when saved as a model of its own"
    nearest = _same_family(name)
    return f"; the nearest text model is {', '.join(nearest)}" if nearest else ""


def _same_family(name: Any) -> list[str]:
    """Supported classes whose name begins with the same word, such as Qwen."""

    def word(text: str) -> str:
        match = re.match(r"[A-Z]+[a-z]*", text)
        return match[0].lower() if match else ""

    return [known for known in SUPPORTED_ARCHITECTURES if isinstance(name, str) and word(known) == word(name)]
