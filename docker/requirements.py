"""What an image installs, out of pyproject.toml: `requirements.py runtime [EXTRA...]`,
`requirements.py operator` or `requirements.py extra EXTRA...`.

torch is left out of the runtime's: which build of it is the Dockerfile's to say.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

OPERATOR_TAKES = ("msgspec", "prometheus-client", "gguf", "numpy")
"""Of the runtime's own: messages, metrics, and the config of a GGUF file. Never torch."""


def name_of(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def requirements(project: dict[str, object], image: str, extras: list[str]) -> list[str]:
    own, optional = project["dependencies"], project["optional-dependencies"]
    assert isinstance(own, list)
    assert isinstance(optional, dict)
    if image == "operator":
        found = [one for one in own if name_of(one) in OPERATOR_TAKES] + optional["operator"]
    else:
        found = [one for one in own if name_of(one) != "torch"] if image == "runtime" else []
    return found + [one for extra in extras for one in optional[extra]]


if __name__ == "__main__":
    chosen = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    print("\n".join(requirements(chosen, sys.argv[1], sys.argv[2:])))
