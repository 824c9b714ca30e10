"""How to reach the API server: from inside a pod, or with a kubeconfig."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_SECONDS = 60.0


@dataclass
class Login:
    server: str
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    token_file: str = ""
    """Read anew every minute: the kubelet rotates it."""
    token: str = ""
    verify: bool = True
    _read_at: float = field(default=-1e9, repr=False)

    def headers(self) -> dict[str, str]:
        if self.token_file and time.monotonic() - self._read_at > _TOKEN_SECONDS:
            self.token = Path(self.token_file).read_text().strip()
            self._read_at = time.monotonic()
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def login() -> Login:
    """Raises ValueError, in one line, if there is no way."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    if host and (_ACCOUNT / "token").exists():
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        name = f"[{host}]" if ":" in host else host
        return Login(f"https://{name}:{port}", str(_ACCOUNT / "ca.crt"), token_file=str(_ACCOUNT / "token"))
    return _from_kubeconfig()


def _from_kubeconfig() -> Login:
    from kubernetes import client, config

    found = client.Configuration()
    try:
        config.load_kube_config(client_configuration=found)
    except config.ConfigException as error:
        raise ValueError(f"no cluster: not in a pod, and no usable kubeconfig (KUBECONFIG): {error}") from None
    # By what its own requests would carry: the name of the entry has changed between versions.
    headers = [one for one in found.auth_settings().values() if str(one["key"]).lower() == "authorization"]
    authorization = str(headers[0]["value"] or "") if headers else ""
    return Login(
        found.host,
        found.ssl_ca_cert or "",
        found.cert_file or "",
        found.key_file or "",
        token=authorization.removeprefix("Bearer "),
        verify=bool(found.verify_ssl),
    )
