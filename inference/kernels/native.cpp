// The decoder's small operations for CPUs. Each function computes what its namesake in `portable.py` does, in one
// pass over memory and with fp32 sums; weights, states and cache are float or bfloat16. The matrix products of the
// base model stay with oneDNN, which reaches the machine's peak; what is here is bound by memory and by the cost of
// calling many little operations.
//
// Plain C++ that the compiler vectorises: no intrinsics, so any CPU that g++ knows will do. Every row is summed in
// an order that depends on its own length alone: a token's result does not depend on the company it is in.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using Index = std::int64_t;

struct Bfloat16 {
    std::uint16_t bits;
};

inline float widen(float value) { return value; }

inline float widen(Bfloat16 value) {
    std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

inline void narrow(float value, float& result) { result = value; }

// To the nearest, ties to even; NaN stays NaN, which the rounding would carry over into infinity or zero.
inline void narrow(float value, Bfloat16& result) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    result.bits = static_cast<std::uint16_t>(value == value ? rounded : 0x7fc0u);
}

// e^x for vector loops, relative error below 2e-7: x = n ln 2 + r (Cody and Waite), a polynomial for e^r (Cephes'
// coefficients), 2^n by its exponent bits. At most 0 is ever needed; below -87 the result is a tiny number, not 0.
inline float exp_of_negative(float x) {
    x = std::max(x, -87.0f);  // std::max(NaN, c) is NaN: a poisoned row stays visible
    float n = std::nearbyint(x * 1.44269504f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    std::int32_t exponent = (static_cast<std::int32_t>(n) + 127) << 23;
    float scale;
    std::memcpy(&scale, &exponent, sizeof scale);
    return p * scale;
}

template <class T>
void widen_row(const T* row, Index n, float* result) {
    for (Index i = 0; i < n; ++i) result[i] = widen(row[i]);
}

template <class T>
float dot(const float* x, const T* row, Index n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (Index i = 0; i < n; ++i) sum += x[i] * widen(row[i]);
    return sum;
}

// Four rows at once: one chain of additions would wait for itself.
template <class T>
void dot4(const float* x, const T* rows, Index stride, Index n, float* result) {
    const T *a = rows, *b = rows + stride, *c = rows + 2 * stride, *d = rows + 3 * stride;
    float sa = 0.0f, sb = 0.0f, sc = 0.0f, sd = 0.0f;
#pragma omp simd reduction(+ : sa, sb, sc, sd)
    for (Index i = 0; i < n; ++i) {
        sa += x[i] * widen(a[i]);
        sb += x[i] * widen(b[i]);
        sc += x[i] * widen(c[i]);
        sd += x[i] * widen(d[i]);
    }
    result[0] = sa, result[1] = sb, result[2] = sc, result[3] = sd;
}

// Rows shorter than this are not worth waking another thread for.
constexpr Index kMinParallelElements = 16384;

template <class T>
void norm_row(const float* x, const T* weight, Index n, float epsilon, T* result) {
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (Index i = 0; i < n; ++i) squares += x[i] * x[i];
    const float scale = 1.0f / std::sqrt(squares / static_cast<float>(n) + epsilon);
    for (Index i = 0; i < n; ++i) narrow(x[i] * scale * widen(weight[i]), result[i]);
}

template <class T>
void add_rms_norm(T* hidden, const T* delta, const T* weight, float epsilon, Index tokens, Index width, T* result) {
#pragma omp parallel if (tokens * width > kMinParallelElements)
    {
        std::vector<float> row(width);
#pragma omp for
        for (Index t = 0; t < tokens; ++t) {
            T* own = hidden + t * width;
            if (delta != nullptr) {
                for (Index i = 0; i < width; ++i) narrow(widen(own[i]) + widen(delta[t * width + i]), own[i]);
            }
            widen_row(own, width, row.data());
            norm_row(row.data(), weight, width, epsilon, result + t * width);
        }
    }
}

template <class T>
void silu_gate(const T* gate_up, Index tokens, Index width, T* result) {
#pragma omp parallel for if (tokens * width > kMinParallelElements)
    for (Index t = 0; t < tokens; ++t) {
        const T* gate = gate_up + 2 * t * width;
        const T* up = gate + width;
        T* own = result + t * width;
#pragma omp simd
        for (Index i = 0; i < width; ++i) {
            const float g = widen(gate[i]);
            const float e = exp_of_negative(-std::abs(g));
            const float sigmoid = (g >= 0.0f ? 1.0f : e) / (1.0f + e);
            narrow(g * sigmoid * widen(up[i]), own[i]);
        }
    }
}

struct HeadShape {
    Index num_heads, num_kv_heads, head_dim;
};

// One head of queries or keys: normalised if a weight is given, then rotated in the half-split layout.
template <class T>
void place_head(const T* head, const T* norm, float epsilon, const float* cosine, const float* sine, Index dim,
                float* scratch, T* result) {
    widen_row(head, dim, scratch);
    if (norm != nullptr) {
        norm_row(scratch, norm, dim, epsilon, result);
        widen_row(result, dim, scratch);
    }
    const Index half = dim / 2;
    for (Index i = 0; i < half; ++i) {
        const float first = scratch[i], second = scratch[half + i];
        narrow(first * cosine[i] - second * sine[i], result[i]);
        narrow(second * cosine[i] + first * sine[i], result[half + i]);
    }
}

template <class T>
void rotate_and_store(const T* qkv, const T* query_norm, const T* key_norm, float epsilon, const float* cosine,
                      const float* sine, const Index* positions, const Index* kv_slots, Index tokens, HeadShape shape,
                      T* queries, T* keys, T* values) {
    const Index dim = shape.head_dim, kv_width = shape.num_kv_heads * dim, query_width = shape.num_heads * dim;
#pragma omp parallel if (tokens * (query_width + 2 * kv_width) > kMinParallelElements)
    {
        std::vector<float> scratch(dim);
#pragma omp for
        for (Index t = 0; t < tokens; ++t) {
            const T* row = qkv + t * (query_width + 2 * kv_width);
            const float* c = cosine + positions[t] * dim;
            const float* s = sine + positions[t] * dim;
            for (Index h = 0; h < shape.num_heads; ++h) {
                const Index at = h * dim;
                place_head(row + at, query_norm, epsilon, c, s, dim, scratch.data(), queries + t * query_width + at);
            }
            T* key = keys + kv_slots[t] * kv_width;
            for (Index at = 0; at < kv_width; at += dim) {
                place_head(row + query_width + at, key_norm, epsilon, c, s, dim, scratch.data(), key + at);
            }
            std::memcpy(values + kv_slots[t] * kv_width, row + query_width + kv_width, kv_width * sizeof(T));
        }
    }
}

// Softmax in place; the sum is returned, the division left to whoever uses the weights.
inline float exponentiate(float* scores, Index n) {
    float largest = scores[0];
    for (Index i = 1; i < n; ++i) largest = std::max(largest, scores[i]);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (Index i = 0; i < n; ++i) {
        scores[i] = exp_of_negative(scores[i] - largest);
        sum += scores[i];
    }
    return sum;
}

// One token's attention over its paged context, for the query heads that share one KV head.
template <class T>
void attend_head(const T* query, const T* keys, const T* values, const Index* table, Index context, Index block_size,
                 HeadShape shape, Index kv_head, float* scratch, T* result) {
    const Index dim = shape.head_dim, stride = shape.num_kv_heads * dim;
    const Index share = shape.num_heads / shape.num_kv_heads;
    float* scores = scratch;                 // [share, context]
    float* wide = scratch + share * context; // [share, dim] queries, later the result
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    for (Index i = 0; i < share * dim; ++i) wide[i] = widen(query[i]) * scale;
    for (Index start = 0; start < context; start += block_size) {
        const T* rows = keys + table[start / block_size] * block_size * stride + kv_head * dim;
        const Index count = std::min(block_size, context - start);
        for (Index s = 0; s < share; ++s) {
            float* own = scores + s * context + start;
            Index i = 0;
            for (; i + 4 <= count; i += 4) dot4(wide + s * dim, rows + i * stride, stride, dim, own + i);
            for (; i < count; ++i) own[i] = dot(wide + s * dim, rows + i * stride, dim);
        }
    }
    for (Index s = 0; s < share; ++s) {
        float* own = scores + s * context;
        float* mixed = wide + s * dim;
        const float sum = exponentiate(own, context);
        std::fill(mixed, mixed + dim, 0.0f);
        for (Index start = 0; start < context; start += block_size) {
            const T* rows = values + table[start / block_size] * block_size * stride + kv_head * dim;
            const Index count = std::min(block_size, context - start);
            for (Index i = 0; i < count; ++i) {
                const float weight = own[start + i];
                for (Index d = 0; d < dim; ++d) mixed[d] += weight * widen(rows[i * stride + d]);
            }
        }
        for (Index d = 0; d < dim; ++d) narrow(mixed[d] / sum, result[s * dim + d]);
    }
}

template <class T>
void decode_attention(const T* queries, const T* keys, const T* values, const Index* tokens, const Index* contexts,
                      const Index* tables, Index table_width, Index sequences, Index block_size, HeadShape shape,
                      T* result) {
    const Index longest = *std::max_element(contexts, contexts + sequences);
    const Index share = shape.num_heads / shape.num_kv_heads;
#pragma omp parallel
    {
        std::vector<float> scratch(share * (longest + shape.head_dim));
#pragma omp for collapse(2) schedule(dynamic, 4)
        for (Index n = 0; n < sequences; ++n) {
            for (Index h = 0; h < shape.num_kv_heads; ++h) {
                const Index at = (tokens[n] * shape.num_heads + h * share) * shape.head_dim;
                attend_head(queries + at, keys, values, tables + n * table_width, contexts[n], block_size, shape, h,
                            scratch.data(), result + at);
            }
        }
    }
}

// One linear layer's arena and where its delta goes; mirrors `LoraPart` in native.py.
struct LoraPart {
    const void* shrink;  // [rows, in]
    const void* expand;  // [rows, out]
    Index out;
    Index column;
};

struct LoraSegment {
    Index start, end, first_row, rank;
};

constexpr Index kTokensPerUnit = 8;

struct LoraUnit {
    Index start, count, first_row, rank, part;
};

// Tokens [start, start + count) of one adapter through one linear layer.
template <class T>
void add_lora_unit(const T* states, Index in, const LoraPart& part, const LoraUnit& unit, T* output, Index out_stride,
                   std::vector<float>& scratch) {
    const Index rank = unit.rank;
    scratch.resize(unit.count * (in + rank));
    float* wide = scratch.data();           // [count, in]
    float* shrunk = wide + unit.count * in; // [count, rank]
    widen_row(states + unit.start * in, unit.count * in, wide);
    const T* shrink = static_cast<const T*>(part.shrink) + unit.first_row * in;
    Index r = 0;
    for (; r + 4 <= rank; r += 4) {
        for (Index t = 0; t < unit.count; ++t) dot4(wide + t * in, shrink + r * in, in, in, shrunk + t * rank + r);
    }
    for (; r < rank; ++r) {
        for (Index t = 0; t < unit.count; ++t) shrunk[t * rank + r] = dot(wide + t * in, shrink + r * in, in);
    }
    const T* expand = static_cast<const T*>(part.expand) + unit.first_row * part.out;
    constexpr Index kChunk = 64;
    for (Index column = 0; column < part.out; column += kChunk) {
        const Index width = std::min(kChunk, part.out - column);
        for (Index t = 0; t < unit.count; ++t) {
            T* own = output + (unit.start + t) * out_stride + part.column + column;
            float sums[kChunk];
            for (Index i = 0; i < width; ++i) sums[i] = widen(own[i]);
            for (Index k = 0; k < rank; ++k) {
                const float weight = shrunk[t * rank + k];
                const T* row = expand + k * part.out + column;
                for (Index i = 0; i < width; ++i) sums[i] += weight * widen(row[i]);
            }
            for (Index i = 0; i < width; ++i) narrow(sums[i], own[i]);
        }
    }
}

template <class T>
void add_lora(const T* states, Index in, const LoraPart* parts, Index num_parts, const LoraSegment* segments,
              Index num_segments, T* output, Index out_stride) {
    std::vector<LoraUnit> units;
    for (Index part = 0; part < num_parts; ++part) {
        for (Index s = 0; s < num_segments; ++s) {
            const LoraSegment& segment = segments[s];
            for (Index start = segment.start; start < segment.end; start += kTokensPerUnit) {
                const Index count = std::min(kTokensPerUnit, segment.end - start);
                units.push_back({start, count, segment.first_row, segment.rank, part});
            }
        }
    }
#pragma omp parallel
    {
        std::vector<float> scratch;
#pragma omp for schedule(dynamic, 1)
        for (std::size_t u = 0; u < units.size(); ++u) {
            add_lora_unit(states, in, parts[units[u].part], units[u], output, out_stride, scratch);
        }
    }
}

}  // namespace

// C names for ctypes, one set for each element type.
#define LORALEDGER_KERNELS(T, SUFFIX)                                                                                  \
    extern "C" void add_rms_norm_##SUFFIX(T* hidden, const T* delta, const T* weight, float epsilon, Index tokens,    \
                                          Index width, T* result) {                                                   \
        add_rms_norm(hidden, delta, weight, epsilon, tokens, width, result);                                          \
    }                                                                                                                  \
    extern "C" void silu_gate_##SUFFIX(const T* gate_up, Index tokens, Index width, T* result) {                      \
        silu_gate(gate_up, tokens, width, result);                                                                    \
    }                                                                                                                  \
    extern "C" void rotate_and_store_##SUFFIX(                                                                        \
        const T* qkv, const T* query_norm, const T* key_norm, float epsilon, const float* cosine, const float* sine,  \
        const Index* positions, const Index* kv_slots, Index tokens, Index num_heads, Index num_kv_heads,             \
        Index head_dim, T* queries, T* keys, T* values) {                                                             \
        rotate_and_store(qkv, query_norm, key_norm, epsilon, cosine, sine, positions, kv_slots, tokens,               \
                         HeadShape{num_heads, num_kv_heads, head_dim}, queries, keys, values);                        \
    }                                                                                                                  \
    extern "C" void decode_attention_##SUFFIX(const T* queries, const T* keys, const T* values, const Index* tokens,  \
                                              const Index* contexts, const Index* tables, Index table_width,          \
                                              Index sequences, Index block_size, Index num_heads, Index num_kv_heads, \
                                              Index head_dim, T* result) {                                            \
        decode_attention(queries, keys, values, tokens, contexts, tables, table_width, sequences, block_size,         \
                         HeadShape{num_heads, num_kv_heads, head_dim}, result);                                       \
    }                                                                                                                  \
    extern "C" void add_lora_##SUFFIX(const T* states, Index in, const LoraPart* parts, Index num_parts,              \
                                      const LoraSegment* segments, Index num_segments, T* output, Index out_stride) { \
        add_lora(states, in, parts, num_parts, segments, num_segments, output, out_stride);                           \
    }

LORALEDGER_KERNELS(float, float32)
LORALEDGER_KERNELS(Bfloat16, bfloat16)
