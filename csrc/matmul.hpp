// Matrix products: one register tile that everything else is made of.
//
// A tile holds up to 6 rows by a few vectors of C in registers. For each k it loads a row of B once and each element of
// A once, and does rows x vectors fused multiply-adds with them: enough arithmetic per load to keep the multipliers
// busy. Sums run over k in the same order whatever the number of threads.
#pragma once

#include "parallel.hpp"

namespace {

constexpr idx tile_rows = 6;
#if defined(TINYDIFF_VECTOR_BYTES) && TINYDIFF_VECTOR_BYTES == 64
constexpr idx tile_vectors = 4; // 6 x 4 sums, 4 of B and 1 of A: 29 of the 32 registers of AVX-512
#else
constexpr idx tile_vectors = 2; // 6 x 2 sums, 2 of B and 1 of A: 15 of 16 registers
#endif

// C (R x V vectors) += A (R x inner) B (inner x V vectors). A(i, k) is a[i * ai + k * ak], so a transposed A costs
// nothing.
template <class T, int R, int V>
inline void multiply_add_tile(idx inner, const T *a, idx ai, idx ak, const T *b, idx ldb, T *c, idx ldc) {
    vec<T> sums[R][V];
    for (int i = 0; i < R; ++i)
        for (int j = 0; j < V; ++j)
            sums[i][j] = load(c + i * ldc + j * lanes<T>);
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
inline void multiply_add_panel(idx rows, idx inner, const T *a, idx ai, idx ak, const T *b, idx ldb, T *c, idx ldc) {
    idx i = 0;
    if (V == 1) // a narrow panel: more rows, so that there are enough independent sums to hide their latency
        for (; i + 2 * tile_rows <= rows; i += 2 * tile_rows)
            multiply_add_tile<T, 2 * tile_rows, 1>(inner, a + i * ai, ai, ak, b, ldb, c + i * ldc, ldc);
    for (; i + tile_rows <= rows; i += tile_rows)
        multiply_add_tile<T, tile_rows, V>(inner, a + i * ai, ai, ak, b, ldb, c + i * ldc, ldc);
    for (; i + 2 <= rows; i += 2)
        multiply_add_tile<T, 2, V>(inner, a + i * ai, ai, ak, b, ldb, c + i * ldc, ldc);
    for (; i < rows; ++i)
        multiply_add_tile<T, 1, V>(inner, a + i * ai, ai, ak, b, ldb, c + i * ldc, ldc);
}

// A panel of at most tile_vectors vectors of columns.
template <class T>
inline void multiply_add_panel(idx vectors, idx rows, idx inner, const T *a, idx ai, idx ak, const T *b, idx ldb, T *c,
                               idx ldc) {
    switch (vectors) {
    case 1:
        return multiply_add_panel<T, 1>(rows, inner, a, ai, ak, b, ldb, c, ldc);
    case 2:
        return multiply_add_panel<T, 2>(rows, inner, a, ai, ak, b, ldb, c, ldc);
    case 3:
        return multiply_add_panel < T, tile_vectors<3 ? 1 : 3>(rows, inner, a, ai, ak, b, ldb, c, ldc);
    default:
        return multiply_add_panel < T, tile_vectors<4 ? 1 : 4>(rows, inner, a, ai, ak, b, ldb, c, ldc);
    }
}

// C (rows x n) += A B for rows of B and C that hold whole vectors: n is padded.
template <class T>
inline void multiply_add(idx rows, idx inner, idx n, const T *a, idx ai, idx ak, const T *b, idx ldb, T *c, idx ldc) {
    constexpr idx panel = tile_vectors * lanes<T>;
    for (idx j = 0; j < n; j += panel) {
        const idx width = n - j < panel ? n - j : panel;
        multiply_add_panel<T>(width / lanes<T>, rows, inner, a, ai, ak, b + j, ldb, c + j, ldc);
    }
}

// --- C (m x n) = A (m x k) B (k x n) + bias + residual
// ------------------------------------------------------------------------- A task is a block of rows times a panel of
// columns. The panel of B is read in place, unless it is B's last and does not fill whole vectors or B is transposed:
// then it is copied once, padded with zeros.

constexpr idx block_rows = 96;   // per task
constexpr idx block_inner = 256; // of k at a time: that much of a panel of B stays in the cache

template <class T>
void matmul(const T *a, idx ai, idx ak, const T *b, idx bk, idx bj, const T *bias, const T *residual, T *c, idx m,
            idx k, idx n) {
    constexpr idx panel = tile_vectors * lanes<T>;
    const idx panels = (n + panel - 1) / panel, blocks = (m + block_rows - 1) / block_rows;
    const idx whole = bj == 1 ? n / panel : 0; // panels that need no copy
    const Scratch<T> copies((panels - whole) * k * panel);
    parallel_for(panels - whole, k * panel, [&](idx p, idx) {
        T *to = copies + p * k * panel;
        const T *from = b + (whole + p) * panel * bj;
        const idx width = n - (whole + p) * panel < panel ? n - (whole + p) * panel : panel;
        for (idx i = 0; i < k; ++i) {
            for (idx j = 0; j < width; ++j)
                to[i * panel + j] = from[i * bk + j * bj];
            for (idx j = width; j < panel; ++j)
                to[i * panel + j] = T(0);
        }
    });
    const Scratch<T> tiles(thread_count() * block_rows * panel);
    parallel_for(blocks * panels, block_rows * panel * k, [&](idx task, idx thread) {
        const idx p = task % panels, first = task / panels * block_rows;
        const idx rows = m - first < block_rows ? m - first : block_rows;
        const idx width = n - p * panel < panel ? n - p * panel : panel;
        const bool direct = width == panel; // C is written in place, or by way of a padded tile
        T *to = direct ? c + first * n + p * panel : tiles + thread * block_rows * panel;
        const idx ldc = direct ? n : panel;
        for (idx i = 0; i < rows; ++i) {
            const T *add = residual ? residual + (first + i) * n + p * panel : nullptr;
            for (idx j = 0; j < width; ++j)
                to[i * ldc + j] = (bias ? bias[p * panel + j] : T(0)) + (add ? add[j] : T(0));
        }
        const T *from = p < whole ? b + p * panel : copies + (p - whole) * k * panel;
        const idx ldb = p < whole ? bk : panel;
        for (idx i = 0; i < k; i += block_inner)
            multiply_add_panel<T>(padded<T>(width) / lanes<T>, rows, k - i < block_inner ? k - i : block_inner,
                                  a + first * ai + i * ak, ai, ak, from + i * ldb, ldb, to, ldc);
        if (!direct)
            for (idx i = 0; i < rows; ++i)
                std::memcpy(c + (first + i) * n + p * panel, to + i * panel,
                            static_cast<std::size_t>(width) * sizeof(T));
    });
}

} // namespace
