// Rotary embedding, writes to the paged KV cache, and attention of single tokens over it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "rows.h"

namespace loraledger {

struct HeadShape {
    Index num_heads, num_kv_heads, head_dim, block_size;

    Index heads_per_kv() const { return num_heads / num_kv_heads; }
    // Elements of one KV head in one block, of all heads in one block.
    Index tile() const { return head_dim * block_size; }
    Index block() const { return num_kv_heads * tile(); }
};

// Normalise one head of queries or keys if a weight is given, then rotate it in the half-split layout.
template <class T>
void norm_and_rotate_head(const T* head, const T* norm, float epsilon, const float* cosine, const float* sine,
                          Index dim, T* normalised, T* result) {
    if (norm != nullptr) {
        norm_row(head, norm, dim, epsilon, normalised);
        head = normalised;
    }
    const Index half = dim / 2;
    for_each_vector(half, [&](Index i, Index count) {
        const Floats first = load(head + i, count), second = load(head + half + i, count);
        const Floats c = load(cosine + i, count), s = load(sine + i, count);
        store(first * c - second * s, result + i, count);
        store(second * c + first * s, result + half + i, count);
    });
}

// A block stores keys as [num_kv_heads, head_dim, block_size] and values as [num_kv_heads, block_size, head_dim]: both
// products of attention then run along the last axis, and neither sums over the lanes of a vector.
template <class T>
void rotate_and_store(const T* qkv, const T* query_norm, const T* key_norm, float epsilon, const float* cosine,
                      const float* sine, const Index* positions, const Index* kv_slots, Index tokens, HeadShape shape,
                      T* queries, T* keys, T* values) {
    const Index dim = shape.head_dim, query_width = shape.num_heads * dim, kv_width = shape.num_kv_heads * dim;
#pragma omp parallel if (tokens * (query_width + 2 * kv_width) > kMinParallelElements)
    {
        std::vector<T> normalised(dim), rotated(dim);
#pragma omp for
        for (Index t = 0; t < tokens; ++t) {
            const T* row = qkv + t * (query_width + 2 * kv_width);
            const float* c = cosine + positions[t] * dim;
            const float* s = sine + positions[t] * dim;
            for (Index at = 0; at < query_width; at += dim) {
                T* query = queries + t * query_width + at;
                norm_and_rotate_head(row + at, query_norm, epsilon, c, s, dim, normalised.data(), query);
            }
            const Index offset = kv_slots[t] % shape.block_size;
            const Index block = kv_slots[t] / shape.block_size * shape.block();
            for (Index h = 0; h < shape.num_kv_heads; ++h) {
                const T* key = row + query_width + h * dim;
                norm_and_rotate_head(key, key_norm, epsilon, c, s, dim, normalised.data(), rotated.data());
                T* tile = keys + block + h * shape.tile() + offset;
                for (Index d = 0; d < dim; ++d) tile[d * shape.block_size] = rotated[d];
                std::memcpy(values + block + h * shape.tile() + offset * dim, key + kv_width, dim * sizeof(T));
            }
        }
    }
}

// Exponentiate the first n of `scores` in place, and return their sum, by which the caller divides (softmax).
inline float exponentiate(float* scores, Index n) {
    float largest = scores[0];
    for (Index i = 1; i < n; ++i) largest = std::max(largest, scores[i]);
    Floats total = {};
    for_each_vector(n, [&](Index i, Index count) {
        store(exp_of_negative(load(scores + i, count) - largest), scores + i, count);
        total += load(scores + i, count);
    });
    return sum(total);
}

// result[g][0..width) += sum over rows of weights[g][row] * rows[row][0..width), for kHeads heads at once, so that each
// row is read and widened only once.
template <Index kHeads, class T>
void accumulate(const float* weights, Index weight_stride, const T* rows, Index num_rows, Index width, float* result,
                Index result_stride) {
    Index at = 0;
    for (; at + kLanes <= width; at += kLanes) {
        Floats sums[kHeads];
        for (Index g = 0; g < kHeads; ++g) sums[g] = load(result + g * result_stride + at);
        for (Index r = 0; r < num_rows; ++r) {
            const Floats lanes = load(rows + r * width + at);
            for (Index g = 0; g < kHeads; ++g) {
                sums[g] = multiply_add(broadcast(weights[g * weight_stride + r]), lanes, sums[g]);
            }
        }
        for (Index g = 0; g < kHeads; ++g) std::memcpy(result + g * result_stride + at, &sums[g], sizeof sums[g]);
    }
    for (; at < width; ++at) {
        for (Index g = 0; g < kHeads; ++g) {
            float& total = result[g * result_stride + at];
            for (Index r = 0; r < num_rows; ++r) total += weights[g * weight_stride + r] * widen(rows[r * width + at]);
        }
    }
}

// The hardware prefetcher cannot predict the next page.
template <class T>
void prefetch(const T* first, Index n) {
    for (Index i = 0; i < n; i += 64 / static_cast<Index>(sizeof(T))) __builtin_prefetch(first + i, 0, 2);
}

// One token's attention over its paged context, for kHeads query heads that share a KV head. `scratch` holds
// kHeads * (2 * head_dim + context rounded up to whole blocks) floats.
template <Index kHeads, class T>
void attend_heads(const T* query, const T* keys, const T* values, const Index* table, Index context, HeadShape shape,
                  float* scratch, T* result) {
    const Index dim = shape.head_dim, size = shape.block_size;
    const Index stride = (context + size - 1) / size * size;
    float *wide = scratch, *mixed = wide + kHeads * dim, *scores = mixed + kHeads * dim;
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    for (Index i = 0; i < kHeads * dim; ++i) wide[i] = widen(query[i]) * scale;
    std::fill(mixed, scores + kHeads * stride, 0.0f);
    for (Index start = 0; start < context; start += size) {
        const T* tile = keys + table[start / size] * shape.block();
        const bool is_last = start + size >= context;
        const T* next = is_last ? values + table[0] * shape.block() : keys + table[start / size + 1] * shape.block();
        prefetch(next, shape.tile());
        accumulate<kHeads>(wide, dim, tile, dim, size, scores + start, stride);
    }
    float totals[kHeads];
    for (Index g = 0; g < kHeads; ++g) totals[g] = exponentiate(scores + g * stride, context);
    for (Index start = 0; start < context; start += size) {
        const T* tile = values + table[start / size] * shape.block();
        if (start + size < context) prefetch(values + table[start / size + 1] * shape.block(), shape.tile());
        accumulate<kHeads>(scores + start, stride, tile, std::min(size, context - start), dim, mixed, dim);
    }
    for (Index g = 0; g < kHeads; ++g) {
        for_each_vector(dim, [&](Index d, Index count) {
            store(load(mixed + g * dim + d, count) / totals[g], result + g * dim + d, count);
        });
    }
}

// Attention of each of `tokens` over the context in its row of `tables`.
template <class T>
void token_attention(const T* queries, const T* keys, const T* values, const Index* tokens, const Index* contexts,
                      const Index* tables, const Index* sequences, Index table_width, Index num_tokens,
                     HeadShape shape, T* result) {
    constexpr Index kMaxHeads = 4;
    const Index heads_per_kv = shape.heads_per_kv(), dim = shape.head_dim;
#pragma omp parallel
    {
        std::vector<float> scratch(kMaxHeads * (2 * dim + table_width * shape.block_size));
#pragma omp for collapse(2) schedule(dynamic, 4)
        for (Index n = 0; n < num_tokens; ++n) {
            for (Index h = 0; h < shape.num_kv_heads; ++h) {
                const T *k = keys + h * shape.tile(), *v = values + h * shape.tile();
                const Index* table = tables + sequences[n] * table_width;
                for (Index g = 0; g < heads_per_kv; g += kMaxHeads) {
                    const Index at = (tokens[n] * shape.num_heads + h * heads_per_kv + g) * dim;
                    auto attend = [&](auto heads) {
                        attend_heads<heads>(queries + at, k, v, table, contexts[n], shape, scratch.data(), result + at);
                    };
                    switch (std::min(kMaxHeads, heads_per_kv - g)) {
                        case 1: attend(std::integral_constant<Index, 1>()); break;
                        case 2: attend(std::integral_constant<Index, 2>()); break;
                        case 3: attend(std::integral_constant<Index, 3>()); break;
                        default: attend(std::integral_constant<Index, 4>()); break;
                    }
                }
            }
        }
    }
}

}  // namespace loraledger
