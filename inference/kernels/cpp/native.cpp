// The decoder's operations for CPUs. Each function computes the same as its namesake in `portable.py`, in one pass over
// memory and with fp32 sums; weights, states and cache are float or bfloat16. The base model's matrix products are
// implemented for bfloat16 only, on the CPUs that `cpu.py` selects; otherwise oneDNN computes them.
//
// Portable C++ with the vector types of GCC and Clang, for any CPU that the compiler supports. Intrinsics are used only
// where AVX2 or AVX-512 has an instruction that compilers do not select consistently: fused multiply-add, products and
// rounding of bfloat16. The order of a row's sum depends only on the row's length, so a token's result does not depend on the
// other tokens of the batch.

#include "attention.h"
#include "factors.h"
#include "int8.h"
#include "lora.h"
#include "probabilities.h"
#include "products.h"
#include "rows.h"
#include "step.h"
#include "tiles.h"

using namespace loraledger;

// C names for ctypes, one set for each element type.
#define LORALEDGER_KERNELS(T, SUFFIX)                                                                                  \
    extern "C" void add_rms_norm_##SUFFIX(T* hidden, const T* delta, const T* weight, float epsilon, Index tokens,     \
                                          Index width, T* result) {                                                    \
        add_rms_norm(hidden, delta, weight, epsilon, tokens, width, result);                                           \
    }                                                                                                                  \
    extern "C" void silu_gate_##SUFFIX(const T* gate_up, Index tokens, Index width, T* result) {                       \
        silu_gate(gate_up, tokens, width, result);                                                                     \
    }                                                                                                                  \
    extern "C" void rotate_and_store_##SUFFIX(                                                                         \
        const T* qkv, const T* query_norm, const T* key_norm, float epsilon, const float* cosine, const float* sine,   \
        const Index* positions, const Index* kv_slots, Index tokens, Index num_heads, Index num_kv_heads,              \
        Index head_dim, Index block_size, T* queries, T* keys, T* values) {                                            \
        rotate_and_store(qkv, Rotary<T>{query_norm, key_norm, epsilon, cosine, sine}, positions, kv_slots, tokens,     \
                         HeadShape{num_heads, num_kv_heads, head_dim, block_size}, queries, keys, values);             \
    }                                                                                                                  \
    extern "C" void argmax_##SUFFIX(const T* rows, Index num_rows, Index width, float* values, Index* places) {        \
        argmax(rows, num_rows, width, values, places);                                                                 \
    }                                                                                                                  \
    extern "C" void top_probabilities_##SUFFIX(const T* rows, Index num_rows, Index width, Index stride, Index count,  \
                                               float* probabilities, Index* places) {                                  \
        top_probabilities(rows, num_rows, width, stride, count, probabilities, places);                                \
    }                                                                                                                  \
    extern "C" void sum_rows_##SUFFIX(const float* weights, const Index* places, Index num_rows, Index count,          \
                                      const T* table, Index width, float* result) {                                    \
        sum_rows(weights, places, num_rows, count, table, width, result);                                              \
    }                                                                                                                  \
    extern "C" void add_lora_##SUFFIX(const T* states, Index in, const LoraTarget* targets, Index num_targets,         \
                                      const LoraSegment* segments, Index num_segments, T* output, Index out_stride) {  \
        add_lora(states, in, Deltas{targets, num_targets, segments, num_segments}, output, out_stride);                \
    }                                                                                                                  \
    extern "C" void read_factors_##SUFFIX(const char* file, const StoredMatrix* downs, const StoredMatrix* ups,        \
                                          Index layers, Index rank, Index in, Index out, float scaling, T* shrink,     \
                                          T* expand, float* peaks) {                                                   \
        read_factors(file, downs, ups, layers, rank, in, out, scaling, shrink, expand, peaks);                         \
    }

LORALEDGER_KERNELS(float, float32)
LORALEDGER_KERNELS(Bfloat16, bfloat16)

// Attention with keys and values as weights of an arithmetic.
#define LORALEDGER_ATTENTION(T, ARITHMETIC, NAME)                                                                      \
    extern "C" void attention_##NAME(const T* queries, const T* keys, const T* values, Index num_heads,                \
                                     Index num_kv_heads, Index head_dim, Index block_size, float scale, Index window,  \
                                     const Span* spans, Index num_spans, T* result) {                                  \
        const HeadShape shape{num_heads, num_kv_heads, head_dim, block_size};                                          \
        attend<T, ARITHMETIC>({queries, keys, values, shape, scale, window, result}, spans, num_spans);                \
    }

LORALEDGER_ATTENTION(float, Vectors<Single>, float32)
LORALEDGER_ATTENTION(Bfloat16, Vectors<Single>, bfloat16)

// Outputs of a panel, which depends on the width of vectors.
extern "C" Index panel_outputs() { return kPanel; }

#define LORALEDGER_PACK(ARITHMETIC, NAME)                                                                              \
    extern "C" void pack_##NAME(const Bfloat16* weight, Index out, Index in, Bfloat16* packed) {                       \
        pack<ARITHMETIC>(weight, out, in, packed);                                                                     \
    }

#define LORALEDGER_PRODUCTS(ARITHMETIC, FOR_ATTENTION, NAME)                                                           \
    extern "C" void multiply_##NAME(const Bfloat16* states, Index tokens, Index in, const void* packed,                \
                                    const Bfloat16* bias, Index out, const LoraTarget* targets, Index num_targets,     \
                                    const LoraSegment* segments, Index num_segments, Bfloat16* result) {               \
        const Deltas deltas{targets, num_targets, segments, num_segments};                                             \
        multiply<ARITHMETIC>(states, tokens, Linear{packed, bias, in, out}, deltas, result);                           \
    }                                                                                                                  \
    extern "C" void decoder_step_##NAME(const StepModel* model, const StepBatch* batch, Index is_invariant,            \
                                        Bfloat16* hidden, Bfloat16* states) {                                          \
        if (is_invariant != 0) {                                                                                       \
            DecoderStep<ARITHMETIC, Vectors<Single>>(*model, *batch, hidden, states).run();                            \
        } else {                                                                                                       \
            DecoderStep<ARITHMETIC, FOR_ATTENTION>(*model, *batch, hidden, states).run();                              \
        }                                                                                                              \
    }

LORALEDGER_PACK(Vectors<Widened>, widened)
LORALEDGER_PRODUCTS(Vectors<Widened>, Vectors<Single>, widened)
#ifdef __AVX512BF16__
LORALEDGER_PACK(Vectors<Paired>, paired)
LORALEDGER_PRODUCTS(Vectors<Paired>, Vectors<Paired>, paired)
LORALEDGER_ATTENTION(Bfloat16, Vectors<Paired>, paired)
#endif
#ifdef __AMX_BF16__
LORALEDGER_PACK(Tiled, tiled)
LORALEDGER_PRODUCTS(Tiled, Tiled, tiled)
LORALEDGER_ATTENTION(Bfloat16, Tiled, tiled)
extern "C" bool may_use_tiled() { return request_tiles(); }
#endif

// Weights in 8 bits, named by the arithmetic that attention has on the same CPU.
#ifdef LORALEDGER_INT8
extern "C" void pack_int8(const std::int8_t* values, const float* scales, Index out, Index in, std::int8_t* packed) {
    loraledger::pack_int8(values, scales, out, in, packed);
}
LORALEDGER_PRODUCTS(Int8Vectors, Vectors<Single>, int8_widened)
#ifdef __AVX512BF16__
LORALEDGER_PRODUCTS(Int8Vectors, Vectors<Paired>, int8_paired)
#endif
#ifdef __AMX_INT8__
LORALEDGER_PRODUCTS(Int8Tiled, Tiled, int8_tiled)
#endif
#endif
