// The nearest matrix with equal singular values, nearly: Newton-Schulz iterations of fifth order (Jordan et al. 2024).
//
// X <- P X with P = a I + b A + c A^2 and A = X X^T moves every singular value s to a s + b s^3 + c s^5. All P are
// polynomials of the first A, so A itself can be carried along, A <- P A P, and X be multiplied once, at the end, by
// the product of all P: small square products in place of wide ones. All of these are symmetric: only the part on and
// above the diagonal is computed, the rest is its mirror image.
#pragma once

#include "matmul.hpp"

namespace {

// Rows of a square or wide matrix: padded to whole vectors, and one more so that they do not lie a power of two apart.
template <class T> inline idx row_length(idx n) { return padded<T>(n) + lanes<T>; }

// C (n x n) = A (n x inner) B (inner x n), of which is known that it is symmetric.
template <class T>
inline void symmetric_product(idx n, idx inner, const T *a, idx lda, const T *b, idx ldb, T *c, idx ldc) {
    constexpr idx panel = 2 * lanes<T>;
    for (idx j = 0; j < n; j += panel)
        multiply<T>(smaller(n, j + panel), inner, smaller(panel, padded<T>(n) - j), strided<T>(a, lda, 1), b + j, ldb,
                    c + j, ldc);
    for (idx j = 0; j < n; j += lanes<T>)
        for (idx i = j / panel * panel + panel; i < n; i += lanes<T>) {
            vec<T> square[lanes<T>];
            for (idx row = 0; row < lanes<T>; ++row)
                square[row] = load(c + (j + row) * ldc + i);
            transpose_square<T>(square);
            for (idx row = 0; row < smaller(lanes<T>, n - i); ++row)
                store(c + (i + row) * ldc + j, square[row]);
        }
}

// One matrix, small (r x c, r <= c) rows of row_length(c) in x; the result takes its place. The room holds work.
template <class T> inline idx orthogonalise_room(idx r, idx c) {
    return r * row_length<T>(c) * 2 + c * row_length<T>(r) + 5 * r * row_length<T>(r);
}

template <class T> inline T *orthogonalise_wide(idx r, idx c, T *x, T *room) {
    constexpr int iterations = 5;
    constexpr T linear = T(3.4445), cubic = T(-4.775), quintic = T(2.0315);
    const idx wide = row_length<T>(c), side = row_length<T>(r), square = r * side;
    T *turned = room, *gram = turned + c * side, *power = gram + square, *p = power + square, *work = p + square;
    T *all = work + square, *result = all + square;
    for (idx j = 0; j < c; ++j)
        for (idx i = r; i < side; ++i)
            turned[j * side + i] = T(0);
    constexpr idx some = 16;
    for (idx j0 = 0; j0 < c; j0 += some)
        for (idx i = 0; i < r; ++i)
            for (idx j = j0; j < smaller(j0 + some, c); ++j)
                turned[j * side + i] = x[i * wide + j];
    for (idx i = 0; i < 5 * square; ++i)
        gram[i] = T(0);
    symmetric_product(r, c, x, wide, turned, side, gram, side);
    for (int k = 0; k < iterations; ++k) {
        symmetric_product(r, r, gram, side, gram, side, power, side);
        for (idx i = 0; i < square; i += lanes<T>)
            store<T>(p + i, splat<T>(cubic) * load(gram + i) + splat<T>(quintic) * load(power + i));
        for (idx i = 0; i < r; ++i)
            p[i * side + i] += linear;
        if (k == 0)
            std::memcpy(all, p, static_cast<std::size_t>(square) * sizeof(T));
        else {
            symmetric_product(r, r, all, side, p, side, work, side);
            std::swap(all, work);
        }
        if (k + 1 < iterations) {
            symmetric_product(r, r, p, side, gram, side, work, side);
            symmetric_product(r, r, work, side, p, side, gram, side);
        }
    }
    multiply<T>(r, r, padded<T>(c), strided<T>(all, side, 1), x, wide, result, wide);
    return result;
}

// y = each of `count` matrices (m x n) of x with its singular values moved to about 1.
template <class T> void orthogonalise(const T *x, T *y, idx count, idx m, idx n) {
    const idx r = smaller(m, n), c = larger(m, n), wide = row_length<T>(c);
    const idx threads = thread_count(), per_thread = r * wide + orthogonalise_room<T>(r, c) + 64 / idx(sizeof(T));
    const Scratch<T> scratch(threads * per_thread);
    parallel_for(
        count, 20 * r * r * r + 2 * r * r * c,
        [&](idx task, idx thread) {
            const T *from = x + task * m * n;
            T *to = y + task * m * n, *rows = scratch + thread * per_thread;
            const idx row = m <= n ? n : 1, column = m <= n ? 1 : n; // of the wide matrix, in `from` and in `to`
            vec<T> squares = splat<T>(T(0));
            for_vectors<T>(from, m * n, T(0), [&](idx, vec<T> v, idx) { squares += v * v; });
            const T norm = std::sqrt(sum<T>(squares)), scale = norm == T(0) ? T(0) : T(1) / norm;
            for (idx i = 0; i < r; ++i)
                for (idx j = 0; j < wide; ++j)
                    rows[i * wide + j] = j < c ? scale * from[i * row + j * column] : T(0);
            const T *result = orthogonalise_wide(r, c, rows, rows + r * wide);
            for (idx i = 0; i < r; ++i)
                for (idx j = 0; j < c; ++j)
                    to[i * row + j * column] = result[i * wide + j];
        },
        threads);
}

} // namespace
