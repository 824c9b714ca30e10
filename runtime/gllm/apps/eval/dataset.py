"""Rows of a published data set: from a file, from a folder, or from the Hugging Face hub."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gllm.hub.dataset import download_dataset

Row = dict[str, Any]

_FORMATS = (".parquet", ".jsonl", ".json")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Where a data set is published and what its splits are called."""

    name: str
    """On the hub: ORG/NAME."""
    files: tuple[str, ...]
    """Patterns of the files to download."""
    tests: str
    """The split with the questions."""
    examples: str = ""
    """The split with worked examples for few-shot prompts; "" if there is none."""
    folder: str = ""
    """The folder of the configuration to use, if the data set has several."""

    def locate(self, data: str) -> Path:
        """Return the file or folder `data`; the data set is downloaded if it is "" or a name on the hub."""
        path = Path(data or self.name).expanduser()
        if data and path.exists():
            return path
        if data and not re.fullmatch(r"[\w.-]+/[\w.-]+", data):
            raise ValueError(f"--data {data}: there is no such file or folder, and it is not ORG/NAME of a data set")
        try:
            return download_dataset(data or self.name, self.files)
        except ValueError as error:
            raise ValueError(
                f"{error}; --data takes a file or folder too: the parquet or JSON lines of {self.name}"
            ) from None

    def test_rows(self, path: Path) -> list[Row]:
        """Return the rows of the questions. A file is taken whatever its name is. Raises ValueError."""
        files = [path] if path.is_file() else self._files(path, self.tests)
        if not files:
            raise ValueError(f"--data {path}: no file of the split {self.tests!r} (parquet or JSON lines) is there")
        return [row for file in files for row in read_rows(file)]

    def example_rows(self, path: Path) -> list[Row]:
        """Return the rows of worked examples; beside a file these are in its folder. Raises ValueError."""
        folder = path.parent if path.is_file() else path
        files = [file for file in self._files(folder, self.examples) if file != path]
        if not files:
            raise ValueError(
                f"--data {path}: few-shot prompts need the split {self.examples!r}, and {folder} has no such file: put "
                f"it there (a name like {self.examples}.jsonl), or ask without examples: --shots 0"
            )
        return [row for file in files for row in read_rows(file)]

    def _files(self, folder: Path, split: str) -> list[Path]:
        """Return the files of a split, in the order of their names, in the first format that it has."""
        found = [path for path in sorted(folder.rglob("*")) if path.suffix in _FORMATS and path.is_file()]
        if self.folder and any(path.parent.name == self.folder for path in found):
            found = [path for path in found if path.parent.name == self.folder]
        named = [path for path in found if re.search(rf"(?<![a-z]){split}(?![a-z])", path.stem.lower())]
        if not named and split == self.tests and len(found) == 1:
            named = found
        return [path for path in named if path.suffix == named[0].suffix]


def read_rows(path: Path) -> list[Row]:
    """Read parquet or JSON lines. Raises ValueError that names the file and the line."""
    if path.suffix == ".parquet":
        return _read_parquet(path)
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{number} must be a JSON object, one for each line")
            rows.append(row)
    return rows


def _read_parquet(path: Path) -> list[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ValueError(
            f"{path}: parquet needs pyarrow: pip install 'gllm[eval]', or take the same data as JSON lines"
        ) from None
    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
    except ArrowException as error:
        raise ValueError(f"{path} is not parquet: {error}") from None
    return rows


def require_columns(rows: list[Row], columns: tuple[str, ...], dataset: Dataset) -> None:
    """Raise ValueError for a row without one of the columns."""
    for number, row in enumerate(rows, start=1):
        missing = [column for column in columns if row.get(column) is None]
        if missing:
            raise ValueError(
                f"row {number} has no {missing[0]!r}: {dataset.name} has the columns {', '.join(columns)}; "
                f"this row has {', '.join(row) or 'none'}"
            )
