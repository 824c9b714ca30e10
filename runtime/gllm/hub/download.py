"""Downloads from a hub, with huggingface_hub: into its cache, or into a folder that appears whole or not at all."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gllm.hub.cache import CachedModel
from gllm.hub.errors import HubError, explained
from gllm.hub.files import NeededFiles, needed_files, needed_settings
from gllm.hub.name import HubName
from gllm.terminal import Bars

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo
    from huggingface_hub.utils.tqdm import tqdm

Tell = Callable[[str], None]
"""Gets one line of progress."""
Check = Callable[[Path], object]
"""Gets the folder when it has all but the weights; raises ValueError if it cannot be served."""


def find_on_hub(
    name: HubName, *, cache: str = "", weights: bool = True, tell: Tell, check: Check | None = None
) -> Path:
    """The model's folder or GGUF file in the cache; what is not there is downloaded.

    cache: folder; "": huggingface_hub's own (HF_HUB_CACHE, HF_HOME). weights: False if random ones will do.
    check: called before weights are downloaded into a folder.
    A model that is in the cache is used without asking the hub. Raises HubError, and what `check` raises.
    """
    from huggingface_hub import constants

    folder = _cache_folder(cache)
    cached = CachedModel(folder, name)
    found = cached.find(weights=weights)
    if found is not None and (constants.HF_HUB_OFFLINE or cached.is_certain(found)):
        return found
    if constants.HF_HUB_OFFLINE:
        raise HubError(f"{name} is not in the cache {folder}, and HF_HUB_OFFLINE forbids to download it")
    try:
        commit = cached.commit if found else ""
        return download(name, cache=cache, commit=commit, weights=weights, tell=tell, check=check)
    except HubError as error:
        if found is None:
            raise
        tell(f"{error}; it is used as the cache has it")
        return found


def download(
    name: HubName, *, cache: str = "", commit: str = "", weights: bool = True, tell: Tell, check: Check | None = None
) -> Path:
    """Into the cache, at the commit which the revision has now, or at `commit`. `check` and errors: `find_on_hub`."""
    with explained(name):
        folder = _cache_folder(cache)
        repository = _Repository(name, _model_info(name, commit), cache=folder)
        needed = repository.needed(weights)
        snapshot = CachedModel(folder, HubName(name.repo, repository.commit)).snapshot
        if check is not None and needed.settings and needed.weights:
            repository.fetch_all(needed._replace(weights=()), snapshot, tell)
            check(snapshot)
        repository.fetch_all(needed, snapshot, tell)
        CachedModel(folder, name).remember(repository.commit, repository.names)
        return snapshot / needed.model


def download_to(name: HubName, folder: Path, *, tell: Tell) -> None:
    """Into a folder of its own, at the commit which the revision has now. Raises HubError.

    A folder that exists is taken to be complete. Others may be downloading to the same place: each host has its part.
    """
    if folder.is_dir():
        tell(f"{folder} is there already")
        return
    with explained(name):
        info = _model_info(name, "")
        part = _part(folder, str(info.sha))
        repository = _Repository(name, info, folder=part)
        repository.fetch_all(repository.needed(weights=True), part, tell)
        shutil.rmtree(part / ".cache", ignore_errors=True)  # huggingface_hub's notes.
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # Else another pod was faster.
                raise
            shutil.rmtree(part, ignore_errors=True)
    tell(f"{folder} is complete")


def _part(folder: Path, commit: str) -> Path:
    """Where this host collects the files of a commit; what it has of another commit goes."""
    begin = f"{folder.name}.part-{socket.gethostname()}-"
    part = folder.with_name(begin + commit[:12])
    for old in folder.parent.glob(f"{begin}*"):
        if old != part:
            shutil.rmtree(old, ignore_errors=True)
    part.mkdir(parents=True, exist_ok=True)
    return part


def _cache_folder(cache: str) -> Path:
    from huggingface_hub import constants

    return Path(cache or constants.HF_HUB_CACHE).expanduser().absolute()


def _model_info(name: HubName, commit: str) -> ModelInfo:
    from huggingface_hub import HfApi, constants

    return HfApi().model_info(
        name.repo, revision=commit or name.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
    )


@dataclass(frozen=True)
class _Repository:
    """At one commit: everything is asked for by it, so a branch that moves meanwhile changes nothing."""

    name: HubName
    info: ModelInfo
    cache: Path | None = None
    folder: Path | None = None
    """Where to put files, one of the two."""

    @property
    def commit(self) -> str:
        return str(self.info.sha)

    @cached_property
    def sizes(self) -> dict[str, int]:
        return {sibling.rfilename: sibling.size or 0 for sibling in self.info.siblings or ()}

    @property
    def names(self) -> set[str]:
        return set(self.sizes)

    def needed(self, weights: bool) -> NeededFiles:
        try:
            if not weights:
                return needed_settings(self.names)
            return needed_files(self.names, self.name.gguf, lambda file: self.fetch(file).read_bytes())
        except ValueError as error:
            raise HubError(f"{self.name} cannot be served: {error}") from None

    def fetch(self, file: str) -> Path:
        """A whole file is not read again. One that is cut off goes on where it was, as long as this process lives."""
        from huggingface_hub import hf_hub_download

        return Path(
            hf_hub_download(
                self.name.repo,
                file,
                revision=self.commit,
                cache_dir=self.cache,
                local_dir=self.folder,
                tqdm_class=_download_bar(),
            )
        )

    def fetch_all(self, needed: NeededFiles, there: Path, tell: Tell) -> None:
        """Settings first: weights take the time. there: where the files come to lie."""
        missing = [file for file in (*needed.settings, *needed.weights) if not (there / file).exists()]
        if not missing:
            return
        num_bytes = sum(self.sizes[file] for file in missing)
        _check_space(num_bytes, there)
        tell(f"downloading {self.name} at {self.commit[:12]}: {len(missing)} files, {_amount(num_bytes)}")
        for file in missing:
            if file in needed.weights:
                tell(f"downloading {file}, {_amount(self.sizes[file])}")
            self.fetch(file)


def _download_bar() -> type[tqdm]:
    """The class of the bars that huggingface_hub shows for one file, which may be several at once.

    huggingface_hub still decides whether to show them, by the terminal and HF_HUB_DISABLE_PROGRESS_BARS.
    """
    from huggingface_hub.utils.tqdm import tqdm

    bars = Bars(kind="bytes")

    class DownloadBar(tqdm):
        def __init__(self, *args: object, **options: object) -> None:
            # gui: tqdm counts, and draws nothing itself.
            super().__init__(*args, **options, gui=True)  # type: ignore[no-untyped-call]

        def display(self, *args: object, **options: object) -> None:
            if not self.disable:
                bars.show(self.desc or "", self.n, self.total)

        def close(self) -> None:
            if not self.disable:
                bars.remove(self.desc or "")
            super().close()

    return DownloadBar


def _check_space(num_bytes: int, folder: Path) -> None:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise HubError(
            f"the model needs {_amount(num_bytes)}, but {folder} has {_amount(free)} free: make room there, or choose "
            "another folder"
        )


def _amount(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
