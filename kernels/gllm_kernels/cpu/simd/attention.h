// Paged causal attention: softmax(q k^T) v over tiles of keys.
#pragma once
#include "kernels.h"
#include "pool.h"
#include "simd/kv_cache.h"
#include "simd/kv_stream.h"
#include "simd/operand.h"
#include "simd/softmax.h"

namespace {

using gllm::AttentionMerge;
using gllm::kTileTokens;

constexpr int kTileBlocks = kTileTokens / kBlockTokens;

// One tile of query rows (tokens x the heads that share a kv head) of one sequence.
template <class T>
struct Attend {
  using E = typename T::Elem;
  const AttentionArgs& args;
  const AttentionTask& task;
  int64_t group, rows, hd;
  int64_t first_limit;  // keys that the tile's first token sees
  E *query, *weights, *small_keys, *small_values;
  float *scores, *scale;
  Softmax segment, total;
  const E *keys[kTileBlocks] = {}, *values[kTileBlocks] = {};
  const E *keys_ahead[kTileBlocks] = {}, *values_ahead[kTileBlocks] = {};
  bool streaming;  // the keys are read once, by one row tile

  Attend(const AttentionArgs& a, const AttentionTask& t)
      : args(a), task(t), group(a.heads / a.kv_heads), rows((t.token_end - t.token_begin) * group), hd(a.head_dim) {
    streaming = args.page_size >= kBlockTokens && rows <= Vec::tile_rows && task.row < args.num_decode_rows;
    first_limit = args.kv_lens[task.row] - args.query_lens[task.row] + task.token_begin + 1;
    const int64_t small = args.page_size < kBlockTokens ? kTileTokens * hd : 0;
    const auto floats = [](int64_t n) { return (n + 15) / 16 * 64; };  // bytes, in whole cache lines
    const int64_t sizes[] = {floats(rows * hd), floats(rows * kTileTokens), floats(small),     floats(small),
                             floats(rows * kTileTokens), floats(rows),      floats(rows),      floats(rows),
                             floats(rows * hd), floats(rows),               floats(rows),      floats(rows * hd)};
    int64_t bytes = 0;
    for (int64_t size : sizes) bytes += size;
    char* next = static_cast<char*>(gllm::thread_scratch(static_cast<size_t>(bytes)));
    int index = 0;
    const auto take = [&] {
      char* at = next;
      next += sizes[index++];
      return at;
    };
    query = reinterpret_cast<E*>(take());
    weights = reinterpret_cast<E*>(take());
    small_keys = reinterpret_cast<E*>(take());
    small_values = reinterpret_cast<E*>(take());
    scores = reinterpret_cast<float*>(take());
    scale = reinterpret_cast<float*>(take());
    const auto take_state = [&](Softmax& state) {
      state.top = reinterpret_cast<float*>(take());
      state.sum = reinterpret_cast<float*>(take());
      state.out = reinterpret_cast<float*>(take());
    };
    take_state(segment);
    take_state(total);
  }

  int64_t limit(int64_t row) const { return first_limit + row / group; }
  int64_t last_limit() const { return limit(rows - 1); }

  void load_queries() const {
    for (int64_t token = task.token_begin; token < task.token_end; ++token) {
      const int64_t source = args.query_starts[task.row] + token;
      const E* q = static_cast<const E*>(args.q) + source * args.q_stride + task.kv_head * group * hd;
      const size_t size = static_cast<size_t>(group * hd);
      std::memcpy(query + (token - task.token_begin) * group * hd, q, size * sizeof(E));
    }
  }

  void reset(Softmax& state) const {
    for (int64_t r = 0; r < rows; ++r) {
      state.top[r] = -__builtin_inff();
      state.sum[r] = 0.0f;
    }
    std::memset(state.out, 0, static_cast<size_t>(rows * hd) * 4);
  }

  // Finds the operand blocks of the keys begin .. begin + valid. Collects them first if a page is smaller than a block.
  void find_blocks(int64_t begin, int64_t valid) {
    if (args.page_size >= kBlockTokens) {
      for (int64_t b = 0; b * kBlockTokens < valid; ++b) {
        const int64_t position = begin + b * kBlockTokens;
        const PageHead<E> block = block_at<E>(args, task.row, task.kv_head, position);
        keys[b] = block.keys;
        values[b] = block.values;
      }
      return;
    }
    for (int64_t t = 0; t < valid; ++t) {
      const int64_t position = begin + t;
      const PageHead<E> page = page_head<E>(args, task.row, task.kv_head, position);
      const int64_t offset = position % args.page_size * hd;
      const int64_t block = t / kBlockTokens;
      E* block_keys = small_keys + block * kBlockTokens * hd;
      E* block_values = small_values + block * kBlockTokens * hd;
      put_in_block<T>(block_keys, block_values, t % kBlockTokens, hd, page.keys + offset, page.values + offset);
      keys[block] = block_keys;
      values[block] = block_values;
    }
  }

  // While a tile is computed, the same number of later blocks is prefetched. Without later blocks, `ahead` stays on the
  // current ones, which costs nothing.
  void look_ahead(int64_t blocks, KvStream<E>& stream) {
    for (int64_t b = 0; b < blocks; ++b) {
      PageHead<E> block;
      const bool found = streaming && stream.next(block);
      keys_ahead[b] = found ? block.keys : keys[b];
      values_ahead[b] = found ? block.values : values[b];
    }
  }

  template <int NV>
  struct ScoreTile {
    const Attend& self;
    int64_t row, vector;
    template <int MR>
    GLLM_INLINE void run() const {
      constexpr int per_block = kBlockTokens / Vec::width;
      F acc[MR][NV];
      const E *b[NV], *ahead[NV];
      GLLM_UNROLL
      for (int j = 0; j < NV; ++j) {
        const int64_t block = (vector + j) / per_block, offset = (vector + j) % per_block * Vec::width * T::step;
        b[j] = self.keys[block] + offset;
        ahead[j] = self.keys_ahead[block] + offset;
      }
      GLLM_UNROLL
      for (int i = 0; i < MR; ++i) {
        GLLM_UNROLL
        for (int j = 0; j < NV; ++j) acc[i][j] = Vec::set(0.0f);
      }
      const E* q = self.query + row * self.hd;
      if (self.streaming) {
        accumulate<T, MR, NV, NV>(acc, q, self.hd, b, kBlockTokens * T::step, self.hd / T::step, ahead,
                                  kBlockTokens * T::step);
      } else {
        accumulate<T, MR, NV>(acc, q, self.hd, b, kBlockTokens * T::step, self.hd / T::step, b, 0);
      }
      GLLM_UNROLL
      for (int i = 0; i < MR; ++i) {
        GLLM_UNROLL
        for (int j = 0; j < NV; ++j) {
          Vec::store(self.scores + (row + i) * kTileTokens + (vector + j) * Vec::width, acc[i][j]);
        }
      }
    }
  };

  template <int NV>
  struct ValueTile {
    const Attend& self;
    int64_t row, column, valid;
    template <int MR>
    GLLM_INLINE void run() const {
      F acc[MR][NV];
      float* out = self.segment.out + row * self.hd + column;
      GLLM_UNROLL
      for (int i = 0; i < MR; ++i) {
        const F scale = Vec::set(self.scale[row + i]);
        GLLM_UNROLL
        for (int j = 0; j < NV; ++j) {
          acc[i][j] = Vec::mul(Vec::load(out + i * self.hd + j * Vec::width), scale);
        }
      }
      for (int64_t block = 0; block * kBlockTokens < valid; ++block) {
        const int64_t rest = valid - block * kBlockTokens;
        const int64_t tokens = rest < kBlockTokens ? rest : kBlockTokens;
        const int64_t steps = (tokens + T::step - 1) / T::step;
        const E* w = self.weights + row * kTileTokens + block * kBlockTokens;
        const E *b[NV], *ahead[NV];
        GLLM_UNROLL
        for (int j = 0; j < NV; ++j) {
          const int64_t offset = (column + j * Vec::width) * T::step;
          b[j] = self.values[block] + offset;
          ahead[j] = self.values_ahead[block] + offset;
        }
        if (self.streaming) {
          accumulate<T, MR, NV, NV>(acc, w, kTileTokens, b, self.hd * T::step, steps, ahead, self.hd * T::step);
        } else {
          accumulate<T, MR, NV>(acc, w, kTileTokens, b, self.hd * T::step, steps, b, 0);
        }
      }
      GLLM_UNROLL
      for (int i = 0; i < MR; ++i) {
        GLLM_UNROLL
        for (int j = 0; j < NV; ++j) Vec::store(out + i * self.hd + j * Vec::width, acc[i][j]);
      }
    }
  };

  // Runs Tile<vectors> over all rows and `count` vectors, in steps of the register tile.
  template <template <int> class Tile, class Make>
  GLLM_INLINE void for_tiles(int64_t count, const Make& make) const {
    constexpr int NV = Vec::tile_vectors;
    for_row_tiles(rows, [&](int64_t row, int64_t tile_rows) {
      int64_t vector = 0;
      for (; vector + NV <= count; vector += NV) {
        with_rows<Vec::tile_rows>(tile_rows, make.template tile<NV>(row, vector));
      }
      for (; vector < count; ++vector) with_rows<Vec::tile_rows>(tile_rows, make.template tile<1>(row, vector));
    });
  }

  struct MakeScores {
    const Attend& self;
    template <int NV>
    ScoreTile<NV> tile(int64_t row, int64_t vector) const {
      return {self, row, vector};
    }
  };
  struct MakeValues {
    const Attend& self;
    int64_t valid;
    template <int NV>
    ValueTile<NV> tile(int64_t row, int64_t vector) const {
      return {self, row, vector * Vec::width, valid};
    }
  };

  // Scales a row's scores, hides the keys that its token does not see, and returns the highest.
  GLLM_INLINE float scaled_top(int64_t row, int64_t begin, int64_t vectors, F factor) const {
    const int64_t seen = limit(row) - begin;
    float* s = scores + row * kTileTokens;
    F top = Vec::set(segment.top[row]);
    for (int64_t v = 0; v < vectors; ++v) {
      F score = Vec::mul(Vec::load(s + v * Vec::width), factor);
      const int64_t lanes = seen - v * Vec::width;
      if (lanes < Vec::width) score = Vec::first(score, lanes < 0 ? 0 : static_cast<int>(lanes), -__builtin_inff());
      Vec::store(s + v * Vec::width, score);
      top = Vec::max(score, top);
    }
    return Vec::max_of(top);
  }

  // Turns scores into weights and moves the running state to the new maximum. Work on one number per row is done for a
  // vector of rows at once (their arrays are padded): in short prompts it takes as long as the exponentials.
  void softmax(int64_t begin, int64_t vectors) const {
    const F factor = Vec::set(kLog2E / args.score_divisor);
    // A row that sees no key yet has -infinity as its maximum, and -infinity minus itself is NaN.
    const F lowest = Vec::set(-3.4028235e38f);
    for (int64_t row = 0; row < rows; ++row) scale[row] = scaled_top(row, begin, vectors, factor);
    for (int64_t row = 0; row < rows; row += Vec::width) {
      const F high = Vec::load(scale + row);
      const F old = exp2(Vec::sub(Vec::load(segment.top + row), Vec::max(high, lowest)));
      Vec::store(scale + row, old);
      Vec::store(segment.sum + row, Vec::mul(Vec::load(segment.sum + row), old));
      Vec::store(segment.top + row, high);
    }
    for (int64_t row = 0; row < rows; ++row) {
      const F shift = Vec::max(Vec::set(segment.top[row]), lowest);
      const float* s = scores + row * kTileTokens;
      F sum = Vec::set(0.0f);
      for (int64_t v = 0; v < vectors; ++v) {
        const F weight = exp2(Vec::sub(Vec::load(s + v * Vec::width), shift));
        sum = Vec::add(sum, weight);
        Vec::store(weights + row * kTileTokens + v * Vec::width, weight);
      }
      segment.sum[row] += Vec::sum(sum);
    }
  }

  void run_segment(int64_t begin, int64_t end, KvStream<E>& stream) {
    reset(segment);
    for (int64_t tile = begin; tile < end; tile += kTileTokens) {
      const int64_t valid = end - tile < kTileTokens ? end - tile : kTileTokens;
      find_blocks(tile, valid);
      const int64_t blocks = (valid + kBlockTokens - 1) / kBlockTokens;
      look_ahead(blocks, stream);
      const int64_t vectors = blocks * (kBlockTokens / Vec::width);
      for_tiles<ScoreTile>(vectors, MakeScores{*this});
      softmax(tile, vectors);
      for_tiles<ValueTile>(hd / Vec::width, MakeValues{*this, valid});
    }
  }

  void finish(const Softmax& state) const {
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t token = args.query_starts[task.row] + task.token_begin + row / group;
      const int64_t head = task.kv_head * group + row % group;
      E* out = static_cast<E*>(args.out) + (token * args.heads + head) * hd;
      const F inverse = Vec::set(1.0f / state.sum[row]);
      for (int64_t d = 0; d < hd; d += Vec::width) {
        Vec::store(out + d, Vec::mul(Vec::load(state.out + row * hd + d), inverse));
      }
    }
  }

  void leave_partial() const {
    float* out = args.partials + task.partial * group * (hd + 2);
    for (int64_t row = 0; row < rows; ++row, out += hd + 2) {
      out[0] = segment.top[row];
      out[1] = segment.sum[row];
      std::memcpy(out + 2, segment.out + row * hd, static_cast<size_t>(hd) * 4);
    }
  }

  void run(KvStream<E>& stream) {
    load_queries();
    const int64_t keys_end = last_limit();
    bool merging = false;
    for (int64_t s = task.segment_begin; s < task.segment_end; ++s) {
      const int64_t begin = s * kSegmentTokens;
      const int64_t end = begin + kSegmentTokens < keys_end ? begin + kSegmentTokens : keys_end;
      run_segment(begin, end, stream);
      if (task.segment_end - task.segment_begin == 1) break;
      if (!merging) reset(total);
      merging = true;
      for (int64_t row = 0; row < rows; ++row) {
        merge_row(total.top[row], total.sum[row], total.out + row * hd, segment.top[row], segment.sum[row],
                  segment.out + row * hd, hd);
      }
    }
    if (task.partial >= 0) {
      leave_partial();
    } else {
      finish(merging ? total : segment);
    }
  }
};

template <class T>
void attend(const AttentionArgs& args, const AttentionTask& task, KvStream<typename T::Elem>& stream) {
  if (task.row < args.num_decode_rows) {
    // Only this row reads its newest token, and only in its last segment. Written here, it is still in the CPU cache.
    const int64_t segments = (args.kv_lens[task.row] + kSegmentTokens - 1) / kSegmentTokens;
    if (task.segment_end == segments) write_token<T>(args, task.row, task.kv_head, 0);
  }
  Attend<T>(args, task).run(stream);
}

template <class T>
void attention_chunk(const AttentionArgs& args, int64_t chunk) {
  KvStream<typename T::Elem> stream(args, chunk);
  for (int32_t i = args.chunk_starts[chunk]; i < args.chunk_starts[chunk + 1]; ++i) {
    attend<T>(args, args.tasks[i], stream);
  }
}

void attention(const AttentionArgs* args, int64_t chunk) {
  args->dtype == gllm::DType::bf16 ? attention_chunk<Bf16>(*args, chunk) : attention_chunk<F32>(*args, chunk);
}

template <class E>
void merge_partials(const AttentionArgs& args, const AttentionMerge& merge) {
  const int64_t group = args.heads / args.kv_heads, hd = args.head_dim;
  float* out = static_cast<float*>(gllm::thread_scratch(static_cast<size_t>(hd) * 4));
  for (int64_t g = 0; g < group; ++g) {
    float top = -__builtin_inff(), sum = 0.0f;
    std::memset(out, 0, static_cast<size_t>(hd) * 4);
    for (int64_t p = 0; p < merge.count; ++p) {
      const float* partial = args.partials + ((merge.partial + p) * group + g) * (hd + 2);
      merge_row(top, sum, out, partial[0], partial[1], partial + 2, hd);
    }
    const int64_t head = merge.kv_head * group + g;
    E* result = static_cast<E*>(args.out) + (args.query_starts[merge.row] * args.heads + head) * hd;
    const F inverse = Vec::set(1.0f / sum);
    for (int64_t d = 0; d < hd; d += Vec::width) Vec::store(result + d, Vec::mul(Vec::load(out + d), inverse));
  }
}

void attention_merge(const AttentionArgs* args, int64_t index) {
  const AttentionMerge& merge = args->merges[index];
  args->dtype == gllm::DType::bf16 ? merge_partials<uint16_t>(*args, merge) : merge_partials<float>(*args, merge);
}

}  // namespace
