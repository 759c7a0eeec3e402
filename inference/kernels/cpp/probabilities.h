// What probes read off logits: the largest probabilities, and sums of embeddings that these weight.
#pragma once

#include <algorithm>
#include <limits>

#include "rows.h"

namespace loraledger {

// Logits that are widened into the cache together.
constexpr Index kLogitBlock = 16 * kLanes;

// The `size` largest elements of a row in descending order, equal ones in their order in the row. Minus infinity is not
// among them.
class LargestElements {
   public:
    static constexpr Index kMaxSize = 16;

    explicit LargestElements(Index size) : size_(size) {
        std::fill_n(values_, kMaxSize, -std::numeric_limits<float>::infinity());
    }

    // What an element must exceed to be among them.
    float bound() const { return values_[size_ - 1]; }

    // Add the elements from `start` on.
    void add(Floats lanes, Index start) {
        for (std::uint32_t above = lanes_above(lanes, bound()); above != 0; above &= above - 1) {
            const Index lane = __builtin_ctz(above);
            if (lanes[lane] > bound()) insert(lanes[lane], start + lane);
        }
    }

    // [kMaxSize], minus infinity behind the last one.
    const float* values() const { return values_; }

    // [kMaxSize], 0 behind the last one.
    const Index* places() const { return places_; }

   private:
    void insert(float value, Index place) {
        Index at = size_ - 1;
        for (; at > 0 && values_[at - 1] < value; --at) {
            values_[at] = values_[at - 1];
            places_[at] = places_[at - 1];
        }
        values_[at] = value;
        places_[at] = place;
    }

    const Index size_;
    float values_[kMaxSize];
    Index places_[kMaxSize] = {};
};

// The softmax's `count` largest values of one row, and their places: exponentials are summed relative to the largest
// logit so far, and the sum is scaled when that grows.
template <class T>
void top_probabilities_of_row(const T* row, Index width, Index count, float* probabilities, Index* places) {
    constexpr float kLowest = -std::numeric_limits<float>::infinity();
    LargestElements found(count);
    float peak = kLowest;
    Floats total = {};
    for (Index start = 0; start < width; start += kLogitBlock) {
        alignas(64) float block[kLogitBlock];
        const Index size = std::min(kLogitBlock, width - start);
        Floats best = broadcast(kLowest);
        for_each_vector(size, [&](Index i, Index lanes_left) {
            Floats lanes = load(row + start + i, lanes_left);
            for (Index lane = lanes_left; lane < kLanes; ++lane) lanes[lane] = kLowest;
            best = lanes > best ? lanes : best;  // passes over NaN, which the sum keeps
            store(lanes, block + i);
        });
        const float highest = largest(best);
        if (highest > found.bound()) {
            for (Index i = 0; i < size; i += kLanes) found.add(load(block + i), start + i);
        }
        if (highest > peak) {
            total *= exp_of_negative(broadcast(peak - highest));
            peak = highest;
        }
        const float origin = peak == kLowest ? 0.0f : peak;
        Floats sums = {};
        for (Index i = 0; i < size; i += kLanes) sums += exp_of_negative(load(block + i) - origin);
        total += sums;
    }
    const float sum_of_row = sum(total);
    const Floats missing = broadcast(peak == kLowest ? std::numeric_limits<float>::quiet_NaN() : 0.0f) * sum_of_row;
    for_each_vector(count, [&](Index i, Index lanes) {
        const Floats values = load(found.values() + i), shares = exp_of_negative(values - peak) / sum_of_row;
        store(values == kLowest ? missing : shares, probabilities + i, lanes);
    });
    std::copy_n(found.places(), count, places);
}

// `rows` [num_rows, width] at distances of `stride`; `probabilities` and `places` [num_rows, count], `count` at most
// LargestElements::kMaxSize.
template <class T>
void top_probabilities(const T* rows, Index num_rows, Index width, Index stride, Index count, float* probabilities,
                       Index* places) {
#pragma omp parallel for if (num_rows * width > kMinParallelElements)
    for (Index n = 0; n < num_rows; ++n) {
        top_probabilities_of_row(rows + n * stride, width, count, probabilities + n * count, places + n * count);
    }
}

// result[n] = sum over j of weights[n][j] * table[places[n][j]], [num_rows, width], in the order of j.
template <class T>
void sum_rows(const float* weights, const Index* places, Index num_rows, Index count, const T* table, Index width,
              float* result) {
#pragma omp parallel for if (num_rows * count * width > kMinParallelElements)
    for (Index n = 0; n < num_rows; ++n) {
        for_each_vector(width, [&](Index i, Index lanes) {
            Floats sums = {};
            for (Index j = n * count; j < (n + 1) * count; ++j) {
                sums = multiply_add(broadcast(weights[j]), load(table + places[j] * width + i, lanes), sums);
            }
            store(sums, result + n * width + i, lanes);
        });
    }
}

}  // namespace loraledger
