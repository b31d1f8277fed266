// The one place that knows about vector registers.
//
// `vec<T>` is a register full of T. It is spelled with the vector extension of GCC and Clang, so the same source
// becomes SSE2, AVX2, AVX-512 or NEON code, depending only on the flags it is compiled with and on
// TINYDIFF_VECTOR_BYTES (16, 32 or 64: it must follow the instruction set, because a vector wider than the registers
// is split in memory, which is many times slower). Compilers without the extension get "vectors" of one lane.
//
// Everything lives in an unnamed namespace: the file is compiled once per instruction set into one module, and no
// function may be shared between those copies, or a machine without AVX-512 could be handed AVX-512 code.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#if defined(__GNUC__) || defined(__clang__)
#define TINYDIFF_INLINE inline __attribute__((always_inline)) // where a call would cost as much as the work
#else
#define TINYDIFF_INLINE inline
#endif

namespace {

using idx = std::ptrdiff_t;

inline idx smaller(idx a, idx b) { return a < b ? a : b; }
inline idx larger(idx a, idx b) { return a < b ? b : a; }
inline idx parts(idx whole, idx part) { return (whole + part - 1) / part; }

template <class T> struct Bits;
template <> struct Bits<float> {
    using integer = std::int32_t;
};
template <> struct Bits<double> {
    using integer = std::int64_t;
};

#if (defined(__GNUC__) || defined(__clang__)) && defined(TINYDIFF_VECTOR_BYTES)
template <class T> struct Vector {
    typedef T type __attribute__((vector_size(TINYDIFF_VECTOR_BYTES)));
};
template <class T> using vec = typename Vector<T>::type;
template <class T> constexpr idx lanes = TINYDIFF_VECTOR_BYTES / sizeof(T);
template <class T> inline vec<T> splat(T x) { return x - vec<T>{}; }
#else
template <class T> using vec = T;
template <class T> constexpr idx lanes = 1;
template <class T> inline vec<T> splat(T x) { return x; }
#endif

template <class T> constexpr T infinity = std::numeric_limits<T>::infinity();

// n rounded up to whole vectors: the row length of every padded scratch tile.
template <class T> inline idx padded(idx n) { return (n + lanes<T> - 1) / lanes<T> * lanes<T>; }

template <class T> inline vec<T> load(const T *p) {
    vec<T> v;
    std::memcpy(&v, p, sizeof v); // any alignment; compiles to one move
    return v;
}

template <class T> inline void store(T *p, vec<T> v) { std::memcpy(p, &v, sizeof v); }

// NaN in b is dropped, NaN in a stays.
template <class T> inline vec<T> vmax(vec<T> a, vec<T> b) { return a < b ? b : a; }

template <class T> inline vec<T> vmin(vec<T> a, vec<T> b) { return a > b ? b : a; }

// load_first, store_first: the first n < lanes elements at p, as at the end of a row; when loading, the lanes beyond
// hold `fill`. Written in portable terms, and for AVX-512, whose masks are several times faster than what compilers
// make of those; so are its maximum and minimum, for the same NaN.
#if defined(__AVX512F__) && defined(TINYDIFF_VECTOR_BYTES) && TINYDIFF_VECTOR_BYTES == 64
template <> inline vec<float> vmax<float>(vec<float> a, vec<float> b) {
    return (vec<float>)_mm512_max_ps((__m512)b, (__m512)a);
}
template <> inline vec<double> vmax<double>(vec<double> a, vec<double> b) {
    return (vec<double>)_mm512_max_pd((__m512d)b, (__m512d)a);
}
template <> inline vec<float> vmin<float>(vec<float> a, vec<float> b) {
    return (vec<float>)_mm512_min_ps((__m512)b, (__m512)a);
}
template <> inline vec<double> vmin<double>(vec<double> a, vec<double> b) {
    return (vec<double>)_mm512_min_pd((__m512d)b, (__m512d)a);
}
inline __mmask16 first(idx n) { return static_cast<__mmask16>((1u << n) - 1); }
inline vec<float> load_first(const float *p, idx n, float fill) {
    return (vec<float>)_mm512_mask_loadu_ps(_mm512_set1_ps(fill), first(n), p);
}
inline vec<double> load_first(const double *p, idx n, double fill) {
    return (vec<double>)_mm512_mask_loadu_pd(_mm512_set1_pd(fill), static_cast<__mmask8>(first(n)), p);
}
inline void store_first(float *p, vec<float> v, idx n) { _mm512_mask_storeu_ps(p, first(n), (__m512)v); }
inline void store_first(double *p, vec<double> v, idx n) {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>(first(n)), (__m512d)v);
}
inline unsigned equal_lanes(vec<float> a, vec<float> b) { return _mm512_cmpeq_ps_mask((__m512)a, (__m512)b); }
inline unsigned equal_lanes(vec<double> a, vec<double> b) { return _mm512_cmpeq_pd_mask((__m512d)a, (__m512d)b); }
#else
template <class T> inline vec<T> load_first(const T *p, idx n, T fill) {
    vec<T> v = splat<T>(fill);
    std::memcpy(&v, p, static_cast<std::size_t>(n) * sizeof(T));
    return v;
}
template <class T> inline void store_first(T *p, vec<T> v, idx n) {
    std::memcpy(p, &v, static_cast<std::size_t>(n) * sizeof(T));
}
#endif

template <class T> inline vec<T> load_n(const T *p, idx count) {
    return count == lanes<T> ? load(p) : load_first(p, count, T(0));
}

template <class T> inline void store_n(T *p, vec<T> v, idx count) {
    if (count == lanes<T>)
        store(p, v);
    else
        store_first(p, v, count);
}

// Applies body(j, v, count) to a row of n elements, vector by vector; lanes past the end of the row hold `fill`.
template <class T, class Body> inline void for_vectors(const T *x, idx n, T fill, Body body) {
    idx j = 0;
    for (; j + lanes<T> <= n; j += lanes<T>)
        body(j, load(x + j), lanes<T>);
    if (j < n)
        body(j, load_first(x + j, n - j, fill), n - j);
}

// --- across lanes ---------------------------------------------------------------------------------------------------
// pick<T, 2, 0, ...>(a, b): a vector of element 2, element 0, ... of a and b one after the other.
#if (defined(__GNUC__) || defined(__clang__)) && defined(TINYDIFF_VECTOR_BYTES)
template <class T, idx... from> inline vec<T> pick(vec<T> a, vec<T> b) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, from...);
#else
    using I = typename Bits<T>::integer;
    return __builtin_shuffle(a, b, vec<I>{I(from)...});
#endif
}
#else
template <class T, idx from> inline T pick(T a, T b) { return from == 0 ? a : b; }
#endif

template <class T> using Lanes = std::make_index_sequence<lanes<T>>;

// Neighbouring blocks of `half` elements change places.
template <class T, idx half, std::size_t... j> inline vec<T> swapped(vec<T> v, std::index_sequence<j...>) {
    return pick<T, (idx(j) ^ half)...>(v, v);
}

template <class T> inline T first_lane(vec<T> v) {
    T x;
    std::memcpy(&x, &v, sizeof x);
    return x;
}

// Half of the lanes against the other half, then a quarter, ... down to one.
template <class T, idx half = lanes<T> / 2> inline T sum(vec<T> v) {
    if constexpr (half > 0)
        return sum<T, half / 2>(v + swapped<T, half>(v, Lanes<T>()));
    else
        return first_lane<T>(v);
}
template <class T, idx half = lanes<T> / 2> inline T maximum(vec<T> v) {
    if constexpr (half > 0)
        return maximum<T, half / 2>(vmax<T>(v, swapped<T, half>(v, Lanes<T>())));
    else
        return first_lane<T>(v);
}

// 0, 1, 2, ...
template <class T, std::size_t... j> inline vec<T> counted(std::index_sequence<j...>) {
    const T each[] = {T(j)...};
    return load(each);
}

// Where x, which must be there, comes first in an array of whole vectors.
template <class T> inline idx first_equal(const T *p, T x) {
    for (idx i = 0;; i += lanes<T>) {
#if defined(__AVX512F__) && defined(TINYDIFF_VECTOR_BYTES) && TINYDIFF_VECTOR_BYTES == 64
        if (const unsigned equal = equal_lanes(load(p + i), splat<T>(x)))
            return i + __builtin_ctz(equal);
#else
        const T at = maximum<T>(load(p + i) == splat<T>(x) ? -counted<T>(Lanes<T>()) : splat<T>(-infinity<T>));
        if (at > -infinity<T>)
            return i - static_cast<idx>(at);
#endif
    }
}

// Transposes `lanes` vectors, a square: for blocks of half the side, then a quarter, ... down to one element, swaps the
// upper right and the lower left of every 2 x 2 blocks.
template <class T, idx half, std::size_t... j>
inline void swap_blocks(vec<T> &upper, vec<T> &lower, std::index_sequence<j...>) {
    constexpr idx n = lanes<T>;
    const vec<T> old = upper;
    upper = pick<T, (idx(j) & half ? n + idx(j) - half : idx(j))...>(old, lower);
    lower = pick<T, (idx(j) & half ? n + idx(j) : idx(j) + half)...>(old, lower);
}
template <class T, idx half = lanes<T> / 2> inline void transpose_square(vec<T> *rows) {
    if constexpr (half > 0) {
        for (idx block = 0; block < lanes<T>; block += 2 * half)
            for (idx i = block; i < block + half; ++i)
                swap_blocks<T, half>(rows[i], rows[i + half], Lanes<T>());
        transpose_square<T, half / 2>(rows);
    }
}

template <class T> inline vec<T> vsqrt(vec<T> v) {
    T each[lanes<T>];
    store(each, v);
    for (T &x : each)
        x = std::sqrt(x);
    return load(each);
}

// --- exp ------------------------------------------------------------------------------------------------------------
// exp(x) = 2^n exp(r) with n = round(x / ln 2) and |r| <= ln(2)/2, where the Taylor series converges fast:
// the first dropped term is below half a unit in the last place for 7 terms (float) and 13 (double).
//
// Rounding: adding 1.5 * 2^(mantissa bits) pushes the fraction out of the mantissa, which leaves n in the low bits of
// the sum; subtracting it again gives n as a floating-point number. (A compiler allowed to reorder arithmetic would
// cancel the two: no -ffast-math here.)
// ln 2 is split in two, the first part short enough for n * ln2_high to be exact (Cody and Waite).
template <class T> struct Exp;
template <> struct Exp<float> {
    static constexpr int terms = 7, mantissa = 23;
    static constexpr std::int32_t bias = 127;
    static constexpr float rounder = 12582912.0f, lowest = -104.0f, highest = 89.0f;
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
};
template <> struct Exp<double> {
    static constexpr int terms = 13, mantissa = 52;
    static constexpr std::int64_t bias = 1023;
    static constexpr double rounder = 6755399441055744.0, lowest = -746.0, highest = 710.0;
    static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
};

template <class T> constexpr T inverse_factorial(int k) {
    double f = 1; // exact up to 22!
    for (int i = 2; i <= k; ++i)
        f *= i;
    return T(1 / f);
}

// v times 2^n, given n + rounder. As two factors, so that results below the normal range round gradually and large ones
// reach inf; AVX-512 has an instruction for it.
#if defined(__AVX512F__) && defined(TINYDIFF_VECTOR_BYTES) && TINYDIFF_VECTOR_BYTES == 64
template <class T> inline vec<T> scale_by_power(vec<T> v, vec<T> shifted);
template <> inline vec<float> scale_by_power<float>(vec<float> v, vec<float> shifted) {
    return (vec<float>)_mm512_scalef_ps((__m512)v, (__m512)(shifted - splat<float>(Exp<float>::rounder)));
}
template <> inline vec<double> scale_by_power<double>(vec<double> v, vec<double> shifted) {
    return (vec<double>)_mm512_scalef_pd((__m512d)v, (__m512d)(shifted - splat<double>(Exp<double>::rounder)));
}
#else
template <class T> inline vec<T> scale_by_power(vec<T> v, vec<T> shifted) {
    using I = typename Bits<T>::integer;
    vec<I> bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    const T rounder = Exp<T>::rounder;
    I rounder_bits;
    std::memcpy(&rounder_bits, &rounder, sizeof rounder_bits);
    const vec<I> whole = bits - splat<I>(rounder_bits);
    const vec<I> half = whole >> 1;
    const vec<I> first_bits = (half + splat<I>(Exp<T>::bias)) << Exp<T>::mantissa;
    const vec<I> second_bits = (whole - half + splat<I>(Exp<T>::bias)) << Exp<T>::mantissa;
    vec<T> first, second;
    std::memcpy(&first, &first_bits, sizeof first);
    std::memcpy(&second, &second_bits, sizeof second);
    return v * first * second;
}
#endif

template <class T> TINYDIFF_INLINE vec<T> vexp(vec<T> x) {
    using E = Exp<T>;
    // Where the result is 0, as for every score that a mask hides, it is chosen, not computed: processors take a
    // hundred cycles and more to round down to it. NaN passes through.
    const vec<T> given = x;
    x = vmin<T>(given < splat<T>(E::lowest) ? splat<T>(T(0)) : given, splat<T>(E::highest));

    const vec<T> shifted = x * splat<T>(T(1.4426950408889634)) + splat<T>(E::rounder);
    const vec<T> n = shifted - splat<T>(E::rounder);
    const vec<T> r = (x - n * splat<T>(E::ln2_high)) - n * splat<T>(E::ln2_low);

    vec<T> series = splat<T>(inverse_factorial<T>(E::terms)); // Horner: 1 + r (1 + r (1/2! + r (1/3! + ...)))
    for (int k = E::terms - 1; k >= 0; --k)
        series = series * r + splat<T>(inverse_factorial<T>(k));
    return given < splat<T>(E::lowest) ? splat<T>(T(0)) : scale_by_power<T>(series, shifted);
}

} // namespace
