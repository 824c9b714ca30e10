"""The served model as `GET /v1/models` shows it: OpenAI's keys, vLLM's and Anthropic's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gllm.gateway.shared.gateway import Gateway


def model_card(gateway: Gateway, name: str) -> dict[str, Any]:
    """Under one of its names. `max_model_len` is None until the first engine serves."""
    created = gateway.model.created
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "gllm",
        # vLLM
        "root": gateway.model.name,
        "parent": None,
        "max_model_len": gateway.max_model_len,
        "permission": [_permission(name, created)],
        # Anthropic
        "type": "model",
        "display_name": name,
        "lifecycle": "active",
        "created_at": datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z"),
    }


def model_list(gateway: Gateway) -> dict[str, Any]:
    names = (gateway.model.name, *gateway.model.aliases)
    cards = [model_card(gateway, name) for name in names]
    return {"object": "list", "data": cards, "has_more": False, "first_id": names[0], "last_id": names[-1]}


def _permission(name: str, created: int) -> dict[str, Any]:
    """OpenAI's older permission object: everything that this server does is allowed."""
    return {
        "id": f"modelperm-{name}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
