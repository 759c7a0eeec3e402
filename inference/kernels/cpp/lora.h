// LoRA deltas: each token's states times the A and B matrices of its adapter.
#pragma once

#include <omp.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "vectors.h"

namespace loraledger {

// Number of elements that one call of `add_products` multiplies.
template <class T>
constexpr Index kStep = kLanes * static_cast<Index>(sizeof(float) / sizeof(T));

inline Floats add_products(Floats sums, const float* x, const float* row) {
    return multiply_add(load(x), load(row), sums);
}

inline Floats add_products(Floats sums, const Bfloat16* x, const Bfloat16* row) {
#ifdef __AVX512BF16__
    __m512bh left, right;
    std::memcpy(&left, x, sizeof left);
    std::memcpy(&right, row, sizeof right);
    return reinterpret_cast<Floats>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sums), left, right));
#else
    // A word holds two numbers; a shift and a mask widen them.
    Words left, right;
    std::memcpy(&left, x, sizeof left);
    std::memcpy(&right, row, sizeof right);
    sums = multiply_add(reinterpret_cast<Floats>(left << 16), reinterpret_cast<Floats>(right << 16), sums);
    return multiply_add(reinterpret_cast<Floats>(left & 0xffff0000u), reinterpret_cast<Floats>(right & 0xffff0000u),
                        sums);
#endif
}

// result[t][r] = x[t] . rows[r], each of n elements, for kTokens by kRows at once: independent sums hide the latency
// of additions, and each loaded vector is used several times. `ahead`: distance in bytes to the data to prefetch.
template <Index kTokens, Index kRows, class T>
void dots(const T* x, Index x_stride, const T* rows, Index n, Index ahead, float* result, Index result_stride) {
    Floats sums[kTokens][kRows] = {};
    Index i = 0;
    for (; i + kStep<T> <= n; i += kStep<T>) {
        for (Index r = 0; r < kRows; ++r) {
            const T* row = rows + r * n + i;
            if (ahead != 0) __builtin_prefetch(reinterpret_cast<const char*>(row) + ahead, 0, 2);
            for (Index t = 0; t < kTokens; ++t) sums[t][r] = add_products(sums[t][r], x + t * x_stride + i, row);
        }
    }
    for (Index t = 0; t < kTokens; ++t) {
        for (Index r = 0; r < kRows; ++r) {
            if (i < n) {
                T left[kStep<T>] = {}, right[kStep<T>] = {};
                std::copy(x + t * x_stride + i, x + t * x_stride + n, left);
                std::copy(rows + r * n + i, rows + r * n + n, right);
                sums[t][r] = add_products(sums[t][r], left, right);
            }
            result[t * result_stride + r] = sum(sums[t][r]);
        }
    }
}

// The arena of one linear layer and the column of its delta; mirrors `_LoraTarget` in native.py.
struct LoraTarget {
    const void* shrink;  // [rows, in]
    const void* expand;  // [rows, out]
    Index out;
    Index column;
};

// Tokens [start, end) with one adapter; mirrors `_LoraSegment` in native.py.
struct LoraSegment {
    Index start, end, first_row, rank;
};

// Distance in arena rows to the next segment; 0 for the last one.
inline Index rows_ahead(const LoraSegment* segments, Index num_segments, Index s) {
    return s + 1 < num_segments ? segments[s + 1].first_row - segments[s].first_row : 0;
}

constexpr Index kTokensPerUnit = 8;

// Up to kTokensPerUnit tokens of one adapter and one target.
struct LoraUnit {
    Index start, count, first_row, rank, target;
    Index rows_ahead;  // distance to the next adapter's rows, which a segment's first unit per target prefetches
};

// result[t][0..width) = initial[t][0..width) + sum over rows of weights[t][row] * rows[row][0..width), each element
// rounded once. `initial` may alias `result`; with stride 0 it is one row for all tokens.
template <Index kTokens, class T, class Result>
void add_rows(const float* weights, const T* rows, Index row_stride, Index num_rows, Index width, Index ahead,
              const Result* initial, Index initial_stride, Result* result, Index result_stride) {
    Index at = 0;
    // kVectors vectors from `at` on; `count` is below kLanes only for the last vector of a row.
    const auto add = [&](auto vectors, Index count) {
        constexpr Index kVectors = vectors;
        Floats sums[kTokens][kVectors];
        for (Index t = 0; t < kTokens; ++t) {
            for (Index j = 0; j < kVectors; ++j) {
                sums[t][j] = load(initial + t * initial_stride + at + j * kLanes, count);
            }
        }
        for (Index r = 0; r < num_rows; ++r) {
            const T* row = rows + r * row_stride + at;
            if (ahead != 0) {
                for (Index j = 0; j < kVectors * kLanes; j += 64 / static_cast<Index>(sizeof(T))) {
                    __builtin_prefetch(reinterpret_cast<const char*>(row + j) + ahead, 0, 2);
                }
            }
            for (Index j = 0; j < kVectors; ++j) {
                const Floats lanes = load(row + j * kLanes, count);
                for (Index t = 0; t < kTokens; ++t) {
                    sums[t][j] = multiply_add(broadcast(weights[t * num_rows + r]), lanes, sums[t][j]);
                }
            }
        }
        for (Index t = 0; t < kTokens; ++t) {
            for (Index j = 0; j < kVectors; ++j) {
                store(sums[t][j], result + t * result_stride + at + j * kLanes, count);
            }
        }
    };
    const auto add_all = [&](auto vectors) {
        for (; at + vectors * kLanes <= width; at += vectors * kLanes) add(vectors, kLanes);
    };
    add_all(std::integral_constant<Index, kTokens == 1 ? 4 : 2>());
    add_all(std::integral_constant<Index, 1>());
    if (at < width) add(std::integral_constant<Index, 1>(), width - at);
}

// Compute shrunk[t][r], [count, rank], of a unit's tokens.
template <class T>
void shrink_unit(const T* states, Index in, const LoraTarget& target, const LoraUnit& unit, float* shrunk) {
    const Index rank = unit.rank;
    const T* x = states + unit.start * in;
    const T* shrink = static_cast<const T*>(target.shrink) + unit.first_row * in;
    const Index ahead = unit.rows_ahead * in * static_cast<Index>(sizeof(T));
    Index t = 0;
    for (; t + 2 <= unit.count; t += 2) {
        Index r = 0;
        for (; r + 4 <= rank; r += 4) {
            dots<2, 4>(x + t * in, in, shrink + r * in, in, t == 0 ? ahead : 0, shrunk + t * rank + r, rank);
        }
        for (; r < rank; ++r) dots<2, 1>(x + t * in, in, shrink + r * in, in, 0, shrunk + t * rank + r, rank);
    }
    if (t < unit.count) {
        Index r = 0;
        // Two rows at a time: memory bounds one token, and delivers adjacent rows faster than eight at once.
        for (; r + 2 <= rank; r += 2) {
            dots<1, 2>(x + t * in, in, shrink + r * in, in, t == 0 ? ahead : 0, shrunk + t * rank + r, rank);
        }
        for (; r < rank; ++r) dots<1, 1>(x + t * in, in, shrink + r * in, in, 0, shrunk + t * rank + r, rank);
    }
}

// Add the deltas of a unit's tokens to `output`.
template <class T>
void expand_unit(const float* shrunk, const LoraTarget& target, const LoraUnit& unit, T* output, Index out_stride) {
    const Index rank = unit.rank, out = target.out;
    const Index ahead = unit.rows_ahead * out * static_cast<Index>(sizeof(T));
    const T* expand = static_cast<const T*>(target.expand) + unit.first_row * out;
    T* result = output + unit.start * out_stride + target.column;
    Index t = 0;
    for (; t + 4 <= unit.count; t += 4, result += 4 * out_stride) {
        add_rows<4>(shrunk + t * rank, expand, out, rank, out, t == 0 ? ahead : 0, result, out_stride, result,
                    out_stride);
    }
    for (; t < unit.count; ++t, result += out_stride) {
        add_rows<1>(shrunk + t * rank, expand, out, rank, out, t == 0 ? ahead : 0, result, out_stride, result,
                    out_stride);
    }
}

// The adapters of a step in one projection.
struct Deltas {
    const LoraTarget* targets;  // in the order of their columns, disjoint
    Index num_targets;
    const LoraSegment* segments;  // in order, disjoint
    Index num_segments;
};

// Reading a row of weights costs as much as computing with it for this many tokens.
constexpr Index kTokensPerRead = 2;

// The units of `deltas`, and the cumulative cost before each of them; the last entry is the total.
struct LoraWork {
    std::vector<LoraUnit> units;
    std::vector<Index> costs;

    // `width(target)`: numbers that a unit reads per arena row.
    template <class F>
    LoraWork(const Deltas& deltas, F width) {
        Index cost = 0;
        for (Index s = 0; s < deltas.num_segments; ++s) {
            const LoraSegment& segment = deltas.segments[s];
            for (Index start = segment.start; start < segment.end; start += kTokensPerUnit) {
                for (Index target = 0; target < deltas.num_targets; ++target) {
                    const Index count = std::min(kTokensPerUnit, segment.end - start);
                    const bool is_first = start == segment.start;
                    const Index ahead = is_first ? rows_ahead(deltas.segments, deltas.num_segments, s) : 0;
                    units.push_back({start, count, segment.first_row, segment.rank, target, ahead});
                    costs.push_back(cost);
                    cost += segment.rank * width(deltas.targets[target]) * (kTokensPerRead + count);
                }
            }
        }
        costs.push_back(cost);
    }

    // Call f(unit) for each unit of this thread's share. Units that are adjacent in memory go to one thread, which
    // prefetches the next one.
    template <class F>
    void for_each_of_thread(F f) const {
        const Index threads = omp_get_num_threads(), thread = omp_get_thread_num();
        for (std::size_t u = 0; u < units.size(); ++u) {
            if (costs[u] * threads / costs.back() == thread) f(units[u]);
        }
    }
};

template <class T>
void add_lora(const T* states, Index in, const Deltas& deltas, T* output, Index out_stride) {
    const LoraWork work(deltas, [&](const LoraTarget& target) { return in + target.out; });
#pragma omp parallel
    {
        std::vector<float> shrunk;
        work.for_each_of_thread([&](const LoraUnit& unit) {
            const LoraTarget& target = deltas.targets[unit.target];
            shrunk.resize(unit.count * unit.rank);
            shrink_unit(states, in, target, unit, shrunk.data());
            expand_unit(shrunk.data(), target, unit, output, out_stride);
        });
    }
}

}  // namespace loraledger
