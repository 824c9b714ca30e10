"""The loading of the compiled module, and the messages on a machine without it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gllm_kernels import cpu


def run_python(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_best_instruction_set_is_the_default() -> None:
    if cpu.native is None:
        assert cpu.isa() == "none"
    else:
        code = "from gllm_kernels import cpu; print(cpu.isa())"
        assert run_python(code, GLLM_KERNELS_ISA="") == cpu.native.supported_isas()[0]


@pytest.mark.parametrize("name", cpu.native.supported_isas() if cpu.native is not None else ["none"])
def test_the_environment_forces_an_instruction_set(name: str) -> None:
    forced = "" if name == "none" else name
    assert run_python("from gllm_kernels import cpu; print(cpu.isa())", GLLM_KERNELS_ISA=forced) == name


NO_MODULE = "import sys; sys.modules['gllm_kernels.cpu._native'] = None; from gllm_kernels import cpu; "


def test_without_the_compiled_module_there_is_a_reason() -> None:
    out = run_python(NO_MODULE + "print(cpu.available(), cpu.isa(), cpu.unavailable_reason())")
    assert out.startswith("False none the C++ kernels are not built")
    assert out.endswith("install a C++ compiler and reinstall gllm")


def test_without_the_compiled_module_the_native_backend_is_refused() -> None:
    code = NO_MODULE + (
        "from gllm.layers.ops.native_ops import NativeOps\n"
        "try:\n    NativeOps()\n"
        "except ValueError as error:\n    print(error)"
    )
    assert "not built" in run_python(code)


def test_an_unknown_instruction_set_makes_the_kernels_unavailable() -> None:
    out = run_python("from gllm_kernels import cpu; print(cpu.unavailable_reason())", GLLM_KERNELS_ISA="neon9")
    assert "neon9" in out or cpu.native is None
