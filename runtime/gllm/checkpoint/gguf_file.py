"""The header of a GGUF file, or of all parts of a split one: metadata, and the offset of each tensor.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Read with `struct` rather than the gguf package's
reader, which makes an array view of each of the vocabulary's strings and trusts the file's sizes.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from gllm.checkpoint.shards import all_parts
from gllm.checkpoint.wrong_files import wrong_content

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Value type -> struct format."""
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    name: str
    path: Path
    """The file that holds it, a part of several if the model is split."""
    shape: tuple[int, ...]
    """Rows first, as in torch."""
    type: GGMLQuantizationType
    offset: int
    """Offset of the data from the start of the file, in bytes."""
    num_bytes: int


class GGUFFile:
    """A parsed header. The path of any part of a split file opens all parts.

    Raises ValueError naming the file if it is not GGUF, truncated or corrupt, or a part is missing.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.metadata: dict[str, Any] = {}
        """Scalars, strings and lists by key."""
        self.tensors: dict[str, GGUFTensor] = {}
        """Tensors by GGUF name."""
        self._read(self.path)
        count = self.metadata.get("split.count", 0)
        if isinstance(count, int) and count > 1:
            parts = all_parts(self.path)
            if len(parts) != count:
                raise ValueError(f"{self.path}: split.count is {count}, but its name says that there are {len(parts)}")
            self.tensors = {}
            # The first part is read last: its metadata is the model's. The metadata of the others only counts them.
            for part in reversed(parts):
                self._read(part)

    def _read(self, path: Path) -> None:
        """Replace the metadata by the file's metadata, and add the file's tensors."""
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                self._parse(path, _Cursor(data))
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{path} is not a readable GGUF file: {wrong_content(path) or error}") from None

    def _parse(self, path: Path, cursor: _Cursor) -> None:
        if cursor.take(4) != _MAGIC:
            raise ValueError("it does not start with GGUF")
        self.metadata = {}
        version = cursor.scalar("I")
        if version not in (2, 3):
            raise ValueError(f"version {version} is not supported (2 and 3 are)")
        num_tensors, num_fields = cursor.scalar("Q"), cursor.scalar("Q")
        for _ in range(num_fields):
            key = cursor.string()
            self.metadata[key] = cursor.value(cursor.scalar("I"))
        infos = [self._tensor_info(cursor) for _ in range(num_tensors)]
        alignment = self.metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0:
            raise ValueError(f"general.alignment is {alignment!r}")
        start = -(-cursor.at // alignment) * alignment
        for name, shape, kind, offset in infos:
            block, block_bytes = GGML_QUANT_SIZES[kind]
            if shape[-1] % block:
                raise ValueError(f"rows of tensor {name} ({shape[-1]}) are not whole blocks of {kind.name} ({block})")
            tensor = GGUFTensor(name, path, shape, kind, start + offset, math.prod(shape) // block * block_bytes)
            if tensor.offset + tensor.num_bytes > cursor.size:
                raise ValueError(f"it is truncated: tensor {name} ends past the end of the file")
            if name in self.tensors:
                raise ValueError(f"tensor {name} occurs twice")
            self.tensors[name] = tensor

    def _tensor_info(self, cursor: _Cursor) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
        name = cursor.string()
        num_dimensions = cursor.scalar("I")
        if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
            raise ValueError(f"tensor {name} has {num_dimensions} dimensions")
        # The file lists the contiguous dimension first.
        shape = tuple(cursor.scalar("Q") for _ in range(num_dimensions))[::-1]
        if 0 in shape:
            raise ValueError(f"tensor {name} is empty")
        kind, offset = cursor.scalar("I"), cursor.scalar("Q")
        try:
            return name, shape, GGMLQuantizationType(kind), offset
        except ValueError:
            raise ValueError(f"tensor {name} has the unknown type {kind}") from None

    def raw(self, tensor: GGUFTensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the tensor's bytes, [rows, bytes of a row], mapped from the file and not yet read."""
        rows = math.prod(tensor.shape[:-1])
        shape = (rows, tensor.num_bytes // rows)
        # This is a plain array over the map: each index into a memmap would make another memmap.
        return np.asarray(np.memmap(tensor.path, np.uint8, mode="r", offset=tensor.offset, shape=shape))


class _Cursor:
    """Reads little-endian values one after another; raises ValueError at the end of the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.size = len(data)
        self.at = 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > self.size:
            raise ValueError("it is truncated")
        piece = self._data[self.at : end]
        self.at = end
        return piece

    def scalar(self, form: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def string(self) -> str:
        return self.take(self.scalar("Q")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise ValueError(f"metadata has the unknown value type {kind}")
        return self.scalar(_SCALARS[kind])

    def _array(self) -> list[Any]:
        kind, count = self.scalar("I"), self.scalar("Q")
        if kind == _STRING:
            return self._strings(count)
        if kind not in _SCALARS:
            raise ValueError(f"metadata has an array of the value type {kind}")
        form = _SCALARS[kind]
        return list(struct.unpack(f"<{count}{form}", self.take(count * struct.calcsize("<" + form))))

    def _strings(self, count: int) -> list[str]:
        """Read `count` strings in a tight loop: vocabularies have hundreds of thousands."""
        data, size, at = self._data, self.size, self.at
        length_at = struct.Struct("<Q").unpack_from
        strings: list[str] = []
        for _ in range(count):
            start = at + 8
            if start > size:
                raise ValueError("it is truncated")
            at = start + length_at(data, at)[0]
            if at > size:
                raise ValueError("it is truncated")
            strings.append(data[start:at].decode("utf-8", errors="replace"))
        self.at = at
        return strings
