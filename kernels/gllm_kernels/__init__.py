"""What FlashInfer and torch do not give: kernels for CPUs (C++) and for CUDA (Triton)."""
