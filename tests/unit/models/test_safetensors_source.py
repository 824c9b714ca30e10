"""Hugging Face folders: slices, shards, damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gllm.checkpoint import source as checkpoint_source
from gllm.checkpoint.safetensors_source import SafetensorsSource
from gllm.models.loader import open_checkpoint

INDEX = "model.safetensors.index.json"
MATRIX = torch.arange(60, dtype=torch.float32).reshape(10, 6)


def write_shards(folder: Path) -> Path:
    save_file({"a": MATRIX, "extra": torch.ones(1)}, folder / "one.safetensors")
    save_file({"b": torch.arange(5.0)}, folder / "two.safetensors")
    write_index(folder, {"a": "one.safetensors", "b": "two.safetensors"})
    return folder


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("chunk_bytes", [1, 100, 2**25])
def test_slices(dtype: torch.dtype, chunk_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_source, "CHUNK_BYTES", chunk_bytes)
    save_file({"m": MATRIX.to(dtype), "v": MATRIX[0].to(dtype, copy=True)}, tmp_path / "model.safetensors")
    source = open_checkpoint(tmp_path, None)
    assert {name: info.shape for name, info in source.tensors.items()} == {"m": (10, 6), "v": (6,)}
    for rows, columns in ((slice(None), slice(None)), (slice(3, 9), slice(None)), (slice(0, 10), slice(2, 5))):
        out = torch.empty_like(MATRIX[rows, columns])
        source.read("m", out, rows, columns)
        assert torch.equal(out, MATRIX[rows, columns])
    vector = torch.empty(3)
    source.read("v", vector, slice(1, 4))
    assert torch.equal(vector, MATRIX[0, 1:4])


def test_shards_hold_what_the_index_says(tmp_path: Path) -> None:
    source = SafetensorsSource(write_shards(tmp_path))
    assert set(source.tensors) == {"a", "b"}
    out = torch.empty(5)
    source.read("b", out)
    assert torch.equal(out, torch.arange(5.0))


def test_a_file_that_shrinks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"m": MATRIX}, path)
    source = SafetensorsSource(tmp_path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"model\.safetensors: tensor m cannot be read, .* ends 7 bytes too early"):
        source.read("m", torch.empty(10, 6))


def test_integer_tensors_are_not_readable(tmp_path: Path) -> None:
    save_file({"ids": torch.arange(3)}, tmp_path / "model.safetensors")
    assert not SafetensorsSource(tmp_path).tensors["ids"].readable


def test_broken_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no model\.safetensors and no model\.safetensors\.index\.json"):
        SafetensorsSource(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(ValueError, match=r"pickled weights \(pytorch_model\.bin\), which are never loaded"):
        SafetensorsSource(tmp_path)
    write_shards(tmp_path)
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(ValueError, match=r"two\.safetensors is missing"):
        SafetensorsSource(tmp_path)
    (tmp_path / "two.safetensors").write_bytes((tmp_path / "one.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"two\.safetensors has no tensor b, which model\.safetensors\.index"):
        SafetensorsSource(tmp_path)
    (tmp_path / "two.safetensors").write_bytes((tmp_path / "one.safetensors").read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"two\.safetensors cannot be read, the file is truncated or corrupt"):
        SafetensorsSource(tmp_path)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LFS, r"it is a git-lfs pointer .*: run `git lfs pull`"),
        (b"\n <!DOCTYPE HTML>" + b"x" * 9999, "it is a web page in place of the file"),
        (b"Entry not found", "it holds the text 'Entry not found' in place of the file"),
        (b"", "it is empty: download it again"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", INDEX, "two.safetensors"])
def test_wrong_downloads_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*{message}") as caught:
        SafetensorsSource(tmp_path)
    assert "\n" not in str(caught.value)


def test_shards_without_an_index(tmp_path: Path) -> None:
    for number, name in enumerate("abc", 1):
        save_file({name: torch.full((2,), float(number))}, tmp_path / f"model-{number:05d}-of-00003.safetensors")
    # Neither belongs to the model.
    save_file({"lora": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    save_file({"tok_embeddings.weight": torch.ones(1)}, tmp_path / "consolidated.safetensors")
    assert set(SafetensorsSource(tmp_path).tensors) == {"a", "b", "c"}
    save_file({"a": torch.ones(1)}, tmp_path / "model-00003-of-00003.safetensors")
    with pytest.raises(ValueError, match=r"model-00003-of-00003.* and .*model-00001-of-00003.* both have a tensor a"):
        SafetensorsSource(tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-00003\.safetensors is missing: the model has 3 parts"):
        SafetensorsSource(tmp_path)


def test_the_single_file_wins_as_in_transformers(tmp_path: Path) -> None:
    write_shards(tmp_path)
    save_file({"whole": MATRIX}, tmp_path / "model.safetensors")
    assert set(SafetensorsSource(tmp_path).tensors) == {"whole"}


def test_other_layouts_are_named(tmp_path: Path) -> None:
    save_file({"tok_embeddings.weight": MATRIX}, tmp_path / "consolidated.safetensors")
    with pytest.raises(ValueError, match=r"consolidated\.safetensors is in the layout of the model's authors"):
        SafetensorsSource(tmp_path)
    for name in ("consolidated.safetensors", "x.safetensors", "y.safetensors"):
        save_file({"m": MATRIX}, tmp_path / name)
    with pytest.raises(ValueError, match=r"several safetensors files \(x\.safetensors, y\.safetensors\) and no"):
        SafetensorsSource(tmp_path)


@pytest.mark.parametrize("weight_map", [None, [1], {"a": 5}, {"a": "../one.safetensors"}, {"a": "/etc/passwd"}])
def test_broken_indexes_are_named(weight_map: object, tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_index(tmp_path, weight_map)
    with pytest.raises(ValueError, match=f"{INDEX} is not a valid safetensors index"):
        SafetensorsSource(tmp_path)
