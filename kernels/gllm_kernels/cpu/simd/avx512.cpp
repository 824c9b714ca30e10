#include "simd/vec_avx512.h"

#define GLLM_ISA_NAME "avx512"
#define GLLM_TABLE kernels_avx512
#include "simd/table.h"
