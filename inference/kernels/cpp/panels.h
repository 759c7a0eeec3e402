// Bfloat16 weights packed in panels, and their products by vectors of floats; tiles.h has the products by AMX.
//
// A panel holds kPanel outputs for all inputs, so that a weight is read sequentially. A tile of rows is multiplied by a
// panel with all its sums in registers, after Goto and van de Geijn, "Anatomy of high-performance matrix
// multiplication" (2008). Inputs are added in the same order for every tile.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "vectors.h"

namespace loraledger {

constexpr Index kPanel = 2 * kLanes;

// One weight's panel.
template <class Weight>
struct Panel {
    const Weight* weights;
    Index in, count;        // inputs including padding, outputs without padding
    Index tile, num_tiles;  // which of the tiles of rows that are multiplied by the panel, in order
    const Weight* next;     // the panel that this thread reads next, or null

    bool is_in_memory() const { return tile == 0; }  // and in no cache yet
};

// Initial values of sums: a row for each token, or with stride 0 one row for all.
struct Initial {
    const float* sums;
    Index stride;
};

inline Index round_up(Index count, Index unit) { return (count + unit - 1) / unit * unit; }

// States [num_rows, in] padded to whole steps of `depth` inputs: the states themselves if they fit, else a copy with
// zeros at the end.
inline const Bfloat16* pad_inputs(const Bfloat16* states, Index num_rows, Index in, Index depth) {
    const Index stride = round_up(in, depth);
    if (stride == in) return states;
    static thread_local Buffer<Bfloat16> padded;
    padded.assign(num_rows * stride, Bfloat16{0});
    for (Index row = 0; row < num_rows; ++row) {
        std::copy(states + row * in, states + (row + 1) * in, padded.data() + row * stride);
    }
    return padded.data();
}

// Products of floats.
struct Single {
    using Element = float;
    using Weight = float;
    using Lanes = Floats;
    static constexpr Index kDepth = 1;  // inputs that one step takes

    static void weights(const float* line, Lanes& left, Lanes& right) {
        left = load(line);
        right = load(line + kLanes);
    }

    static Lanes broadcast_states(Element value) { return broadcast(value); }

    static Floats add(Floats sums, Lanes states, Lanes weights) { return multiply_add(states, weights, sums); }
};

// The same with bfloat16 weights. Widens the states first; a word of a panel holds two weights, widened by a shift and a
// mask.
struct Widened {
    using Element = float;
    using Weight = Bfloat16;
    using Lanes = Floats;
    static constexpr Index kDepth = 1;

    static Index offset(Index input, Index output) {
        return input * kPanel + output % kLanes * 2 + output / kLanes;
    }

    // The stride exceeds the length: with a power of two, all rows would map to the same few cache sets.
    static const Element* rows(const Bfloat16* states, Index num_rows, Index in, Index& stride) {
        static thread_local Buffer<Element> widened;
        stride = in + kLanes;
        if (widened.size() < static_cast<std::size_t>(num_rows * stride)) widened.resize(num_rows * stride);
        for (Index row = 0; row < num_rows; ++row) {
            Element* target = widened.data() + row * stride;
            for_each_vector(in, [&](Index i, Index count) {
                store(load(states + row * in + i, count), target + i, count);
            });
        }
        return widened.data();
    }

    static void weights(const Bfloat16* line, Lanes& left, Lanes& right) {
        Words pairs;
        std::memcpy(&pairs, line, sizeof pairs);
        left = reinterpret_cast<Lanes>(pairs << 16);
        right = reinterpret_cast<Lanes>(pairs & 0xffff0000u);
    }

    static Lanes broadcast_states(Element value) { return broadcast(value); }

    static Floats add(Floats sums, Lanes states, Lanes weights) { return multiply_add(states, weights, sums); }
};

#ifdef __AVX512BF16__
// Products of pairs of bfloat16. The speed of the instruction differs between CPUs; see cpu.py.
struct Paired {
    using Element = std::uint32_t;
    using Weight = Bfloat16;
    using Lanes = __m512bh;
    static constexpr Index kDepth = 2;

    static Index offset(Index input, Index output) { return input / 2 * 2 * kPanel + output * 2 + input % 2; }

    static const Element* rows(const Bfloat16* states, Index num_rows, Index in, Index& stride) {
        stride = round_up(in, kDepth) / kDepth;
        return reinterpret_cast<const Element*>(pad_inputs(states, num_rows, in, kDepth));
    }

    static void weights(const Bfloat16* line, Lanes& left, Lanes& right) {
        std::memcpy(&left, line, sizeof left);
        std::memcpy(&right, line + kPanel, sizeof right);
    }

    static Lanes broadcast_states(Element pair) { return (Lanes)_mm512_set1_epi32(static_cast<std::int32_t>(pair)); }

    static Floats add(Floats sums, Lanes states, Lanes weights) {
        return reinterpret_cast<Floats>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sums), states, weights));
    }
};
#endif

// Multiplies a tile in vector registers, by one of the arithmetics above.
template <class Arithmetic>
struct Vectors : Arithmetic {
    using Element = typename Arithmetic::Element;
    using Weight = typename Arithmetic::Weight;
    // Two sums per row: with two vectors of weights and one of states, 27 of AVX-512's 32 registers, or 15 of AVX2's 16.
    static constexpr Index kTileRows = kLanes == 16 ? 12 : 6;
    static constexpr Index kChunkRows = 96, kPanelsOfTile = 1;
    static constexpr Index kTileKeys = 64;  // of attention

    // `result` [num_rows, out] from a panel's first output on, of at most kTileRows rows.
    template <class Result>
    void multiply(Index num_rows, const Element* rows, Index stride, const Panel<Weight>& panel, Initial initial,
                  Result* result, Index out) {
        multiply(num_rows, rows, stride, panel, initial, result, out, std::make_index_sequence<kTileRows>());
    }

   private:
    template <class Result, std::size_t... kIndex>
    static void multiply(Index num_rows, const Element* rows, Index stride, const Panel<Weight>& panel, Initial initial,
                         Result* result, Index out, std::index_sequence<kIndex...>) {
        using Multiply = decltype(&multiply_tile<1, Result>);
        static constexpr Multiply kMultiply[] = {multiply_tile<kIndex + 1, Result>...};
        kMultiply[num_rows - 1](rows, stride, panel, initial, result, out);
    }

    template <Index kRows, class Result>
    static void multiply_tile(const Element* rows, Index stride, const Panel<Weight>& panel, Initial initial,
                              Result* result, Index out) {
        Floats sums[kRows][2];
#pragma GCC unroll 16
        for (Index row = 0; row < kRows; ++row) {
            sums[row][0] = load(initial.sums + row * initial.stride);
            sums[row][1] = load(initial.sums + row * initial.stride + kLanes);
        }
        // Prefetch the next panel. Each tile takes its share, since all at once would wait for the memory.
        const Index num_steps = panel.in / Arithmetic::kDepth;
        const Index ahead = reinterpret_cast<const char*>(panel.next) - reinterpret_cast<const char*>(panel.weights);
        Index next = panel.next == nullptr ? num_steps : panel.tile;
        for (Index step = 0; step < num_steps; ++step) {
            const Weight* line = panel.weights + step * Arithmetic::kDepth * kPanel;
            if (step == next) {
                next += panel.num_tiles;
                for (Index i = 0; i < Arithmetic::kDepth * kPanel; i += kPanel) {
                    __builtin_prefetch(reinterpret_cast<const char*>(line + i) + ahead, 0, 2);
                }
            }
            typename Arithmetic::Lanes left, right;
            Arithmetic::weights(line, left, right);
#pragma GCC unroll 16
            for (Index row = 0; row < kRows; ++row) {
                const auto states = Arithmetic::broadcast_states(rows[row * stride + step]);
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
};

}  // namespace loraledger
