#include "simd/vec_scalar.h"

#define GLLM_ISA_NAME "scalar"
#define GLLM_TABLE kernels_scalar
#include "simd/table.h"
