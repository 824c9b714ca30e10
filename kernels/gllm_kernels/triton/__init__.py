"""Kernels for CUDA in Triton: mixtures of experts. Launch grids depend on shapes alone, so all can be captured."""
