// A small thread pool for kernels that take microseconds.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gllm {

using ChunkFn = void (*)(const void* context, int64_t chunk);

// Runs fn(context, 0..chunks-1), each chunk once, on the caller and the helper threads. Threads claim chunks one by
// one from an atomic counter, so a helper that the kernel has descheduled delays at most its own chunk.
// Calls from several threads are safe: one gets the helpers, the others run their chunks alone.
void parallel_for(int64_t chunks, ChunkFn fn, const void* context);

// Threads that take part, the caller included; the default is 1.
void set_num_threads(int threads);
int num_threads();

// Memory of the calling thread, 64-byte aligned, valid until its next call of this function.
void* thread_scratch(size_t bytes);

}  // namespace gllm
