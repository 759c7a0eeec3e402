// Operations on rows: RMS norm, gates, argmax.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "vectors.h"

namespace loraledger {

// Fewer elements than this are not worth starting threads for.
constexpr Index kMinParallelElements = 16384;

template <class T>
void norm_row(const T* x, const T* weight, Index n, float epsilon, T* result) {
    Floats squares = {};
    for_each_vector(n, [&](Index i, Index count) {
        const Floats lanes = load(x + i, count);
        squares = multiply_add(lanes, lanes, squares);
    });
    const float scale = 1.0f / std::sqrt(sum(squares) / static_cast<float>(n) + epsilon);
    for_each_vector(n, [&](Index i, Index count) {
        store(load(x + i, count) * scale * load(weight + i, count), result + i, count);
    });
}

// Add `delta`, if not null, to `hidden` in place, and normalise the sum; each of `n` elements.
template <class T>
void add_norm_row(T* hidden, const T* delta, const T* weight, float epsilon, Index n, T* result) {
    if (delta != nullptr) {
        for_each_vector(n, [&](Index i, Index count) {
            store(load(hidden + i, count) + load(delta + i, count), hidden + i, count);
        });
    }
    norm_row(hidden, weight, n, epsilon, result);
}

template <class T>
void add_rms_norm(T* hidden, const T* delta, const T* weight, float epsilon, Index tokens, Index width, T* result) {
#pragma omp parallel for if (tokens * width > kMinParallelElements)
    for (Index t = 0; t < tokens; ++t) {
        const T* delta_row = delta == nullptr ? nullptr : delta + t * width;
        add_norm_row(hidden + t * width, delta_row, weight, epsilon, width, result + t * width);
    }
}

// silu(gate) * up, of `n` elements.
template <class T>
void gate_row(const T* gate, const T* up, Index n, T* result) {
    for_each_vector(n, [&](Index i, Index count) {
        const Floats g = load(gate + i, count);
        const Floats e = exp_of_negative(g < 0.0f ? g : -g);
        const Floats sigmoid = (g < 0.0f ? e : broadcast(1.0f)) / (1.0f + e);
        store(g * sigmoid * load(up + i, count), result + i, count);
    });
}

template <class T>
void silu_gate(const T* gate_up, Index tokens, Index width, T* result) {
#pragma omp parallel for if (tokens * width > kMinParallelElements)
    for (Index t = 0; t < tokens; ++t) {
        gate_row(gate_up + 2 * t * width, gate_up + (2 * t + 1) * width, width, result + t * width);
    }
}

// Elements that are searched for the first of the largest, again from the cache.
constexpr Index kSearchBlock = 16 * kLanes;

// The largest element of a row and its first index. The value is NaN if the row holds one.
template <class T>
void argmax_of_row(const T* row, Index width, float& value, Index& index) {
    value = widen(row[0]);
    index = 0;
    Ints is_nan = {};
    Index first = 0;  // of the block with the largest
    for (Index start = 0; start < width; start += kSearchBlock) {
        Floats best = broadcast(value);
        for_each_vector(std::min(kSearchBlock, width - start), [&](Index i, Index count) {
            Floats lanes = load(row + start + i, count);
            for (Index lane = count; lane < kLanes; ++lane) lanes[lane] = value;
            best = lanes > best ? lanes : best;
            is_nan |= lanes != lanes;
        });
        const float found = largest(best);
        if (found > value) {
            value = found;
            first = start;
        }
    }
    for (Index lane = 0; lane < kLanes; ++lane) {
        if (is_nan[lane] != 0) value = std::numeric_limits<float>::quiet_NaN();
    }
    if (value == value) index = std::find_if(row + first, row + width, [&](T x) { return widen(x) == value; }) - row;
}

template <class T>
void argmax(const T* rows, Index num_rows, Index width, float* values, Index* indices) {
#pragma omp parallel for if (num_rows * width > kMinParallelElements)
    for (Index n = 0; n < num_rows; ++n) argmax_of_row(rows + n * width, width, values[n], indices[n]);
}

}  // namespace loraledger
