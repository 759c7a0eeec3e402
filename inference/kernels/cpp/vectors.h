// Vectors of floats as wide as the CPU's registers, loaded from and stored to rows of float or bfloat16.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <new>
#include <vector>

#if defined(__AVX2__) && defined(__FMA__)
#define LORALEDGER_AVX2  // every CPU with AVX-512 has both
#include <immintrin.h>
#endif

namespace loraledger {

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

// GCC keeps vectors wider than a register in memory.
#ifdef __AVX512F__
constexpr Index kLanes = 16;
#else
constexpr Index kLanes = 8;
#endif

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef std::int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef std::uint32_t Words __attribute__((vector_size(kLanes * 4)));
typedef std::uint16_t Halves __attribute__((vector_size(kLanes * 2)));
typedef std::int8_t Bytes __attribute__((vector_size(kLanes)));

// A vector, or a row of a tile register, that lies in two cache lines is read and written more slowly.
template <class T>
struct LineAllocator {
    using value_type = T;
    static constexpr std::align_val_t kLine{64};

    LineAllocator() = default;
    template <class U>
    LineAllocator(const LineAllocator<U>&) {}

    T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
    void deallocate(T* memory, std::size_t) { ::operator delete(memory, kLine); }

    friend bool operator==(const LineAllocator&, const LineAllocator&) { return true; }
    friend bool operator!=(const LineAllocator&, const LineAllocator&) { return false; }
};

// Memory that begins with a cache line.
template <class T>
using Buffer = std::vector<T, LineAllocator<T>>;

// GCC's own conversions between vectors of different element sizes split and reassemble them.
inline Words widen(Halves bits) {
#ifdef __AVX512F__
    return reinterpret_cast<Words>(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(bits)));
#elif defined(LORALEDGER_AVX2)
    return reinterpret_cast<Words>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(bits)));
#else
    return __builtin_convertvector(bits, Words);
#endif
}

// Of words that fit.
inline Halves narrow(Words bits) {
#ifdef __AVX512F__
    return reinterpret_cast<Halves>(_mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(bits)));
#elif defined(LORALEDGER_AVX2)
    const __m256i whole = reinterpret_cast<__m256i>(bits);
    return reinterpret_cast<Halves>(_mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1)));
#else
    return __builtin_convertvector(bits, Halves);
#endif
}

// Load the first `count` elements of a row; the other lanes are zero.
inline Floats load(const float* row, Index count = kLanes) {
    Floats lanes = {};
    std::memcpy(&lanes, row, count * sizeof *row);
    return lanes;
}

inline Floats load(const Bfloat16* row, Index count = kLanes) {
    Halves bits = {};
    std::memcpy(&bits, row, count * sizeof *row);
    return reinterpret_cast<Floats>(widen(bits) << 16);
}

inline Floats load(const std::int8_t* row, Index count = kLanes) {
    Bytes bytes = {};
    std::memcpy(&bytes, row, count);
#ifdef __AVX512F__
    return reinterpret_cast<Floats>(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(reinterpret_cast<__m128i>(bytes))));
#elif defined(LORALEDGER_AVX2)
    const __m128i whole = _mm_cvtsi64_si128(reinterpret_cast<long long>(bytes));
    return reinterpret_cast<Floats>(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(whole)));
#else
    return __builtin_convertvector(bytes, Floats);
#endif
}

inline void store(Floats lanes, float* row, Index count = kLanes) { std::memcpy(row, &lanes, count * sizeof *row); }

// Round to nearest, ties to even. NaN is handled apart, because the addition could turn it into infinity or zero.
inline void store(Floats lanes, Bfloat16* row, Index count = kLanes) {
#ifdef __AVX512BF16__
    const __m256bh halves = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(lanes));
#else
    const Words bits = reinterpret_cast<Words>(lanes);
    const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Words quiet = rounded | 0x7fc0u;
    const Halves halves = narrow(lanes == lanes ? rounded : quiet);
#endif
    std::memcpy(row, &halves, count * sizeof *row);
}

// Round to nearest, ties to even, numbers below 2^22 in magnitude; any integer for NaN.
inline Ints nearest_integers(Floats lanes) {
#ifdef __AVX512F__
    return reinterpret_cast<Ints>(_mm512_cvtps_epi32(reinterpret_cast<__m512>(lanes)));
#elif defined(LORALEDGER_AVX2)
    return reinterpret_cast<Ints>(_mm256_cvtps_epi32(reinterpret_cast<__m256>(lanes)));
#else
    constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    return __builtin_convertvector(lanes + kShift - kShift, Ints);
#endif
}

// Store the lowest byte of each lane.
inline void store_bytes(Ints lanes, std::uint8_t* row) {
#ifdef __AVX512F__
    const __m128i bytes = _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(lanes));
    std::memcpy(row, &bytes, kLanes);
#elif defined(LORALEDGER_AVX2)
    const __m256i words = reinterpret_cast<__m256i>(lanes & 0xff);
    const __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    const __m128i bytes = _mm_packus_epi16(halves, halves);
    std::memcpy(row, &bytes, kLanes);
#else
    for (Index lane = 0; lane < kLanes; ++lane) row[lane] = static_cast<std::uint8_t>(lanes[lane]);
#endif
}

// Subtracts zero: adding it would turn -0 into 0, so the compiler could not omit the addition.
inline Floats broadcast(float x) { return x - Floats{}; }

// a * b + c, rounded once where the CPU has an instruction for it. The compiler must not contract expressions itself
// (-ffp-contract=off): it could do so in one loop and not in another, and a token's bits would depend on its batch.
inline Floats multiply_add(Floats a, Floats b, Floats c) {
#ifdef __AVX512F__
    return reinterpret_cast<Floats>(_mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b),
                                                    reinterpret_cast<__m512>(c)));
#elif defined(LORALEDGER_AVX2)
    return reinterpret_cast<Floats>(_mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b),
                                                    reinterpret_cast<__m256>(c)));
#else
    return a * b + c;
#endif
}

// Add halves repeatedly; all variants add in the same order.
inline float sum(Floats lanes) {
#ifdef LORALEDGER_AVX2
#ifdef __AVX512F__
    const __m512d whole = reinterpret_cast<__m512d>(lanes);
    const __m256 eight = _mm256_add_ps(_mm256_castpd_ps(_mm512_castpd512_pd256(whole)),
                                       _mm256_castpd_ps(_mm512_extractf64x4_pd(whole, 1)));
#else
    const __m256 eight = reinterpret_cast<__m256>(lanes);
#endif
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
    float values[kLanes];
    std::memcpy(values, &lanes, sizeof lanes);
    for (Index width = kLanes / 2; width > 0; width /= 2) {
        for (Index i = 0; i < width; ++i) values[i] += values[i + width];
    }
    return values[0];
#endif
}

inline float largest(Floats lanes) {
#ifdef __AVX512F__
    return _mm512_reduce_max_ps(reinterpret_cast<__m512>(lanes));
#elif defined(LORALEDGER_AVX2)
    const __m256 eight = reinterpret_cast<__m256>(lanes);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
#else
    float value = lanes[0];
    for (Index lane = 1; lane < kLanes; ++lane) value = lanes[lane] > value ? lanes[lane] : value;
    return value;
#endif
}

// A bit for each lane that is larger than `bound`.
inline std::uint32_t lanes_above(Floats lanes, float bound) {
#ifdef __AVX512F__
    return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(lanes), _mm512_set1_ps(bound), _CMP_GT_OQ);
#elif defined(LORALEDGER_AVX2)
    const __m256 above = _mm256_cmp_ps(reinterpret_cast<__m256>(lanes), _mm256_set1_ps(bound), _CMP_GT_OQ);
    return static_cast<std::uint32_t>(_mm256_movemask_ps(above));
#else
    std::uint32_t bits = 0;
    for (Index lane = 0; lane < kLanes; ++lane) bits |= static_cast<std::uint32_t>(lanes[lane] > bound) << lane;
    return bits;
#endif
}

// Call f(index, count) for each vector of a row of `n` elements; the last may have fewer than kLanes.
template <class F>
inline void for_each_vector(Index n, F f) {
    Index i = 0;
    for (; i + kLanes <= n; i += kLanes) f(i, kLanes);
    if (i < n) f(i, n - i);
}

// e^x, relative error below 2e-7: x = n ln 2 + r (Cody and Waite), a polynomial for e^r (Cephes' coefficients), 2^n by
// its exponent bits. For x <= 0; below -87 the result is a tiny number, not 0.
inline Floats exp_of_negative(Floats x) {
    x = x < -87.0f ? broadcast(-87.0f) : x;  // NaN is not below -87 and stays NaN
    const Floats shift = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const Floats n = multiply_add(x, broadcast(1.44269504f), shift) - shift;
    const Floats r = multiply_add(n, broadcast(2.12194440e-4f), multiply_add(n, broadcast(-0.693359375f), x));
    Floats p = multiply_add(r, broadcast(1.9875691500e-4f), broadcast(1.3981999507e-3f));
    for (float next : {8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) {
        p = multiply_add(p, r, broadcast(next));
    }
    p = multiply_add(p * r, r, r) + 1.0f;
#ifdef __AVX512F__
    return reinterpret_cast<Floats>(_mm512_scalef_ps(reinterpret_cast<__m512>(p), reinterpret_cast<__m512>(n)));
#else
    return p * reinterpret_cast<Floats>((__builtin_convertvector(n, Ints) + 127) << 23);
#endif
}

}  // namespace loraledger
