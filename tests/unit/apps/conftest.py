import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_engine import MODEL, Fakes

from gllm.apps.offline.llm import LLM


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    monkeypatch.setattr("gllm.apps.offline.llm.load_model_config", lambda path: MODEL)
    return Fakes()


@pytest.fixture
def llm(fakes: Fakes) -> Iterator[LLM]:
    with fakes.llm() as llm:
        yield llm
