// Matrix products: one register tile that everything else is made of.
//
// A tile holds up to 6 rows by a few vectors of C in registers. For each k it loads a row of B once and each element of
// A once, and does rows x vectors fused multiply-adds with them: enough arithmetic per load to keep the multipliers
// busy. Sums run over k in the same order whatever the number of threads.
#pragma once

#include "parallel.hpp"

#include <type_traits>

namespace {

constexpr idx tile_rows = 6;
#if defined(TINYDIFF_VECTOR_BYTES) && TINYDIFF_VECTOR_BYTES == 64
constexpr idx tile_vectors = 4; // 6 x 4 sums, 4 of B and 1 of A: 29 of the 32 registers of AVX-512
#else
constexpr idx tile_vectors = 2; // 6 x 2 sums, 2 of B and 1 of A: 15 of 16 registers
#endif

// A block of A: element (i, k) lies at data[i / tile_rows * tile + i % tile_rows * row + k * inner]. In an ordinary
// matrix tile = tile_rows * row; a block packed for the tiles holds the elements of one k of a tile side by side.
template <class T> struct Left {
    const T *data;
    idx row, inner, tile;
};

template <class T> inline Left<T> strided(const T *a, idx row, idx inner) { return {a, row, inner, tile_rows * row}; }

// Where the sums of a tile of C start: rows `ld` apart, 0 for one row that serves all.
template <class T> struct Start {
    const T *data;
    idx ld;
};

// C (R x V vectors) = start + A (R x inner) B (inner x V vectors).
template <class T, int R, int V>
inline void multiply_add_tile(idx inner, const T *a, idx ai, idx ak, const T *b, idx ldb, const Start<T> &start, T *c,
                              idx ldc) {
    vec<T> sums[R][V];
    for (int i = 0; i < R; ++i)
        for (int j = 0; j < V; ++j)
            sums[i][j] = load(start.data + i * start.ld + j * lanes<T>);
    for (idx k = 0; k < inner; ++k) {
        vec<T> row[V];
        for (int j = 0; j < V; ++j)
            row[j] = load(b + k * ldb + j * lanes<T>);
        for (int i = 0; i < R; ++i) {
            const vec<T> scale = splat<T>(a[i * ai + k * ak]);
            for (int j = 0; j < V; ++j)
                sums[i][j] += scale * row[j];
        }
    }
    for (int i = 0; i < R; ++i)
        for (int j = 0; j < V; ++j)
            store(c + i * ldc + j * lanes<T>, sums[i][j]);
}

template <class T, int V>
inline void multiply_add_panel(idx rows, idx inner, const Left<T> &a, const T *b, idx ldb, const Start<T> &start, T *c,
                               idx ldc) {
    const auto tile = [&](auto count, idx i) {
        multiply_add_tile<T, decltype(count)::value, V>(inner, a.data + i / tile_rows * a.tile + i % tile_rows * a.row,
                                                        a.row, a.inner, b, ldb, {start.data + i * start.ld, start.ld},
                                                        c + i * ldc, ldc);
    };
    idx i = 0;
    if (V == 1 && a.tile == tile_rows * a.row) // narrow: more rows, for enough independent sums to hide their latency
        for (; i + 2 * tile_rows <= rows; i += 2 * tile_rows)
            tile(std::integral_constant<int, 2 * tile_rows>(), i);
    for (; i + tile_rows <= rows; i += tile_rows)
        tile(std::integral_constant<int, tile_rows>(), i);
    for (; i + 2 <= rows; i += 2)
        tile(std::integral_constant<int, 2>(), i);
    for (; i < rows; ++i)
        tile(std::integral_constant<int, 1>(), i);
}

// A panel of at most tile_vectors vectors of columns.
template <class T>
inline void multiply_add_panel(idx vectors, idx rows, idx inner, const Left<T> &a, const T *b, idx ldb,
                               const Start<T> &start, T *c, idx ldc) {
    switch (vectors) {
    case 1:
        return multiply_add_panel<T, 1>(rows, inner, a, b, ldb, start, c, ldc);
    case 2:
        return multiply_add_panel<T, 2>(rows, inner, a, b, ldb, start, c, ldc);
    case 3:
        return multiply_add_panel < T, tile_vectors<3 ? 1 : 3>(rows, inner, a, b, ldb, start, c, ldc);
    default:
        return multiply_add_panel < T, tile_vectors<4 ? 1 : 4>(rows, inner, a, b, ldb, start, c, ldc);
    }
}

// C (rows x n) += A B for rows of B and C that hold whole vectors: n is padded.
template <class T>
inline void multiply_add(idx rows, idx inner, idx n, const Left<T> &a, const T *b, idx ldb, T *c, idx ldc) {
    constexpr idx panel = tile_vectors * lanes<T>;
    for (idx j = 0; j < n; j += panel)
        multiply_add_panel<T>(smaller(panel, n - j) / lanes<T>, rows, inner, a, b + j, ldb, {c + j, ldc}, c + j, ldc);
}

// The same from zero: C (rows x n) = A B.
template <class T>
inline void multiply(idx rows, idx inner, idx n, const Left<T> &a, const T *b, idx ldb, T *c, idx ldc) {
    constexpr idx panel = tile_vectors * lanes<T>;
    static constexpr T zeros[panel] = {};
    for (idx j = 0; j < n; j += panel)
        multiply_add_panel<T>(smaller(panel, n - j) / lanes<T>, rows, inner, a, b + j, ldb, {zeros, 0}, c + j, ldc);
}

// --- C (m x n) = A (m x k) B (k x n) + bias + residual --------------------------------------------------------------
// A task is a block of rows times a range of columns. For block_inner of k at a time it copies its part of B, and of A
// if that is transposed, into the order in which the tiles read them: in place, rows lie a power of two apart as likely
// as not, and would evict each other from the cache. The rows of an ordinary A can be read where they are: a tile reads
// no more than tile_rows of them at once. With less than a tile of rows B is read once, and copying it would be most of
// the work: then only the last columns are copied, to be padded.

constexpr idx block_inner = 384;
constexpr idx block_rows = 192;     // per task, at most: a multiple of tile_rows
constexpr idx block_columns = 1024; // likewise

// B (inner x width, rows ldb apart) as panels, each inner x panel, padded with zeros.
template <class T> inline void pack_panels(const T *b, idx ldb, idx inner, idx width, T *to) {
    constexpr idx panel = tile_vectors * lanes<T>;
    for (idx j0 = 0; j0 < width; j0 += panel, to += inner * panel) {
        const idx columns = smaller(panel, width - j0);
        if (columns == panel) {
            for (idx k = 0; k < inner; ++k)
                for (idx v = 0; v < tile_vectors; ++v)
                    store(to + k * panel + v * lanes<T>, load(b + k * ldb + j0 + v * lanes<T>));
            continue;
        }
        for (idx k = 0; k < inner; ++k)
            for (idx j = 0; j < panel; ++j)
                to[k * panel + j] = j < columns ? b[k * ldb + j0 + j] : T(0);
    }
}

// A transposed A (rows x inner, the rows side by side, ak apart in k) tile by tile: the tile_rows elements of each k
// side by side. A few k at a time, so that what is read and what is written both stay in the cache.
template <class T> inline Left<T> pack_tiles(const T *a, idx ak, idx rows, idx inner, T *to) {
    constexpr idx some = 32;
    const idx whole = rows / tile_rows * tile_rows;
    for (idx k0 = 0; k0 < inner; k0 += some)
        for (idx i0 = 0; i0 < whole; i0 += tile_rows)
            for (idx k = k0; k < smaller(k0 + some, inner); ++k)
                std::memcpy(to + i0 * inner + k * tile_rows, a + i0 + k * ak, tile_rows * sizeof(T));
    for (idx k = 0; k < inner; ++k)
        for (idx i = whole; i < rows; ++i)
            to[whole * inner + k * tile_rows + i - whole] = a[i + k * ak];
    return {to, 1, tile_rows, tile_rows * inner};
}

// The transpose of (rows x columns), in squares so that both sides stay in the cache.
template <class T> void transpose(const T *from, idx row, idx column, idx rows, idx columns, T *to) {
    constexpr idx square = 16;
    for (idx i0 = 0; i0 < rows; i0 += square)
        for (idx j0 = 0; j0 < columns; j0 += square)
            for (idx i = i0; i < smaller(i0 + square, rows); ++i)
                for (idx j = j0; j < smaller(j0 + square, columns); ++j)
                    to[i * columns + j] = from[i * row + j * column];
}

template <class T>
void matmul(const T *a, idx ai, idx ak, const T *b, idx bk, idx bj, const T *bias, const T *residual, T *c, idx m,
            idx k, idx n) {
    constexpr idx panel = tile_vectors * lanes<T>;
    const Scratch<T> rows_of_b(bj == 1 ? 0 : k * n); // a transposed B, once for all tasks
    if (bj != 1) {
        transpose(b, bk, bj, k, n, rows_of_b + 0);
        b = rows_of_b + 0;
        bk = n;
    }
    // Every element is summed over k in the same order whatever the tasks, so their number may follow the threads': at
    // least two for each, and as many for one as for another.
    const idx threads = thread_count(), enough = threads == 1 ? 1 : 2 * threads;
    const idx panels = larger(parts(n, panel), 1);
    idx blocks = larger(parts(m, block_rows), 1);
    const idx columns = smaller(panels, larger(parts(n, block_columns), 1) * parts(enough, blocks));
    const idx group = parts(panels, columns) * panel, groups = parts(n, group); // columns of a task
    while (blocks * tile_rows < m && (blocks * groups < enough || blocks * groups % threads != 0))
        ++blocks;
    const idx height = larger(parts(parts(m, blocks), tile_rows), 1) * tile_rows; // rows of a task
    blocks = parts(m, height);
    const idx inner_most = smaller(k, block_inner);
    const idx room_b = inner_most * group, room_a = height * inner_most, room_c = height * panel;
    const Scratch<T> scratch(threads * (room_b + room_a + room_c) + padded<T>(n));
    T *first = scratch + threads * (room_b + room_a + room_c); // where the sums of every row start
    for (idx j = 0; j < padded<T>(n); ++j)
        first[j] = bias && j < n ? bias[j] : T(0);
    parallel_for(
        blocks * groups, smaller(height, m) * group * k,
        [&](idx task, idx thread) {
            T *right = scratch + thread * (room_b + room_a + room_c), *left = right + room_b, *edge = left + room_a;
            const idx i0 = task % blocks * height, rows = smaller(height, m - i0);
            const idx j0 = task / blocks * group, width = smaller(group, n - j0);
            if (residual || k == 0)
                for (idx i = i0; i < i0 + rows; ++i)
                    for (idx j = j0; j < j0 + width; ++j)
                        c[i * n + j] = first[j] + (residual ? residual[i * n + j] : T(0));
            for (idx k0 = 0; k0 < k; k0 += block_inner) {
                const idx inner = smaller(block_inner, k - k0);
                const bool fresh = k0 == 0 && !residual; // C holds nothing yet
                const Left<T> tiles = ai == 1 && ak != 1 ? pack_tiles(a + i0 + k0 * ak, ak, rows, inner, left)
                                                         : strided(a + i0 * ai + k0 * ak, ai, ak);
                const idx in_place = rows < tile_rows ? width / panel * panel : 0; // columns of B that are not copied
                pack_panels(b + k0 * bk + j0 + in_place, bk, inner, width - in_place, right + in_place * inner);
                for (idx j = 0; j < width; j += panel) {
                    const bool copied = j >= in_place;
                    const T *from = copied ? right + j * inner : b + k0 * bk + j0 + j;
                    const idx stride = copied ? panel : bk;
                    T *to = c + i0 * n + j0 + j;
                    const Start<T> start = fresh ? Start<T>{first + j0 + j, 0} : Start<T>{to, n};
                    const idx columns = smaller(panel, width - j);
                    const auto bytes = static_cast<std::size_t>(columns) * sizeof(T);
                    if (columns == panel) {
                        multiply_add_panel<T, tile_vectors>(rows, inner, tiles, from, stride, start, to, n);
                        continue;
                    }
                    for (idx i = 0; i < rows; ++i) // the last columns of C, by way of a padded copy
                        std::memcpy(edge + i * panel, start.data + i * start.ld, bytes);
                    multiply_add_panel<T>(padded<T>(columns) / lanes<T>, rows, inner, tiles, from, stride,
                                          {edge, panel}, edge, panel);
                    for (idx i = 0; i < rows; ++i)
                        std::memcpy(to + i * n, edge + i * panel, bytes);
                }
            }
        },
        threads);
}

} // namespace
