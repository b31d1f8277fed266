// Attention without the L x L matrix: scores are computed tile by tile and folded into a running softmax
// (Rabe and Staats 2021; Dao et al. 2022). Extra memory grows with L, not with its square.
//
// Both directions are a handful of small matrix products on tiles that stay in the cache: `multiply_add`.
#pragma once

#include "kernels.hpp"
#include "matmul.hpp"

namespace {

using tinydiff::AttentionShape;
using tinydiff::Heads;
using tinydiff::Mask;

// --- tiles ----------------------------------------------------------------------------------------------------------

constexpr idx key_block = 128;   // keys per tile
constexpr idx query_block = 48;  // queries per tile
constexpr idx query_group = 256; // queries per task of the forward pass: they share each packed key tile

template <class T> inline void zero(T *p, idx count) { std::memset(p, 0, static_cast<std::size_t>(count) * sizeof(T)); }

// rows x depth, each row padded with zeros.
template <class T> inline void pack(const T *from, idx stride, idx rows, idx depth, T *to) {
    for (idx i = 0; i < rows; ++i)
        for_vectors<T>(from + i * stride, depth, T(0),
                       [=](idx d, vec<T> v, idx) { store(to + i * padded<T>(depth) + d, v); });
}

// depth x key_block: the transpose, times `scale`, padded with zeros to whole vectors of keys.
template <class T> inline void pack_transposed(const T *from, idx stride, idx rows, idx depth, T scale, T *to) {
    for (idx i = 0; i < rows; i += lanes<T>)
        for (idx d = 0; d < depth; d += lanes<T>) {
            const idx high = smaller(lanes<T>, rows - i), wide = smaller(lanes<T>, depth - d);
            vec<T> square[lanes<T>];
            for (idx r = 0; r < lanes<T>; ++r)
                square[r] = r < high ? splat<T>(scale) * load_n(from + (i + r) * stride + d, wide) : vec<T>{};
            transpose_square<T>(square);
            for (idx r = 0; r < wide; ++r)
                store(to + (d + r) * key_block + i, square[r]);
        }
}

// rows x depth, from padded rows.
template <class T> inline void unpack(const T *from, idx rows, idx depth, T *to, idx stride) {
    for (idx i = 0; i < rows; ++i)
        for_vectors<T>(from + i * padded<T>(depth), depth, T(0),
                       [=](idx d, vec<T> v, idx count) { store_n(to + i * stride + d, v, count); });
}

// The scores of a few queries, from the keys in place: as each key is used so seldom, transposing would be most of the
// work.
template <class T>
inline void few_scores(idx queries, const T *q, idx q_stride, const T *k, idx k_stride, idx keys, idx depth, T scale,
                       T *scores) {
    const idx whole = depth / lanes<T> * lanes<T>;
    for (idx i = 0; i < queries; ++i)
        for (idx j = 0; j < keys; ++j) {
            const T *query = q + i * q_stride, *key = k + j * k_stride;
            vec<T> products = splat<T>(T(0));
            for (idx d = 0; d < whole; d += lanes<T>)
                products += load(query + d) * load(key + d);
            T total = sum<T>(products);
            for (idx d = whole; d < depth; ++d)
                total += query[d] * key[d];
            scores[i * key_block + j] = scale * total;
        }
}

// The first key that a query does not see: the end of its block, which may lie beyond the last key.
inline idx seen_until(const Mask &mask, const AttentionShape &s, idx query) {
    return ((query + s.keys - s.queries) / mask.causal + 1) * mask.causal;
}

// Sets the scores of keys that a query may not see to -inf, and those of the padding after the last key.
template <class T>
inline void apply_mask(const Mask &mask, const AttentionShape &s, idx b, idx q0, idx queries, idx k0, idx keys,
                       T *scores) {
    for (idx i = 0; i < queries; ++i) {
        T *row = scores + i * key_block;
        idx visible = keys;
        if (mask.causal) {
            const idx end = seen_until(mask, s, q0 + i) - k0;
            visible = end < 0 ? 0 : smaller(end, keys);
        }
        for (idx j = visible; j < padded<T>(keys); ++j)
            row[j] = -infinity<T>;
        if (mask.allowed) {
            const bool *allowed = mask.allowed + b * mask.batch + (q0 + i) * mask.query + k0 * mask.key;
            for (idx j = 0; j < visible; ++j)
                if (!allowed[j * mask.key])
                    row[j] = -infinity<T>;
        }
    }
}

// No query of the tile sees a key of it.
inline bool tile_hidden(const Mask &mask, const AttentionShape &s, idx q0, idx queries, idx k0) {
    return mask.causal && seen_until(mask, s, q0 + queries - 1) <= k0;
}

// --- forward --------------------------------------------------------------------------------------------------------
// Per query: m the largest score so far, l the sum of exp(score - m), o the sum of exp(score - m) v.
// A new tile with a larger maximum rescales l and o by exp(m_old - m_new).

template <class T> inline void fold_scores(T *scores, idx queries, idx keys, T *m, T *l, T *o, idx width) {
    for (idx i = 0; i < queries; ++i) {
        T *row = scores + i * key_block;
        vec<T> best = splat<T>(m[i]);
        for (idx j = 0; j < keys; j += lanes<T>)
            best = vmax<T>(best, load(row + j));
        const T top = maximum<T>(best);
        const T shift = top == -infinity<T> ? T(0) : top; // nothing visible yet: every exp below is 0
        vec<T> total = splat<T>(T(0));
        for (idx j = 0; j < keys; j += lanes<T>) {
            const vec<T> p = vexp<T>(load(row + j) - splat<T>(shift));
            total += p;
            store<T>(row + j, p);
        }
        if (top > m[i] && l[i] > T(0)) { // what was summed so far refers to the old maximum
            const T shrink = std::exp(m[i] - top);
            l[i] *= shrink;
            for (idx d = 0; d < width; d += lanes<T>)
                store<T>(o + i * width + d, load(o + i * width + d) * splat<T>(shrink));
        }
        m[i] = top;
        l[i] += sum<T>(total);
    }
}

template <class T>
void attention(AttentionShape s, Heads<const T> q, Heads<const T> k, Heads<const T> v, Mask mask, Heads<T> out,
               T *lse) {
    const idx width = padded<T>(s.depth), groups = (s.queries + query_group - 1) / query_group;
    const idx per_thread = s.depth * key_block + key_block * width + query_block * key_block +
                           query_group * (width + 2) + 3 * 64 / idx(sizeof(T));
    const idx threads = thread_count();
    const Scratch<T> scratch(threads * per_thread);
    const T scale = T(1) / std::sqrt(T(s.depth));
    parallel_for(
        s.batch * s.heads * groups, smaller(s.queries, query_group) * s.keys * s.depth,
        [&](idx task, idx thread) {
            const idx b = task / (s.heads * groups), h = task / groups % s.heads, first = task % groups * query_group;
            const idx rows = smaller(query_group, s.queries - first);
            T *keys_t = scratch + thread * per_thread, *values = keys_t + s.depth * key_block;
            T *scores = values + key_block * width, *o = scores + query_block * key_block;
            T *m = o + query_group * width, *l = m + query_group;
            zero(o, rows * width);
            for (idx i = 0; i < rows; ++i) {
                m[i] = -infinity<T>;
                l[i] = 0;
            }
            const T *queries = q.data + b * q.batch + h * q.head + first * q.position;
            for (idx k0 = 0; k0 < s.keys; k0 += key_block) {
                const idx keys = smaller(key_block, s.keys - k0);
                if (tile_hidden(mask, s, first, rows, k0))
                    break;
                const T *keys_at = k.data + b * k.batch + h * k.head + k0 * k.position;
                const bool few = rows < tile_rows;
                if (!few)
                    pack_transposed(keys_at, k.position, keys, s.depth, scale, keys_t);
                pack(v.data + b * v.batch + h * v.head + k0 * v.position, v.position, keys, s.depth, values);
                for (idx i = 0; i < rows; i += query_block) {
                    const idx n = smaller(query_block, rows - i);
                    if (tile_hidden(mask, s, first + i, n, k0))
                        continue;
                    if (few)
                        few_scores(n, queries + i * q.position, q.position, keys_at, k.position, keys, s.depth, scale,
                                   scores);
                    else
                        multiply<T>(n, s.depth, padded<T>(keys), strided(queries + i * q.position, q.position, 1),
                                    keys_t, key_block, scores, key_block);
                    apply_mask(mask, s, b, first + i, n, k0, keys, scores);
                    fold_scores(scores, n, padded<T>(keys), m + i, l + i, o + i * width, width);
                    multiply_add<T>(n, keys, width, strided<T>(scores, key_block, 1), values, width, o + i * width,
                                    width);
                }
            }
            for (idx i = 0; i < rows; ++i) {
                T *to = out.data + b * out.batch + h * out.head + (first + i) * out.position;
                const T inverse = l[i] == T(0) ? T(0) : T(1) / l[i]; // a query that sees nothing gets zeros
                for_vectors<T>(o + i * width, s.depth, T(0),
                               [=](idx d, vec<T> v, idx count) { store_n<T>(to + d, v * splat<T>(inverse), count); });
                lse[(b * s.heads + h) * s.queries + first + i] = m[i] + (l[i] == T(0) ? T(0) : std::log(l[i]));
            }
        },
        threads);
}

// --- backward -------------------------------------------------------------------------------------------------------
// With P = exp(S - lse) recomputed tile by tile, G the gradient of the output, and delta_i = sum_d G_id O_id:
//   dV = P^T G,   dS = P * (G V^T - delta),   dQ = dS K / sqrt(D),   dK = dS^T Q / sqrt(D).
// A task owns one (sequence, head), so no two threads add to the same place.

template <class T>
void attention_backward(AttentionShape s, Heads<const T> g, Heads<const T> q, Heads<const T> k, Heads<const T> v,
                        Heads<const T> out, const T *lse, Mask mask, Heads<T> dq, Heads<T> dk, Heads<T> dv) {
    const idx width = padded<T>(s.depth);
    const idx per_thread = 2 * s.depth * key_block + 3 * key_block * width + 2 * query_block * key_block +
                           2 * query_block * width + s.queries * width + s.queries + 64 / idx(sizeof(T));
    const idx threads = thread_count();
    const Scratch<T> scratch(threads * per_thread);
    const T scale = T(1) / std::sqrt(T(s.depth));
    parallel_for(
        s.batch * s.heads, s.queries * s.keys * s.depth,
        [&](idx task, idx thread) {
            const idx b = task / s.heads, h = task % s.heads;
            T *keys_t = scratch + thread * per_thread, *values_t = keys_t + s.depth * key_block;
            T *keys_p = values_t + s.depth * key_block, *dkeys = keys_p + key_block * width;
            T *dvalues = dkeys + key_block * width, *p = dvalues + key_block * width, *ds = p + query_block * key_block;
            T *queries_p = ds + query_block * key_block, *grads_p = queries_p + query_block * width;
            T *dqueries = grads_p + query_block * width, *delta = dqueries + s.queries * width;
            const T *queries = q.data + b * q.batch + h * q.head, *grads = g.data + b * g.batch + h * g.head;
            const T *outputs = out.data + b * out.batch + h * out.head;
            const T *row_lse = lse + (b * s.heads + h) * s.queries;

            zero(dqueries, s.queries * width);
            for (idx i = 0; i < s.queries; ++i) {
                vec<T> total = splat<T>(T(0));
                for_vectors<T>(grads + i * g.position, s.depth, T(0), [&](idx d, vec<T> v, idx count) {
                    total += v * load_n(outputs + i * out.position + d, count);
                });
                delta[i] = sum<T>(total);
            }
            for (idx k0 = 0; k0 < s.keys; k0 += key_block) {
                const idx keys = smaller(key_block, s.keys - k0), columns = padded<T>(keys);
                const T *keys_from = k.data + b * k.batch + h * k.head + k0 * k.position;
                const T *values_from = v.data + b * v.batch + h * v.head + k0 * v.position;
                pack_transposed(keys_from, k.position, keys, s.depth, scale, keys_t);
                pack_transposed(values_from, v.position, keys, s.depth, T(1), values_t);
                pack(keys_from, k.position, keys, s.depth, keys_p);
                zero(dkeys, 2 * key_block * width);
                for (idx i = 0; i < s.queries; i += query_block) {
                    const idx n = smaller(query_block, s.queries - i);
                    if (tile_hidden(mask, s, i, n, k0))
                        continue;
                    pack(queries + i * q.position, q.position, n, s.depth, queries_p);
                    pack(grads + i * g.position, g.position, n, s.depth, grads_p);
                    multiply<T>(n, s.depth, columns, strided<T>(queries_p, width, 1), keys_t, key_block, p, key_block);
                    multiply<T>(n, s.depth, columns, strided<T>(grads_p, width, 1), values_t, key_block, ds, key_block);
                    apply_mask(mask, s, b, i, n, k0, keys, p);
                    for (idx r = 0; r < n; ++r) {
                        const bool blind = row_lse[i + r] == -infinity<T>;
                        const vec<T> shift = splat<T>(blind ? T(0) : row_lse[i + r]), d = splat<T>(delta[i + r]);
                        for (idx j = 0; j < columns; j += lanes<T>) {
                            const vec<T> prob = vexp<T>(load(p + r * key_block + j) - shift);
                            store<T>(p + r * key_block + j, prob);
                            store<T>(ds + r * key_block + j,
                                     splat<T>(scale) * prob * (load(ds + r * key_block + j) - d));
                        }
                    }
                    multiply_add<T>(keys, n, width, strided<T>(p, 1, key_block), grads_p, width, dvalues, width);
                    multiply_add<T>(keys, n, width, strided<T>(ds, 1, key_block), queries_p, width, dkeys, width);
                    multiply_add<T>(n, keys, width, strided<T>(ds, key_block, 1), keys_p, width, dqueries + i * width,
                                    width);
                }
                unpack(dkeys, keys, s.depth, dk.data + b * dk.batch + h * dk.head + k0 * dk.position, dk.position);
                unpack(dvalues, keys, s.depth, dv.data + b * dv.batch + h * dv.head + k0 * dv.position, dv.position);
            }
            unpack(dqueries, s.queries, s.depth, dq.data + b * dq.batch + h * dq.head, dq.position);
        },
        threads);
}

} // namespace
