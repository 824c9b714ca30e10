"""Resolves `auto`: device, dtype and threads, and the implementations of the math for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch

from gllm.config import EngineConfig
from gllm.layers.attention_backends.backend import AttentionBackend, AttentionSpec, KVShape
from gllm.layers.ops.protocols import ExpertOps, Ops
from gllm.layers.ops.torch_experts import TorchExperts
from gllm.models.config import ModelConfig
from gllm.parallel.world import local_device

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Platform:
    """The choices that one worker runs with."""

    device: torch.device
    dtype: torch.dtype
    backend: str
    """reference, native or flashinfer: the attention backend, and the ops that belong to it."""
    ops: Ops
    experts: ExpertOps
    make_attention: Callable[[KVShape, Sequence[AttentionSpec]], AttentionBackend]
    argmax: Callable[[torch.Tensor], torch.Tensor] | None


def choose_platform(config: EngineConfig, model: ModelConfig) -> Platform:
    """Resolve `auto`. Raises ValueError, which names the flag, if a choice cannot work on this machine."""
    device = _device(config)
    dtype = _dtype(config, model, device)
    backend = _backend(config, model, device, dtype)
    if backend == "flashinfer":
        from gllm.layers.attention_backends.flashinfer import FlashInferAttention
        from gllm.layers.ops.flashinfer_ops import FlashInferOps
        from gllm.layers.ops.triton_experts import TritonExperts

        return Platform(device, dtype, backend, FlashInferOps(), TritonExperts(), FlashInferAttention, None)
    if backend == "native":
        from gllm.layers.attention_backends.native import NativeAttention
        from gllm.layers.ops.native_experts import NativeExperts
        from gllm.layers.ops.native_ops import NativeOps
        from gllm_kernels import cpu

        cpu.set_num_threads(cpu_threads(config))
        native = NativeOps()
        # torch's own threads would compete with the kernels' threads for the cores.
        torch.set_num_threads(1)
        return Platform(device, dtype, backend, native, NativeExperts(native), NativeAttention, native.argmax)
    from gllm.layers.attention_backends.reference import ReferenceAttention
    from gllm.layers.ops.torch_ops import TorchOps

    if device.type == "cpu":
        torch.set_num_threads(cpu_threads(config))
    return Platform(device, dtype, backend, TorchOps(), TorchExperts(), ReferenceAttention, None)


def cpu_threads(config: EngineConfig) -> int:
    """Return the configured number of threads, else this worker's share of the cores that the process may use."""
    workers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return config.threads or max(1, len(os.sched_getaffinity(0)) // workers)


def to_device(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """Copy a host array to the device without waiting for it; on the CPU, share its memory."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def _device(config: EngineConfig) -> torch.device:
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "--device cuda: torch sees no CUDA device here; use --device cpu, or install a CUDA build of torch"
        )
    return local_device(name)


def _dtype(config: EngineConfig, model: ModelConfig, device: torch.device) -> torch.dtype:
    if config.dtype != "auto":
        return _DTYPES[config.dtype]
    if device.type == "cpu" and (model.dtype == "float16" or not _has_bf16()):
        return torch.float32
    return _DTYPES[model.dtype]


def _has_bf16() -> bool:
    try:
        with open("/proc/cpuinfo") as info:
            return "avx512_bf16" in info.read()
    except OSError:
        return False


def _backend(config: EngineConfig, model: ModelConfig, device: torch.device, dtype: torch.dtype) -> str:
    asked = config.attention_backend
    if device.type == "cuda":
        if asked == "native":
            raise ValueError("--attention-backend native is for --device cpu; use flashinfer or reference")
        fits = dtype in (torch.bfloat16, torch.float16) and model.head_dim in (64, 128, 256)
        if asked == "flashinfer" and not fits:
            raise ValueError(
                f"--attention-backend flashinfer serves 16-bit dtypes and head_dim 64, 128 or 256, "
                f"not {dtype} with head_dim {model.head_dim}; use --attention-backend reference"
            )
        return "flashinfer" if asked != "reference" and fits else "reference"
    if asked == "flashinfer":
        raise ValueError("--attention-backend flashinfer needs --device cuda; use native or reference")
    if asked == "reference":
        return asked
    from gllm_kernels import cpu

    fits = cpu.available() and dtype in (torch.bfloat16, torch.float32) and model.head_dim % 16 == 0
    if asked == "native" and not fits:
        why = cpu.unavailable_reason() or f"it serves bfloat16 and float32 with head_dim a multiple of 16, not {dtype}"
        raise ValueError(f"--attention-backend native cannot be used here: {why}; use --attention-backend reference")
    return "native" if fits else "reference"
