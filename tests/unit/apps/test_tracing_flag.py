"""`--otlp-endpoint`: what it refuses, and that nothing is imported without it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from gllm import tracing
from gllm.apps.cli.flag_values import check_otlp


@pytest.mark.parametrize("url", ["collector:4318", "grpc://collector:4317", "http://", "http://host:port", "/v1"])
def test_what_is_not_an_http_url_is_refused(url: str) -> None:
    with pytest.raises(typer.BadParameter, match="http://collector:4318"):
        check_otlp(url)


def test_the_port_of_grpc_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="usually 4318"):
        check_otlp("http://collector:4317")


@pytest.mark.parametrize("url", ["http://c:4317/v1/traces", "", "http://collector:4318", "https://host/otlp/v1/traces"])
def test_urls(url: str) -> None:
    assert check_otlp(url) == url


def test_missing_packages_are_named_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(tracing, "find_spec", find)
    with pytest.raises(typer.BadParameter, match=r"pip install 'gllm\[otel\]'"):
        check_otlp("http://collector:4318")
    with pytest.raises(ValueError, match="opentelemetry-sdk"):
        tracing.open_tracer("http://collector:4318", "gateway")
    assert tracing.open_tracer("", "gateway") is None


def test_without_the_flag_the_sdk_is_not_imported() -> None:
    check = (
        "import sys, gllm.gateway.__main__, gllm.engine.__main__, gllm.tracing as t; t.open_tracer('', 'engine'); "
        "sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
