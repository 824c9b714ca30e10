"""`gllm gateway` with several models: what it starts, and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from gllm.apps.cli.main import app
from gllm.config import Config
from gllm.wire.curve import make_keys


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "Tiny-1B"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return str(folder)


def gateway(model: str, *also: str) -> tuple[str, Config | None]:
    """Return what the command printed, and the config of the process that it would become."""
    started: list[Config] = []

    def execve(path: str, arguments: list[str], environment: dict[str, str]) -> None:
        started.append(msgspec.json.decode(environment["GLLM_CONFIG"], type=Config))

    flags = ["gateway", model, "--engines", "a:1", "--port", "9", "--chat-template", f"{model}/config.json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "execve", execve)
        patch.setenv("GLLM_KEYS", make_keys().text())
        done = CliRunner().invoke(app, [*flags, *(one for text in also for one in ("--also", text))])
    assert (done.exit_code == 0) == bool(started), done.output
    return " ".join(done.output.replace("│", " ").split()), started[0] if started else None


def test_each_model_has_its_own_settings(model: str) -> None:
    flags = "--engines b:2,c:3 --served-model-name other --tool-parser none --max-queued-requests 7"
    _, config = gateway(model, f"'{model}' {flags} --engine-timeout 5 --wait-for-engine")
    assert config is not None
    assert config.gateway.engines == (("a", 1),)
    assert (config.gateway.port, config.gateway.served_model_name) == (9, "Tiny-1B")
    (other,) = config.others
    assert other.engine.model == model
    assert other.gateway.engines == (("b", 2), ("c", 3))
    own: dict[str, Any] = {
        "served_model_name": "other",
        "tool_parser": "none",
        "max_queued_requests": 7,
        "engine_timeout": 5.0,
        "wait_for_engine": True,
        "chat_template": "",
    }
    assert {name: getattr(other.gateway, name) for name in own} == own


@pytest.mark.parametrize(
    ("also", "said"),
    [
        ("MODEL", "Missing option '--engines'"),
        ("--engines b:1", "it has no MODEL"),
        ("MODEL --engines ,", "name at least one engine"),
        ("MODEL --engine b:1", "did you mean --engines?"),
        ("MODEL --engines b:1 --port 9", "--port belongs to the server"),
        ("MODEL --engines b:1 --also c", "--also belongs to the server"),
        ("MODEL --engines b:1", "two models have the name 'Tiny-1B'"),
        ("MODEL --engines b:1 --served-model-name b --served-model-alias Tiny-1B", "two models have the name"),
        ("MODEL --engines b:1 --served-model-name b --keys-file /no/file", "/no/file cannot be read"),
        ("/no/model --engines b:1", "there is no '/no/model'"),
        ("", "give a model and its engines"),
        ("'", "No closing quotation"),
    ],
)
def test_a_wrong_further_model_is_told(model: str, also: str, said: str) -> None:
    output, config = gateway(model, also.replace("MODEL", model))
    assert config is None
    assert said in output, output


def test_engines_of_the_environment_are_those_of_the_first_model(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLLM_ENGINES", "a:1")
    assert "it has no --engines" in gateway(model, model)[0]
