// Gathers the functions of one instruction set into its table; the including file names it GLLM_TABLE.
#pragma once
#include "simd/attention.h"
#include "simd/elementwise.h"
#include "simd/linear.h"

namespace gllm {

extern const Kernels GLLM_TABLE;
const Kernels GLLM_TABLE = {
    GLLM_ISA_NAME, Vec::width * Vec::tile_vectors,
    pack,          linear,
    linear_gated,
    norm,          rope,
    silu_and_mul,  argmax,
    log_sum_exp,   attention_write,
    attention,     attention_merge,
};

}  // namespace gllm
