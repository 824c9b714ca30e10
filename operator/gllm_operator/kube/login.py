"""The API server's address and credentials: a pod's service account, or else a kubeconfig."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import kopf

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_SECONDS = 60.0


@dataclass
class Login:
    connection: kopf.ConnectionInfo
    token_file: Path | None = None
    """A file with the token. It is read again every minute, because the kubelet rotates it."""
    _token: str = field(default="", repr=False)
    _read_at: float = field(default=-1e9, repr=False)

    @property
    def server(self) -> str:
        """Base URL of the API server."""
        return self.connection.server

    def headers(self) -> dict[str, str]:
        """The header Authorization, if there are credentials for it."""
        if self.token_file is None:
            return self.connection.as_http_headers()
        if time.monotonic() - self._read_at > _TOKEN_SECONDS:
            self._token = self.token_file.read_text().strip()
            self._read_at = time.monotonic()
        return {"Authorization": f"Bearer {self._token}"}


def login() -> Login:
    """Find the API server. Raises ValueError, in one line, if there is none to log in to."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    if host and (_ACCOUNT / "token").exists():
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        name = f"[{host}]" if ":" in host else host
        connection = kopf.ConnectionInfo(server=f"https://{name}:{port}", ca_path=_ACCOUNT / "ca.crt")
        return Login(connection, token_file=_ACCOUNT / "token")
    try:
        found = kopf.login_with_kubeconfig(settings=kopf.OperatorSettings())
    except (kopf.LoginError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"the kubeconfig (KUBECONFIG) cannot be used: {error}") from None
    if found is None:
        raise ValueError("no cluster found: this is not a pod, and there is no kubeconfig (KUBECONFIG)")
    certificate = found.certificate_path or found.certificate_data
    if found.server.startswith("https") and not (found.as_http_headers() or certificate):
        raise ValueError(
            "the kubeconfig's user has no token, password or certificate (plugins are not run): use one that has, "
            "or `kubectl proxy`"
        )
    return Login(found)
