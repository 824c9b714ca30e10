"""Data sets of a Hugging Face hub, in its cache."""

from __future__ import annotations

from pathlib import Path

from gllm.hub.errors import HubError, explained
from gllm.hub.name import HubName


def download_dataset(name: str, patterns: tuple[str, ...]) -> Path:
    """Return the folder of a data set in the cache, with its newest files of these patterns.

    Without a connection the files that the cache has are used. Raises HubError.
    """
    from huggingface_hub import constants, errors, snapshot_download

    with explained(HubName(name), kind="dataset"):
        try:
            return Path(snapshot_download(name, repo_type="dataset", allow_patterns=list(patterns)))
        except errors.LocalEntryNotFoundError as error:
            where = f"is not in the cache {constants.HF_HUB_CACHE}"
            if constants.HF_HUB_OFFLINE:
                raise HubError(f"the data set {name} {where}, and HF_HUB_OFFLINE forbids to download it") from None
            raise HubError(f"the data set {name} {where}, and {constants.ENDPOINT} cannot be reached") from error
