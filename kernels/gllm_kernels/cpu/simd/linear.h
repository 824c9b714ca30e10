// Matrix products with packed weights.
#pragma once
#include "kernels.h"
#include "simd/elementwise.h"
#include "simd/operand.h"

namespace {

using gllm::LinearArgs;
using gllm::PackArgs;

template <class T>
void pack_panel(const PackArgs& args, int64_t panel) {
  using E = typename T::Elem;
  constexpr int64_t width = Vec::width * Vec::tile_vectors;
  const int64_t steps = (args.in + T::step - 1) / T::step;
  E* out = static_cast<E*>(args.out) + panel * steps * width * T::step;
  for (int64_t column = 0; column < width; ++column) {
    const int64_t feature = panel * width + column;
    const E* row = static_cast<const E*>(args.weight) + feature * args.stride;
    for (int64_t s = 0; s < steps; ++s) {
      for (int64_t i = 0; i < T::step; ++i) {
        const int64_t k = s * T::step + i;
        out[(s * width + column) * T::step + i] = feature < args.out_features && k < args.in ? row[k] : E{0};
      }
    }
  }
}

void pack(const PackArgs* args, int64_t panel) {
  args->dtype == gllm::DType::bf16 ? pack_panel<Bf16>(*args, panel) : pack_panel<F32>(*args, panel);
}

template <class T, class Out>
struct LinearTile {
  using E = typename T::Elem;
  const LinearArgs& args;
  const E* x;
  const E* weight;
  Out* out;
  int64_t out_stride;
  int64_t columns;  // of the panel that exist
  const E* bias;
  const E* next;      // the weights to prefetch, or null
  int lines;          // vectors per step: 1, 2 or all
  int64_t next_step;  // elements from step to step
  const char* page;   // of PagesAhead to prefetch, or null

  template <int MR>
  GLLM_INLINE void run() const {
    constexpr int NV = Vec::tile_vectors;
    constexpr int64_t ldb = Vec::width * NV * T::step;
    const E* b[NV];
    F acc[MR][NV];
    GLLM_UNROLL
    for (int j = 0; j < NV; ++j) b[j] = weight + j * Vec::width * T::step;
    GLLM_UNROLL
    for (int i = 0; i < MR; ++i) {
      GLLM_UNROLL
      for (int j = 0; j < NV; ++j) acc[i][j] = Vec::set(0.0f);
    }
    const int64_t steps = args.in / T::step;
    const E* ahead[NV];
    GLLM_UNROLL
    for (int j = 0; j < NV; ++j) ahead[j] = next + j * Vec::width * T::step;
    if (page != nullptr) {
      const int64_t page_step = args.pages_ahead->page_bytes / steps;
      if (next == nullptr) {
        accumulate<T, MR, NV, 0, true>(acc, x, args.x_stride, b, ldb, steps, b, 0, page, page_step);
      } else {
        accumulate<T, MR, NV, 1, true>(acc, x, args.x_stride, b, ldb, steps, ahead, next_step, page, page_step);
      }
    } else if (next == nullptr) {
      accumulate<T, MR, NV>(acc, x, args.x_stride, b, ldb, steps, b, 0);
    } else if (lines == 1) {
      accumulate<T, MR, NV, 1>(acc, x, args.x_stride, b, ldb, steps, ahead, next_step);
    } else if (lines == 2) {
      accumulate<T, MR, NV, 2>(acc, x, args.x_stride, b, ldb, steps, ahead, next_step);
    } else {
      accumulate<T, MR, NV, NV>(acc, x, args.x_stride, b, ldb, steps, ahead, next_step);
    }
    if (args.in % T::step != 0) {
      for (int i = 0; i < MR; ++i) {
        const typename T::Operand av = T::broadcast_last(x + i * args.x_stride + steps * T::step);
        for (int j = 0; j < NV; ++j) acc[i][j] = T::mac(acc[i][j], av, T::load(b[j] + steps * ldb));
      }
    }
    GLLM_UNROLL
    for (int j = 0; j < NV; ++j) {
      const int64_t count = columns - j * Vec::width;
      if (count <= 0) break;
      GLLM_UNROLL
      for (int i = 0; i < MR; ++i) {
        F sum = acc[i][j];
        if (bias != nullptr) sum = Vec::add(sum, load_some(bias + j * Vec::width, count));
        store_some(out + i * out_stride + j * Vec::width, sum, count);
      }
    }
  }
};

template <class T>
int64_t panel_elements(const LinearArgs& args) {
  return (args.in + T::step - 1) / T::step * T::step * Vec::width * Vec::tile_vectors;
}

// The panel and the rows of a chunk. Neighbouring chunks share their rows of x, which stay in the second-level cache,
// and stream the panels.
struct LinearChunk {
  int64_t panel, first, rows;
  bool last_block;

  LinearChunk(const LinearArgs& args, int64_t chunk) {
    const int64_t rest = chunk - args.whole, parts = rest < 0 ? 1 : args.parts;
    const int64_t index = rest < 0 ? chunk : args.whole + rest / parts, part = rest < 0 ? 0 : rest % parts;
    const int64_t begin = index / args.panels * args.row_block;
    const int64_t end = begin + args.row_block < args.n ? begin + args.row_block : args.n;
    const int64_t size = (end - begin + parts - 1) / parts;
    panel = index % args.panels;
    first = begin + part * size;
    rows = end - first < size ? end - first : size;
    last_block = end == args.n;
  }
};

// The memory that the row tiles of a chunk prefetch while they compute. A single tile prefetches its own panel two KiB
// ahead, across page ends, where the hardware's prefetcher stops. Several tiles (a power of two, so that they share a
// panel evenly) prefetch together the panel that this thread will most likely take next, which may be of the following
// product. They do so slowly, since loads in flight from memory delay loads from nearer caches.
template <class T>
struct ReadAhead {
  using E = typename T::Elem;
  static constexpr int64_t kMostTiles = 16;
  const E* next;
  int64_t tiles;  // that share the prefetching
  int64_t steps;  // of a tile

  // then: whether this is the last weight of the chunk.
  ReadAhead(const LinearArgs& args, const E* weight, const LinearChunk& chunk, bool then = true)
      : steps(args.in / T::step) {
    const int64_t row_tiles = (chunk.rows + Vec::tile_rows - 1) / Vec::tile_rows;
    const int64_t panel = chunk.panel + args.threads;
    for (tiles = 1; tiles < kMostTiles && 2 * tiles <= row_tiles; tiles *= 2) {
    }
    if (tiles == 1) {
      next = weight + 2048 / sizeof(E);
    } else if (panel < args.panels) {
      next = weight + args.threads * panel_elements<T>(args);
    } else if (then && args.then != nullptr && chunk.last_block) {
      next = reinterpret_cast<const E*>(static_cast<const char*>(args.then) + (panel - args.panels) * args.then_panel);
    } else {
      next = nullptr;
    }
  }

  int64_t step() const { return Vec::width * Vec::tile_vectors * T::step / tiles; }
  int lines() const { return tiles == 1 ? Vec::tile_vectors : tiles < Vec::tile_vectors ? 2 : 1; }
  const E* of_tile(int64_t tile) const {
    return next != nullptr && tile < tiles ? next + tile * steps * step() : nullptr;
  }
};

// Products of few rows are limited by memory. Those of four row tiles or more prefetch one line of weights per step.
constexpr int64_t kPageRows = 24;

GLLM_INLINE const char* page_ahead(const LinearArgs& args, int64_t rows) {
  return args.pages_ahead != nullptr && rows >= kPageRows ? args.pages_ahead->take() : nullptr;
}

template <class T, class Out>
void linear_chunk(const LinearArgs& args, int64_t chunk) {
  using E = typename T::Elem;
  constexpr int64_t width = Vec::width * Vec::tile_vectors;
  const LinearChunk part(args, chunk);
  const int64_t column = part.panel * width;
  const E* weight = static_cast<const E*>(args.weight) + part.panel * panel_elements<T>(args);
  const ReadAhead<T> ahead(args, weight, part);
  int64_t index = 0;
  for_row_tiles(part.rows, [&](int64_t row, int64_t count) {
    LinearTile<T, Out> tile{args,
                            static_cast<const E*>(args.x) + (part.first + row) * args.x_stride,
                            weight,
                            static_cast<Out*>(args.out) + (part.first + row) * args.out_features + column,
                            args.out_features,
                            args.out_features - column,
                            args.bias == nullptr ? nullptr : static_cast<const E*>(args.bias) + column,
                            ahead.of_tile(index++),
                            ahead.lines(),
                            ahead.step(),
                            page_ahead(args, part.rows)};
    with_rows<Vec::tile_rows>(count, tile);
  });
}

// silu(x G) * (x U), where the packed weight holds the panels of G, then as many of U. A tile of each product goes to
// the stack, is rounded as the product alone would be, and then goes through the activation.
template <class T>
void gated_chunk(const LinearArgs& args, int64_t chunk) {
  using E = typename T::Elem;
  constexpr int64_t width = Vec::width * Vec::tile_vectors;
  const LinearChunk part(args, chunk);
  const int64_t panel = part.panel, size = args.panels * width;
  const E* x = static_cast<const E*>(args.x) + part.first * args.x_stride;
  E* out = static_cast<E*>(args.out) + part.first * size + panel * width;
  int64_t index = 0;
  for_row_tiles(part.rows, [&](int64_t row, int64_t count) {
    E products[2][Vec::tile_rows * width];
    for (int half = 0; half < 2; ++half) {
      const E* weight = static_cast<const E*>(args.weight) + (half * args.panels + panel) * panel_elements<T>(args);
      const E* bias = args.bias == nullptr ? nullptr : static_cast<const E*>(args.bias) + half * size + panel * width;
      const ReadAhead<T> ahead(args, weight, part, half == 1);
      LinearTile<T, E> tile{args,
                            x + row * args.x_stride,
                            weight,
                            products[half],
                            width,
                            width,
                            bias,
                            ahead.of_tile(index),
                            ahead.lines(),
                            ahead.step(),
                            page_ahead(args, part.rows)};
      with_rows<Vec::tile_rows>(count, tile);
    }
    ++index;
    for (int64_t r = 0; r < count; ++r) {
      silu_and_mul_row(products[0] + r * width, products[1] + r * width, out + (row + r) * size, width);
    }
  });
}

void linear_gated(const LinearArgs* args, int64_t chunk) {
  args->dtype == gllm::DType::f32 ? gated_chunk<F32>(*args, chunk) : gated_chunk<Bf16>(*args, chunk);
}

void linear(const LinearArgs* args, int64_t chunk) {
  if (args->dtype == gllm::DType::f32) {
    linear_chunk<F32, float>(*args, chunk);
  } else if (args->out_f32) {
    linear_chunk<Bf16, float>(*args, chunk);
  } else {
    linear_chunk<Bf16, uint16_t>(*args, chunk);
  }
}

}  // namespace
