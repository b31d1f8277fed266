// What is computed with numbers rounded to bfloat16, matrix products here and attention beside it: compiled once for
// each set of instructions that multiplies them, AVX512_BF16, and AMX with its tiles.
#include "kernels.hpp"

#include "attention_bfloat16.hpp"
#include "bfloat16.hpp"

namespace tinydiff {
namespace {

constexpr idx block_depth = 12;      // tiles along the sum of what is packed of A at a time
constexpr idx block_rows = 8 * side; // of a task, at most
constexpr idx chunk = 8;             // blocks of columns packed together

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
const KernelsBfloat16 kernels_bfloat16 = {matmul_rounded, attention_rounded, attention_rounded_backward};
}
} // namespace tinydiff
