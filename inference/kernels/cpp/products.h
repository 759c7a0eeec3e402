// Products of the base model's matrices, whose weights are bfloat16.
//
// A weight is packed once into panels of kPanel outputs for all inputs, so that it is read from one end to the other. A
// tile of rows goes through a panel with all its sums in registers, after Goto and van de Geijn, "Anatomy of
// high-performance matrix multiplication" (2008). Inputs are added in their order, whatever the tile.
#pragma once

#include <omp.h>

#include <algorithm>
#include <vector>

#include "lora.h"
#include "vectors.h"

namespace loraledger {

constexpr Index kPanel = 2 * kLanes;
// Two sums a row: with two vectors of weights and one of states, 27 of 32 registers.
constexpr Index kTileRows = 12;
// Their states stay in the second cache while panels pass.
constexpr Index kChunkRows = 8 * kTileRows;

// Products of floats. States are widened first; a word of a panel holds two weights, which a shift and a mask widen.
struct Widened {
    using Element = float;
    using Lanes = Floats;
    static constexpr Index kDepth = 1;  // inputs that one step takes

    static Index place(Index input, Index output) {
        return input * kPanel + output % kLanes * 2 + output / kLanes;
    }

    // Further apart than they are long: a power of two would put all of them into the same few cache lines.
    static const Element* rows(const Bfloat16* states, Index num_rows, Index in, Index& stride) {
        static thread_local std::vector<Element> widened;
        stride = in + kLanes;
        if (widened.size() < static_cast<std::size_t>(num_rows * stride)) widened.resize(num_rows * stride);
        for (Index row = 0; row < num_rows; ++row) {
            Element* own = widened.data() + row * stride;
            each_vector(in, [&](Index i, Index count) { store(load(states + row * in + i, count), own + i, count); });
        }
        return widened.data();
    }

    static void weights(const Bfloat16* line, Lanes& left, Lanes& right) {
        Words pairs;
        std::memcpy(&pairs, line, sizeof pairs);
        left = reinterpret_cast<Lanes>(pairs << 16);
        right = reinterpret_cast<Lanes>(pairs & 0xffff0000u);
    }

    static Lanes everywhere(Element value) { return all(value); }

    static Floats add(Floats sums, Lanes states, Lanes weights) { return multiply_add(states, weights, sums); }
};

#ifdef __AVX512BF16__
// Products of pairs of bfloat16, for an even number of inputs. CPUs differ in how fast their instruction for it is.
struct Paired {
    using Element = std::uint32_t;
    using Lanes = __m512bh;
    static constexpr Index kDepth = 2;

    static Index place(Index input, Index output) { return input / 2 * 2 * kPanel + output * 2 + input % 2; }

    static const Element* rows(const Bfloat16* states, Index, Index in, Index& stride) {
        stride = in / 2;
        return reinterpret_cast<const Element*>(states);
    }

    static void weights(const Bfloat16* line, Lanes& left, Lanes& right) {
        std::memcpy(&left, line, sizeof left);
        std::memcpy(&right, line + kPanel, sizeof right);
    }

    static Lanes everywhere(Element pair) { return (Lanes)_mm512_set1_epi32(static_cast<std::int32_t>(pair)); }

    static Floats add(Floats sums, Lanes states, Lanes weights) {
        return reinterpret_cast<Floats>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sums), states, weights));
    }
};
#endif

inline Index num_panels(Index out) { return (out + kPanel - 1) / kPanel; }

// `weight` [out, in] into `packed` [num_panels, in, kPanel]; what is beyond `out` is zero.
template <class Arithmetic>
void pack(const Bfloat16* weight, Index out, Index in, Bfloat16* packed) {
#pragma omp parallel for
    for (Index p = 0; p < num_panels(out); ++p) {
        Bfloat16* panel = packed + p * in * kPanel;
        std::fill(panel, panel + in * kPanel, Bfloat16{0});
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
        : deltas_(deltas), work_(deltas, in), in_(in), offsets_(deltas.num_segments + 1) {
        for (Index s = 0; s < deltas.num_segments; ++s) {
            const LoraSegment& segment = deltas.segments[s];
            offsets_[s + 1] = offsets_[s] + (segment.end - segment.start) * segment.rank;
        }
        const std::size_t needed = deltas.num_parts * offsets_.back();
        if (buffer.size() < needed) buffer.resize(needed);
        shrunk_ = buffer.data();
    }

    // A thread's share of what must be done before `add`.
    void shrink(const Bfloat16* states) const {
        work_.each_own([&](const LoraUnit& unit) {
            float* own = shrunk_ + place(unit.part, segment_of(unit.start), unit.start);
            shrink_unit(states, in_, deltas_.parts[unit.part], unit, own);
        });
    }

    // sums[t][0..width) += the deltas of `num_tokens` tokens from `from` on, for outputs from `column` on.
    void add(Index from, Index num_tokens, Index column, Index width, float* sums) const {
        for (Index p = 0; p < deltas_.num_parts; ++p) {
            const LoraPart& part = deltas_.parts[p];
            const Index first = std::max(column, part.column);
            const Index last = std::min(column + width, part.column + part.out);
            if (first >= last) continue;
            const Index behind = from + num_tokens;
            for (Index s = segment_of(from); s < deltas_.num_segments && deltas_.segments[s].start < behind; ++s) {
                const LoraSegment& segment = deltas_.segments[s];
                const Index rank = segment.rank, end = std::min(behind, segment.end);
                const Bfloat16* rows =
                    static_cast<const Bfloat16*>(part.expand) + segment.first_row * part.out + first - part.column;
                Index ahead = rank * part.out * static_cast<Index>(sizeof *rows);
                Index t = std::max(from, segment.start);
                for (; t + 4 <= end; t += 4, ahead = 0) {
                    add_rows<4>(shrunk_ + place(p, s, t), rows, part.out, rank, last - first, ahead,
                                sums + (t - from) * width + first - column, width);
                }
                for (; t < end; ++t, ahead = 0) {
                    add_rows<1>(shrunk_ + place(p, s, t), rows, part.out, rank, last - first, ahead,
                                sums + (t - from) * width + first - column, width);
                }
            }
        }
    }

   private:
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

// One weight's panel.
struct Panel {
    const Bfloat16* weights;
    Index in, count;  // inputs, and outputs that there are
    Index ahead;      // bytes to what will be read next, or 0 where it has been asked for
};

// Where sums begin: a row for each token, or with stride 0 one for all.
struct Initial {
    const float* sums;
    Index stride;
};

template <class Arithmetic, Index kRows>
void multiply_tile(const typename Arithmetic::Element* rows, Index stride, const Panel& panel, Initial initial,
                   Bfloat16* result, Index out) {
    Floats sums[kRows][2];
#pragma GCC unroll 16
    for (Index row = 0; row < kRows; ++row) {
        sums[row][0] = load(initial.sums + row * initial.stride);
        sums[row][1] = load(initial.sums + row * initial.stride + kLanes);
    }
    for (Index step = 0; step < panel.in / Arithmetic::kDepth; ++step) {
        const Bfloat16* line = panel.weights + step * Arithmetic::kDepth * kPanel;
        if (panel.ahead != 0) {
            for (Index i = 0; i < Arithmetic::kDepth * kPanel; i += kPanel) {
                __builtin_prefetch(reinterpret_cast<const char*>(line + i) + panel.ahead, 0, 2);
            }
        }
        typename Arithmetic::Lanes left, right;
        Arithmetic::weights(line, left, right);
#pragma GCC unroll 16
        for (Index row = 0; row < kRows; ++row) {
            const auto states = Arithmetic::everywhere(rows[row * stride + step]);
            sums[row][0] = Arithmetic::add(sums[row][0], states, left);
            sums[row][1] = Arithmetic::add(sums[row][1], states, right);
        }
    }
    const Index left_count = std::min(panel.count, kLanes), right_count = panel.count - left_count;
#pragma GCC unroll 16
    for (Index row = 0; row < kRows; ++row) {
        store(sums[row][0], result + row * out, left_count);
        store(sums[row][1], result + row * out + left_count, right_count);
    }
}

template <class Arithmetic>
void multiply_rows(Index num_rows, const typename Arithmetic::Element* rows, Index stride, const Panel& panel,
                   Initial initial, Bfloat16* result, Index out) {
    using Multiply = decltype(&multiply_tile<Arithmetic, 1>);
    static constexpr Multiply kMultiply[kTileRows] = {
        multiply_tile<Arithmetic, 1>,  multiply_tile<Arithmetic, 2>,  multiply_tile<Arithmetic, 3>,
        multiply_tile<Arithmetic, 4>,  multiply_tile<Arithmetic, 5>,  multiply_tile<Arithmetic, 6>,
        multiply_tile<Arithmetic, 7>,  multiply_tile<Arithmetic, 8>,  multiply_tile<Arithmetic, 9>,
        multiply_tile<Arithmetic, 10>, multiply_tile<Arithmetic, 11>, multiply_tile<Arithmetic, 12>,
    };
    kMultiply[num_rows - 1](rows, stride, panel, initial, result, out);
}

// The bias of some outputs, or zeros, widened.
inline void widen_bias(const Bfloat16* bias, Index count, float* widened) {
    if (bias == nullptr) {
        std::fill(widened, widened + count, 0.0f);
    } else {
        each_vector(count, [&](Index i, Index lanes) { store(load(bias + i, lanes), widened + i, lanes); });
    }
}

// The sums of `num_rows` tokens from `start` on, for outputs from `column` on, before any input: bias and deltas.
inline const std::vector<float>& begin_sums(const Expansion& expansion, const Bfloat16* bias, Index start,
                                            Index num_rows, Index column, Index count, Index width) {
    static thread_local std::vector<float> sums;
    if (sums.size() < static_cast<std::size_t>(num_rows * width)) sums.resize(num_rows * width);
    for (Index row = 0; row < num_rows; ++row) widen_bias(bias, count, sums.data() + row * width);
    expansion.add(start, num_rows, column, width, sums.data());
    return sums;
}

// `result` [tokens, out] = `states` [tokens, in] times what `pack` made of a weight, plus `bias` [out] if not null,
// plus the deltas. Bias first, then an adapter's rows, then the inputs, in their order; rounded once.
template <class Arithmetic>
void multiply(const Bfloat16* states, Index tokens, Index in, const Bfloat16* packed, const Bfloat16* bias, Index out,
              const Deltas& deltas, Bfloat16* result) {
    static thread_local std::vector<float> buffer;
    const Expansion expansion(deltas, in, buffer);
    const Index size = in * kPanel;
#pragma omp parallel
    {
        if (deltas.num_segments != 0) {
            expansion.shrink(states);
#pragma omp barrier
        }
        const Index threads = omp_get_num_threads(), own = omp_get_thread_num();
        const Index first = num_panels(out) * own / threads, last = num_panels(out) * (own + 1) / threads;
        const Index left = first * kPanel, width = (last - first) * kPanel;
        for (Index start = 0; start < tokens; start += kChunkRows) {
            const Index num_rows = std::min(kChunkRows, tokens - start);
            const Index tiles = (num_rows + kTileRows - 1) / kTileRows;
            Index stride;
            const auto* rows = Arithmetic::rows(states + start * in, num_rows, in, stride);
            const float* sums = nullptr;
            if (deltas.num_segments != 0) {
                sums = begin_sums(expansion, bias == nullptr ? nullptr : bias + left, start, num_rows, left,
                                  std::min(width, out - left), width).data();
            }
            for (Index p = first; p < last; ++p) {
                const Index column = p * kPanel, count = std::min(kPanel, out - column);
                float same[kPanel] = {};
                if (sums == nullptr) widen_bias(bias == nullptr ? nullptr : bias + column, count, same);
                Panel panel{packed + p * size, in, count, size * static_cast<Index>(sizeof *packed)};
                for (Index tile = 0; tile < tiles; ++tile, panel.ahead = 0) {
                    const Index from = num_rows * tile / tiles, to = num_rows * (tile + 1) / tiles;
                    const Initial initial =
                        sums == nullptr ? Initial{same, 0} : Initial{sums + from * width + column - left, width};
                    multiply_rows<Arithmetic>(to - from, rows + from * stride, stride, panel, initial,
                                              result + (start + from) * out + column, out);
                }
            }
        }
    }
}

}  // namespace loraledger
