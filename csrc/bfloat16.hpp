// Products of numbers rounded to bfloat16 (8 bits of mantissa), with sums in float32: what AVX512_BF16 and AMX have to
// offer, made one. bfloat16.cpp multiplies matrices with it, attention_bfloat16.hpp queries, keys and values.
//
// Both multiply pairs, of neighbours along the sum: A and B are packed as tiles of 16 lines of 16 pairs, rounded on the
// way. Everything else is one block of C, 32 x 32, which is all that the two do differently. They differ in the order
// of a sum, too:
//   AVX512_BF16: c + odd + even, pair after pair;
//   AMX: the even and the odd products of 16 pairs each by themselves, then c + (even + odd).
// Either is the same whatever the threads and the blocks. Numbers below the normal range count as 0, as these
// instructions have it.
#pragma once

#include "parallel.hpp"

// Loops over arrays that are to live in registers: not unrolled, they would go by way of memory.
#ifdef __clang__
#define TINYDIFF_UNROLL _Pragma("unroll")
#else
#define TINYDIFF_UNROLL _Pragma("GCC unroll 16")
#endif

namespace tinydiff {
namespace {

using pair = std::uint32_t; // two bfloat16 next to one another along the sum

constexpr idx tile_side = 16, tile_depth = 32; // lines and numbers of a tile
constexpr idx tile_pairs = tile_side * tile_depth / 2;
constexpr idx side = 2 * tile_side; // of a block of C

// --- packing --------------------------------------------------------------------------------------------------------

inline __m512i rounded(vec<float> low, vec<float> high) {
    return (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
}

// Two lines of 16 as 16 pairs.
inline __m512i interleaved(vec<float> even, vec<float> odd) {
    alignas(64) static constexpr std::uint16_t order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                            21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                            11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return _mm512_permutexvar_epi16(_mm512_load_si512(order), rounded(even, odd));
}

inline vec<float> first_of(const float *p, idx n) {
    return n >= 16 ? load(p) : n <= 0 ? splat<float>(0) : load_first(p, n, 0.0f);
}

// A tile: at most 16 lines of at most 32 numbers, of which (x, k) is at p[x * line + k * step], one of the two strides
// being 1; zeros beyond. As lines of pairs, or `turned`, as the right factor is read: the pairs of all lines together.
template <bool whole>
inline void pack_lines(const float *p, idx line, idx step, idx lines, idx depth, bool turned, pair *to) {
    const auto some = [](const float *from, idx n) { return whole ? load(from) : first_of(from, n); };
    vec<float> rows[tile_side]; // of pairs, whose bits pass for floats
    if (step == 1) {
        TINYDIFF_UNROLL
        for (idx x = 0; x < tile_side; ++x)
            rows[x] = whole || x < lines
                          ? (vec<float>)rounded(some(p + x * line, depth), some(p + x * line + 16, depth - 16))
                          : splat<float>(0);
    } else {
        TINYDIFF_UNROLL
        for (idx k = 0; k < tile_depth; k += 2)
            rows[k / 2] = (vec<float>)interleaved(some(p + k * step, k < depth ? lines : 0),
                                                  some(p + (k + 1) * step, k + 1 < depth ? lines : 0));
    }
    if (turned == (step == 1))
        transpose_square<float>(rows);
    TINYDIFF_UNROLL
    for (idx i = 0; i < tile_side; ++i)
        store(reinterpret_cast<float *>(to) + i * tile_side, rows[i]);
}

inline void pack_tile(const float *p, idx line, idx step, idx lines, idx depth, bool turned, pair *to) {
    if (lines >= tile_side && depth >= tile_depth)
        pack_lines<true>(p, line, step, lines, depth, turned, to);
    else
        pack_lines<false>(p, line, step, lines, depth, turned, to);
}

// The two tiles of a block's side.
inline void pack_block(const float *p, idx line, idx step, idx lines, idx depth, bool turned, pair *to) {
    pack_tile(p, line, step, smaller(lines, tile_side), depth, turned, to);
    pack_tile(p + tile_side * line, line, step, larger(lines - tile_side, 0), depth, turned, to + tile_pairs);
}

// --- a block of C ---------------------------------------------------------------------------------------------------
// C (32 x 32) = start + A B, rows of start and of C `from` and `to` apart. Where not all of it is wanted, half of the
// lines, half of the columns, fewer pairs of each tile can do; what is beyond them may be computed or not.

struct Part {
    idx lines = side, columns = side, pairs = tile_side;
};

#ifdef __AMX_BF16__

struct alignas(64) Tiles { // what ldtilecfg reads
    std::uint8_t palette = 1, start = 0, reserved[14] = {};
    std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

struct Configured { // the tile registers are in use from here to the end of the scope
    Configured() {
        static constexpr Tiles tiles;
        _tile_loadconfig(&tiles);
    }
    ~Configured() { _tile_release(); }
};

inline void multiply_block(idx tiles, const pair *a, const pair *b, const float *start, idx from, float *c, idx to,
                           Part = {}) {
    const auto lines = static_cast<std::size_t>(from) * sizeof(float),
               out = static_cast<std::size_t>(to) * sizeof(float);
    _tile_loadd(0, start, lines);
    _tile_loadd(1, start + tile_side, lines);
    _tile_loadd(2, start + tile_side * from, lines);
    _tile_loadd(3, start + tile_side * from + tile_side, lines);
    for (idx t = 0; t < tiles; ++t, a += 2 * tile_pairs, b += 2 * tile_pairs) {
        _tile_loadd(4, a, 64);
        _tile_loadd(6, b, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + tile_pairs, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + tile_pairs, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, out);
    _tile_stored(1, c + tile_side, out);
    _tile_stored(2, c + tile_side * to, out);
    _tile_stored(3, c + tile_side * to + tile_side, out);
}

#else

struct Configured {
    Configured() {}
};

// Some rows of the block, one tile of columns or both: 16 sums in registers.
template <int tiles_across>
inline void multiply_rows(idx tiles, const pair *a, const pair *b, const float *start, idx from, float *c, idx to,
                          idx pairs) {
    constexpr int rows = 16 / tiles_across;
    __m512 sums[rows][tiles_across];
    TINYDIFF_UNROLL
    for (int i = 0; i < rows; ++i) {
        TINYDIFF_UNROLL
        for (int j = 0; j < tiles_across; ++j)
            sums[i][j] = _mm512_loadu_ps(start + i * from + j * tile_side);
    }
    for (idx t = 0; t < tiles; ++t, a += 2 * tile_pairs, b += 2 * tile_pairs)
        for (idx k = 0; k < pairs; ++k) {
            __m512bh line[tiles_across];
            TINYDIFF_UNROLL
            for (int j = 0; j < tiles_across; ++j)
                line[j] = (__m512bh)_mm512_load_si512(b + j * tile_pairs + k * tile_side);
            TINYDIFF_UNROLL
            for (int i = 0; i < rows; ++i) {
                const auto both = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[i * tile_side + k]));
                TINYDIFF_UNROLL
                for (int j = 0; j < tiles_across; ++j)
                    sums[i][j] = _mm512_dpbf16_ps(sums[i][j], both, line[j]);
            }
        }
    TINYDIFF_UNROLL
    for (int i = 0; i < rows; ++i) {
        TINYDIFF_UNROLL
        for (int j = 0; j < tiles_across; ++j)
            _mm512_storeu_ps(c + i * to + j * tile_side, sums[i][j]);
    }
}

inline void multiply_block(idx tiles, const pair *a, const pair *b, const float *start, idx from, float *c, idx to,
                           Part part = {}) {
    if (part.columns > tile_side)
        for (idx i = 0; i < part.lines; i += 8)
            multiply_rows<2>(tiles, a + i / tile_side * tile_pairs + i % tile_side * tile_side, b, start + i * from,
                             from, c + i * to, to, part.pairs);
    else
        for (idx i = 0; i < part.lines; i += 16)
            multiply_rows<1>(tiles, a + i / tile_side * tile_pairs, b, start + i * from, from, c + i * to, to,
                             part.pairs);
}

#endif

} // namespace
} // namespace tinydiff
