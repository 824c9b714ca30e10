"""Keys of a group: their text, and that only clients with these keys connect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zmq

from gllm.wire.curve import (
    KEYS_VARIABLE,
    Keys,
    make_keys,
    parse_keys,
    read_keys,
    secure_client,
    secure_server,
    start_authenticator,
)


def test_keys_from_their_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = make_keys()
    assert parse_keys(f"# a comment\n{keys.text()}\n", "here") == keys
    assert keys != make_keys()
    assert keys.text()[:10] not in repr(keys)
    path = tmp_path / "keys"
    path.write_text(keys.text())
    assert read_keys(str(path)) == keys
    monkeypatch.setenv(KEYS_VARIABLE, keys.text())
    assert read_keys("") == keys


def test_errors_name_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    with pytest.raises(ValueError, match=r"`gllm keys --output FILE` makes them .* --keys-file FILE"):
        read_keys("")
    with pytest.raises(ValueError, match=r"--keys-file: /no/file cannot be read: No such file"):
        read_keys("/no/file")
    path = tmp_path / "keys"
    path.write_text("hunter2")
    with pytest.raises(ValueError, match="has no keys that `gllm keys` made"):
        read_keys(str(path))


@pytest.fixture
def contexts() -> tuple[zmq.Context, zmq.Context]:
    server, client = zmq.Context(), zmq.Context()
    yield server, client
    client.destroy(linger=0)
    server.destroy(linger=0)


@pytest.fixture
def keys(contexts: tuple[zmq.Context, zmq.Context]) -> Iterator[Keys]:
    keys = make_keys()
    authenticator = start_authenticator(contexts[0], keys)
    yield keys
    authenticator.stop()


def test_only_the_groups_own_keys_connect(contexts: tuple[zmq.Context, zmq.Context], keys: Keys) -> None:
    server = contexts[0].socket(zmq.ROUTER)
    secure_server(server, keys)
    port = server.bind_to_random_port("tcp://127.0.0.1")

    def connects(client_keys: Keys | None) -> bool:
        client = contexts[1].socket(zmq.DEALER)
        client.linger = 0
        if client_keys is not None:
            secure_client(client, client_keys)
        client.connect(f"tcp://127.0.0.1:{port}")
        with suppress(zmq.Again):  # a client that is refused before it sends has no connection left, and would wait
            client.send(b"hello", zmq.NOBLOCK)
        return server.poll(2000 if client_keys == keys else 300) != 0 and server.recv_multipart()[1] == b"hello"

    assert connects(keys)
    assert not connects(Keys(keys.server_secret, make_keys().client_secret)), "an unknown client"
    assert not connects(make_keys()), "another group"
    assert not connects(None), "no keys at all"
    assert connects(keys)
