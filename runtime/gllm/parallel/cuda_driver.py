"""The calls of the CUDA driver that torch does not offer: memory shared between processes, and flags for streams."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

_NATIVE_ATOMICS = 3
"""CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED: GPUs have it over NVLink, and not over PCIe."""
_ENABLE_PEER_ACCESS = 1
"""CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS."""


class DriverError(RuntimeError):
    """The driver refused a call."""


class _IpcHandle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_ubyte * 64),)


_SIGNATURES: dict[str, list[Any]] = {
    "cuDeviceGetP2PAttribute": [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int],
    "cuMemAlloc_v2": [ctypes.c_void_p, ctypes.c_size_t],
    "cuMemFree_v2": [ctypes.c_uint64],
    "cuMemsetD16_v2": [ctypes.c_uint64, ctypes.c_ushort, ctypes.c_size_t],
    "cuMemcpyDtoH_v2": [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t],
    "cuMemcpyAsync": [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p],
    "cuIpcGetMemHandle": [ctypes.c_void_p, ctypes.c_uint64],
    "cuIpcOpenMemHandle_v2": [ctypes.c_void_p, _IpcHandle, ctypes.c_uint],
    "cuIpcCloseMemHandle": [ctypes.c_uint64],
    "cuStreamWriteValue32_v2": [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint],
    "cuStreamWaitValue32_v2": [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint],
}


class CudaDriver:
    """Works in the context that torch made current. Addresses are integers; sizes are bytes.

    Raises OSError or AttributeError if the driver, or one of these calls, is missing; DriverError if it refuses a call.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device.index
        self._library = ctypes.CDLL("libcuda.so.1")
        for name, types in _SIGNATURES.items():
            getattr(self._library, name).argtypes = types

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(status, ctypes.byref(text))
            raise DriverError(f"{name}: {(text.value or str(status).encode()).decode()}")

    def device_id(self) -> str:
        """Return what names this GPU in every process of the machine."""
        return str(torch.cuda.get_device_properties(self._device).uuid)

    def has_nvlink(self, device_id: str) -> bool:
        """Whether NVLink joins this GPU to another one that this process sees."""
        for other in range(torch.cuda.device_count()):
            if str(torch.cuda.get_device_properties(other).uuid) == device_id:
                value = ctypes.c_int()
                self._call("cuDeviceGetP2PAttribute", ctypes.byref(value), _NATIVE_ATOMICS, self._device, other)
                return bool(value.value)
        return False

    def allocate(self, nbytes: int, fill: int) -> int:
        """Allocate memory whose 16-bit words are all `fill`."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), nbytes)
        self._call("cuMemsetD16_v2", address.value, fill & 0xFFFF, nbytes // 2)
        torch.cuda.synchronize(self._device)
        return address.value

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", address)

    def export(self, address: int) -> bytes:
        """Return the handle with which another process can map memory that `allocate` returned."""
        handle = _IpcHandle()
        self._call("cuIpcGetMemHandle", ctypes.byref(handle), address)
        return bytes(handle.reserved)

    def map(self, handle: bytes) -> int:
        """Map another process's memory; its GPU may be another one of this machine."""
        address = ctypes.c_uint64()
        self._call(
            "cuIpcOpenMemHandle_v2", ctypes.byref(address), _IpcHandle.from_buffer_copy(handle), _ENABLE_PEER_ACCESS
        )
        return address.value

    def unmap(self, address: int) -> None:
        self._call("cuIpcCloseMemHandle", address)

    def write(self, address: int, content: bytes) -> None:
        """Write to memory of this or another GPU by a copy from this one, and wait."""
        source = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(torch.device("cuda", self._device))
        self.copy(address, source.data_ptr(), len(content), torch.cuda.current_stream(self._device))
        torch.cuda.synchronize(self._device)

    def read(self, address: int, nbytes: int) -> bytes:
        """Read from this GPU's memory, and wait."""
        content = ctypes.create_string_buffer(nbytes)
        self._call("cuMemcpyDtoH_v2", content, address, nbytes)
        return content.raw

    def copy(self, target: int, source: int, nbytes: int, stream: torch.cuda.Stream) -> None:
        """Copy in the order of the stream. Between GPUs, a copy engine does it."""
        if nbytes:
            self._call("cuMemcpyAsync", target, source, nbytes, stream.cuda_stream)

    def set_flag(self, address: int, value: int, stream: torch.cuda.Stream) -> None:
        """Write a 32-bit flag when the stream's earlier work is done and visible."""
        self._call("cuStreamWriteValue32_v2", stream.cuda_stream, address, value & 0xFFFFFFFF, 0)

    def wait_for_flag(self, address: int, value: int, stream: torch.cuda.Stream) -> None:
        """Let the stream's later work wait until the flag has reached `value`, in 32-bit arithmetic that wraps.

        No flush is asked for, as in NCCL's collectives by copy engines: another GPU's flag follows the data it wrote.
        """
        self._call("cuStreamWaitValue32_v2", stream.cuda_stream, address, value & 0xFFFFFFFF, 0)
