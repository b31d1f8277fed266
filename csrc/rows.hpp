// Kernels that treat each row, or each element, on its own: softmax, cross-entropy, layer norm, GELU, rotary, AdamW.
#pragma once

#include "parallel.hpp"

namespace {

template <class T> inline T row_max(const T *x, idx n) {
    vec<T> best = splat<T>(-infinity<T>);
    for_vectors<T>(x, n, -infinity<T>, [&](idx, vec<T> v, idx) { best = vmax<T>(best, v); });
    return maximum<T>(best);
}

// log(sum(exp(x))) without overflow; a row of -inf gives -inf, NaN gives NaN.
template <class T> inline T row_lse(const T *x, idx n) {
    const T top = row_max(x, n);
    if (top == -infinity<T>) {
        T total = top; // -inf, unless the row holds NaN, which the maximum does not see
        for (idx j = 0; j < n; ++j)
            total += x[j];
        return total;
    }
    vec<T> total = splat<T>(T(0));
    for_vectors<T>(x, n, -infinity<T>, [&](idx, vec<T> v, idx) { total += vexp<T>(v - splat<T>(top)); });
    return top + std::log(sum<T>(total));
}

template <class T> void softmax(const T *x, T *y, idx rows, idx n) {
    parallel_for(rows, 8 * n, [=](idx r, idx) {
        const T *in = x + r * n;
        T *out = y + r * n;
        const vec<T> top = splat<T>(row_max(in, n));
        vec<T> total = splat<T>(T(0));
        for_vectors<T>(in, n, -infinity<T>, [&](idx j, vec<T> v, idx count) {
            v = vexp<T>(v - top);
            total += v; // exp(-inf) adds nothing for the lanes past the end
            store_n(out + j, v, count);
        });
        const T whole = sum<T>(total);
        for_vectors<T>(out, n, T(0),
                       [&](idx j, vec<T> v, idx count) { store_n<T>(out + j, v / splat<T>(whole), count); });
    });
}

template <class T> void log_softmax(const T *x, T *y, idx rows, idx n) {
    parallel_for(rows, 8 * n, [=](idx r, idx) {
        const T *in = x + r * n;
        const vec<T> lse = splat<T>(row_lse(in, n));
        for_vectors<T>(in, n, T(0), [&](idx j, vec<T> v, idx count) { store_n<T>(y + r * n + j, v - lse, count); });
    });
}

template <class T> void cross_entropy(const T *logits, const std::int64_t *targets, T *nll, T *lse, idx rows, idx n) {
    parallel_for(rows, 8 * n, [=](idx r, idx) {
        lse[r] = row_lse(logits + r * n, n);
        nll[r] = lse[r] - logits[r * n + targets[r]];
    });
}

template <class T>
void cross_entropy_backward(const T *g, const T *logits, const std::int64_t *targets, const T *lse, T *dlogits,
                            idx rows, idx n) {
    parallel_for(rows, 8 * n, [=](idx r, idx) {
        T *out = dlogits + r * n;
        const vec<T> shift = splat<T>(lse[r]), scale = splat<T>(g[r]);
        for_vectors<T>(logits + r * n, n, T(0),
                       [&](idx j, vec<T> v, idx count) { store_n<T>(out + j, scale * vexp<T>(v - shift), count); });
        const T p = vexp<T>(splat<T>(logits[r * n + targets[r]]) - shift)[0];
        out[targets[r]] = std::isfinite(g[r]) ? out[targets[r]] - g[r] : (p - 1) * g[r]; // inf - inf would be NaN
    });
}

template <class T>
void layer_norm(const T *x, const T *weight, const T *bias, T eps, T *y, T *mean, T *rstd, idx rows, idx n) {
    parallel_for(rows, 6 * n, [=](idx r, idx) {
        const T *in = x + r * n;
        vec<T> total = splat<T>(T(0)), squares = total;
        for_vectors<T>(in, n, T(0), [&](idx, vec<T> v, idx) { total += v; });
        const T mu = sum<T>(total) / T(n);
        for_vectors<T>(in, n, mu, [&](idx, vec<T> v, idx) {
            const vec<T> d = v - splat<T>(mu);
            squares += d * d;
        });
        const T scale = T(1) / std::sqrt(sum<T>(squares) / T(n) + eps);
        mean[r] = mu;
        rstd[r] = scale;
        for_vectors<T>(in, n, T(0), [&](idx j, vec<T> v, idx count) {
            const vec<T> normal = (v - splat<T>(mu)) * splat<T>(scale);
            store_n<T>(y + r * n + j, normal * load_n(weight + j, count) + load_n(bias + j, count), count);
        });
    });
}

// With h = (x - mean) * rstd and d = g * weight:  dx = rstd * (d - mean(d) - h * mean(d * h)).
// dweight and dbias sum over rows: each block of rows has its own partial sum, added up in order.
template <class T>
void layer_norm_backward(const T *g, const T *x, const T *weight, const T *mean, const T *rstd, T *dx, T *dweight,
                         T *dbias, idx rows, idx n) {
    constexpr idx block = 128;
    const idx blocks = (rows + block - 1) / block, width = padded<T>(n);
    const Scratch<T> partial(blocks * 2 * width);
    parallel_for(blocks, 12 * block * n, [&](idx b, idx) {
        T *dw = partial + b * 2 * width, *db = dw + width;
        std::memset(dw, 0, static_cast<std::size_t>(2 * width) * sizeof(T));
        const idx last = (b + 1) * block < rows ? (b + 1) * block : rows;
        for (idx r = b * block; r < last; ++r) {
            const T *in = x + r * n, *grad = g + r * n;
            const vec<T> mu = splat<T>(mean[r]), scale = splat<T>(rstd[r]);
            vec<T> sum_d = splat<T>(T(0)), sum_dh = sum_d;
            for_vectors<T>(grad, n, T(0), [&](idx j, vec<T> gv, idx count) {
                const vec<T> h = (load_n(in + j, count) - mu) * scale;
                const vec<T> d = gv * load_n(weight + j, count);
                sum_d += d;
                sum_dh += d * h;
                store(dw + j, load(dw + j) + gv * h); // padded: whole vectors even at the end of the row
                store(db + j, load(db + j) + gv);
            });
            const vec<T> mean_d = splat<T>(sum<T>(sum_d) / T(n)), mean_dh = splat<T>(sum<T>(sum_dh) / T(n));
            for_vectors<T>(grad, n, T(0), [&](idx j, vec<T> gv, idx count) {
                const vec<T> h = (load_n(in + j, count) - mu) * scale;
                const vec<T> d = gv * load_n(weight + j, count);
                store_n<T>(dx + r * n + j, scale * (d - mean_d - h * mean_dh), count);
            });
        }
    });
    for (idx j = 0; j < n; ++j) {
        T dw = 0, db = 0;
        for (idx b = 0; b < blocks; ++b) {
            dw += *(partial + b * 2 * width + j);
            db += *(partial + (b * 2 + 1) * width + j);
        }
        dweight[j] = dw;
        dbias[j] = db;
    }
}

// Sum over rows. A task owns a panel of columns and adds up its rows in order.
template <class T> void column_sum(const T *x, T *sums, idx rows, idx n) {
    constexpr idx panel = 4 * lanes<T>;
    parallel_for((n + panel - 1) / panel, panel * rows, [=](idx p, idx) {
        const idx width = n - p * panel < panel ? n - p * panel : panel;
        if (width == panel) {
            vec<T> total[4] = {};
            for (idx r = 0; r < rows; ++r)
                for (idx v = 0; v < 4; ++v)
                    total[v] += load(x + r * n + p * panel + v * lanes<T>);
            for (idx v = 0; v < 4; ++v)
                store(sums + p * panel + v * lanes<T>, total[v]);
            return;
        }
        for (idx j = p * panel; j < n; ++j)
            sums[j] = T(0);
        for (idx r = 0; r < rows; ++r)
            for (idx j = p * panel; j < n; ++j)
                sums[j] += x[r * n + j];
    });
}

// GELU by its tanh form, x/2 (1 + tanh u) with u = sqrt(2/pi) (x + 0.044715 x^3), which equals x sigmoid(2u).
template <class T> constexpr T gelu_slope = T(1.5957691216057308); // 2 sqrt(2/pi)
template <class T> constexpr T gelu_cubic = T(0.044715);

template <class T> inline vec<T> gelu_sigmoid(vec<T> x) {
    const vec<T> u2 = splat<T>(gelu_slope<T>) * x * (splat<T>(T(1)) + splat<T>(gelu_cubic<T>) * x * x);
    return splat<T>(T(1)) / (splat<T>(T(1)) + vexp<T>(-u2));
}

constexpr idx element_block = 4096; // elements per task of an element-wise kernel

// Cuts n elements into tasks and calls body(offset, v, count) for every vector of them.
template <class T, class Body> inline void for_elements(const T *x, idx n, idx cost, Body body) {
    parallel_for((n + element_block - 1) / element_block, cost * element_block, [=](idx b, idx) {
        const idx start = b * element_block, left = n - start;
        for_vectors<T>(x + start, left < element_block ? left : element_block, T(0),
                       [&](idx j, vec<T> v, idx count) { body(start + j, v, count); });
    });
}

template <class T> void gelu(const T *x, T *y, idx n) {
    for_elements<T>(x, n, 8, [=](idx j, vec<T> v, idx count) { store_n<T>(y + j, v * gelu_sigmoid<T>(v), count); });
}

template <class T> void gelu_backward(const T *g, const T *x, T *dx, idx n) {
    for_elements<T>(x, n, 10, [=](idx j, vec<T> v, idx count) {
        const vec<T> s = gelu_sigmoid<T>(v);
        const vec<T> far = splat<T>(T(100)); // where s (1 - s) has long been 0, but 0 times an infinite u' would be NaN
        const vec<T> near = v < -far ? -far : (v > far ? far : v);
        const vec<T> du2 = splat<T>(gelu_slope<T>) * (splat<T>(T(1)) + splat<T>(T(3) * gelu_cubic<T>) * near * near);
        store_n<T>(dx + j, load_n(g + j, count) * (s + v * s * (splat<T>(T(1)) - s) * du2), count);
    });
}

// Rotary positions (Su et al. 2021): element j < D/2 of each query and key head turns with element j + D/2 by the
// angle whose cosine and sine are given per position; values are copied. qkv is (B, L, 3, H, D), cos and sin (L, D/2),
// or (B, L, D/2) if `per_sequence`.
template <class T>
void rotary(const T *qkv, const T *cos, const T *sin, bool per_sequence, T *out, idx batch, idx length, idx heads,
            idx depth) {
    const idx half = depth / 2, row = 3 * heads * depth;
    parallel_for(batch * length, 2 * row, [=](idx r, idx) {
        const idx position = per_sequence ? r : r % length;
        const T *in = qkv + r * row, *c = cos + position * half, *s = sin + position * half;
        T *to = out + r * row;
        for (idx h = 0; h < 2 * heads; ++h) {
            const T *a = in + h * depth, *b = a + half;
            T *turned = to + h * depth;
            for_vectors<T>(a, half, T(0), [&](idx j, vec<T> av, idx count) {
                const vec<T> bv = load_n(b + j, count), cv = load_n(c + j, count), sv = load_n(s + j, count);
                store_n<T>(turned + j, av * cv - bv * sv, count);
                store_n<T>(turned + half + j, av * sv + bv * cv, count);
            });
        }
        std::memcpy(to + 2 * heads * depth, in + 2 * heads * depth,
                    static_cast<std::size_t>(heads * depth) * sizeof(T));
    });
}

// AdamW (Loshchilov and Hutter 2019), in place. new1 and new2 are 1 - beta, correction1 and 2 are 1 - beta^step: the
// caller computes them in double, because in float 1 - 0.999 has lost half of its digits.
template <class T>
void adamw(T *p, const T *g, T *m, T *v, T lr, T new1, T new2, T eps, T weight_decay, T correction1, T correction2,
           idx n) {
    for_elements<T>(g, n, 10, [=](idx j, vec<T> grad, idx count) {
        const vec<T> m0 = load_n(m + j, count), v0 = load_n(v + j, count), old = load_n(p + j, count);
        const vec<T> m1 = m0 + splat<T>(new1) * (grad - m0), v1 = v0 + splat<T>(new2) * (grad * grad - v0);
        const vec<T> step = (m1 / splat<T>(correction1)) / (vsqrt<T>(v1 / splat<T>(correction2)) + splat<T>(eps));
        store_n<T>(m + j, m1, count);
        store_n<T>(v + j, v1, count);
        store_n<T>(p + j, old - splat<T>(lr) * (step + splat<T>(weight_decay) * old), count);
    });
}

} // namespace
