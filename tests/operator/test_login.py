"""Credentials for the API server: a kubeconfig, or the token of a pod's service account, which rotates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kopf
import pytest
import yaml

from gllm_operator.kube import login as login_module
from gllm_operator.kube.login import Login, login


@pytest.fixture(autouse=True)
def no_pod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)


def use_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: dict[str, Any], server: str) -> None:
    config = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": server}}],
        "users": [{"name": "x", "user": user}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))


def test_a_kubeconfig_with_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_kubeconfig(monkeypatch, tmp_path, {"token": "secret"}, "https://cluster:6443")
    found = login()
    assert found.server == "https://cluster:6443"
    assert found.headers() == {"Authorization": "Bearer secret"}


def test_kubectl_proxy_needs_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_kubeconfig(monkeypatch, tmp_path, {}, "http://127.0.0.1:8001")
    assert login().headers() == {}


def test_a_credential_plugin_is_refused_with_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_kubeconfig(monkeypatch, tmp_path, {"exec": {"command": "aws"}}, "https://cluster:6443")
    with pytest.raises(ValueError, match="kubectl proxy"):
        login()


def test_no_kubeconfig_is_an_error_of_one_line() -> None:
    with pytest.raises(ValueError, match="no cluster found"):
        login()


def test_a_broken_kubeconfig_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("{contexts: []}")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with pytest.raises(ValueError, match="cannot be used"):
        login()


def test_a_pods_token_is_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    found = Login(kopf.ConnectionInfo(server="https://cluster"), token_file=file)
    assert found.headers() == {"Authorization": "Bearer first"}
    file.write_text("second\n")
    assert found.headers() == {"Authorization": "Bearer first"}
    monkeypatch.setattr(login_module, "_TOKEN_SECONDS", -1.0)
    assert found.headers() == {"Authorization": "Bearer second"}
