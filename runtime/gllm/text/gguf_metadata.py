"""The key-value header of a GGUF file as a plain dict, read without touching the tensors.

`gguf.GGUFReader` builds numpy views for every array element, which takes seconds for a vocabulary; a
tokenizer needs only the values. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

MAGIC = b"GGUF"
SUPPORTED_VERSIONS = (2, 3)
MAX_KEYS = 65536

_STRING, _ARRAY = 8, 9
# Type number of a GGUF scalar -> its little-endian struct code.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


def read_gguf_metadata(path: Path | str) -> dict[str, Any]:
    """All metadata of a little-endian GGUF file, version 2 or 3; arrays become lists.

    Raises ValueError if the file is not such a file or its header is damaged.
    """
    with open(path, "rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError(f"{path} is not a GGUF file: it does not begin with {MAGIC!r}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Reader(data).metadata()
            except (struct.error, IndexError) as error:
                raise ValueError(f"{path} has a damaged GGUF header: {error}") from error
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error


class _Reader:
    """A cursor over the header; every read is checked against the end of the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.offset = len(MAGIC)

    def metadata(self) -> dict[str, Any]:
        version = self._unsigned(_U32)
        if version not in SUPPORTED_VERSIONS:
            raise ValueError(f"GGUF version {version} is not supported; convert the file to version 3")
        self._unsigned(_U64)  # number of tensors
        count = self._unsigned(_U64)
        if count > MAX_KEYS:
            raise ValueError(f"damaged GGUF header: {count} keys")
        values: dict[str, Any] = {}
        for _ in range(count):
            key = self._strings(1)[0]
            values[key] = self._value(self._unsigned(_U32))
        return values

    def _unsigned(self, layout: struct.Struct) -> int:
        (value,) = layout.unpack_from(self.data, self.offset)
        self.offset += layout.size
        return int(value)

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._strings(1)[0]
        if kind == _ARRAY:
            element = self._unsigned(_U32)
            count = self._unsigned(_U64)
            if element == _STRING:
                return self._strings(count)
            if element == _ARRAY:
                raise ValueError("damaged GGUF header: nested arrays")
            return self._numbers(element, count)
        return self._numbers(kind, 1)[0]

    def _numbers(self, kind: int, count: int) -> list[Any]:
        if kind not in _SCALARS:
            raise ValueError(f"damaged GGUF header: unknown value type {kind}")
        code = _SCALARS[kind]
        if count * struct.calcsize(f"<{code}") > len(self.data) - self.offset:
            raise ValueError(f"damaged GGUF header: an array of {count} elements passes the end of the file")
        layout = struct.Struct(f"<{count}{code}")
        values = layout.unpack_from(self.data, self.offset)
        self.offset += layout.size
        return list(values)

    def _strings(self, count: int) -> list[str]:
        data, offset, end = self.data, self.offset, len(self.data)
        if count * 8 > end - offset:
            raise ValueError(f"damaged GGUF header: an array of {count} strings passes the end of the file")
        unpack = _U64.unpack_from
        strings = []
        for _ in range(count):
            start = offset + 8
            offset = start + unpack(data, offset)[0]
            if offset > end:
                raise ValueError("damaged GGUF header: a string passes the end of the file")
            strings.append(data[start:offset].decode("utf-8", "replace"))
        self.offset = offset
        return strings
