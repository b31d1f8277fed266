// Matrix products of numbers rounded to bfloat16 (8 bits of mantissa), with sums in float32. Compiled once for each set
// of instructions that has such products: AVX512_BF16, and AMX with its tiles.
//
// Both multiply pairs, of neighbours along the sum: A and B are packed as tiles of 16 lines of 16 pairs, rounded on the
// way. Everything else is one block of C, 32 x 32, which is all that the two do differently. They differ in the order
// of a sum, too:
//   AVX512_BF16: c + odd + even, pair after pair;
//   AMX: the even and the odd products of 16 pairs each by themselves, then c + (even + odd).
// Either is the same whatever the threads and the blocks. Numbers below the normal range count as 0, as these
// instructions have it.
#include "kernels.hpp"

#include "parallel.hpp"

namespace tinydiff {
namespace {

using pair = std::uint32_t; // two bfloat16 next to one another along the sum

constexpr idx tile_side = 16, tile_depth = 32; // lines and numbers of a tile
constexpr idx tile_pairs = tile_side * tile_depth / 2;
constexpr idx side = 2 * tile_side;  // of a block of C
constexpr idx block_depth = 12;      // tiles along the sum of what is packed of A at a time
constexpr idx block_rows = 8 * side; // of a task, at most
constexpr idx chunk = 8;             // blocks of columns packed together

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
inline void pack_tile(const float *p, idx line, idx step, idx lines, idx depth, bool turned, pair *to) {
    vec<float> rows[tile_side]; // of pairs, whose bits pass for floats
    if (step == 1)
        for (idx x = 0; x < tile_side; ++x)
            rows[x] = x < lines
                          ? (vec<float>)rounded(first_of(p + x * line, depth), first_of(p + x * line + 16, depth - 16))
                          : splat<float>(0);
    else
        for (idx k = 0; k < tile_depth; k += 2)
            rows[k / 2] = (vec<float>)interleaved(first_of(p + k * step, k < depth ? lines : 0),
                                                  first_of(p + (k + 1) * step, k + 1 < depth ? lines : 0));
    if (turned == (step == 1))
        transpose_square<float>(rows);
    for (idx i = 0; i < tile_side; ++i)
        store(reinterpret_cast<float *>(to) + i * tile_side, rows[i]);
}

// The two tiles of a block's side.
inline void pack_block(const float *p, idx line, idx step, idx lines, idx depth, bool turned, pair *to) {
    pack_tile(p, line, step, smaller(lines, tile_side), depth, turned, to);
    pack_tile(p + tile_side * line, line, step, larger(lines - tile_side, 0), depth, turned, to + tile_pairs);
}

// --- a block of C ---------------------------------------------------------------------------------------------------

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

inline void multiply_block(idx tiles, const pair *a, const pair *b, const float *start, idx from, float *c, idx to) {
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

// Eight rows of the block, both tiles of columns: 16 sums in registers.
inline void multiply_rows(idx tiles, const pair *a, const pair *b, const float *start, idx from, float *c, idx to) {
    constexpr int rows = 8;
    __m512 left[rows], right[rows];
    for (int i = 0; i < rows; ++i) {
        left[i] = _mm512_loadu_ps(start + i * from);
        right[i] = _mm512_loadu_ps(start + i * from + tile_side);
    }
    for (idx t = 0; t < tiles; ++t, a += 2 * tile_pairs, b += 2 * tile_pairs)
        for (idx k = 0; k < tile_side; ++k) {
            const auto b0 = (__m512bh)_mm512_load_si512(b + k * tile_side);
            const auto b1 = (__m512bh)_mm512_load_si512(b + tile_pairs + k * tile_side);
            for (int i = 0; i < rows; ++i) {
                const auto both = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[i * tile_side + k]));
                left[i] = _mm512_dpbf16_ps(left[i], both, b0);
                right[i] = _mm512_dpbf16_ps(right[i], both, b1);
            }
        }
    for (int i = 0; i < rows; ++i) {
        _mm512_storeu_ps(c + i * to, left[i]);
        _mm512_storeu_ps(c + i * to + tile_side, right[i]);
    }
}

inline void multiply_block(idx tiles, const pair *a, const pair *b, const float *start, idx from, float *c, idx to) {
    for (idx i = 0; i < side; i += 8)
        multiply_rows(tiles, a + i / tile_side * tile_pairs + i % tile_side * tile_side, b, start + i * from, from,
                      c + i * to, to);
}

#endif

// --- C (m x n) = A (m x k) B (k x n) + bias + residual --------------------------------------------------------------
// A task is a block of rows times a range of columns. It packs its part of A, block_depth tiles at a time; and of B,
// unless there are more blocks of rows: then B is packed once, for all of them.

void matmul_rounded(const float *a, idx ai, idx ak, const float *b, idx bk, idx bj, const float *bias,
                    const float *residual, float *c, idx m, idx k, idx n) {
    if (m == 0 || n == 0)
        return;
    const idx tiles = parts(k, tile_depth), panels = parts(n, side), step = 2 * tile_pairs; // of a packed block
    const idx threads = thread_count(), enough = threads == 1 ? 1 : 2 * threads;
    idx blocks = larger(parts(m, block_rows), 1);
    const idx group = parts(panels, smaller(panels, parts(enough, blocks))), groups = parts(panels, group);
    while (blocks * side < m && (blocks * groups < enough || blocks * groups % threads != 0))
        ++blocks;
    const idx height = larger(parts(parts(m, blocks), side), 1) * side; // rows of a task
    blocks = parts(m, height);
    const bool shared = blocks > 1;
    const idx panel_size = (shared ? tiles : block_depth) * step;
    const Scratch<pair> rights((shared ? panels : threads * group) * panel_size);
    const auto pack_right = [&](idx panel, idx t, pair *to) {
        const idx k0 = t * tile_depth, j0 = panel * side;
        pack_block(b + k0 * bk + j0 * bj, bj, bk, smaller(side, n - j0), smaller(tile_depth, k - k0), true, to);
    };
    const idx chunks = parts(panels, chunk);
    if (shared)
        parallel_for(tiles * chunks, chunk * step, [&](idx task, idx) {
            const idx t = task / chunks, p0 = task % chunks * chunk;
            for (idx p = p0; p < smaller(panels, p0 + chunk); ++p)
                pack_right(p, t, rights + p * panel_size + t * step);
        });
    const Scratch<float> starts(panels * side), edges(threads * side * side);
    float *first = starts + 0;
    for (idx j = 0; j < panels * side; ++j) // where the sums of every row start
        first[j] = bias && j < n ? bias[j] : 0.0f;
    const idx room = height / side * block_depth * step;
    const Scratch<pair> lefts(threads * room);
    parallel_for(
        blocks * groups, height * group * side * larger(k, 1) / 8,
        [&](idx task, idx thread) {
            const Configured tile_registers;
            pair *left = lefts + thread * room, *own = rights + (shared ? 0 : thread * group * panel_size);
            float *edge = edges + thread * side * side;
            const idx i0 = task % blocks * height, rows = smaller(height, m - i0);
            const idx p0 = task / blocks * group, p1 = smaller(panels, p0 + group);
            if (residual || k == 0)
                for (idx i = i0; i < i0 + rows; ++i)
                    for (idx j = p0 * side; j < smaller(p1 * side, n); ++j)
                        c[i * n + j] = first[j] + (residual ? residual[i * n + j] : 0.0f);
            for (idx t0 = 0; t0 < tiles; t0 += block_depth) {
                const idx deep = smaller(block_depth, tiles - t0), left_size = deep * step;
                const bool fresh = t0 == 0 && !residual; // C holds nothing yet
                for (idx t = 0; t < deep; ++t) {
                    const idx k0 = (t0 + t) * tile_depth;
                    for (idx i = 0; i < rows; i += side)
                        pack_block(a + (i0 + i) * ai + k0 * ak, ai, ak, smaller(side, rows - i),
                                   smaller(tile_depth, k - k0), false, left + i / side * left_size + t * step);
                    for (idx p = p0; p < p1 && !shared; ++p)
                        pack_right(p, t0 + t, own + (p - p0) * panel_size + t * step);
                }
                for (idx i = 0; i < rows; i += side)
                    for (idx p = p0; p < p1; ++p) {
                        const pair *l = left + i / side * left_size;
                        const pair *r = shared ? rights + p * panel_size + t0 * step : own + (p - p0) * panel_size;
                        float *to = c + (i0 + i) * n + p * side;
                        const float *start = fresh ? first + p * side : to;
                        const idx from = fresh ? 0 : n;
                        const idx high = smaller(side, rows - i), wide = smaller(side, n - p * side);
                        if (high == side && wide == side) {
                            multiply_block(deep, l, r, start, from, to, n);
                            continue;
                        }
                        const auto bytes = static_cast<std::size_t>(wide) * sizeof(float);
                        for (idx x = 0; x < high; ++x) // the edge of C, by way of a padded copy
                            std::memcpy(edge + x * side, start + x * from, bytes);
                        multiply_block(deep, l, r, edge, side, edge, side);
                        for (idx x = 0; x < high; ++x)
                            std::memcpy(to + x * n, edge + x * side, bytes);
                    }
            }
        },
        threads);
}

} // namespace

namespace TINYDIFF_ISA {
const MatmulBfloat16 matmul_bfloat16 = matmul_rounded;
}
} // namespace tinydiff
