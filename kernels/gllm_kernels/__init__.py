"""Kernels that FlashInfer and torch do not have: for CPUs (C++) and for CUDA (Triton)."""
