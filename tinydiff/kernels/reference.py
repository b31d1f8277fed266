"""Every kernel in NumPy: the specification that the native kernels are tested against.

Arrays are float32 or float64 and results keep the dtype. Each function says what it computes in as few lines as NumPy
allows; speed is the business of `csrc/`. Backward functions take the gradient `g` of the output first.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Bools, Floats, Ints

QUERY_BLOCK = 128  # attention looks at this many queries at a time, so that memory is linear in L


def _check(condition: bool, name: str, array: NDArray[Any], expected: str) -> None:
    if not condition:
        raise ValueError(f"{name} has shape {array.shape}; expected {expected}")


def _rounded(x: Floats) -> Floats:
    """The nearest bfloat16 of every float32, itself as float32: 8 bits of mantissa, ties to the even one.

    What is below the normal range, 1.2e-38, becomes 0, as in the instructions of CPUs.
    """
    bits = np.where(np.abs(x) < np.finfo(np.float32).tiny, np.float32(0), x).view(np.uint32)
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, nearest.view(np.float32))


def _factors(bfloat16: bool, name: str, *arrays: Floats) -> tuple[Floats, ...]:
    """What is multiplied: the arrays, of which the first has that name, or their bfloat16."""
    if bfloat16 and arrays[0].dtype != np.float32:
        raise TypeError(f"{name} has dtype {arrays[0].dtype}; expected float32 for a product in bfloat16")
    return tuple(map(_rounded, arrays)) if bfloat16 else arrays


def matmul(
    a: Floats, b: Floats, bias: Floats | None = None, residual: Floats | None = None, bfloat16: bool = False
) -> Floats:
    """Matrix product a @ b + bias + residual: (m, k), (k, n), (n,), (m, n) -> (m, n). Transposed views are fine.

    With `bfloat16`, for float32: a and b are rounded to bfloat16 first; sums, bias and residual are not.
    """
    a, b = _factors(bfloat16, "a", a, b)
    _check(a.ndim == 2, "a", a, "two axes")
    _check(b.ndim == 2 and b.shape[0] == a.shape[1], "b", b, f"({a.shape[1]}, n)")
    c = a @ b
    if bias is not None:
        _check(bias.shape == c.shape[1:], "bias", bias, f"({c.shape[1]},)")
        c += bias
    if residual is not None:
        _check(residual.shape == c.shape, "residual", residual, str(c.shape))
        c += residual
    return np.asarray(c)


def column_sum(x: Floats) -> Floats:
    """Sum over the rows: (m, n) -> (n,)."""
    _check(x.ndim == 2, "x", x, "two axes")
    return np.asarray(x.sum(axis=0))


def softmax(x: Floats) -> Floats:
    """Softmax over the last axis. A row of -inf only gives NaN."""
    if x.size == 0:
        return x.copy()
    with np.errstate(invalid="ignore"):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _lse(x: Floats) -> Floats:
    """log(sum(exp(x))) over the last axis, kept as an axis of one; -inf for a row of -inf."""
    with np.errstate(divide="ignore", invalid="ignore"):
        top = x.max(axis=-1, keepdims=True, initial=-np.inf)
        shift = np.where(np.isneginf(top), 0, top).astype(x.dtype)
        return np.asarray(shift + np.log(np.exp(x - shift).sum(axis=-1, keepdims=True)))


def log_softmax(x: Floats) -> Floats:
    """Logarithm of the softmax over the last axis."""
    if x.size == 0:
        return x.copy()
    with np.errstate(invalid="ignore"):
        return np.asarray(x - _lse(x))


def _check_targets(logits: Floats, targets: Ints) -> None:
    _check(logits.ndim == 2, "logits", logits, "two axes")
    _check(targets.shape == logits.shape[:1], "targets", targets, f"({len(logits)},)")
    outside = np.flatnonzero((targets < 0) | (targets >= logits.shape[1]))
    if len(outside):
        i = outside[0]
        raise ValueError(f"targets[{i}] is {targets[i]}; expected 0 <= target < {logits.shape[1]}")


def cross_entropy(logits: Floats, targets: Ints) -> tuple[Floats, Floats]:
    """-log softmax(logits)[target] per row.

    Parameters
    ----------
    logits : (N, V)
    targets : (N,) int64 in [0, V)

    Returns
    -------
    nll : (N,) in nats
    lse : (N,) the logarithm of each row's normaliser, for the backward pass

    """
    _check_targets(logits, targets)
    lse = _lse(logits)[:, 0]
    with np.errstate(invalid="ignore"):
        return lse - logits[np.arange(len(logits)), targets], lse


def cross_entropy_backward(g: Floats, logits: Floats, targets: Ints, lse: Floats) -> Floats:
    """Gradient with respect to the logits: g (softmax(logits) - onehot(target))."""
    _check_targets(logits, targets)
    with np.errstate(over="ignore", invalid="ignore"):
        d = np.exp(logits - lse[:, None])
    d[np.arange(len(logits)), targets] -= 1
    return np.asarray(d * g[:, None])


def layer_norm(x: Floats, weight: Floats, bias: Floats, eps: float = 1e-5) -> tuple[Floats, Floats, Floats]:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axis; also returns mean and 1/sqrt(var + eps)."""
    _check(weight.shape == x.shape[-1:], "weight", weight, f"({x.shape[-1]},)")
    _check(bias.shape == x.shape[-1:], "bias", bias, f"({x.shape[-1]},)")
    mean = x.mean(axis=-1, dtype=x.dtype)
    d = x - mean[..., None]
    rstd = (1 / np.sqrt((d * d).mean(axis=-1) + eps)).astype(x.dtype)
    return d * rstd[..., None] * weight + bias, mean, rstd


def layer_norm_backward(
    g: Floats, x: Floats, weight: Floats, mean: Floats, rstd: Floats
) -> tuple[Floats, Floats, Floats]:
    """Gradients with respect to x, weight and bias."""
    _check(g.shape == x.shape, "g", g, str(x.shape))
    _check(weight.shape == x.shape[-1:], "weight", weight, f"({x.shape[-1]},)")
    for name, array in (("mean", mean), ("rstd", rstd)):
        _check(array.shape == x.shape[:-1], name, array, str(x.shape[:-1]))
    h = (x - mean[..., None]) * rstd[..., None]
    d = g * weight
    mean_d, mean_dh = d.mean(axis=-1, keepdims=True), (d * h).mean(axis=-1, keepdims=True)
    rows = tuple(range(x.ndim - 1))
    return (d - mean_d - h * mean_dh) * rstd[..., None], (g * h).sum(axis=rows), g.sum(axis=rows)


def _gelu_sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore"):
        s = 1 / (1 + np.exp(-math.sqrt(8 / math.pi) * (x + 0.044715 * x * x * x)))
        return np.asarray(s, x.dtype)  # NumPy 1 makes float64 of an array without axes


def gelu(x: Floats) -> Floats:
    """GELU in its tanh form (Hendrycks and Gimpel 2016): x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3).

    Computed as x sigmoid(2u), which is the same and loses no digits for large negative x.
    """
    return np.asarray(x * _gelu_sigmoid(x))


def gelu_backward(g: Floats, x: Floats) -> Floats:
    """Gradient with respect to x."""
    _check(g.shape == x.shape, "g", g, str(x.shape))
    s = _gelu_sigmoid(x)
    near = np.clip(x, -100, 100)  # beyond, s (1 - s) has long been 0, but 0 times an infinite slope would be NaN
    return np.asarray(g * (s + x * s * (1 - s) * math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * near * near)), x.dtype)


def rotary(qkv: Floats, cos: Floats, sin: Floats) -> Floats:
    """Rotary positions (Su et al. 2021): turn pairs of query and key coordinates by an angle that grows with position.

    Coordinate j < D/2 is paired with j + D/2. The inverse (and the backward pass) is the same with -sin.

    Parameters
    ----------
    qkv : (B, L, 3, H, D)
    cos, sin : (L, D/2), or (B, L, D/2) where sequences differ in their positions

    """
    _check(qkv.ndim == 5 and qkv.shape[2] == 3 and qkv.shape[4] % 2 == 0, "qkv", qkv, "(B, L, 3, H, D) with D even")
    half = qkv.shape[4] // 2
    shape = (qkv.shape[1], half) if cos.ndim < 3 else (*qkv.shape[:2], half)
    for name, table in (("cos", cos), ("sin", sin)):
        _check(
            table.shape == shape, name, table,
            f"(L, D / 2) or (B, L, D / 2) with B {qkv.shape[0]}, L {qkv.shape[1]}, D / 2 {half}, as the other",
        )  # fmt: skip
    out = qkv.copy()
    a, b = qkv[:, :, :2, :, :half], qkv[:, :, :2, :, half:]
    c, s = cos[..., None, None, :], sin[..., None, None, :]
    out[:, :, :2, :, :half] = a * c - b * s
    out[:, :, :2, :, half:] = a * s + b * c
    return out


def topk(x: Floats, k: int) -> tuple[Floats, Ints]:
    """The k largest values of the last axis and their indices, largest first, ties to the lower index, NaN last."""
    if not 0 <= k <= x.shape[-1]:
        raise ValueError(f"k is {k}; expected 0 <= k <= {x.shape[-1]}, the length of the last axis")
    # A stable sort keeps equal values in the order of their indices; -x puts the largest first and NaN last.
    indices = np.argsort(-x, axis=-1, kind="stable")[..., :k]
    return np.take_along_axis(x, indices, axis=-1), indices


def _visible(queries: int, keys: int, first: int, last: int, mask: Bools | None, causal: int) -> Bools | None:
    """Which keys the queries first..last see: (n, Lk), (B, 1, n, Lk), or None for all."""
    visible: Bools | None = None
    if mask is not None:
        visible = mask[first:last] if mask.ndim == 2 else mask[:, None, first:last]
    if causal:
        at = np.arange(first, last)[:, None] + keys - queries
        past = np.arange(keys) < (at // causal + 1) * causal
        visible = past if visible is None else visible & past
    return visible


def _check_attention(q: Floats, k: Floats, v: Floats, mask: Bools | None, causal: int) -> None:
    _check(q.ndim == 4 and q.shape[3] > 0, "q", q, "(B, Lq, H, D) with D at least 1")
    batch, queries, heads, depth = q.shape
    fits = k.ndim == 4 and k.shape[0] == batch and k.shape[2:] == (heads, depth)
    _check(fits, "k", k, f"(B, Lk, H, D) with the B, H and D of q, {q.shape}")
    _check(v.shape == k.shape, "v", v, str(k.shape))
    keys = k.shape[1]
    if causal < 0:
        raise ValueError(f"causal is {causal}; expected 0 (all), 1 (left to right) or the length of a block")
    if causal:
        _check(queries <= keys, "q", q, f"at most as many queries as keys ({keys}) when causal")
    if mask is not None:
        if mask.dtype != np.bool_:
            raise TypeError(f"mask has dtype {mask.dtype}; expected bool")
        fits = mask.shape in ((queries, keys), (batch, queries, keys))
        _check(fits, "mask", mask, f"(Lq, Lk) or (B, Lq, Lk) with B {batch}, Lq {queries}, Lk {keys}")


def attention(
    q: Floats, k: Floats, v: Floats, mask: Bools | None = None, causal: int = 0, bfloat16: bool = False
) -> tuple[Floats, Floats]:
    """Multi-head attention, softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017).

    The inputs may be views, such as `qkv[:, :, 0]` of a packed (B, L, 3, H, D) array.

    Parameters
    ----------
    q : (B, Lq, H, D)
    k, v : (B, Lk, H, D)
    mask : (Lq, Lk) or (B, Lq, Lk) of bool, True where the query may see the key; None for all
    causal : 0, or the length b of blocks that see themselves and those before: query i sees keys j with
        j // b <= (i + Lk - Lq) // b, that is, the queries are the last positions. 1 is left to right
    bfloat16 : for float32: round what is multiplied, q, k, v and the exponentials of the softmax, to bfloat16; sums,
        also those of the softmax, are not rounded

    Returns
    -------
    out : (B, Lq, H, D); zeros for a query that sees no key
    lse : (B, H, Lq) logarithm of each softmax's normaliser, for the backward pass; -inf where no key is seen

    """
    _check_attention(q, k, v, mask, causal)
    qf, kf, vf = _factors(bfloat16, "q", q, k, v)
    batch, queries, heads, depth = q.shape
    out = np.empty(q.shape, q.dtype)
    lse = np.empty((batch, heads, queries), q.dtype)
    kt, vt = kf.transpose(0, 2, 3, 1), vf.transpose(0, 2, 1, 3)  # (B, H, D, Lk), (B, H, Lk, D)
    for first in range(0, queries, QUERY_BLOCK):
        last = min(first + QUERY_BLOCK, queries)
        scores = qf[:, first:last].transpose(0, 2, 1, 3) @ kt / np.sqrt(depth).astype(q.dtype)  # (B, H, n, Lk)
        visible = _visible(queries, k.shape[1], first, last, mask, causal)
        if visible is not None:
            scores = np.where(visible, scores, -np.inf).astype(q.dtype)
        top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
        p = np.exp(scores - np.where(np.isneginf(top), 0, top).astype(q.dtype))
        total = p.sum(axis=-1, keepdims=True)
        (pf,) = _factors(bfloat16, "q", p)
        mean = (pf @ vt) / np.where(total == 0, 1, total).astype(q.dtype)  # (B, H, n, D)
        out[:, first:last] = mean.transpose(0, 2, 1, 3)
        with np.errstate(divide="ignore"):
            lse[:, :, first:last] = (top + np.log(total))[..., 0]
    return out, lse


def attention_backward(
    g: Floats,
    q: Floats,
    k: Floats,
    v: Floats,
    out: Floats,
    lse: Floats,
    dq: Floats,
    dk: Floats,
    dv: Floats,
    mask: Bools | None = None,
    causal: int = 0,
    bfloat16: bool = False,
) -> None:
    """Write the gradients of `attention` into dq, dk and dv, which may be views of a packed array.

    With P the softmax and delta_i = sum_d g_id out_id (Dao et al. 2022, appendix B):
    dv = P^T g,  dS = P * (g v^T - delta),  dq = dS k / sqrt(D),  dk = dS^T q / sqrt(D).
    With `bfloat16` the factors of these products are rounded, P and dS among them; delta's are not.
    """
    _check_attention(q, k, v, mask, causal)
    for name, array, like in (("g", g, q), ("out", out, q), ("dq", dq, q), ("dk", dk, k), ("dv", dv, v)):
        _check(array.shape == like.shape, name, array, str(like.shape))
    queries, depth = q.shape[1], q.shape[3]
    scale = 1 / np.sqrt(depth).astype(q.dtype)
    heads_first = (0, 2, 1, 3)
    qf, kf, vf, gf = _factors(bfloat16, "q", q, k, v, g)
    kh, vh = kf.transpose(heads_first), vf.transpose(heads_first)  # (B, H, Lk, D)
    dk[...], dv[...] = 0, 0
    for first in range(0, queries, QUERY_BLOCK):
        last = min(first + QUERY_BLOCK, queries)
        qh, gh = (a[:, first:last].transpose(heads_first) for a in (qf, gf))  # (B, H, n, D)
        delta = (g[:, first:last] * out[:, first:last]).sum(axis=-1).transpose(0, 2, 1)[..., None]  # (B, H, n, 1)
        block = lse[:, :, first:last, None]
        scores = qh @ kh.swapaxes(2, 3) * scale
        visible = _visible(queries, k.shape[1], first, last, mask, causal)
        if visible is not None:
            scores = np.where(visible, scores, -np.inf).astype(q.dtype)
        p = np.exp(scores - np.where(np.isneginf(block), 0, block).astype(q.dtype))  # (B, H, n, Lk)
        pf, ds = _factors(bfloat16, "q", p, p * (gh @ vh.swapaxes(2, 3) - delta))
        dq[:, first:last] = scale * (ds @ kh).transpose(heads_first)
        dk += scale * (ds.swapaxes(2, 3) @ qh).transpose(heads_first)
        dv += (pf.swapaxes(2, 3) @ gh).transpose(heads_first)


def adamw(
    p: Floats,
    g: Floats,
    m: Floats,
    v: Floats,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
) -> None:
    """One AdamW step (Loshchilov and Hutter 2019), updating p, m and v in place; `step` counts from 1.

    m and v are running means of g and g^2 that start at zero; dividing by 1 - beta^step removes that bias.
    """
    for name, array in (("g", g), ("m", m), ("v", v)):
        _check(array.shape == p.shape, name, array, str(p.shape))
    if step < 1:
        raise ValueError(f"step is {step}; it counts from 1")
    m += (1 - beta1) * (g - m)
    v += (1 - beta2) * (g * g - v)
    update = (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + eps)
    p -= lr * (update + weight_decay * p)


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # steep at 0, and near 1 it stays near 1: five iterations suffice


def orthogonalise(x: Floats) -> Floats:
    """Matrices with the singular vectors of x and singular values near 1: (N, m, n) -> (N, m, n).

    Five Newton-Schulz iterations of fifth order on x / |x| (Jordan et al. 2024), each of which moves every singular
    value s to 3.4445 s - 4.7750 s^3 + 2.0315 s^5. What starts above 1/500 of the Euclidean norm ends between 0.68 and
    1.21; smaller ones end proportionally lower, and a matrix of zeros stays one.
    """
    _check(x.ndim == 3, "x", x, "(N, m, n)")
    a, b, c = NEWTON_SCHULZ
    wide = x if x.shape[1] <= x.shape[2] else x.swapaxes(1, 2)
    norm = np.sqrt((wide * wide).sum(axis=(1, 2), keepdims=True))
    y = wide / np.where(norm == 0, 1, norm).astype(x.dtype)
    for _ in range(5):
        gram = y @ y.swapaxes(1, 2)
        y = a * y + (b * gram + c * gram @ gram) @ y
    return np.ascontiguousarray(y if wide is x else y.swapaxes(1, 2))
