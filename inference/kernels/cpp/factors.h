// Reads an adapter's A and B matrices from the bytes of its file, converting them in one pass.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "vectors.h"

namespace loraledger {

// Number formats in files; in the order of `_STORED` in native.py.
enum class Format : Index { kFloat32, kBfloat16, kFloat16 };

// A matrix in a file, at any byte offset; mirrors `_StoredMatrix` in native.py.
struct StoredMatrix {
    Index offset;
    Format format;
};

struct Half {
    std::uint16_t bits;
};

// IEEE 754 binary16; subnormals are multiples of 2^-24.
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

// Call f with a value of the type of `format`.
template <class F>
void dispatch_format(Format format, F f) {
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

// Read `count` numbers in their stored order.
template <class T>
void read_rows(const char* file, StoredMatrix stored, Index count, T* rows) {
    const char* numbers = file + stored.offset;
    dispatch_format(stored.format, [&](auto kind) {
        if constexpr (std::is_same_v<decltype(kind), T>) {
            std::memcpy(rows, numbers, count * sizeof *rows);
        } else {
            for_each_vector(count, [&](Index i, Index lanes) {
                float widened[kLanes] = {};
                for (Index lane = 0; lane < lanes; ++lane) widened[lane] = number<decltype(kind)>(numbers, i + lane);
                store(load(widened), rows + i, lanes);
            });
        }
    });
}

// Read a matrix [out, rank], times `scaling`, transposed into `rows` [rank, out].
template <class T>
void read_columns(const char* file, StoredMatrix stored, Index rank, Index out, float scaling, T* rows) {
    const char* numbers = file + stored.offset;
    Buffer<float> transposed(rank * kLanes);
    dispatch_format(stored.format, [&](auto kind) {
        for_each_vector(out, [&](Index i, Index lanes) {
            for (Index lane = 0; lane < lanes; ++lane) {
                for (Index row = 0; row < rank; ++row) {
                    const float value = number<decltype(kind)>(numbers, (i + lane) * rank + row);
                    transposed[row * kLanes + lane] = value * scaling;
                }
            }
            for (Index row = 0; row < rank; ++row) store(load(&transposed[row * kLanes]), rows + row * out + i, lanes);
        });
    });
}

inline std::uint32_t without_sign(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits & 0x7fffffffu;
}

inline std::uint32_t without_sign(Bfloat16 value) { return (value.bits & 0x7fffu) << 16; }

// The largest absolute value of the added numbers, NaN if any is NaN. Compares the bits of floats without their sign as
// integers: they are in the order of the values, with infinity above all finite numbers and NaN above infinity.
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

// Read A [rank, in] of each layer into `shrink` [layers, rank, in], and B [out, rank] times `scaling` into `expand`
// [layers, rank, out]. `peaks`: the largest absolute value of either, NaN if any is NaN.
template <class T>
void read_factors(const char* file, const StoredMatrix* downs, const StoredMatrix* ups, Index layers, Index rank,
                  Index in, Index out, float scaling, T* shrink, T* expand, float* peaks) {
    Peak shrink_peak, expand_peak;
    for (Index layer = 0; layer < layers; ++layer, shrink += rank * in, expand += rank * out) {
        read_rows(file, downs[layer], rank * in, shrink);
        read_columns(file, ups[layer], rank, out, scaling, expand);
        shrink_peak.add(shrink, rank * in);
        expand_peak.add(expand, rank * out);
    }
    peaks[0] = shrink_peak.value();
    peaks[1] = expand_peak.value();
}

}  // namespace loraledger
