// Sums of weighted lines of keys or values, for a few rows that read them from their pages.
#pragma once

#include <type_traits>

#include "vectors.h"

namespace loraledger {

// Vectors of sums that stay in registers, of which AVX-512 has 32 and AVX2 16.
constexpr Index kMaxSums = kLanes;

// A vector's place in each of some lines: at `first` in the first one, `stride` further in the next.
template <class T>
struct Column {
    const T* first;
    Index stride;
};

// result[row][v] += sum over i of weights[row][i] * line i of column(v), for kRows rows and kVectors vectors at once: each
// vector is widened only once, and independent sums hide the latency of additions. `count`: elements of each vector, a
// constant where it is kLanes.
template <Index kRows, Index kVectors, class F, class Count>
void accumulate_vectors(const float* weights, Index weight_stride, Index num_lines, F column, Count count, float* result,
                        Index result_stride) {
    Floats sums[kRows][kVectors];
    decltype(column(0)) columns[kVectors];
#pragma GCC unroll 4
    for (Index v = 0; v < kVectors; ++v) {
        columns[v] = column(v);
#pragma GCC unroll 8
        for (Index row = 0; row < kRows; ++row) {
            sums[row][v] = load(result + row * result_stride + v * kLanes, count);
        }
    }
    for (Index i = 0; i < num_lines; ++i) {
#pragma GCC unroll 4
        for (Index v = 0; v < kVectors; ++v) {
            const Floats lanes = load(columns[v].first + i * columns[v].stride, count);
#pragma GCC unroll 8
            for (Index row = 0; row < kRows; ++row) {
                sums[row][v] = multiply_add(broadcast(weights[row * weight_stride + i]), lanes, sums[row][v]);
            }
        }
    }
#pragma GCC unroll 8
    for (Index row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
        for (Index v = 0; v < kVectors; ++v) store(sums[row][v], result + row * result_stride + v * kLanes, count);
    }
}

// The same for `num_vectors` whole vectors, and one of `rest` elements if that is not 0.
template <Index kRows, class F>
void accumulate(const float* weights, Index weight_stride, Index num_lines, F column, Index num_vectors, Index rest,
                float* result, Index result_stride) {
    constexpr Index kVectors = 4 * kRows <= kMaxSums ? 4 : 2 * kRows <= kMaxSums ? 2 : 1;
    constexpr std::integral_constant<Index, kLanes> whole;
    Index at = 0;
    const auto add = [&](auto vectors, auto count) {
        accumulate_vectors<kRows, vectors>(weights, weight_stride, num_lines, [&](Index v) { return column(at + v); },
                                           count, result + at * kLanes, result_stride);
        at += vectors;
    };
    while (at + kVectors <= num_vectors) add(std::integral_constant<Index, kVectors>(), whole);
    while (at < num_vectors) add(std::integral_constant<Index, 1>(), whole);
    if (rest != 0) add(std::integral_constant<Index, 1>(), rest);
}

}  // namespace loraledger
