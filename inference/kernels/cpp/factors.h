// An adapter's factors from the bytes of its file to where the engine keeps them, in one pass.
#pragma once

#include <algorithm>
#include <type_traits>
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

struct Half {
    std::uint16_t bits;
};

// IEEE 754's binary16; its subnormals are multiples of 2^-24.
inline float widen(Half value) {
    const std::uint32_t exponent = value.bits >> 10 & 31u, fraction = value.bits & 1023u;
    const std::uint32_t sign = static_cast<std::uint32_t>(value.bits >> 15) << 31;
    const float subnormal = static_cast<float>(fraction) * 0x1p-24f;
    std::uint32_t word = (exponent == 31u ? 255u : exponent + 112u) << 23 | fraction << 13;
    if (exponent == 0) std::memcpy(&word, &subnormal, sizeof word);
    word |= sign;
    float result;
    std::memcpy(&result, &word, sizeof result);
    return result;
}

// f(a number of the type that `format` is).
template <class F>
void as_stored(Format format, F f) {
    switch (format) {
        case Format::kFloat32: return f(float{});
        case Format::kBfloat16: return f(Bfloat16{});
        case Format::kFloat16: return f(Half{});
    }
}

template <class Stored>
float number(const char* numbers, Index i) {
    Stored stored;
    std::memcpy(&stored, numbers + i * static_cast<Index>(sizeof stored), sizeof stored);
    return widen(stored);
}

// `rows` [count] as they are.
template <class T>
void take_rows(const char* file, StoredMatrix stored, Index count, T* rows) {
    const char* numbers = file + stored.place;
    as_stored(stored.format, [&](auto kind) {
        if constexpr (std::is_same_v<decltype(kind), T>) {
            std::memcpy(rows, numbers, count * sizeof *rows);
        } else {
            each_vector(count, [&](Index i, Index lanes) {
                float widened[kLanes] = {};
                for (Index lane = 0; lane < lanes; ++lane) widened[lane] = number<decltype(kind)>(numbers, i + lane);
                store(load(widened), rows + i, lanes);
            });
        }
    });
}

// `rows` [rank, out] from a matrix [out, rank], times `scaling`.
template <class T>
void take_columns(const char* file, StoredMatrix stored, Index rank, Index out, float scaling, T* rows) {
    const char* numbers = file + stored.place;
    std::vector<float> turned(rank * kLanes);
    as_stored(stored.format, [&](auto kind) {
        each_vector(out, [&](Index i, Index lanes) {
            for (Index lane = 0; lane < lanes; ++lane) {
                for (Index row = 0; row < rank; ++row) {
                    turned[row * kLanes + lane] = number<decltype(kind)>(numbers, (i + lane) * rank + row) * scaling;
                }
            }
            for (Index row = 0; row < rank; ++row) store(load(&turned[row * kLanes]), rows + row * out + i, lanes);
        });
    });
}

inline std::uint32_t without_sign(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits & 0x7fffffffu;
}

inline std::uint32_t without_sign(Bfloat16 value) { return (value.bits & 0x7fffu) << 16; }

// The largest absolute value among what was added, NaN if one was: as integers, the bits of floats without a sign are
// in the order of their values, infinity above all that are finite and NaN above infinity.
class Peak {
   public:
    template <class T>
    void add(const T* numbers, Index count) {
        for (Index i = 0; i < count; ++i) bits_ = std::max(bits_, without_sign(numbers[i]));
    }

    float value() const {
        float value;
        std::memcpy(&value, &bits_, sizeof value);
        return value;
    }

   private:
    std::uint32_t bits_ = 0;
};

// A and B of each layer: A [rank, in] into `shrink` [layers, rank, in], B [out, rank] times `scaling` into `expand`
// [layers, rank, out]. `peaks`: the largest absolute value of either, NaN if there is one.
template <class T>
void read_factors(const char* file, const StoredMatrix* downs, const StoredMatrix* ups, Index layers, Index rank,
                  Index in, Index out, float scaling, T* shrink, T* expand, float* peaks) {
    Peak of_shrink, of_expand;
    for (Index layer = 0; layer < layers; ++layer, shrink += rank * in, expand += rank * out) {
        take_rows(file, downs[layer], rank * in, shrink);
        take_columns(file, ups[layer], rank, out, scaling, expand);
        of_shrink.add(shrink, rank * in);
        of_expand.add(expand, rank * out);
    }
    peaks[0] = of_shrink.value();
    peaks[1] = of_expand.value();
}

}  // namespace loraledger
