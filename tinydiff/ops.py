"""The operations a transformer is made of: each a forward pass and its vjp, side by side, over `tinydiff.kernels`."""

from __future__ import annotations

from typing import Literal

import numpy as np

from . import kernels
from .arrays import Bools, Floats, Ints
from .tensor import Tensor

Precision = Literal["full", "bfloat16"]
"""Of products: of the numbers as they are, or rounded to bfloat16, sums in float32 (Kalamkar et al. 2019)."""


def _rounds(x: Tensor, precision: Precision) -> bool:
    """Whether the factors of products with x are rounded to bfloat16."""
    if precision not in ("full", "bfloat16"):
        raise ValueError(f"precision is {precision!r}; expected 'full' or 'bfloat16'")
    if precision == "bfloat16" and x.dtype != np.float32:
        raise TypeError(f"x has dtype {x.dtype}, but products in bfloat16 are of float32; use precision='full'")
    return precision == "bfloat16"


def linear(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None, precision: Precision = "full"
) -> Tensor:
    """x @ weight + bias + residual: (..., I), (I, O), (O,), (..., O) -> (..., O).

    Adding the residual stream here saves a pass over memory. `precision` is that of all three products, forward and
    backward; what is kept is as precise as before.
    """
    half = _rounds(x, precision)
    if weight.ndim != 2 or x.shape[-1] != weight.shape[0]:
        raise ValueError(f"x has shape {x.shape} and weight {weight.shape}; expected (..., I) and (I, O)")
    shape = (*x.shape[:-1], weight.shape[1])
    if residual is not None and residual.shape != shape:
        raise ValueError(f"residual has shape {residual.shape}; expected {shape}")
    rows = x.data.reshape(-1, x.shape[-1])  # one matrix product, not one per sequence
    added = None if residual is None else residual.data.reshape(-1, shape[-1])
    out = kernels.matmul(rows, weight.data, bias.data, added, half)

    def vjp(g: Floats) -> tuple[Floats | None, ...]:
        flat = g.reshape(-1, g.shape[-1])
        dx = kernels.matmul(flat, weight.data.T, bfloat16=half).reshape(x.shape) if x.requires_grad else None
        grads = (dx, kernels.matmul(rows.T, flat, bfloat16=half), kernels.column_sum(flat))
        return grads if residual is None else (*grads, g)

    parents = (x, weight, bias) if residual is None else (x, weight, bias, residual)
    return Tensor.from_op(out.reshape(shape), parents, vjp)


def embedding(table: Tensor, ids: Ints) -> Tensor:
    """Rows of a (V, D) table: ids (...) -> (..., D)."""
    if ids.size and not (ids.min() >= 0 and ids.max() < len(table.data)):
        bad = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"ids contains {bad}; expected 0 <= id < {len(table.data)}")

    def vjp(g: Floats) -> tuple[Floats]:
        # Summing the rows of equal ids as a product with their one-hot matrix would be V times the work; sorting the
        # ids makes equal ones neighbours, and reduceat adds each run of them up.
        order = np.argsort(ids, axis=None, kind="stable")
        flat = ids.reshape(-1)[order]
        starts = np.flatnonzero(np.diff(flat, prepend=-1))
        full = np.zeros_like(table.data)
        if len(starts):
            full[flat[starts]] = np.add.reduceat(g.reshape(-1, g.shape[-1])[order], starts, axis=0)
        return (full,)

    return Tensor.from_op(table.data[ids], (table,), vjp)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Layer normalisation over the last axis (Ba et al. 2016)."""
    out, mean, rstd = kernels.layer_norm(x.data, weight.data, bias.data)

    def vjp(g: Floats) -> tuple[Floats, Floats, Floats]:
        return kernels.layer_norm_backward(g, x.data, weight.data, mean, rstd)

    return Tensor.from_op(out, (x, weight, bias), vjp)


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form (Hendrycks and Gimpel 2016)."""
    return Tensor.from_op(kernels.gelu(x.data), (x,), lambda g: (kernels.gelu_backward(g, x.data),))


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis."""
    p = kernels.softmax(x.data)

    def vjp(g: Floats) -> tuple[Floats]:
        return (p * (g - (g * p).sum(axis=-1, keepdims=True)),)

    return Tensor.from_op(p, (x,), vjp)


def log_softmax(x: Tensor) -> Tensor:
    """Logarithm of the softmax over the last axis."""
    out = kernels.log_softmax(x.data)

    def vjp(g: Floats) -> tuple[Floats]:
        return (g - np.exp(out) * g.sum(axis=-1, keepdims=True),)

    return Tensor.from_op(out, (x,), vjp)


def cross_entropy(logits: Tensor, targets: Ints) -> Tensor:
    """-log softmax(logits)[target] per row, in nats: (N, V), (N,) -> (N,)."""
    nll, lse = kernels.cross_entropy(logits.data, targets)

    def vjp(g: Floats) -> tuple[Floats]:
        return (kernels.cross_entropy_backward(g, logits.data, targets, lse),)

    return Tensor.from_op(nll, (logits,), vjp)


def rotary(qkv: Tensor, cos: Floats, sin: Floats) -> Tensor:
    """Turn queries and keys of a packed (B, L, 3, H, D) by the angles of their positions (Su et al. 2021).

    cos and sin are (L, D/2), or (B, L, D/2) where sequences differ in their positions.
    """
    return Tensor.from_op(kernels.rotary(qkv.data, cos, sin), (qkv,), lambda g: (kernels.rotary(g, cos, -sin),))


def self_attention(qkv: Tensor, mask: Bools | None = None, causal: int = 0, precision: Precision = "full") -> Tensor:
    """Multi-head attention of a sequence to itself: packed (B, L, 3, H, D) -> (B, L, H * D).

    The kernel reads queries, keys and values where they lie in `qkv` and writes their gradients likewise: no copies.

    Parameters
    ----------
    mask : (L, L) or (B, L, L), True where the row's position may see the column's; None for all
    causal : 0, or the length b of blocks: position i sees positions j with j // b <= i // b; 1 is left to right
    precision : of all products, forward and backward; the softmax is never rounded

    """
    half = _rounds(qkv, precision)
    q, k, v = (qkv.data[:, :, i] for i in range(3))  # (B, L, H, D) views
    out, lse = kernels.attention(q, k, v, mask, causal, half)
    merged = (*out.shape[:2], -1) if out.size else (*out.shape[:2], out.shape[2] * out.shape[3])

    def vjp(g: Floats) -> tuple[Floats]:
        d = np.empty(qkv.shape, qkv.dtype)
        dq, dk, dv = (d[:, :, i] for i in range(3))
        kernels.attention_backward(g.reshape(out.shape), q, k, v, out, lse, dq, dk, dv, mask, causal, half)
        return (d,)

    return Tensor.from_op(out.reshape(merged), (qkv,), vjp)


def take_rows(x: Tensor, at: Bools) -> Tensor:
    """The rows of x (..., D) where the mask (...) is True, as (n, D)."""
    if at.shape != x.shape[:-1]:
        raise ValueError(f"at has shape {at.shape}; expected {x.shape[:-1]}")

    def vjp(g: Floats) -> tuple[Floats]:
        full = np.zeros_like(x.data)
        full[at] = g
        return (full,)

    return Tensor.from_op(x.data[at], (x,), vjp)


def append_zero(x: Tensor) -> Tensor:
    """One more entry at the end of the last axis, 0: (..., V) to (..., V + 1)."""
    out = np.zeros((*x.shape[:-1], x.shape[-1] + 1), x.dtype)
    out[..., :-1] = x.data
    return Tensor.from_op(out, (x,), lambda g: (g[..., :-1],))


def expected_log(p: Tensor, weight: Floats) -> Tensor:
    """sum_v weight_v log p_v over the last axis, with 0 log 0 = 0: (..., V), (..., V) -> (...).

    Probabilities that underflow count as the smallest normal number: a wrong certainty costs much, but not infinity.
    """
    floor = np.finfo(p.dtype).tiny
    clamped, weight = np.maximum(p.data, floor), weight.astype(p.dtype, copy=False)

    def vjp(g: Floats) -> tuple[Floats]:
        return (np.where(p.data > floor, g[..., None] * weight / clamped, 0),)

    return Tensor.from_op((weight * np.log(clamped)).sum(axis=-1), (p,), vjp)


def score_entropy(log_score: Tensor, ratio: Floats, weight: Floats) -> Tensor:
    """sum_y weight_y (s_y - r_y log s_y + r_y (log r_y - 1)) for scores s = exp(log_score): (..., V) -> (...).

    The Bregman divergence of x log x (Lou et al. 2023, definition 3.1): never negative for weights that are not, and 0
    exactly where s = r. Ratios may be 0.
    """
    score = np.exp(log_score.data)
    ratio, weight = ratio.astype(score.dtype, copy=False), weight.astype(score.dtype, copy=False)
    own = ratio * (np.log(ratio, out=np.zeros_like(ratio), where=ratio > 0) - 1)

    def vjp(g: Floats) -> tuple[Floats]:
        return (g[..., None] * weight * (score - ratio),)

    return Tensor.from_op((weight * (score - ratio * log_score.data + own)).sum(axis=-1), (log_score,), vjp)
