"""Data sets by name, against the hub on the loopback."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from fixtures.hub import FakeHub
from gllm.hub.dataset import download_dataset
from gllm.hub.errors import HubError

FILES = {"main/test.parquet": b"T", "main/train.parquet": b"R", "socratic/test.parquet": b"S", "README.md": b"read"}


def test_only_the_files_of_the_patterns_are_downloaded_once(hub: FakeHub) -> None:
    hub.repo("org/set", FILES)
    folder = download_dataset("org/set", ("main/*.parquet",))
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"main/test.parquet", "main/train.parquet"}
    assert (folder / "main/test.parquet").read_bytes() == b"T"
    hub.requests.clear()
    assert download_dataset("org/set", ("main/*.parquet",)) == folder
    assert not hub.downloads()


def test_without_the_hub_the_cache_is_used(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("org/set", FILES)
    folder = download_dataset("org/set", ("main/*",))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download_dataset("org/set", ("main/*",)) == folder
    with pytest.raises(HubError, match=r"the data set org/other is not in the cache .* HF_HUB_OFFLINE"):
        download_dataset("org/other", ("main/*",))


def test_an_unknown_or_gated_data_set_is_named_with_the_fix(hub: FakeHub) -> None:
    with pytest.raises(HubError, match=r"there is no dataset org/none at http.*set HF_TOKEN"):
        download_dataset("org/none", ("*",))
    hub.repo("org/gated", FILES).gated = True
    with pytest.raises(HubError, match=r"org/gated is gated: ask for access at http.*/datasets/org/gated"):
        download_dataset("org/gated", ("*",))
