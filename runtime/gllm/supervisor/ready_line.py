"""The line that a server prints when it serves."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from gllm.config import Config


def ready_line(config: Config, url: str = "", name: str = "") -> str:
    """Return the line with the server's address and a command to try it.

    url, name: instead of the configured address and model.
    """
    gateway = config.gateway
    if not url.startswith("http"):
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(gateway.host, gateway.host)
        url = f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{gateway.port}"
    name = name or gateway.served_model_name or Path(config.engine.model).name
    body = {"model": name, "messages": [{"role": "user", "content": "Hello!"}]}
    data = shlex.quote(json.dumps(body))
    key = ' -H "Authorization: Bearer $GLLM_API_KEY"' if gateway.api_key else ""
    curl = f"curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d {data}"
    return f"gLLM serves {name} at {url} - try: {curl}"
