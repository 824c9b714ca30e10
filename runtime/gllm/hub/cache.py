"""The Hugging Face cache on this machine, as huggingface_hub lays it out:

models--ORG--NAME/refs/REVISION            the commit of a branch or tag
models--ORG--NAME/snapshots/COMMIT/FILE    a link to a blob
models--ORG--NAME/.no_exist/COMMIT/FILE    empty: that commit has no such file
"""

from __future__ import annotations

from pathlib import Path

from gllm.hub.files import READ_HERE, USUAL_GGUF, NeededFiles, needed_files, needed_settings
from gllm.hub.name import HubName


class CachedModel:
    """The files of one model in the cache, at the commit that its revision had at the last download."""

    def __init__(self, cache: Path, name: HubName) -> None:
        self._name = name
        self._repository = cache / f"models--{name.repo.replace('/', '--')}"
        self.commit = self._read_commit()
        """Empty if it is not known on this machine."""

    @property
    def snapshot(self) -> Path:
        return self._repository / "snapshots" / self.commit

    def find(self, *, weights: bool) -> Path | None:
        """Return the folder or GGUF file of the model; None if a file that it needs is missing."""
        if not self.commit:
            return None
        names = {str(path.relative_to(self.snapshot)) for path in self.snapshot.rglob("*") if path.is_file()}
        try:
            needed = self._needed(names, weights)
        except (ValueError, OSError):
            return None
        return self.snapshot / needed.model

    def is_certain(self, found: Path) -> bool:
        """Whether the hub would name the same files.

        A folder must have each file that a start reads, unless the commit is known to lack it. A GGUF file must be
        named by the user, or have the usual quantization.
        """
        if found.suffix == ".gguf":
            return bool(self._name.gguf) or USUAL_GGUF.lower() in found.name.lower()
        absent = self._repository / ".no_exist" / self.commit
        return all((self.snapshot / name).exists() or (absent / name).exists() for name in READ_HERE)

    def remember(self, commit: str, names: set[str]) -> None:
        """Note the commit of the revision, and which files the commit does not have."""
        absent = self._repository / ".no_exist" / commit
        absent.mkdir(parents=True, exist_ok=True)
        for name in READ_HERE:
            if name not in names:
                (absent / name).touch()
        if not self._name.is_commit:
            reference = self._repository / "refs" / self._name.revision
            reference.parent.mkdir(parents=True, exist_ok=True)
            new = reference.with_name(f"{reference.name}.new-{commit}")
            new.write_text(commit)
            new.replace(reference)

    def _needed(self, names: set[str], weights: bool) -> NeededFiles:
        if not weights:
            return needed_settings(names)
        return needed_files(names, self._name.gguf, lambda name: (self.snapshot / name).read_bytes())

    def _read_commit(self) -> str:
        if self._name.is_commit:
            return self._name.revision
        try:
            return (self._repository / "refs" / self._name.revision).read_text().strip()
        except OSError:
            return ""
