"""Reads the spec of an LLMDeployment."""

from __future__ import annotations

import msgspec

from gllm_operator.api.spec import LLMDeploymentSpec


def decode_spec(raw: object) -> tuple[LLMDeploymentSpec | None, str]:
    """(spec, "") or (None, what is wrong, with the field's path)."""
    try:
        return msgspec.convert(raw or {}, LLMDeploymentSpec), ""
    except msgspec.ValidationError as error:
        return None, f"spec cannot be read: {str(error).replace('`$', '`spec')}"
