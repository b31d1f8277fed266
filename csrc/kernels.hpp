// What bindings.cpp may call: one table of function pointers per instruction set and element type.
//
// Arrays are row-major and contiguous unless a stride is passed. Shapes are checked by the caller: a kernel trusts
// them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tinydiff {

using idx = std::ptrdiff_t;

// A (B, L, H, D) view whose last axis is contiguous; strides in elements. Packed qkv is read through three of these.
template <class T> struct Heads {
    T *data;
    idx batch, position, head;
};

// Which keys a query sees. `allowed` is null or a boolean (B, Lq, Lk) view with strides (0 where it is broadcast).
// `causal` is 0, or the length b of blocks that see themselves and those before. Queries are aligned with the last
// keys: query i is in block (i + keys - queries) / b, key j in j / b.
struct Mask {
    const bool *allowed;
    idx batch, query, key;
    idx causal;
};

struct AttentionShape {
    idx batch, queries, keys, heads, depth;
};

template <class T> struct Kernels {
    // C (m x n) = A (m x k) B (k x n) + bias (n) + residual (m x n), the last two may be null;
    // A(i, k) is a[i * ai + k * ak], B(k, j) is b[k * bk + j * bj].
    void (*matmul)(const T *a, idx ai, idx ak, const T *b, idx bk, idx bj, const T *bias, const T *residual, T *c,
                   idx m, idx k, idx n);
    void (*column_sum)(const T *x, T *sums, idx rows, idx n);
    void (*softmax)(const T *x, T *y, idx rows, idx n);
    void (*log_softmax)(const T *x, T *y, idx rows, idx n);
    void (*cross_entropy)(const T *logits, const std::int64_t *targets, T *nll, T *lse, idx rows, idx n);
    void (*cross_entropy_backward)(const T *g, const T *logits, const std::int64_t *targets, const T *lse, T *dlogits,
                                   idx rows, idx n);
    void (*layer_norm)(const T *x, const T *weight, const T *bias, T eps, T *y, T *mean, T *rstd, idx rows, idx n);
    void (*layer_norm_backward)(const T *g, const T *x, const T *weight, const T *mean, const T *rstd, T *dx,
                                T *dweight, T *dbias, idx rows, idx n);
    void (*gelu)(const T *x, T *y, idx n);
    void (*gelu_backward)(const T *g, const T *x, T *dx, idx n);
    // cos and sin are (L, D/2), or (B, L, D/2) if `per_sequence`.
    void (*rotary)(const T *qkv, const T *cos, const T *sin, bool per_sequence, T *out, idx batch, idx length,
                   idx heads, idx depth);
    void (*topk)(const T *x, T *values, std::int64_t *indices, idx rows, idx n, idx k);
    void (*attention)(AttentionShape s, Heads<const T> q, Heads<const T> k, Heads<const T> v, Mask mask, Heads<T> out,
                      T *lse);
    void (*attention_backward)(AttentionShape s, Heads<const T> g, Heads<const T> q, Heads<const T> k, Heads<const T> v,
                               Heads<const T> out, const T *lse, Mask mask, Heads<T> dq, Heads<T> dk, Heads<T> dv);
    void (*adamw)(T *p, const T *g, T *m, T *v, T lr, T new1, T new2, T eps, T weight_decay, T correction1,
                  T correction2, idx n);
    void (*orthogonalise)(const T *x, T *y, idx count, idx m, idx n);
};

// The same for float32 with what is multiplied rounded to bfloat16; see bfloat16.hpp.
struct KernelsBfloat16 {
    decltype(Kernels<float>::matmul) matmul;
    decltype(Kernels<float>::attention) attention;
    decltype(Kernels<float>::attention_backward) attention_backward;
};
namespace avx512_bf16 {
extern const KernelsBfloat16 kernels_bfloat16;
}
namespace amx {
extern const KernelsBfloat16 kernels_bfloat16;
}

#define TINYDIFF_DECLARE(isa)                                                                                          \
    namespace isa {                                                                                                    \
    extern const Kernels<float> kernels_f32;                                                                           \
    extern const Kernels<double> kernels_f64;                                                                          \
    }
TINYDIFF_DECLARE(baseline)
TINYDIFF_DECLARE(avx2)
TINYDIFF_DECLARE(avx512)

} // namespace tinydiff
