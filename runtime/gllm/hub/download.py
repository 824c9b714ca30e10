"""Downloads with huggingface_hub: into its cache, or into a folder that appears when it is complete."""

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

Report = Callable[[str], None]
"""Gets one line of progress."""
Check = Callable[[Path], object]
"""Gets the folder when all files but the weights are there; raises ValueError if the model cannot be served."""


def find_on_hub(
    name: HubName, *, cache: str = "", weights: bool = True, report: Report, check: Check | None = None
) -> Path:
    """Return the model's folder or GGUF file in the cache, and download what is missing.

    A model that is complete in the cache is used without a request to the hub.

    Args:
        cache: a folder; "": huggingface_hub's own (HF_HUB_CACHE, HF_HOME).
        weights: False for a model with random weights.
        check: called before the weights are downloaded.

    Raises HubError, and what `check` raises.
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
        return download(name, cache=cache, commit=commit, weights=weights, report=report, check=check)
    except HubError as error:
        if found is None:
            raise
        report(f"{error}; it is used as the cache has it")
        return found


def download(
    name: HubName,
    *,
    cache: str = "",
    commit: str = "",
    weights: bool = True,
    report: Report,
    check: Check | None = None,
) -> Path:
    """Download into the cache, at `commit` or the newest commit of the revision. See `find_on_hub`."""
    with explained(name):
        folder = _cache_folder(cache)
        repository = _Repository(name, _model_info(name, commit), cache=folder)
        needed = repository.needed(weights)
        snapshot = CachedModel(folder, HubName(name.repo, repository.commit)).snapshot
        if check is not None and needed.settings and needed.weights:
            repository.fetch_all(needed._replace(weights=()), snapshot, report)
            check(snapshot)
        repository.fetch_all(needed, snapshot, report)
        CachedModel(folder, name).remember(repository.commit, repository.names)
        return snapshot / needed.model


def download_to(name: HubName, folder: Path, *, report: Report) -> None:
    """Download into a folder, at the newest commit of the revision. Raises HubError.

    A folder that exists counts as complete. Several hosts may download into the same folder: each collects the files in
    a part folder of its own, and the first that is complete is renamed.
    """
    if folder.is_dir():
        report(f"{folder} is there already")
        return
    with explained(name):
        info = _model_info(name, "")
        part = _part(folder, str(info.sha))
        repository = _Repository(name, info, folder=part)
        repository.fetch_all(repository.needed(weights=True), part, report)
        shutil.rmtree(part / ".cache", ignore_errors=True)  # of huggingface_hub
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # another host was faster
                raise
            shutil.rmtree(part, ignore_errors=True)
    report(f"{folder} is complete")


def _part(folder: Path, commit: str) -> Path:
    """Return the folder in which this host collects the files of a commit. Its folders of other commits are deleted."""
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
    """A repository at one commit: every request names the commit, so a branch that moves changes nothing."""

    name: HubName
    info: ModelInfo
    cache: Path | None = None
    folder: Path | None = None
    """The destination of files is `cache` or `folder`; the other is None."""

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
        """Download a file that is not complete here. This process resumes a download that broke off."""
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

    def fetch_all(self, needed: NeededFiles, destination: Path, report: Report) -> None:
        """Download what is missing in `destination`: settings first, because weights take long."""
        missing = [file for file in (*needed.settings, *needed.weights) if not (destination / file).exists()]
        if not missing:
            return
        num_bytes = sum(self.sizes[file] for file in missing)
        _check_space(num_bytes, destination)
        report(f"downloading {self.name} at {self.commit[:12]}: {len(missing)} files, {_amount(num_bytes)}")
        for file in missing:
            if file in needed.weights:
                report(f"downloading {file}, {_amount(self.sizes[file])}")
            self.fetch(file)


def _download_bar() -> type[tqdm]:
    """Return the class of the bars that huggingface_hub shows for one file, which may be several at once.

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
