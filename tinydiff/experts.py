"""Mixture of experts: E small feed-forward networks in place of a large one, and a router that says who works for whom.

    y_t = sum over the experts e that take token t of  g_te FFN_e(x_t)

Two ways to choose (h = x W_r are the router's logits, (T, E)):

- "token": each token takes its k best experts, with the gates g = softmax(h) as they are, so that the router learns
  even with k = 1 (Switch, Fedus et al. 2021; LLaDA-MoE, Zhu et al. 2025). Experts may be busy or idle: two terms in the
  gradient keep the load even and the logits small.
- "expert": each expert takes its c = L k / E best tokens of every sequence, and a token mixes those that took it, with
  the softmax over these (Zhou et al. 2022; for diffusion Zhang et al. 2026). Every expert has the same load. A token
  that nobody takes goes by on the residual stream.

An expert that chooses among the tokens of a sequence sees all of them. A denoiser may: p(x_0^i | x_t) can be any
function of x_t. A model that goes left to right may not: what comes later would decide who works on what comes now.

No token is ever dropped for lack of room, and the work is that of the tokens taken: rows are sorted by expert, and each
expert multiplies its own. Not here: shared experts, capacities that follow the time.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from . import kernels, ops
from .arrays import Bools, Floats
from .tensor import Tensor

Routing = Literal["token", "expert"]
BALANCE, Z = 1e-2, 1e-3
"""Weights of the two terms of `steadied` (LLaDA-MoE; Zoph et al. 2022)."""


def chosen_by_token(logits: Floats, active: int) -> Bools:
    """The `active` best experts of each token, ties to the first: (..., E) logits to (..., E)."""
    return _marked(logits, active)


def chosen_by_expert(logits: Floats, active: int) -> Bools:
    """The max(1, L active // E) best tokens of each sequence for each expert, ties to the left: (B, L, E) to the same.

    Sequences do not compete with one another: what becomes of one does not depend on its neighbours in the batch.
    """
    length, experts = logits.shape[1:]
    room = max(1, length * active // experts)
    return np.asarray(_marked(np.ascontiguousarray(logits.swapaxes(1, 2)), room).swapaxes(1, 2))


def _marked(rank: Floats, most: int) -> Bools:
    """Where the `most` highest of the last axis are."""
    _, at = kernels.topk(rank.reshape(-1, rank.shape[-1]), most)
    marked = np.zeros((at.shape[0], rank.shape[-1]), bool)
    np.put_along_axis(marked, at, True, axis=1)
    return marked.reshape(rank.shape)


def gates(logits: Tensor, chosen: Bools, routing: Routing) -> Tensor:
    """How much each token takes of each expert, 0 where it is not `chosen`: (..., E).

    By token the softmax over all experts, which leaves something out where not all are chosen; by expert the softmax
    over those that took the token.
    """
    if routing == "token":
        return ops.softmax(logits) * chosen.astype(logits.dtype)
    shut = np.where(chosen, 0, -np.inf).astype(logits.dtype)
    shut[~chosen.any(axis=-1)] = 0  # taken by nobody: the product below makes all of it 0
    return ops.softmax(logits + shut) * chosen.astype(logits.dtype)


def load_balance(logits: Tensor, chosen: Bools) -> Tensor:
    """E sum_e f_e P_e: f_e the mean number of times that a token chose e, P_e the mean of softmax(h)_e: (T, E) to ().

    k where both are even, the number of experts a token takes (Fedus et al. 2021, eq. 4, has k = 1). The gradient goes
    through P alone. No bound from below: a few tokens can be under k.
    """
    load = chosen.mean(axis=0)  # (E,)
    share = ops.softmax(logits).sum(axis=0) / len(logits.data)  # (E,)
    balance: Tensor = (share * (len(load) * load).astype(logits.dtype)).sum()
    return balance


def z_loss(logits: Tensor) -> Tensor:
    """Mean over tokens of the square of logsumexp(h): (T, E) to () (Zoph et al. 2022, eq. 5)."""
    log_sum = (logits - ops.log_softmax(logits)).sum(axis=1) / logits.shape[1]  # the same in every column
    return (log_sum * log_sum).sum() / len(logits.data)


def steadied(logits: Tensor, chosen: Bools, balance: float = BALANCE, z: float = Z) -> Tensor:
    """The logits (T, E) themselves, whose gradient is that of balance * load_balance + z * z_loss besides.

    So a process that knows nothing of experts trains them well, and its loss remains the bound that it is.
    """
    share = kernels.softmax(logits.data)  # (T, E)
    tokens, experts = share.shape

    def vjp(g: Floats) -> tuple[Floats]:
        wanted = (experts / tokens * balance) * chosen.mean(axis=0)  # d/dP, spread over the tokens
        of_balance = share * (wanted - (share * wanted).sum(axis=1, keepdims=True))
        log_sum = logits.data[:, :1] - kernels.log_softmax(logits.data)[:, :1]
        return ((g + of_balance + (2 * z / tokens) * log_sum * share).astype(g.dtype, copy=False),)

    return Tensor.from_op(logits.data, (logits,), vjp)


def mixture(x: Tensor, up: Tensor, down: Tensor, gate: Tensor, chosen: Bools, half: bool = False) -> Tensor:
    """sum_e gate_te gelu(x_t U_e) D_e over the experts chosen: (T, d) to (T, d).

    Parameters
    ----------
    x : (T, d)
    up, down : (E, d, f) and (E, f, d)
    gate, chosen : (T, E)
    half : products rounded to bfloat16

    """
    expert, token = np.nonzero(chosen.T)  # sorted by expert: (n,) each
    ends = np.searchsorted(expert, np.arange(1, len(up.data) + 1)).tolist()
    parts = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]  # of the rows, per expert
    rows, weight = x.data[token], gate.data[token, expert][:, None]  # (n, d), (n, 1)

    def each(a: Floats, matrices: Floats) -> Floats:
        """The rows (n, I) of each expert times its own matrix (E, I, O): (n, O)."""
        out = np.empty((len(a), matrices.shape[2]), a.dtype)
        for part, matrix in zip(parts, matrices, strict=True):
            if part.stop > part.start:
                out[part] = kernels.matmul(a[part], matrix, bfloat16=half)
        return out

    def gathered(a: Floats) -> Floats:
        """The rows of each token added up: (n, d) to (T, d)."""
        total = np.zeros_like(x.data)
        for part in parts:
            total[token[part]] += a[part]  # an expert takes a token once
        return total

    before = each(rows, up.data)  # (n, f)
    hidden = kernels.gelu(before)
    after = each(hidden, down.data)  # (n, d)

    def vjp(g: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        of_rows = g[token]  # (n, d)
        d_gate = np.zeros_like(gate.data)
        d_gate[token, expert] = (of_rows * after).sum(axis=1)
        d_after = of_rows * weight
        d_before = kernels.gelu_backward(each(d_after, down.data.swapaxes(1, 2)), before)
        d_up, d_down = np.zeros_like(up.data), np.zeros_like(down.data)
        for e, part in enumerate(parts):
            if part.stop > part.start:
                d_up[e] = kernels.matmul(rows[part].T, d_before[part], bfloat16=half)
                d_down[e] = kernels.matmul(hidden[part].T, d_after[part], bfloat16=half)
        return gathered(each(d_before, up.data.swapaxes(1, 2))), d_up, d_down, d_gate

    return Tensor.from_op(gathered(after * weight), (x, up, down, gate), vjp)
