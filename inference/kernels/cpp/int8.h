// Products of weights and states in 8 bits, as `inference/kernels/int8.py` defines them: sums of integers are exact, so
// AMX, AVX-512, AVX2 and plain torch give the same bits.
//
// A packed panel has steps of kDepth inputs by kPanel outputs, each as two blocks: 16 rows of kLanes outputs by four
// adjacent inputs. A row of a block is a vector of its weights, and with AVX-512 a block is a tile register of AMX, too.
#pragma once

#include <vector>

#include "products.h"
#include "tiles.h"

#if defined(__AVX512VNNI__) || (defined(LORALEDGER_AVX2) && !defined(__AVX512F__))
#define LORALEDGER_INT8

namespace loraledger {

// At the end of a panel: for each output, its weights' scale and the initial value of its sums.
struct alignas(64) Int8Outputs {
    float scales[kPanel];
    std::int32_t offsets[kPanel];
};

template <>
inline Index panel_size<std::int8_t>(Index in) {
    return in * kPanel + static_cast<Index>(sizeof(Int8Outputs));
}

constexpr Index kInt8Depth = 64, kInt8Group = 4;
constexpr Index kInt8Block = kInt8Depth * kLanes;
constexpr Index kInt8Vectors = kInt8Depth / kLanes;  // of floats, in one step of a row

// The instructions of AVX-512 and AMX multiply unsigned by signed numbers: states are stored with this added, and sums
// begin with minus this times the sum of an output's weights.
#ifdef __AVX512VNNI__
constexpr std::int32_t kInt8Shift = 128;
#else
constexpr std::int32_t kInt8Shift = 0;
#endif

// Pack `values` [out, in], `in` whole steps, and `scales` [out] into `packed` [num_panels, panel_size].
inline void pack_int8(const std::int8_t* values, const float* scales, Index out, Index in, std::int8_t* packed) {
#pragma omp parallel for
    for (Index p = 0; p < num_panels(out); ++p) {
        std::int8_t* panel = packed + p * panel_size<std::int8_t>(in);
        std::fill(panel, panel + in * kPanel, std::int8_t{0});
        Int8Outputs outputs{};
        for (Index output = 0; output < std::min(kPanel, out - p * kPanel); ++output) {
            const std::int8_t* row = values + (p * kPanel + output) * in;
            std::int8_t* lane = panel + output / kLanes * kInt8Block + output % kLanes * kInt8Group;
            for (Index input = 0; input < in; ++input) {
                const Index within = input % kInt8Depth;
                lane[input / kInt8Depth * 2 * kInt8Block + within / kInt8Group * kInt8Group * kLanes +
                     within % kInt8Group] = row[input];
                outputs.offsets[output] -= kInt8Shift * row[input];
            }
            outputs.scales[output] = scales[p * kPanel + output];
        }
        std::memcpy(panel + in * kPanel, &outputs, sizeof outputs);
    }
}

// One stage of a Walsh-Hadamard transform within a vector: the sums and differences of lanes that are kHalf apart. The
// products are exact.
template <Index kHalf>
inline Floats add_and_subtract(Floats lanes) {
    Ints partners;
    Floats signs;
    for (Index lane = 0; lane < kLanes; ++lane) {
        partners[lane] = static_cast<std::int32_t>(lane ^ kHalf);
        signs[lane] = (lane & kHalf) == 0 ? 1.0f : -1.0f;
    }
    return multiply_add(lanes, signs, __builtin_shuffle(lanes, partners));
}

// `rotate_rows` in int8.py, for one block of kInt8Depth numbers.
inline void rotate_block(Floats* block) {
    for (Index half = kInt8Vectors / 2; half > 0; half /= 2) {
        for (Index i = 0; i < kInt8Vectors; ++i) {
            if ((i & half) != 0) continue;
            const Floats sum = block[i] + block[i + half];
            block[i + half] = block[i] - block[i + half];
            block[i] = sum;
        }
    }
    for (Index i = 0; i < kInt8Vectors; ++i) {
        if constexpr (kLanes == 16) block[i] = add_and_subtract<8>(block[i]);
        block[i] = add_and_subtract<1>(add_and_subtract<2>(add_and_subtract<4>(block[i])));
    }
}

// Rotate `in` numbers and write them in 8 bits, with kInt8Shift added, up to a whole block; returns their scale:
// `quantize_rows` in int8.py. Not finite if a number is not.
inline float quantise_row(const Bfloat16* row, Index in, std::uint8_t* result) {
    static thread_local Buffer<Floats> memory;
    const Index vectors = round_up(in, kInt8Depth) / kLanes;
    if (memory.size() < static_cast<std::size_t>(vectors)) memory.resize(vectors);
    Floats* rotated = memory.data();
    // Without their sign, the bits of floats are in the order of the values, with NaN above infinity.
    Words peaks = {};
    for (Index i = 0; i < in; i += kInt8Depth) {
        Floats* block = rotated + i / kLanes;
        if (i + kInt8Depth <= in) {
            for (Index v = 0; v < kInt8Vectors; ++v) block[v] = load(row + i + v * kLanes);
        } else {
            std::fill(block, block + kInt8Vectors, Floats{});
            for_each_vector(in - i, [&](Index j, Index count) { block[j / kLanes] = load(row + i + j, count); });
        }
        rotate_block(block);
        for (Index v = 0; v < kInt8Vectors; ++v) {
            const Words bits = reinterpret_cast<Words>(block[v]) & 0x7fffffffu;
            peaks = bits > peaks ? bits : peaks;
        }
    }
    std::uint32_t bits = 0;
    for (Index lane = 0; lane < kLanes; ++lane) bits = std::max(bits, peaks[lane]);
    float peak;
    std::memcpy(&peak, &bits, sizeof peak);
    constexpr float kSmallest = 0x1p-100f;  // its reciprocal is finite
    peak = peak < kSmallest ? kSmallest : peak;
    const float steps = 127.0f / peak;
    for (Index v = 0; v < vectors; ++v) {
        store_bytes(nearest_integers(rotated[v] * steps) + kInt8Shift, result + v * kLanes);
    }
    return peak / 127.0f;
}

// What the two kinds of registers share.
struct Int8States {
    using Element = std::uint8_t;
    using Weight = std::int8_t;
    static constexpr Index kDepth = kInt8Depth;

    // Each row is followed by its scale, in a cache line of its own.
    static const Element* rows(const Bfloat16* states, Index num_rows, Index in, Index& stride) {
        struct alignas(64) Line {
            Element bytes[64];
        };
        static thread_local Buffer<Line> memory;
        const Index padded = round_up(in, kDepth);
        stride = padded + static_cast<Index>(sizeof(Line));
        if (memory.size() * sizeof(Line) < static_cast<std::size_t>(num_rows * stride)) {
            memory.resize(num_rows * stride / sizeof(Line));
        }
        Element* result = memory.data()->bytes;
        for (Index row = 0; row < num_rows; ++row) {
            const float scale = quantise_row(states + row * in, in, result + row * stride);
            std::memcpy(result + row * stride + padded, &scale, sizeof scale);
        }
        return result;
    }

    // Scale `sums` [kPanel] of a row, add the initial values and round.
    static void finish(const std::int32_t* sums, const Element* row, const Panel<Weight>& panel, const float* initial,
                       Bfloat16* result) {
        float scale;
        std::memcpy(&scale, row + panel.in, sizeof scale);
        const Int8Outputs& outputs = outputs_of(panel);
        for_each_vector(panel.count, [&](Index i, Index count) {
            Ints lanes;
            std::memcpy(&lanes, sums + i, sizeof lanes);
            const Floats scaled = __builtin_convertvector(lanes, Floats) * scale * load(outputs.scales + i);
            store(scaled + load(initial + i), result + i, count);
        });
    }

    static const Int8Outputs& outputs_of(const Panel<Weight>& panel) {
        return *reinterpret_cast<const Int8Outputs*>(panel.weights + panel.in * kPanel);
    }
};

// A row of a block of weights, and its products with four inputs of a row of states.
class Int8Weights {
   public:
#ifdef __AVX512VNNI__
    explicit Int8Weights(const std::int8_t* line) : weights_(_mm512_load_si512(line)) {}

    Ints add_products(Ints sums, std::int32_t states) const {
        return reinterpret_cast<Ints>(
            _mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sums), _mm512_set1_epi32(states), weights_));
    }

   private:
    __m512i weights_;
#else
    explicit Int8Weights(const std::int8_t* line)
        : weights_(_mm256_load_si256(reinterpret_cast<const __m256i*>(line))), sizes_(_mm256_abs_epi8(weights_)) {}

    // The instruction adds pairs of products of unsigned by signed numbers in 16 bits: two products of absolute values
    // of up to 127 fit. The states get the weights' signs.
    Ints add_products(Ints sums, std::int32_t states) const {
        const __m256i with_signs = _mm256_sign_epi8(_mm256_set1_epi32(states), weights_);
        const __m256i pairs = _mm256_maddubs_epi16(sizes_, with_signs);
        return sums + reinterpret_cast<Ints>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }

   private:
    __m256i weights_, sizes_;
#endif
};

// In vectors.
struct Int8Vectors : Int8States {
    // The sums of more rows would not stay in registers.
    static constexpr Index kTileRows = kLanes == 16 ? 12 : 4;
    static constexpr Index kChunkRows = 96, kPanelsOfTile = 1;

    void multiply(Index num_rows, const Element* rows, Index stride, const Panel<Weight>& panel, Initial initial,
                  Bfloat16* result, Index out) const {
        multiply(num_rows, rows, stride, panel, initial, result, out, std::make_index_sequence<kTileRows>());
    }

   private:
    template <std::size_t... kIndex>
    static void multiply(Index num_rows, const Element* rows, Index stride, const Panel<Weight>& panel, Initial initial,
                         Bfloat16* result, Index out, std::index_sequence<kIndex...>) {
        static constexpr decltype(&multiply_tile<1>) kMultiply[] = {multiply_tile<kIndex + 1>...};
        kMultiply[num_rows - 1](rows, stride, panel, initial, result, out);
    }

    template <Index kRows>
    static void multiply_tile(const Element* rows, Index stride, const Panel<Weight>& panel, Initial initial,
                              Bfloat16* result, Index out) {
        Ints sums[kRows][2];
        const std::int32_t* offsets = outputs_of(panel).offsets;
#pragma GCC unroll 16
        for (Index row = 0; row < kRows; ++row) std::memcpy(sums[row], offsets, sizeof sums[row]);
        for (Index input = 0; input < panel.in; input += kInt8Depth) {
            const std::int8_t* blocks = panel.weights + input * kPanel;
            for (Index group = 0; group < kInt8Depth; group += kInt8Group) {
                const std::int8_t* line = blocks + group * kLanes;
                if (panel.is_in_memory()) {
                    __builtin_prefetch(line + 4 * kInt8Block, 0, 2);
                    __builtin_prefetch(line + 5 * kInt8Block, 0, 2);
                }
                const Int8Weights left(line), right(line + kInt8Block);
#pragma GCC unroll 16
                for (Index row = 0; row < kRows; ++row) {
                    std::int32_t states;
                    std::memcpy(&states, rows + row * stride + input + group, sizeof states);
                    sums[row][0] = left.add_products(sums[row][0], states);
                    sums[row][1] = right.add_products(sums[row][1], states);
                }
            }
        }
#pragma GCC unroll 16
        for (Index row = 0; row < kRows; ++row) {
            std::int32_t stored[kPanel];
            std::memcpy(stored, sums[row], sizeof stored);
            finish(stored, rows + row * stride, panel, initial.sums + row * initial.stride, result + row * out);
        }
    }
};

#ifdef __AMX_INT8__
// In the tile registers of AMX: 16 rows by 16 outputs by 64 inputs per instruction. In vectors for few rows, which
// leave most of a register empty.
class Int8Tiled : public Tiled, public Int8Vectors {
   public:
    using Element = Int8Vectors::Element;
    using Weight = Int8Vectors::Weight;
    using Int8Vectors::rows;
    using Tiled::kChunkRows;
    using Tiled::kPanelsOfTile;
    using Tiled::kTileRows;
    static constexpr Index kDepth = kInt8Depth;

    void multiply(Index num_rows, const Element* rows, Index stride, const Panel<Weight>& panel, Initial initial,
                  Bfloat16* result, Index out) {
        if (num_rows <= kFewRows) return Int8Vectors::multiply(num_rows, rows, stride, panel, initial, result, out);
        configure(num_rows);
        if (num_rows > kSide) {
            multiply_tile<true>(num_rows, rows, stride, panel, initial, result, out);
        } else {
            multiply_tile<false>(num_rows, rows, stride, panel, initial, result, out);
        }
    }

   private:
    static constexpr Index kFewRows = 4;

    // The registers have the uses, and so the shapes, of `Tiled`.
    template <bool kTwoHigh>
    static void multiply_tile(Index num_rows, const Element* rows, Index stride, const Panel<Weight>& panel,
                              Initial initial, Bfloat16* result, Index out) {
        const std::int32_t* offsets = outputs_of(panel).offsets;
        flush_stores();
        _tile_loadd(0, offsets, 0);
        _tile_loadd(1, offsets + kSide, 0);
        if (kTwoHigh) {
            _tile_loadd(2, offsets, 0);
            _tile_loadd(3, offsets + kSide, 0);
        }
        for (Index input = 0; input < panel.in; input += kInt8Depth) {
            const std::int8_t* blocks = panel.weights + input * kPanel;
            if (panel.is_in_memory()) {
                for (Index i = 0; i < 2 * kInt8Block; i += 64) __builtin_prefetch(blocks + 2 * kInt8Block + i, 0, 2);
            }
            _tile_loadd(6, blocks, 64);
            _tile_loadd(7, blocks + kInt8Block, 64);
            _tile_loadd(4, rows + input, stride);
            _tile_dpbusd(0, 4, 6);
            _tile_dpbusd(1, 4, 7);
            if (kTwoHigh) {
                _tile_loadd(5, rows + kSide * stride + input, stride);
                _tile_dpbusd(2, 5, 6);
                _tile_dpbusd(3, 5, 7);
            }
        }
        alignas(64) std::int32_t sums[kTileRows][kPanel];
        store_sums<kTwoHigh>(sums[0], kPanel);
        for (Index row = 0; row < num_rows; ++row) {
            finish(sums[row], rows + row * stride, panel, initial.sums + row * initial.stride, result + row * out);
        }
    }
};
#endif

}  // namespace loraledger

#endif
