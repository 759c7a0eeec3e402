// The decoder's small operations for CPUs. Each function computes what its namesake in `portable.py` does, in one
// pass over memory and with fp32 sums; weights, states and cache are float or bfloat16. The matrix products of the
// base model stay with oneDNN, which reaches the machine's peak; what is here is bound by memory and by the cost of
// calling many little operations.
//
// Portable C++ with the vector types of GCC and Clang, no intrinsics: any CPU that the compiler knows will do. Every
// row is summed in an order that depends on its own length alone: a token's result does not depend on its company.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
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

constexpr Index kLanes = 16;

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef std::uint16_t Halves __attribute__((vector_size(kLanes * 2)));
typedef std::uint32_t Words __attribute__((vector_size(kLanes * 4)));

inline Floats load(const float* row) {
    Floats lanes;
    std::memcpy(&lanes, row, sizeof lanes);
    return lanes;
}

inline Floats load(const Bfloat16* row) {
    Halves bits;
    std::memcpy(&bits, row, sizeof bits);
    const Words wide = __builtin_convertvector(bits, Words) << 16;
    Floats lanes;
    std::memcpy(&lanes, &wide, sizeof lanes);
    return lanes;
}

inline float sum(Floats lanes) {
    float values[kLanes];
    std::memcpy(values, &lanes, sizeof lanes);
    for (Index width = kLanes / 2; width > 0; width /= 2) {
        for (Index i = 0; i < width; ++i) values[i] += values[i + width];
    }
    return values[0];
}

template <class T>
void widen_row(const T* row, Index n, float* result) {
    for (Index i = 0; i < n; ++i) result[i] = widen(row[i]);
}

// Products of `x` with kRows rows at once: one chain of additions would wait for itself.
template <Index kRows, class T>
void dots(const float* x, const T* rows, Index stride, Index n, float* result) {
    Floats sums[kRows] = {};
    Index i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const Floats lanes = load(x + i);
        for (Index r = 0; r < kRows; ++r) sums[r] += lanes * load(rows + r * stride + i);
    }
    for (Index r = 0; r < kRows; ++r) {
        float rest = 0.0f;
        for (Index k = i; k < n; ++k) rest += x[k] * widen(rows[r * stride + k]);
        result[r] = sum(sums[r]) + rest;
    }
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
    Index num_heads, num_kv_heads, head_dim, block_size;

    Index share() const { return num_heads / num_kv_heads; }
    // Elements of one KV head in one block, of all heads in one block.
    Index tile() const { return head_dim * block_size; }
    Index block() const { return num_kv_heads * tile(); }
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

// A block's keys lie as [num_kv_heads, head_dim, block_size], its values as [num_kv_heads, block_size, head_dim]: both
// products of attention then run along the last axis, and neither has to sum over the lanes of a vector.
template <class T>
void rotate_and_store(const T* qkv, const T* query_norm, const T* key_norm, float epsilon, const float* cosine,
                      const float* sine, const Index* positions, const Index* kv_slots, Index tokens, HeadShape shape,
                      T* queries, T* keys, T* values) {
    const Index dim = shape.head_dim, query_width = shape.num_heads * dim, kv_width = shape.num_kv_heads * dim;
#pragma omp parallel if (tokens * (query_width + 2 * kv_width) > kMinParallelElements)
    {
        std::vector<float> scratch(dim);
        std::vector<T> rotated(dim);
#pragma omp for
        for (Index t = 0; t < tokens; ++t) {
            const T* row = qkv + t * (query_width + 2 * kv_width);
            const float* c = cosine + positions[t] * dim;
            const float* s = sine + positions[t] * dim;
            for (Index at = 0; at < query_width; at += dim) {
                place_head(row + at, query_norm, epsilon, c, s, dim, scratch.data(), queries + t * query_width + at);
            }
            const Index offset = kv_slots[t] % shape.block_size;
            const Index block = kv_slots[t] / shape.block_size * shape.block();
            for (Index h = 0; h < shape.num_kv_heads; ++h) {
                const T* key = row + query_width + h * dim;
                place_head(key, key_norm, epsilon, c, s, dim, scratch.data(), rotated.data());
                T* tile = keys + block + h * shape.tile() + offset;
                for (Index d = 0; d < dim; ++d) tile[d * shape.block_size] = rotated[d];
                std::memcpy(values + block + h * shape.tile() + offset * dim, key + kv_width, dim * sizeof(T));
            }
        }
    }
}

// Softmax in place; the sum is returned, the division left to whoever uses the weights.
inline float exponentiate(float* scores, Index n) {
    float largest = scores[0];
    for (Index i = 1; i < n; ++i) largest = std::max(largest, scores[i]);
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (Index i = 0; i < n; ++i) {
        scores[i] = exp_of_negative(scores[i] - largest);
        total += scores[i];
    }
    return total;
}

// result[g][0..width) += sum over rows of weights[g][row] * rows[row][0..width), for kHeads heads at once: each row
// is read and widened once for all of them.
template <Index kHeads, class T>
void accumulate(const float* weights, Index weight_stride, const T* rows, Index num_rows, Index width, float* result,
                Index result_stride) {
    Index at = 0;
    for (; at + kLanes <= width; at += kLanes) {
        Floats sums[kHeads];
        for (Index g = 0; g < kHeads; ++g) sums[g] = load(result + g * result_stride + at);
        for (Index r = 0; r < num_rows; ++r) {
            const Floats lanes = load(rows + r * width + at);
            for (Index g = 0; g < kHeads; ++g) sums[g] += weights[g * weight_stride + r] * lanes;
        }
        for (Index g = 0; g < kHeads; ++g) std::memcpy(result + g * result_stride + at, &sums[g], sizeof sums[g]);
    }
    for (; at < width; ++at) {
        for (Index g = 0; g < kHeads; ++g) {
            float total = result[g * result_stride + at];
            for (Index r = 0; r < num_rows; ++r) total += weights[g * weight_stride + r] * widen(rows[r * width + at]);
            result[g * result_stride + at] = total;
        }
    }
}

// One token's attention over its paged context, for kHeads query heads that share a KV head. `scratch` holds
// kHeads * (2 * head_dim + whole blocks of the context) floats.
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
        accumulate<kHeads>(wide, dim, tile, dim, size, scores + start, stride);
    }
    float totals[kHeads];
    for (Index g = 0; g < kHeads; ++g) totals[g] = exponentiate(scores + g * stride, context);
    for (Index start = 0; start < context; start += size) {
        const T* tile = values + table[start / size] * shape.block();
        accumulate<kHeads>(scores + start, stride, tile, std::min(size, context - start), dim, mixed, dim);
    }
    for (Index g = 0; g < kHeads; ++g) {
        for (Index d = 0; d < dim; ++d) narrow(mixed[g * dim + d] / totals[g], result[g * dim + d]);
    }
}

template <class T>
void decode_attention(const T* queries, const T* keys, const T* values, const Index* tokens, const Index* contexts,
                      const Index* tables, Index table_width, Index sequences, HeadShape shape, T* result) {
    constexpr Index kMostHeads = 4;
    const Index share = shape.share(), dim = shape.head_dim;
#pragma omp parallel
    {
        std::vector<float> scratch(kMostHeads * (2 * dim + table_width * shape.block_size));
#pragma omp for collapse(2) schedule(dynamic, 4)
        for (Index n = 0; n < sequences; ++n) {
            for (Index h = 0; h < shape.num_kv_heads; ++h) {
                const T *k = keys + h * shape.tile(), *v = values + h * shape.tile();
                const Index* table = tables + n * table_width;
                for (Index g = 0; g < share; g += kMostHeads) {
                    const Index at = (tokens[n] * shape.num_heads + h * share + g) * dim;
                    auto attend = [&](auto heads) {
                        attend_heads<heads>(queries + at, k, v, table, contexts[n], shape, scratch.data(), result + at);
                    };
                    switch (std::min(kMostHeads, share - g)) {
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

// result[0..width) += sum over rows of weights[row] * rows[row][0..width), rounded once.
template <class T>
void add_rows(const float* weights, const T* rows, Index num_rows, Index width, T* result) {
    constexpr Index kVectors = 4;
    Index at = 0;
    for (; at + kVectors * kLanes <= width; at += kVectors * kLanes) {
        Floats sums[kVectors];
        for (Index j = 0; j < kVectors; ++j) sums[j] = load(result + at + j * kLanes);
        for (Index r = 0; r < num_rows; ++r) {
            for (Index j = 0; j < kVectors; ++j) sums[j] += weights[r] * load(rows + r * width + at + j * kLanes);
        }
        float values[kVectors * kLanes];
        std::memcpy(values, sums, sizeof sums);
        for (Index i = 0; i < kVectors * kLanes; ++i) narrow(values[i], result[at + i]);
    }
    for (; at < width; ++at) {
        float total = widen(result[at]);
        for (Index r = 0; r < num_rows; ++r) total += weights[r] * widen(rows[r * width + at]);
        narrow(total, result[at]);
    }
}

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
    constexpr Index kRows = 4;
    Index r = 0;
    for (; r + kRows <= rank; r += kRows) {
        for (Index t = 0; t < unit.count; ++t) {
            dots<kRows>(wide + t * in, shrink + r * in, in, in, shrunk + t * rank + r);
        }
    }
    for (; r < rank; ++r) {
        for (Index t = 0; t < unit.count; ++t) dots<1>(wide + t * in, shrink + r * in, in, in, shrunk + t * rank + r);
    }
    const T* expand = static_cast<const T*>(part.expand) + unit.first_row * part.out;
    for (Index t = 0; t < unit.count; ++t) {
        add_rows(shrunk + t * rank, expand, rank, part.out, output + (unit.start + t) * out_stride + part.column);
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
        Index head_dim, Index block_size, T* queries, T* keys, T* values) {                                                             \
        rotate_and_store(qkv, query_norm, key_norm, epsilon, cosine, sine, positions, kv_slots, tokens,               \
                         HeadShape{num_heads, num_kv_heads, head_dim, block_size}, queries, keys, values);            \
    }                                                                                                                  \
    extern "C" void decode_attention_##SUFFIX(                                                                        \
        const T* queries, const T* keys, const T* values, const Index* tokens, const Index* contexts,                 \
        const Index* tables, Index table_width, Index sequences, Index num_heads, Index num_kv_heads, Index head_dim, \
        Index block_size, T* result) {                                                                                \
        decode_attention(queries, keys, values, tokens, contexts, tables, table_width, sequences,                     \
                         HeadShape{num_heads, num_kv_heads, head_dim, block_size}, result);                           \
    }                                                                                                                  \
    extern "C" void add_lora_##SUFFIX(const T* states, Index in, const LoraPart* parts, Index num_parts,              \
                                      const LoraSegment* segments, Index num_segments, T* output, Index out_stride) { \
        add_lora(states, in, parts, num_parts, segments, num_segments, output, out_stride);                           \
    }

LORALEDGER_KERNELS(float, float32)
LORALEDGER_KERNELS(Bfloat16, bfloat16)
