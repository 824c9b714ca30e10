"""GGUF headers and tensors: every type, every slice, damaged files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from fixtures.tiny_models import write_gguf
from gllm.checkpoint import source as checkpoint_source
from gllm.checkpoint.gguf_file import GGUFFile, GGUFTensor
from gllm.checkpoint.gguf_layout import GGUFLayout, named
from gllm.checkpoint.gguf_source import SUPPORTED_TYPES, GGUFSource
from gllm.models.families import FAMILIES, family_of, load_model_config
from gllm.text.tokenizer import load_tokenizer

TinyModel = Callable[[str], Path]


def layout_of(architecture: str) -> GGUFLayout:
    return next(family.gguf for family in FAMILIES if family.gguf and family.gguf.architecture == architecture)


def source_of(path: Path) -> GGUFSource:
    layout = family_of(load_model_config(path)).gguf
    assert layout is not None
    return GGUFSource(path, layout)


def write_tensor(path: Path, name: str, raw: np.ndarray, kind: gguf.GGMLQuantizationType) -> Path:
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", sorted(SUPPORTED_TYPES), ids=lambda kind: kind.name)
def test_every_type_is_dequantized(kind: gguf.GGMLQuantizationType, tmp_path: Path) -> None:
    rows, columns = 20, 512
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(kind).integers(0, 256, (rows, columns // block * block_bytes), dtype=np.uint8)
    # No infinities or NaN among the scales: clear the top exponent bit of every second byte.
    raw[:, 1::2] &= 0xBF
    raw[:, 0::2] &= 0xBF
    expected = torch.from_numpy(gguf.quants.dequantize(raw, kind).copy()).reshape(rows, columns)
    path = write_tensor(tmp_path / "model.gguf", "blk.3.ffn_up.weight", raw, kind)
    source = GGUFSource(path, layout_of("qwen3"))
    info = source.tensors["model.layers.3.mlp.up_proj.weight"]
    assert (info.shape, info.dtype, info.readable) == ((rows, columns), kind.name, True)
    out = torch.empty(rows, columns)
    source.read("model.layers.3.mlp.up_proj.weight", out)
    assert torch.equal(out, expected)
    piece = torch.empty(7, 100, dtype=torch.bfloat16)
    source.read("model.layers.3.mlp.up_proj.weight", piece, slice(5, 12), slice(300, 400))
    assert torch.equal(piece, expected[5:12, 300:400].bfloat16())


@pytest.mark.parametrize("quant", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
@pytest.mark.parametrize("chunk_bytes", [1, 1000, 2**25])
def test_llama_heads_are_put_back(
    quant: str, chunk_bytes: int, tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_source, "CHUNK_BYTES", chunk_bytes)
    folder = tiny_model("llama-bias")
    source = source_of(write_gguf(folder, tmp_path / "model.gguf", quant))
    originals = load_file(folder / "model.safetensors")
    assert set(source.tensors) == set(originals)
    kind = gguf.GGMLQuantizationType[quant]
    for name, original in originals.items():
        expected = original
        if original.ndim == 2:
            # Blocks lie within a row, so quantizing before or after the permutation of rows is the same.
            expected = torch.from_numpy(
                gguf.quants.dequantize(gguf.quants.quantize(original.numpy(), kind), kind).copy()
            )
        out = torch.empty(original.shape)
        source.read(name, out)
        assert torch.equal(out, expected), name
        middle = slice(len(original) // 4, len(original) // 2 + 1)
        source.read(name, out[middle], middle)
        assert torch.equal(out, expected), name


@pytest.mark.parametrize("name", ["LLAMA", "QWEN2", "QWEN3", "QWEN3MOE", "GLM4"])
def test_names_are_those_of_the_gguf_package(name: str) -> None:
    """The package has the converter's table, which maps Hugging Face's names to GGUF's."""
    architecture = gguf.MODEL_ARCH[name]
    theirs = gguf.get_tensor_name_map(architecture, 1)
    layout = layout_of(gguf.MODEL_ARCH_NAMES[architecture])
    kind = gguf.GGMLQuantizationType.F32
    for tensor in gguf.MODEL_TENSORS[architecture]:
        written = gguf.TENSOR_NAMES[tensor].format(bid=0) + ".weight"
        ours, _ = next(named(GGUFTensor(written, Path(), (2, 2), kind, 0, 16), layout))
        if ours != written and "{}" not in ours:  # names with {} are gLLM's own: one for each expert
            assert theirs.get_name(ours.removesuffix(".weight")) == written.removesuffix(".weight")


def test_unreadable_types_are_known_before_reading(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q8_1
    raw = np.zeros((4, 40), np.uint8)
    source = GGUFSource(write_tensor(tmp_path / "model.gguf", "output.weight", raw, kind), layout_of("qwen3"))
    assert not source.tensors["lm_head.weight"].readable


def test_header_values(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = write_gguf(tiny_model("llama"), tmp_path / "model.gguf", "Q8_0")
    ours, theirs = GGUFFile(path), gguf.GGUFReader(path)
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            assert ours.metadata[key] == field.contents(), key
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert mine.shape == tuple(reversed(tensor.shape.tolist()))
        assert (mine.offset, mine.num_bytes) == (tensor.data_offset, tensor.n_bytes)


def test_broken_files_are_named(tiny_model: TinyModel, tmp_path: Path) -> None:
    whole = write_gguf(tiny_model("llama"), tmp_path / "whole.gguf", "Q8_0").read_bytes()
    path = tmp_path / "broken.gguf"
    for content, message in (
        (b"", "broken.gguf is not a readable GGUF file"),
        (b"PK\x03\x04" + whole[4:], "does not start with GGUF"),
        (whole[:4] + b"\x01\0\0\0" + whole[8:], "version 1 is not supported"),
        (whole[:500], "it is truncated"),
        (whole[:-1000], "truncated: tensor .* ends past the end of the file"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            GGUFFile(path)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        GGUFFile(tmp_path / "nowhere.gguf")


def split(path: Path, count: int) -> list[Path]:
    """The parts that llama-gguf-split makes of a file: all metadata in the first, tensors in turn."""
    whole = gguf.GGUFReader(path)
    parts = [path.with_name(f"split-{number + 1:05d}-of-{count:05d}.gguf") for number in range(count)]
    for number, part in enumerate(parts):
        writer = gguf.GGUFWriter(part, "llama")
        for field in whole.fields.values() if number == 0 else ():
            if not field.name.startswith("GGUF.") and field.name != "general.architecture":
                sub_type = field.types[-1] if len(field.types) > 1 else None
                writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(whole.tensors))
        for tensor in whole.tensors[number::count]:
            writer.add_tensor(tensor.name, np.asarray(tensor.data), raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return parts


def test_any_part_of_a_split_file_opens_all_parts(tiny_model: TinyModel, tmp_path: Path) -> None:
    path = write_gguf(tiny_model("llama"), tmp_path / "model.gguf", "Q8_0")
    whole = source_of(path)
    for part in split(path, 3):
        assert load_model_config(part) == load_model_config(path)
        source = source_of(part)
        assert set(source.tensors) == set(whole.tensors)
        for name, info in whole.tensors.items():
            expected, actual = torch.empty(info.shape), torch.empty(info.shape)
            whole.read(name, expected)
            source.read(name, actual)
            assert torch.equal(actual, expected), name
        assert load_tokenizer(part).encode("the quick") == load_tokenizer(path).encode("the quick")


def test_a_missing_part_is_named(tiny_model: TinyModel, tmp_path: Path) -> None:
    parts = split(write_gguf(tiny_model("llama"), tmp_path / "model.gguf", "Q8_0"), 3)
    parts[1].unlink()
    with pytest.raises(ValueError, match=r"split-00002-of-00003\.gguf is missing: the model has 3 parts"):
        load_model_config(parts[2])
    renamed = parts[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(ValueError, match=r"renamed\.gguf is one part of several, whose names must end in -00001-of"):
        load_model_config(renamed)


def test_wrong_downloads_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    with pytest.raises(ValueError, match=r"model\.gguf is not a readable GGUF file: it is a git-lfs pointer"):
        GGUFFile(path)
    path.write_bytes(b"<!DOCTYPE html><html>" + b"x" * 9999)
    with pytest.raises(ValueError, match="it is a web page in place of the file"):
        GGUFFile(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_damage_is_a_value_error(data: st.DataObject, tiny_model: TinyModel, tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    if not whole.exists():
        write_gguf(tiny_model("llama3"), whole, "Q8_0")
    content = bytearray(whole.read_bytes())
    header = GGUFFile(whole).tensors["rope_freqs.weight"].offset
    for at in data.draw(st.lists(st.integers(0, header - 1), max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content[: data.draw(st.integers(header // 2, len(content)))])
    with contextlib.suppress(ValueError):
        load_model_config(path)
    with contextlib.suppress(ValueError):
        GGUFSource(path, layout_of("llama"))
