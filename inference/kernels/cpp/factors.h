// An adapter's factors from the bytes of its file to where the engine keeps them, in one pass.
#pragma once

#include <vector>

#include "vectors.h"

namespace loraledger {

// How a file holds numbers; in the order of `_STORED` in native.py.
enum class Format : Index { kFloat32, kBfloat16, kFloat16 };

// A matrix in a file, from any byte on; mirrors `_StoredMatrix` in native.py.
struct StoredMatrix {
    Index place;
    Format format;
};

// IEEE 754's binary16; its subnormals are multiples of 2^-24.
inline float widen_half(std::uint16_t bits) {
    const std::uint32_t exponent = bits >> 10 & 31u, fraction = bits & 1023u;
    const std::uint32_t sign = static_cast<std::uint32_t>(bits >> 15) << 31;
    const float subnormal = static_cast<float>(fraction) * 0x1p-24f;
    std::uint32_t word = (exponent == 31u ? 255u : exponent + 112u) << 23 | fraction << 13;
    if (exponent == 0) std::memcpy(&word, &subnormal, sizeof word);
    word |= sign;
    float result;
    std::memcpy(&result, &word, sizeof result);
    return result;
}

// `count` numbers, widened.
inline void widen_stored(const char* numbers, Format format, Index count, float* widened) {
    if (format == Format::kFloat32) {
        std::memcpy(widened, numbers, count * sizeof *widened);
        return;
    }
    std::uint16_t bits;
    for (Index i = 0; i < count; ++i) {
        std::memcpy(&bits, numbers + i * sizeof bits, sizeof bits);
        widened[i] = format == Format::kBfloat16 ? widen(Bfloat16{bits}) : widen_half(bits);
    }
}

inline Index bytes_of(Format format) { return format == Format::kFloat32 ? 4 : 2; }

// `rows` [count] as they are.
template <class T>
void take_rows(const char* file, StoredMatrix stored, Index count, T* rows) {
    const char* numbers = file + stored.place;
    each_vector(count, [&](Index i, Index lanes) {
        float widened[kLanes] = {};
        widen_stored(numbers + i * bytes_of(stored.format), stored.format, lanes, widened);
        store(load(widened), rows + i, lanes);
    });
}

// `rows` [rank, out] from a matrix [out, rank], times `scaling`.
template <class T>
void take_columns(const char* file, StoredMatrix stored, Index rank, Index out, float scaling, T* rows) {
    const char* numbers = file + stored.place;
    std::vector<float> block(rank * kLanes);
    each_vector(out, [&](Index i, Index lanes) {
        widen_stored(numbers + i * rank * bytes_of(stored.format), stored.format, lanes * rank, block.data());
        for (Index row = 0; row < rank; ++row) {
            Floats column = {};
            for (Index lane = 0; lane < lanes; ++lane) column[lane] = block[lane * rank + row];
            store(column * scaling, rows + row * out + i, lanes);
        }
    });
}

// A and B of each layer: A [rank, in] into `shrink` [layers, rank, in], B [out, rank] times `scaling` into `expand`
// [layers, rank, out].
template <class T>
void take_factors(const char* file, const StoredMatrix* downs, const StoredMatrix* ups, Index layers, Index rank,
                  Index in, Index out, float scaling, T* shrink, T* expand) {
    for (Index layer = 0; layer < layers; ++layer) {
        take_rows(file, downs[layer], rank * in, shrink + layer * rank * in);
        take_columns(file, ups[layer], rank, out, scaling, expand + layer * rank * out);
    }
}

}  // namespace loraledger
