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

// What a step's adapters add to the outputs of one weight.
class Expansion {
   public:
    // Keeps the shrunk states in `buffer`.
    Expansion(const Deltas& deltas, Index in, std::vector<float>& buffer)
        : deltas_(deltas),
          work_(deltas, [&](const LoraPart&) { return in; }),
          in_(in),
          offsets_(deltas.num_segments + 1) {
        for (Index s = 0; s < deltas.num_segments; ++s) {
            const LoraSegment& segment = deltas.segments[s];
            offsets_[s + 1] = offsets_[s] + (segment.end - segment.start) * segment.rank;
        }
        const std::size_t needed = deltas.num_parts * offsets_.back();
        if (buffer.size() < needed) buffer.resize(needed);
        shrunk_ = buffer.data();
    }

    // A thread's share of what must be done before `begin`.
    void shrink(const Bfloat16* states) const {
        work_.each_own([&](const LoraUnit& unit) {
            float* own = shrunk_ + place(unit.part, segment_of(unit.start), unit.start);
            shrink_unit(states, in_, deltas_.parts[unit.part], unit, own);
        });
    }

    // sums[t][0..width) = `bias` [width] and the deltas of `num_tokens` tokens from `from` on, for outputs from `column` on.
    void begin(Index from, Index num_tokens, Index column, Index width, const float* bias, float* sums) const {
        const Index behind = from + num_tokens;
        const auto row_of = [&](Index token) { return sums + (token - from) * width; };
        Index t = from;
        for (Index s = segment_of(from); s < deltas_.num_segments && deltas_.segments[s].start < behind; ++s) {
            const Index first = std::max(from, deltas_.segments[s].start);
            const Index last = std::min(behind, deltas_.segments[s].end);
            for (; t < first; ++t) std::copy(bias, bias + width, row_of(t));
            begin_segment(s, first, last, column, width, bias, row_of(first));
            t = last;
        }
        for (; t < behind; ++t) std::copy(bias, bias + width, row_of(t));
    }

   private:
    // As `begin`, of some tokens of one segment.
    void begin_segment(Index s, Index from, Index behind, Index column, Index width, const float* bias,
                       float* sums) const {
        const auto without_delta = [&](Index first, Index last) {
            for (Index t = 0; t < behind - from; ++t) {
                std::copy(bias + first - column, bias + last - column, sums + t * width + first - column);
            }
        };
        Index done = column;
        for (Index p = 0; p < deltas_.num_parts; ++p) {
            const LoraPart& part = deltas_.parts[p];
            const Index first = std::max(column, part.column);
            const Index last = std::min(column + width, part.column + part.out);
            if (first >= last) continue;
            without_delta(done, first);
            begin_part(s, p, from, behind, first, last, bias + first - column, sums + first - column, width);
            done = last;
        }
        without_delta(done, column + width);
    }

    // As `begin`, for outputs from `first` up to `last`, which are of one part.
    void begin_part(Index s, Index p, Index from, Index behind, Index first, Index last, const float* bias, float* sums,
                  Index width) const {
        const LoraPart& part = deltas_.parts[p];
        const Index rank = deltas_.segments[s].rank;
        const Bfloat16* rows = static_cast<const Bfloat16*>(part.expand) +
                               deltas_.segments[s].first_row * part.out + first - part.column;
        Index ahead = rows_ahead(deltas_.segments, deltas_.num_segments, s) * part.out * static_cast<Index>(sizeof *rows);
        Index t = from;
        for (; t + 4 <= behind; t += 4, sums += 4 * width, ahead = 0) {
            add_rows<4>(shrunk_ + place(p, s, t), rows, part.out, rank, last - first, ahead, bias, 0, sums, width);
        }
        for (; t < behind; ++t, sums += width, ahead = 0) {
            add_rows<1>(shrunk_ + place(p, s, t), rows, part.out, rank, last - first, ahead, bias, 0, sums, width);
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
    expansion.begin(start, num_rows, column, width, widened, sums);
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
