#include "simd/vec_avx2.h"

#define GLLM_ISA_NAME "avx2"
#define GLLM_TABLE kernels_avx2
#include "simd/table.h"
