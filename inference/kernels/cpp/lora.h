// LoRA deltas: each token's states times the A and B matrices of its adapter.
#pragma once

#include <omp.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "vectors.h"

namespace loraledger {

// Number of elements that one call of `add_products` multiplies.
template <class T, class Row>
constexpr Index kStep = kLanes;
template <>
constexpr Index kStep<Bfloat16, Bfloat16> = 2 * kLanes;

template <class T, class Row>
Floats add_products(Floats sums, const T* x, const Row* row) {
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
template <Index kTokens, Index kRows, class T, class Row>
void dots(const T* x, Index x_stride, const Row* rows, Index n, Index ahead, float* result, Index result_stride) {
    constexpr Index kElements = kStep<T, Row>;
    Floats sums[kTokens][kRows] = {};
    Index i = 0;
    for (; i + kElements <= n; i += kElements) {
        for (Index r = 0; r < kRows; ++r) {
            const Row* row = rows + r * n + i;
            if (ahead != 0) __builtin_prefetch(reinterpret_cast<const char*>(row) + ahead, 0, 2);
            for (Index t = 0; t < kTokens; ++t) sums[t][r] = add_products(sums[t][r], x + t * x_stride + i, row);
        }
    }
    for (Index t = 0; t < kTokens; ++t) {
        for (Index r = 0; r < kRows; ++r) {
            if (i < n) {
                T left[kElements] = {};
                Row right[kElements] = {};
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
    const float* scales;  // [rows], of an arena in 8 bits; null: the arena has the type of the states
    Index out;
    Index column;

    // Call f with a value of the type of the arena's elements.
    template <class T, class F>
    void dispatch_element(F f) const {
        if (scales == nullptr) {
            f(T{});
        } else {
            f(std::int8_t{});
        }
    }
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
template <Index kTokens, class Row, class Result>
void add_rows(const float* weights, const Row* rows, Index row_stride, Index num_rows, Index width, Index ahead,
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
            const Row* row = rows + r * row_stride + at;
            if (ahead != 0) {
                for (Index j = 0; j < kVectors * kLanes; j += 64 / static_cast<Index>(sizeof(Row))) {
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

// result[t][r] = x[t] . rows[r], [count, rank], of vectors of n elements. `ahead` is as in `dots`.
template <class T, class Row>
void shrink_tokens(const T* x, Index count, const Row* rows, Index rank, Index n, Index ahead, float* result) {
    Index t = 0;
    for (; t + 2 <= count; t += 2) {
        Index r = 0;
        for (; r + 4 <= rank; r += 4) {
            dots<2, 4>(x + t * n, n, rows + r * n, n, t == 0 ? ahead : 0, result + t * rank + r, rank);
        }
        for (; r < rank; ++r) dots<2, 1>(x + t * n, n, rows + r * n, n, 0, result + t * rank + r, rank);
    }
    if (t < count) {
        Index r = 0;
        // Two rows at a time: memory bounds one token, and delivers adjacent rows faster than eight at once.
        for (; r + 2 <= rank; r += 2) {
            dots<1, 2>(x + t * n, n, rows + r * n, n, t == 0 ? ahead : 0, result + t * rank + r, rank);
        }
        for (; r < rank; ++r) dots<1, 1>(x + t * n, n, rows + r * n, n, 0, result + t * rank + r, rank);
    }
}

// Compute shrunk[t][r], [count, rank], of a unit's tokens, the scales of its rows included.
template <class T>
void shrink_unit(const T* states, Index in, const LoraTarget& target, const LoraUnit& unit, float* shrunk) {
    target.dispatch_element<T>([&](auto kind) {
        using Row = decltype(kind);
        const Row* rows = static_cast<const Row*>(target.shrink) + unit.first_row * in;
        const Index ahead = unit.rows_ahead * in * static_cast<Index>(sizeof(Row));
        shrink_tokens(states + unit.start * in, unit.count, rows, unit.rank, in, ahead, shrunk);
    });
    if (target.scales == nullptr) return;
    for (Index t = 0; t < unit.count; ++t) {
        for (Index r = 0; r < unit.rank; ++r) shrunk[t * unit.rank + r] *= target.scales[unit.first_row + r];
    }
}

// result[t] = initial[t] plus the delta of token t, for `num_tokens` tokens of one adapter, whose `shrunk` states have
// its `rank`, and for the `width` outputs from `first` of the target on. `rows_ahead` is as in `LoraUnit`.
template <class T, class Result>
void expand_tokens(const float* shrunk, Index num_tokens, const LoraTarget& target, Index first_row, Index rank,
                   Index rows_ahead, Index first, Index width, const Result* initial, Index initial_stride,
                   Result* result, Index result_stride) {
    target.dispatch_element<T>([&](auto kind) {
        using Row = decltype(kind);
        const Row* rows = static_cast<const Row*>(target.expand) + first_row * target.out + first;
        const Index ahead = rows_ahead * target.out * static_cast<Index>(sizeof(Row));
        const auto add = [&](auto tokens, Index t) {
            add_rows<tokens>(shrunk + t * rank, rows, target.out, rank, width, t == 0 ? ahead : 0,
                             initial + t * initial_stride, initial_stride, result + t * result_stride, result_stride);
        };
        Index t = 0;
        for (; t + 4 <= num_tokens; t += 4) add(std::integral_constant<Index, 4>(), t);
        for (; t < num_tokens; ++t) add(std::integral_constant<Index, 1>(), t);
    });
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
        Buffer<float> shrunk;
        work.for_each_of_thread([&](const LoraUnit& unit) {
            const LoraTarget& target = deltas.targets[unit.target];
            shrunk.resize(unit.count * unit.rank);
            shrink_unit(states, in, target, unit, shrunk.data());
            T* result = output + unit.start * out_stride + target.column;
            expand_tokens<T>(shrunk.data(), unit.count, target, unit.first_row, unit.rank, unit.rows_ahead, 0, target.out,
                             result, out_stride, result, out_stride);
        });
    }
}

}  // namespace loraledger
