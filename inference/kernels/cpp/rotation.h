// Rotary embedding, and writes to the paged KV cache.
#pragma once

#include <cstring>
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

// Norms of each head's queries and keys, or null, and the rotary tables, [max_context, head_dim].
template <class T>
struct Rotary {
    const T *query_norm, *key_norm;
    float epsilon;
    const float *cosine, *sine;
};

// Rotate one token's `qkv`, return its queries and write its key and value to `slot` of the cache.
//
// A block stores keys as [num_kv_heads, head_dim, block_size] and values as [num_kv_heads, block_size, head_dim]: both
// products of attention then run along the last axis, and neither sums over the lanes of a vector. `scratch` holds two
// heads.
template <class T>
void rotate_and_store_token(const T* qkv, const Rotary<T>& rotary, Index position, Index slot, HeadShape shape,
                            T* scratch, T* queries, T* keys, T* values) {
    const Index dim = shape.head_dim, query_width = shape.num_heads * dim, kv_width = shape.num_kv_heads * dim;
    const float *cosine = rotary.cosine + position * dim, *sine = rotary.sine + position * dim;
    for (Index at = 0; at < query_width; at += dim) {
        norm_and_rotate_head(qkv + at, rotary.query_norm, rotary.epsilon, cosine, sine, dim, scratch, queries + at);
    }
    T* rotated = scratch + dim;
    const Index offset = slot % shape.block_size, block = slot / shape.block_size * shape.block();
    for (Index h = 0; h < shape.num_kv_heads; ++h) {
        const T* key = qkv + query_width + h * dim;
        norm_and_rotate_head(key, rotary.key_norm, rotary.epsilon, cosine, sine, dim, scratch, rotated);
        T* tile = keys + block + h * shape.tile() + offset;
        for (Index d = 0; d < dim; ++d) tile[d * shape.block_size] = rotated[d];
        std::memcpy(values + block + h * shape.tile() + offset * dim, key + kv_width, dim * sizeof(T));
    }
}

template <class T>
void rotate_and_store(const T* qkv, const Rotary<T>& rotary, const Index* positions, const Index* kv_slots,
                      Index tokens, HeadShape shape, T* queries, T* keys, T* values) {
    const Index query_width = shape.num_heads * shape.head_dim;
    const Index width = query_width + 2 * shape.num_kv_heads * shape.head_dim;
#pragma omp parallel if (tokens * width > kMinParallelElements)
    {
        Buffer<T> scratch(2 * shape.head_dim);
#pragma omp for
        for (Index t = 0; t < tokens; ++t) {
            rotate_and_store_token(qkv + t * width, rotary, positions[t], kv_slots[t], shape, scratch.data(),
                                   queries + t * query_width, keys, values);
        }
    }
}

}  // namespace loraledger
