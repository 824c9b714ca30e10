"""Names of models on a Hugging Face hub."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(
    r"(?:hf://)?(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?:/(?P<file>[^:@]+\.gguf))?(?:@(?P<revision>[^:@\s]+))?(?::(?P<gguf>[^:@\s]+))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")

MAIN = "main"


@dataclass(frozen=True)
class HubName:
    """`org/name`, `org/name@revision`, `org/name:Q4_K_M`, `org/name:file.gguf` or `org/name/file.gguf`."""

    repo: str
    revision: str = MAIN
    """Branch, tag or commit."""
    gguf: str = ""
    """The name or the quantization of a GGUF file; "" if none is named."""

    @property
    def is_commit(self) -> bool:
        return _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        revision = "" if self.revision == MAIN else f"@{self.revision}"
        return f"{self.repo}{revision}{self.gguf and ':' + self.gguf}"


def parse_hub_name(text: str, revision: str = "") -> HubName | None:
    """Parse a name on the hub, with or without hf://. None if the text is a path.

    Raises ValueError if the name has another revision than `revision`.
    """
    match = _NAME.fullmatch(text)
    if match is None or (match["file"] is None and match["repo"].endswith(".gguf")):
        return None
    named = match["revision"] or ""
    if named and revision and named != revision:
        raise ValueError(f"{text} names the revision {named}, --revision {revision} another one: give one of them")
    return HubName(match["repo"], named or revision or MAIN, match["gguf"] or match["file"] or "")
