// Attention whose products round their factors to bfloat16; sums, softmax and masks are in float32 (attention.hpp says
// what is computed, and how the running softmax goes).
//
// Scores stand with a row per key and a column per query, S^T = K Q^T. So the softmax goes down the columns, a vector
// of queries at a time; and two rows of probabilities, rounded and interleaved, are a line of the right factor of the
// next product, one row is a line of a left factor: nothing is rearranged between products. All of them are of blocks
// of 32 by 32, so that AMX takes them as they are.
#pragma once

#include "attention.hpp"
#include "bfloat16.hpp"

namespace tinydiff {
namespace {

constexpr idx block = side * side, packed_block = 2 * tile_pairs; // of float32, of pairs
constexpr idx key_blocks = key_block / side;                      // of a tile of keys

// A factor of `lines` x `depth`, in blocks of 32 lines, each with its tiles along the sum.
inline void pack_factor(const float *p, idx line, idx step, idx lines, idx depth, bool turned, pair *to) {
    for (idx x = 0; x < lines; x += side)
        for (idx k = 0; k < depth; k += tile_depth, to += packed_block)
            pack_block(p + x * line + k * step, line, step, smaller(side, lines - x), smaller(tile_depth, depth - k),
                       turned, to);
}

inline idx blocks_of(idx n) { return parts(n, side); }

// C (32 x 32) = A B, or C += A B.
inline void multiply_fresh(idx tiles, const pair *a, const pair *b, float *c, Part part) {
    alignas(64) static constexpr float zeros[side] = {};
    multiply_block(tiles, a, b, zeros, 0, c, side, part);
}
inline void multiply_more(idx tiles, const pair *a, const pair *b, float *c, Part part) {
    multiply_block(tiles, a, b, c, side, c, side, part);
}

// Heads are seldom deeper than a block: then what lies beyond their depth is left out.
inline Part sum_over(idx depth) { return depth < tile_depth ? Part{side, side, parts(depth, 2)} : Part{}; }
inline Part lines_of(idx depth) { return depth <= tile_side ? Part{tile_side, side, tile_side} : Part{}; }
inline Part columns_of(idx depth) { return depth <= tile_side ? Part{side, tile_side, tile_side} : Part{}; }

// How many of `keys` from k0 on the queries of a block see, the last of which is `query`.
inline idx seen_keys(const Mask &mask, const AttentionShape &s, idx query, idx k0, idx keys) {
    return mask.causal ? larger(0, smaller(keys, seen_until(mask, s, query) - k0)) : keys;
}

// Sets to -inf the scores (32 keys from k0 on x 32 queries from q0 on) of keys that a query may not see, and of those
// after the last key.
inline void hide(const Mask &mask, const AttentionShape &s, idx b, idx q0, idx k0, float *scores) {
    if (!mask.allowed && k0 + side <= s.keys && (!mask.causal || seen_until(mask, s, q0) >= k0 + side))
        return;
    for (idx j = 0; j < side; ++j) {
        float *row = scores + j * side;
        idx hidden = k0 + j < s.keys ? 0 : side; // queries before the first that sees the key
        if (mask.causal && hidden == 0)
            hidden = smaller(side, (k0 + j) / mask.causal * mask.causal - (s.keys - s.queries) - q0);
        for (idx i = 0; i < hidden; i += tile_side)
            store_n(row + i, splat<float>(-infinity<float>), smaller(tile_side, hidden - i));
        if (mask.allowed && k0 + j < s.keys) {
            const bool *allowed = mask.allowed + b * mask.batch + q0 * mask.query + (k0 + j) * mask.key;
            for (idx i = 0; i < smaller(side, s.queries - q0); ++i)
                if (!allowed[i * mask.query])
                    row[i] = -infinity<float>;
        }
    }
}

// to (queries x depth) = from (depth x 32 queries, by blocks), each query's column times its scale.
inline void turn_back(const float *from, const float *scale, idx queries, idx depth, float *to, idx stride) {
    for (idx i = 0; i < queries; i += tile_side)
        for (idx d = 0; d < depth; d += tile_side) {
            vec<float> square[tile_side];
            for (idx r = 0; r < tile_side; ++r)
                square[r] = load(from + (d + r) * side + i) * load(scale + i);
            transpose_square<float>(square);
            for (idx r = 0; r < smaller(tile_side, queries - i); ++r)
                store_n(to + (i + r) * stride + d, square[r], smaller(tile_side, depth - d));
        }
}

// --- forward --------------------------------------------------------------------------------------------------------

// Scores (keys x 32) become exp(score - m), rounded, the right factor of the sum over keys. Where m grew, l and o
// (depth x 32) shrink, unless the keys are the first.
inline void fold_columns(const float *scores, idx keys, float scale, bool first, float *m, float *l, float *o,
                         idx depth, pair *probabilities) {
    for (idx c = 0; c < side; c += tile_side) {
        const vec<float> before = load(m + c);
        vec<float> top = before;
        for (idx j = 0; j < keys; ++j)
            top = vmax<float>(top, load(scores + j * side + c) * splat<float>(scale));
        const vec<float> shift = top == splat<float>(-infinity<float>) ? splat<float>(0) : top;
        vec<float> total = splat<float>(0);
        pair *line = probabilities + c / tile_side * tile_pairs;
        for (idx j = 0; j < keys; j += 2) {
            const vec<float> even = vexp<float>(load(scores + j * side + c) * splat<float>(scale) - shift);
            const vec<float> odd = vexp<float>(load(scores + (j + 1) * side + c) * splat<float>(scale) - shift);
            total += even + odd;
            _mm512_store_si512(line + j / tile_depth * packed_block + j % tile_depth / 2 * tile_side,
                               interleaved(even, odd));
        }
        store(m + c, top);
        if (first) {
            store(l + c, total);
            continue;
        }
        const vec<float> shrink = vexp<float>(before - shift); // what was summed so far refers to the old maximum
        store(l + c, load(l + c) * shrink + total);
        for (idx d = 0; d < depth; ++d)
            store(o + d * side + c, load(o + d * side + c) * shrink);
    }
}

void attention_rounded(AttentionShape s, Heads<const float> q, Heads<const float> k, Heads<const float> v, Mask mask,
                       Heads<float> out, float *lse) {
    const idx deep = blocks_of(s.depth), all_keys = blocks_of(s.keys), groups = parts(s.queries, query_group);
    const idx pairs = (2 * all_keys * deep + deep + key_blocks) * packed_block;
    const idx floats = (key_blocks + deep) * block + 3 * side;
    const idx threads = thread_count();
    const Scratch<pair> factors(threads * pairs);
    const Scratch<float> scratch(threads * floats);
    const float scale = 1.0f / std::sqrt(static_cast<float>(s.depth));
    parallel_for(
        s.batch * s.heads * groups, smaller(s.queries, query_group) * s.keys * s.depth / 2,
        [&](idx task, idx thread) {
            const Configured tile_registers;
            const idx b = task / (s.heads * groups), h = task / groups % s.heads, first = task % groups * query_group;
            const idx rows = smaller(query_group, s.queries - first);
            pair *keys_p = factors + thread * pairs, *values_p = keys_p + all_keys * deep * packed_block;
            pair *queries_p = values_p + all_keys * deep * packed_block, *p = queries_p + deep * packed_block;
            float *scores = scratch + thread * floats, *o = scores + key_blocks * block;
            float *m = o + deep * block, *l = m + side, *inverse = l + side;
            const float *queries = q.data + b * q.batch + h * q.head;
            const idx seen = seen_keys(mask, s, first + rows - 1, 0, s.keys);
            pack_factor(k.data + b * k.batch + h * k.head, k.position, 1, seen, s.depth, false, keys_p);
            pack_factor(v.data + b * v.batch + h * v.head, 1, v.position, s.depth, seen, false, values_p);
            for (idx q0 = first; q0 < first + rows; q0 += side) {
                const idx n = smaller(side, first + rows - q0);
                pack_factor(queries + q0 * q.position, q.position, 1, n, s.depth, true, queries_p);
                for (idx i = 0; i < side; ++i) {
                    m[i] = -infinity<float>;
                    l[i] = 0;
                }
                zero(o, deep * block);
                for (idx k0 = 0; k0 < s.keys; k0 += key_block) {
                    const idx blocks = blocks_of(seen_keys(mask, s, q0 + n - 1, k0, smaller(key_block, s.keys - k0)));
                    if (blocks == 0)
                        break;
                    for (idx j = 0; j < blocks; ++j) {
                        multiply_fresh(deep, keys_p + (k0 / side + j) * deep * packed_block, queries_p,
                                       scores + j * block, sum_over(s.depth));
                        hide(mask, s, b, q0, k0 + j * side, scores + j * block);
                    }
                    fold_columns(scores, blocks * side, scale, k0 == 0, m, l, o, deep * side, p);
                    for (idx d = 0; d < deep; ++d)
                        multiply_more(blocks, values_p + (d * blocks_of(seen) + k0 / side) * packed_block, p,
                                      o + d * block, lines_of(s.depth));
                }
                for (idx i = 0; i < side; ++i)
                    inverse[i] = l[i] == 0 ? 0.0f : 1.0f / l[i]; // a query that sees nothing gets zeros
                turn_back(o, inverse, n, s.depth, out.data + b * out.batch + h * out.head + q0 * out.position,
                          out.position);
                for (idx i = 0; i < n; ++i)
                    lse[(b * s.heads + h) * s.queries + q0 + i] = m[i] + (l[i] == 0 ? 0.0f : std::log(l[i]));
            }
        },
        threads);
}

// --- backward -------------------------------------------------------------------------------------------------------
// With P^T = exp(S^T - lse) and dP^T = V G^T:
//   dV = P^T G,   dS^T = P^T * (dP^T - delta),   dK = dS^T Q / sqrt(D),   dQ^T = K^T dS^T / sqrt(D).

// P^T and dS^T of a block, rounded, as left factors of sums over queries; dS^T as right factor of a sum over keys, too.
inline void differentiate(const float *scores, const float *products, float scale, const float *lse, const float *delta,
                          pair *left_p, pair *left_ds, pair *right_ds) {
    for (idx r = 0; r < side; r += 2) {
        vec<float> p[2][2], ds[2][2]; // of two keys, two vectors of queries
        for (idx x = 0; x < 2; ++x)
            for (idx c = 0; c < 2; ++c) {
                const idx at = (r + x) * side + c * tile_side;
                p[x][c] = vexp<float>(load(scores + at) * splat<float>(scale) - load(lse + c * tile_side));
                ds[x][c] = p[x][c] * (load(products + at) - load(delta + c * tile_side));
            }
        for (idx x = 0; x < 2; ++x) {
            _mm512_store_si512(left_p + (r + x) * tile_side, rounded(p[x][0], p[x][1]));
            _mm512_store_si512(left_ds + (r + x) * tile_side, rounded(ds[x][0], ds[x][1]));
        }
        for (idx c = 0; c < 2; ++c)
            _mm512_store_si512(right_ds + c * tile_pairs + r / 2 * tile_side, interleaved(ds[0][c], ds[1][c]));
    }
}

void attention_rounded_backward(AttentionShape s, Heads<const float> g, Heads<const float> q, Heads<const float> k,
                                Heads<const float> v, Heads<const float> out, const float *lse, Mask mask,
                                Heads<float> dq, Heads<float> dk, Heads<float> dv) {
    const idx deep = blocks_of(s.depth), all_queries = blocks_of(s.queries);
    const idx pairs = (4 * all_queries * deep + 3 * key_blocks * deep + key_blocks + 2) * packed_block;
    const idx floats = (2 + 2 * key_blocks * deep + all_queries * deep) * block + 2 * all_queries * side + side;
    const idx threads = thread_count();
    const Scratch<pair> factors(threads * pairs);
    const Scratch<float> scratch(threads * floats);
    const float scale = 1.0f / std::sqrt(static_cast<float>(s.depth));
    parallel_for(
        s.batch * s.heads, s.queries * s.keys * s.depth,
        [&](idx task, idx thread) {
            const Configured tile_registers;
            const idx b = task / s.heads, h = task % s.heads, all = all_queries * deep * packed_block;
            // Right factors: queries and gradients for the sums over depth, then for those over queries.
            pair *queries_d = factors + thread * pairs, *grads_d = queries_d + all;
            pair *queries_q = grads_d + all, *grads_q = queries_q + all;
            // Left factors of a tile of keys, then what becomes of its scores: dS^T on the right, dS^T and P^T on the
            // left.
            pair *keys_d = grads_q + all, *values_d = keys_d + key_blocks * deep * packed_block;
            pair *keys_k = values_d + key_blocks * deep * packed_block;
            pair *right = keys_k + key_blocks * deep * packed_block, *left = right + key_blocks * packed_block;
            pair *left_p = left + packed_block;
            float *scores = scratch + thread * floats, *products = scores + block, *dkeys = products + block;
            float *dvalues = dkeys + key_blocks * deep * block, *dqueries = dvalues + key_blocks * deep * block;
            float *shift = dqueries + all_queries * deep * block, *delta = shift + all_queries * side;
            float *scales = delta + all_queries * side;
            const float *queries = q.data + b * q.batch + h * q.head, *grads = g.data + b * g.batch + h * g.head;
            const float *outputs = out.data + b * out.batch + h * out.head;
            const float *row_lse = lse + (b * s.heads + h) * s.queries;

            for (idx i = 0; i < all_queries * side; ++i) {
                const bool there = i < s.queries;
                shift[i] = there && row_lse[i] != -infinity<float> ? row_lse[i] : 0.0f;
                vec<float> total = splat<float>(0);
                if (there)
                    for_vectors<float>(grads + i * g.position, s.depth, 0.0f, [&](idx d, vec<float> x, idx count) {
                        total += x * load_n(outputs + i * out.position + d, count);
                    });
                delta[i] = sum<float>(total);
            }
            for (idx i = 0; i < side; ++i)
                scales[i] = scale;
            pack_factor(queries, q.position, 1, s.queries, s.depth, true, queries_d);
            pack_factor(grads, g.position, 1, s.queries, s.depth, true, grads_d);
            for (idx i = 0; i < all_queries; ++i) {
                const idx n = smaller(side, s.queries - i * side);
                pack_factor(queries + i * side * q.position, 1, q.position, s.depth, n, true,
                            queries_q + i * deep * packed_block);
                pack_factor(grads + i * side * g.position, 1, g.position, s.depth, n, true,
                            grads_q + i * deep * packed_block);
            }
            zero(dqueries, all_queries * deep * block);
            for (idx k0 = 0; k0 < s.keys; k0 += key_block) {
                const idx keys = smaller(key_block, s.keys - k0), here = blocks_of(keys);
                const float *keys_from = k.data + b * k.batch + h * k.head + k0 * k.position;
                const float *values_from = v.data + b * v.batch + h * v.head + k0 * v.position;
                pack_factor(keys_from, k.position, 1, keys, s.depth, false, keys_d);
                pack_factor(values_from, v.position, 1, keys, s.depth, false, values_d);
                pack_factor(keys_from, 1, k.position, s.depth, keys, false, keys_k);
                zero(dkeys, 2 * key_blocks * deep * block);
                for (idx i = 0; i < all_queries; ++i) {
                    const idx q0 = i * side, n = smaller(side, s.queries - q0);
                    const idx blocks = blocks_of(seen_keys(mask, s, q0 + n - 1, k0, keys)), at = i * deep;
                    for (idx j = 0; j < blocks; ++j) {
                        multiply_fresh(deep, keys_d + j * deep * packed_block, queries_d + at * packed_block, scores,
                                       sum_over(s.depth));
                        multiply_fresh(deep, values_d + j * deep * packed_block, grads_d + at * packed_block, products,
                                       sum_over(s.depth));
                        hide(mask, s, b, q0, k0 + j * side, scores);
                        differentiate(scores, products, scale, shift + q0, delta + q0, left_p, left,
                                      right + j * packed_block);
                        for (idx d = 0; d < deep; ++d) {
                            multiply_more(1, left_p, grads_q + (at + d) * packed_block,
                                          dvalues + (j * deep + d) * block, columns_of(s.depth));
                            multiply_more(1, left, queries_q + (at + d) * packed_block, dkeys + (j * deep + d) * block,
                                          columns_of(s.depth));
                        }
                    }
                    for (idx d = 0; d < deep; ++d)
                        multiply_more(blocks, keys_k + d * here * packed_block, right, dqueries + (at + d) * block,
                                      lines_of(s.depth));
                }
                for (idx j = 0; j < keys; ++j) {
                    const idx at = j / side * deep * block + j % side * side;
                    float *to_keys = dk.data + b * dk.batch + h * dk.head + (k0 + j) * dk.position;
                    float *to_values = dv.data + b * dv.batch + h * dv.head + (k0 + j) * dv.position;
                    for (idx d = 0; d < s.depth; d += tile_side) {
                        const idx from = at + d / side * block + d % side, count = smaller(tile_side, s.depth - d);
                        store_n(to_keys + d, load(dkeys + from) * splat<float>(scale), count);
                        store_n(to_values + d, load(dvalues + from), count);
                    }
                }
            }
            for (idx i = 0; i < all_queries; ++i)
                turn_back(dqueries + i * deep * block, scales, smaller(side, s.queries - i * side), s.depth,
                          dq.data + b * dq.batch + h * dq.head + i * side * dq.position, dq.position);
        },
        threads);
}

} // namespace
} // namespace tinydiff
