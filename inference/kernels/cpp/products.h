// Products of the base model's matrices, whose weights are bfloat16, with the deltas of a step's adapters.
#pragma once

#include <omp.h>

#include <algorithm>
#include <vector>

#include "lora.h"
#include "panels.h"

namespace loraledger {

// Rows whose states stay in the second cache while panels pass.
constexpr Index kChunkRows = 96;

inline Index num_panels(Index out) { return (out + kPanel - 1) / kPanel; }

// `weight` [out, in] into `packed` [num_panels, in rounded up to whole steps, kPanel]; zeros where there is no weight.
template <class Arithmetic>
void pack(const Bfloat16* weight, Index out, Index in, Bfloat16* packed) {
    const Index size = round_up(in, Arithmetic::kDepth) * kPanel;
#pragma omp parallel for
    for (Index p = 0; p < num_panels(out); ++p) {
        Bfloat16* panel = packed + p * size;
        std::fill(panel, panel + size, Bfloat16{0});
        for (Index output = 0; output < std::min(kPanel, out - p * kPanel); ++output) {
            const Bfloat16* row = weight + (p * kPanel + output) * in;
            for (Index input = 0; input < in; ++input) panel[Arithmetic::place(input, output)] = row[input];
        }
    }
}

// The sums of some tokens for some of a weight's outputs. Tokens and outputs count from the first to before the last.
struct Window {
    Index first_token, last_token, first, last;
    const float* bias;  // of the outputs from `first` on
    float* sums;        // [tokens, stride], from the first token and output on
    Index stride;

    Window of_tokens(Index from, Index to) const {
        return {from, to, first, last, bias, sums + (from - first_token) * stride, stride};
    }

    Window of_outputs(Index from, Index to) const {
        return {first_token, last_token, from, to, bias + (from - first), sums + (from - first), stride};
    }

    void begin_with_bias() const {
        for (Index t = 0; t < last_token - first_token; ++t) std::copy(bias, bias + (last - first), sums + t * stride);
    }
};

// What a step's adapters add to the outputs of one weight.
class Expansion {
   public:
    // Keeps the shrunk states in `buffer`.
    Expansion(const Deltas& deltas, Index in, std::vector<float>& buffer)
        : deltas_(deltas),
          work_(deltas, [&](const LoraTarget&) { return in; }),
          in_(in),
          offsets_(deltas.num_segments + 1) {
        for (Index s = 0; s < deltas.num_segments; ++s) {
            const LoraSegment& segment = deltas.segments[s];
            offsets_[s + 1] = offsets_[s] + (segment.end - segment.start) * segment.rank;
        }
        const std::size_t needed = deltas.num_targets * offsets_.back();
        if (buffer.size() < needed) buffer.resize(needed);
        shrunk_ = buffer.data();
    }

    // A thread's share of what must be done before `begin`.
    void shrink(const Bfloat16* states) const {
        work_.each_own([&](const LoraUnit& unit) {
            float* own = shrunk_ + place(unit.part, segment_of(unit.start), unit.start);
            shrink_unit(states, in_, deltas_.targets[unit.part], unit, own);
        });
    }

    // Each sum of `window` = its bias and the delta of its token's adapter.
    void begin(const Window& window) const {
        Index done = window.first_token;
        for (Index s = segment_of(done); s < deltas_.num_segments && deltas_.segments[s].start < window.last_token; ++s) {
            const Index from = std::max(done, deltas_.segments[s].start);
            const Index to = std::min(window.last_token, deltas_.segments[s].end);
            window.of_tokens(done, from).begin_with_bias();
            begin_segment(s, window.of_tokens(from, to));
            done = to;
        }
        window.of_tokens(done, window.last_token).begin_with_bias();
    }

   private:
    // As `begin`, of tokens of one segment.
    void begin_segment(Index s, const Window& window) const {
        Index done = window.first;
        for (Index p = 0; p < deltas_.num_targets; ++p) {
            const LoraTarget& part = deltas_.targets[p];
            const Index from = std::max(window.first, part.column);
            const Index to = std::min(window.last, part.column + part.out);
            if (from >= to) continue;
            window.of_outputs(done, from).begin_with_bias();
            begin_part(s, p, window.of_outputs(from, to));
            done = to;
        }
        window.of_outputs(done, window.last).begin_with_bias();
    }

    // As `begin_segment`, for outputs of one part.
    void begin_part(Index s, Index p, const Window& window) const {
        const LoraTarget& part = deltas_.targets[p];
        const LoraSegment& segment = deltas_.segments[s];
        const Bfloat16* rows =
            static_cast<const Bfloat16*>(part.expand) + segment.first_row * part.out + window.first - part.column;
        const Index width = window.last - window.first, num_tokens = window.last_token - window.first_token;
        const float* shrunk = shrunk_ + place(p, s, window.first_token);
        Index ahead = rows_ahead(deltas_.segments, deltas_.num_segments, s) * part.out * static_cast<Index>(sizeof *rows);
        Index t = 0;
        for (; t + 4 <= num_tokens; t += 4, ahead = 0) {
            add_rows<4>(shrunk + t * segment.rank, rows, part.out, segment.rank, width, ahead, window.bias, 0,
                        window.sums + t * window.stride, window.stride);
        }
        for (; t < num_tokens; ++t, ahead = 0) {
            add_rows<1>(shrunk + t * segment.rank, rows, part.out, segment.rank, width, ahead, window.bias, 0,
                        window.sums + t * window.stride, window.stride);
        }
    }

    // The first segment that ends behind a token.
    Index segment_of(Index token) const {
        const LoraSegment* end = deltas_.segments + deltas_.num_segments;
        const auto is_before = [&](const LoraSegment& segment) { return segment.end <= token; };
        return std::partition_point(deltas_.segments, end, is_before) - deltas_.segments;
    }

    Index place(Index part, Index segment, Index token) const {
        const LoraSegment& own = deltas_.segments[segment];
        return part * offsets_.back() + offsets_[segment] + (token - own.start) * own.rank;
    }

    const Deltas& deltas_;
    const LoraWork work_;
    const Index in_;
    std::vector<Index> offsets_;  // of each segment's shrunk states among those of one part
    float* shrunk_;
};

// The bias of some outputs, or zeros, widened.
inline void widen_bias(const Bfloat16* bias, Index count, float* widened) {
    if (bias == nullptr) {
        std::fill(widened, widened + count, 0.0f);
    } else {
        each_vector(count, [&](Index i, Index lanes) { store(load(bias + i, lanes), widened + i, lanes); });
    }
}

// The sums of `num_rows` tokens from `start` on, for outputs from `column` on, before any input: bias and deltas.
inline const float* begin_sums(const Expansion& expansion, const Bfloat16* bias, Index start, Index num_rows,
                               Index column, Index count, Index width) {
    static thread_local std::vector<float> buffer;
    const std::size_t needed = (1 + num_rows) * width;
    if (buffer.size() < needed) buffer.resize(needed);
    float* widened = buffer.data();
    float* sums = widened + width;
    widen_bias(bias, count, widened);
    std::fill(widened + count, sums, 0.0f);
    expansion.begin({start, start + num_rows, column, column + width, widened, sums, width});
    return sums;
}

// `result` [tokens, out] = `states` [tokens, in] times what `pack` made of a weight, plus `bias` [out] if not null,
// plus the deltas. Bias first, then an adapter's rows, then the inputs, in their order; rounded once.
template <class Arithmetic>
void multiply(const Bfloat16* states, Index tokens, Index in, const Bfloat16* packed, const Bfloat16* bias, Index out,
              const Deltas& deltas, Bfloat16* result) {
    static thread_local std::vector<float> buffer;
    const Expansion expansion(deltas, in, buffer);
    const Index padded = round_up(in, Arithmetic::kDepth), size = padded * kPanel;
#pragma omp parallel
    {
        if (deltas.num_segments != 0) {
            expansion.shrink(states);
#pragma omp barrier
        }
        Arithmetic arithmetic;
        const Index threads = omp_get_num_threads(), own = omp_get_thread_num();
        const Index first = num_panels(out) * own / threads, last = num_panels(out) * (own + 1) / threads;
        const Index left = first * kPanel, width = (last - first) * kPanel;
        for (Index start = 0; start < tokens; start += kChunkRows) {
            const Index num_rows = std::min(kChunkRows, tokens - start);
            const Index tiles = round_up(num_rows, Arithmetic::kTileRows) / Arithmetic::kTileRows;
            Index stride;
            const auto* rows = Arithmetic::rows(states + start * in, num_rows, in, stride);
            const float* sums = nullptr;
            if (deltas.num_segments != 0) {
                sums = begin_sums(expansion, bias == nullptr ? nullptr : bias + left, start, num_rows, left,
                                  std::min(width, out - left), width);
            }
            for (Index p = first; p < last; ++p) {
                const Index column = p * kPanel, count = std::min(kPanel, out - column);
                float same[kPanel] = {};
                if (sums == nullptr) widen_bias(bias == nullptr ? nullptr : bias + column, count, same);
                Panel panel{packed + p * size, padded, count, true};
                for (Index tile = 0; tile < tiles; ++tile, panel.from_memory = false) {
                    const Index from = num_rows * tile / tiles, to = num_rows * (tile + 1) / tiles;
                    const Initial initial =
                        sums == nullptr ? Initial{same, 0} : Initial{sums + from * width + column - left, width};
                    arithmetic.multiply(to - from, rows + from * stride, stride, panel, initial,
                                        result + (start + from) * out + column, out);
                }
            }
        }
    }
}

}  // namespace loraledger
