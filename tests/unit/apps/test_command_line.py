"""The `gllm` command: flags become a Config, mistakes become one clear message, subcommands load lazily."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from gllm.apps.cli.configure import make_config
from gllm.apps.cli.flag import takes_flags
from gllm.apps.cli.flag_values import parse_bytes, parse_origins, parse_places
from gllm.apps.cli.main import app
from gllm.apps.cli.options import ENGINE_FLAGS, GATEWAY_FLAGS, SOURCE_FLAGS, ModelArgument
from gllm.apps.cli.parsing import EngineCommand
from gllm.apps.server_url import server_base
from gllm.config import Config, EngineConfig, GatewayConfig
from gllm.gateway.http.server import bind


def parse(*arguments: str, env: dict[str, str] | None = None) -> Config:
    """The Config that `serve` would make of these arguments; AssertionError with the output if they are refused."""
    configs: list[Config] = []

    @takes_flags(*SOURCE_FLAGS, *ENGINE_FLAGS, *GATEWAY_FLAGS)
    def command(model: ModelArgument = "", *, flags: dict[str, Any]) -> None:
        configs.append(make_config(model, flags))

    program = typer.Typer()
    program.command(cls=EngineCommand)(command)
    result = CliRunner().invoke(program, arguments, env={"COLUMNS": "300", **(env or {})})
    assert result.exit_code == 0, result.output
    return configs[0]


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "Tiny-1B"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return str(folder)


def test_without_flags_the_config_has_its_defaults(model: str) -> None:
    expected = Config(engine=EngineConfig(model=model), gateway=GatewayConfig(served_model_name="Tiny-1B"))
    assert parse(model) == expected


def test_without_a_model_the_default_model_is_served() -> None:
    config = parse()
    assert config.engine.model.endswith(".gguf")
    assert config.gateway.served_model_name == "SmolLM2-135M-Instruct"


def test_flags_set_the_fields_of_the_config(model: str) -> None:
    arguments = ["--page-size", "32", "--kv-cache-memory", "512M", "--no-prefix-caching", "--policy", "no_wt"]
    config = parse(model, *arguments, "--port", "9", "--log-requests", env={"GLLM_API_KEY": "secret"})
    assert config.engine == EngineConfig(
        model=model, page_size=32, kv_cache_memory=512 * 2**20, enable_prefix_caching=False, policy="no_wt"
    )
    assert config.gateway == GatewayConfig(port=9, log_requests=True, api_key="secret", served_model_name="Tiny-1B")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--page-size", "12"], "'--page-size': 12 is not a power of two"),
        (["--polcy", "no_wt"], "--policy"),
        (["--policy", "fifo"], "token_throttling"),
        (["--port", "65536"], "'--port'"),
        (["--kv-cache-memory", "much"], "write for example 512M or 2G"),
        (["--gpu-memory-utilization", "90"], "'--gpu-memory-utilization': 90 is not a share"),
        (["--kv-threshold", "1"], "'--kv-threshold'"),
        (["--tpot-target", "-1"], "'--tpot-target': -1 is not a time"),
        (["--ttft-target", "inf"], "'--ttft-target': inf is not a time"),
        (["--chat-template", "/no/file"], "there is no file '/no/file'"),
        (["--min-prefill-tokens", "9000"], "--min-prefill-tokens: 9000 is more than --max-prefill-tokens 2048"),
        (["--attention-backend", "flashinfer", "--device", "cpu"], "flashinfer needs --device cuda"),
    ],
)
def test_a_wrong_flag_is_named_with_the_fix(model: str, arguments: list[str], message: str) -> None:
    with pytest.raises(AssertionError) as refusal:
        parse(model, *arguments)
    assert message in str(refusal.value)


def test_a_target_that_the_policy_does_not_aim_at_is_told(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--ttft-target", "1"], ["--policy", "no_wt", "--tpot-target", "1"]):
        parse(model, *arguments)
        assert capsys.readouterr().err == ""
    flags = {"policy": "no_wt", "ttft_target": 1.0}
    assert make_config(model, flags).engine.ttft_target == 1.0, "it still counts in gllm:request_targets_met"
    assert "--policy no_wt does not aim at --ttft-target" in capsys.readouterr().err


def test_the_error_for_a_missing_model_says_where_it_was_searched(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"looked for a folder with config\.json or a GGUF file"):
        parse("./Qwen3-8B")
    with pytest.raises(AssertionError, match="Qwen/Qwen3-8B is not in the cache"):
        parse("Qwen/Qwen3-8B")
    with pytest.raises(AssertionError, match=r"has no config\.json"):
        parse(str(tmp_path))
    (tmp_path / "b.gguf").touch()
    assert parse(str(tmp_path)).engine.model == str(tmp_path / "b.gguf")
    (tmp_path / "a.gguf").touch()
    with pytest.raises(AssertionError, match=r"has several GGUF files: name one, such as .*a\.gguf"):
        parse(str(tmp_path))


def test_addresses_of_engines() -> None:
    assert parse_places("a:1, [::1]:65535,") == (("a", 1), ("::1", 65535))
    for wrong in ("a", "a:", ":1", "a:0", "a:65536", "a:b"):
        with pytest.raises(typer.BadParameter, match="is not an address of an engine"):
            parse_places(wrong)


@pytest.mark.parametrize(("text", "amount"), [("123", 123), ("512M", 2**29), ("2G", 2**31), ("1.5GiB", 3 * 2**29)])
def test_amounts_of_memory(text: str, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("*", ("*",)),
        ("localhost", ()),
        ("localhost, https://a.example", ("https://a.example",)),
        ("https://A.example/, http://[::1]", ("https://a.example", "http://[::1]")),
        ('["https://a.example", "app://obsidian.md"]', ("https://a.example", "app://obsidian.md")),
    ],
)
def test_origins(text: str, origins: tuple[str, ...]) -> None:
    assert parse_origins(text) == origins


@pytest.mark.parametrize("text", ["example.com", "https://a.example/page", "https://", "[1]", "[", "https://u@a"])
def test_invalid_origins_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_origins(text)


def test_help_lists_every_subcommand_and_a_typo_gets_a_hint() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert all(name in result.output for name in ("serve", "chat", "generate", "bench"))
    result = CliRunner().invoke(app, ["serv"])
    assert result.exit_code == 2
    assert "Did you mean 'serve'?" in result.output


def test_help_imports_nothing_heavy() -> None:
    script = """
import sys
from typer.testing import CliRunner
from gllm.apps.cli.main import app
assert CliRunner().invoke(app, ["--help"]).exit_code == 0
heavy = {"torch", "transformers", "numpy", "zmq", "fastapi", "httpx", "tokenizers"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_chat_with_a_url_refuses_flags_of_the_engine() -> None:
    def chat(*more: str) -> str:
        result = CliRunner().invoke(app, ["chat", "--url", "http://127.0.0.1:1/v1", *more], env={"COLUMNS": "300"})
        assert result.exit_code != 0
        return f"{result.output} {result.exception}"

    assert "no server at http://127.0.0.1:1" in chat()
    for flag, value in (("--threads", "2"), ("--assigned-layers", "1,2"), ("--kv-cache-memory", "1G")):
        assert f"{flag} is a setting of the server" in chat(flag, value)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000"),
        ("127.0.0.1:18431", "http://127.0.0.1:18431"),
        ("localhost:8000/v1", "http://localhost:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("https://host/prefix/", "https://host/prefix"),
    ],
)
def test_the_url_of_a_server_needs_no_scheme(url: str, base: str) -> None:
    assert server_base(url) == base


@pytest.mark.parametrize("url", ["", "ftp://host", "http://", "http://host:port", "host:99999", "http:///v1"])
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"--url must look like http://127\.0\.0\.1:8000"):
        server_base(url)


def test_an_empty_key_is_refused(model: str) -> None:
    assert parse(model, "--api-key", "secret", env={"GLLM_API_KEY": ""}).gateway.api_key == "secret"
    cases: list[tuple[list[str], str | None]] = [
        (["--api-key", ""], None),
        (["--api-key", " "], None),
        ([], ""),
        ([], " "),
    ]
    for arguments, variable in cases:
        with pytest.raises(AssertionError, match="the key is empty: give one, or leave out --api-key"):
            parse(model, *arguments, env={} if variable is None else {"GLLM_API_KEY": variable})
    with pytest.raises(AssertionError, match="no header can carry"):
        parse(model, env={"GLLM_API_KEY": "secret\n"})


def test_the_key_may_be_in_a_file(model: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    environment = {"GLLM_API_KEY_FILE": str(file)}
    with pytest.raises(AssertionError, match=r"GLLM_API_KEY_FILE: .* cannot be read: "):
        parse(model, env=environment)
    file.write_text("\n")
    with pytest.raises(AssertionError, match="the key is empty"):
        parse(model, env=environment)
    file.write_text("secret\n")
    assert parse(model, env=environment).gateway.api_key == "secret"
    assert parse(model, "--api-key", "other", env=environment).gateway.api_key == "other"


@pytest.mark.parametrize("host", ["300.1.1.1", "no.such.invalid", "a" * 70 + ".b", ".", "a..b"])
def test_an_invalid_host_is_named_in_the_error(host: str) -> None:
    with pytest.raises(OSError, match=f"^--host {re.escape(host)} is not an address of this machine: "):
        bind(host, 0)
