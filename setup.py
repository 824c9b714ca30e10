"""Builds the optional CPU kernels; all metadata is in pyproject.toml.

Without a C++ compiler the install still succeeds and gLLM runs on torch alone.
"""

from __future__ import annotations

import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

CPU = Path("kernels/gllm_kernels/cpu")
# Contraction off: a fused multiply-add is where the source says so, hence the same bits from every compiler.
FLAGS = ["-std=c++17", "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-pthread"]
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16"]
# Each instruction set has its own object file; the module picks one at import. Never -march=native: an image built
# on one machine must run on the others.
X86_ISAS = {"avx2": AVX2, "avx512": AVX512}


class BuildKernels(build_ext):
    """Compiles the sources that need their own flags, leaving out what the compiler is too old for."""

    def build_extension(self, ext: Extension) -> None:
        if platform.machine() in ("x86_64", "AMD64"):
            for isa, flags in X86_ISAS.items():
                try:
                    ext.extra_objects += self.compiler.compile(
                        [str(CPU / "simd" / f"{isa}.cpp")],
                        output_dir=self.build_temp,
                        include_dirs=ext.include_dirs,
                        extra_postargs=[*FLAGS, *flags],
                        depends=ext.depends,
                    )
                except CompileError as error:
                    self.warn(f"CPU kernels without {isa}: {error}")
                else:
                    ext.define_macros.append((f"GLLM_WITH_{isa.upper()}", "1"))
        super().build_extension(ext)


setup(
    ext_modules=[
        Extension(
            "gllm_kernels.cpu._native",
            sources=sorted(map(str, [*CPU.glob("*.cpp"), *CPU.glob("bindings/*.cpp"), CPU / "simd/scalar.cpp"])),
            depends=sorted(str(path) for path in CPU.glob("**/*.h")),
            include_dirs=[str(CPU)],
            extra_compile_args=FLAGS,
            extra_link_args=["-pthread"],
            language="c++",
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels},
)
