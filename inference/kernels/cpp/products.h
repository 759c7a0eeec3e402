// Products of the base model's matrices, whose weights are bfloat16.
//
// A weight is packed once into panels of kPanel outputs for all inputs, so that it is read from one end to the other. A
// tile of rows goes through a panel with all its sums in registers, after Goto and van de Geijn, "Anatomy of
// high-performance matrix multiplication" (2008). Inputs are added in their order, whatever the tile.
#pragma once

#include <omp.h>

#include <algorithm>
#include <vector>

#include "vectors.h"

namespace loraledger {

constexpr Index kPanel = 2 * kLanes;
constexpr Index kTileRows = 12;          // two sums each; with two vectors of weights and one of states, 27 registers
constexpr Index kChunkRows = 8 * kTileRows;  // whose states stay in the second cache while panels pass

// Products of floats. States are widened first; a word of a panel holds two weights, which a shift and a mask widen.
struct Widened {
    using Element = float;
    using Lanes = Floats;
    static constexpr Index kDepth = 1;  // inputs that one step takes

    static Index place(Index input, Index output) {
        return input * kPanel + output % kLanes * 2 + output / kLanes;
    }

    // Rows `padding` elements apart more than they are long: a power of two would put all in the same few cache lines.
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

// One weight's panel, and the outputs of it that there are.
struct Panel {
    const Bfloat16* weights;
    const Bfloat16* bias;  // of its outputs, or null
    Index in, count;
    Index ahead;  // bytes to what will be read next, or 0 where it has been asked for
};

template <class Arithmetic, Index kRows>
void multiply_tile(const typename Arithmetic::Element* rows, Index stride, const Panel& panel, Bfloat16* result,
                   Index out) {
    const Index left_count = std::min(panel.count, kLanes), right_count = panel.count - left_count;
    Floats first[2] = {};
    if (panel.bias != nullptr) {
        first[0] = load(panel.bias, left_count);
        first[1] = load(panel.bias + left_count, right_count);
    }
    Floats sums[kRows][2];
#pragma GCC unroll 16
    for (Index row = 0; row < kRows; ++row) sums[row][0] = first[0], sums[row][1] = first[1];
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
#pragma GCC unroll 16
    for (Index row = 0; row < kRows; ++row) {
        store(sums[row][0], result + row * out, left_count);
        store(sums[row][1], result + row * out + left_count, right_count);
    }
}

template <class Arithmetic>
void multiply_rows(Index num_rows, const typename Arithmetic::Element* rows, Index stride, const Panel& panel,
                   Bfloat16* result, Index out) {
    using Multiply = decltype(&multiply_tile<Arithmetic, 1>);
    static constexpr Multiply kMultiply[kTileRows] = {
        multiply_tile<Arithmetic, 1>, multiply_tile<Arithmetic, 2>,  multiply_tile<Arithmetic, 3>,
        multiply_tile<Arithmetic, 4>, multiply_tile<Arithmetic, 5>,  multiply_tile<Arithmetic, 6>,
        multiply_tile<Arithmetic, 7>, multiply_tile<Arithmetic, 8>,  multiply_tile<Arithmetic, 9>,
        multiply_tile<Arithmetic, 10>, multiply_tile<Arithmetic, 11>, multiply_tile<Arithmetic, 12>,
    };
    kMultiply[num_rows - 1](rows, stride, panel, result, out);
}

// `result` [tokens, out] = `states` [tokens, in] times what `pack` made of a weight, plus `bias` [out] if not null.
template <class Arithmetic>
void multiply(const Bfloat16* states, Index tokens, Index in, const Bfloat16* packed, const Bfloat16* bias, Index out,
              Bfloat16* result) {
    const Index size = in * kPanel;
#pragma omp parallel
    {
        const Index threads = omp_get_num_threads(), own = omp_get_thread_num();
        const Index first = num_panels(out) * own / threads, last = num_panels(out) * (own + 1) / threads;
        for (Index start = 0; start < tokens; start += kChunkRows) {
            const Index num_rows = std::min(kChunkRows, tokens - start);
            const Index tiles = (num_rows + kTileRows - 1) / kTileRows;
            Index stride;
            const auto* rows = Arithmetic::rows(states + start * in, num_rows, in, stride);
            for (Index p = first; p < last; ++p) {
                const Index column = p * kPanel, bytes = size * static_cast<Index>(sizeof *packed);
                Panel panel{packed + p * size, bias == nullptr ? nullptr : bias + column, in,
                            std::min(kPanel, out - column), bytes};
                for (Index tile = 0; tile < tiles; ++tile, panel.ahead = 0) {
                    const Index from = num_rows * tile / tiles, to = num_rows * (tile + 1) / tiles;
                    multiply_rows<Arithmetic>(to - from, rows + from * stride, stride, panel,
                                              result + (start + from) * out + column, out);
                }
            }
        }
    }
}

}  // namespace loraledger
