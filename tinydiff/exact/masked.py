"""Masks only: bounds and likelihoods of masked diffusion in closed form over sets of masked positions.

There are 2^L of those where the general oracles need (V + 1)^L states, and continuous time takes no differential
equation. The model must not depend on t wherever no time or number of steps is given.

Where `given` (L,) says which positions are known, everything is about the others: p(free | given) and its bound.
"""

from __future__ import annotations

import math

import numpy as np

from .. import ops
from ..arrays import Bools, Floats, Ints
from ..processes.discrete import DiscreteDiffusion, token_probabilities
from ..tensor import Tensor
from ..transformer import Model
from .states import all_masks, free_positions


def masked_cross_entropy(
    process: DiscreteDiffusion, model: Model, x0: Ints, t: float, given: Bools | None = None
) -> tuple[Floats, Bools]:
    """Sum over masked positions of -log p_theta(x_0^i | x_t), for every set of masks of sequences x0 (n, L).

    Returns
    -------
    (n, 2^A) cross-entropies in nats, and the (2^A, A) sets of masks over the A free positions that they belong to

    """
    free = free_positions(x0.shape[1], given)
    masks = all_masks(x0.shape[1], given)  # (2^A, L)
    nll = -np.log(true_probabilities(process, model, x0, masks, t))  # (n, 2^A, L)
    return np.where(masks, nll, 0).sum(axis=-1), masks[:, free]


def true_probabilities(process: DiscreteDiffusion, model: Model, x0: Ints, masks: Bools, t: float) -> Floats:
    """p_theta(x_0^i | x_t) at every position, for sequences (n, L) under each set of masks (m, L): (n, m, L)."""
    xt = np.where(masks, process.mask_id, x0[:, None])  # (n, m, L)
    p = token_probabilities(model, xt.reshape(-1, x0.shape[1]), t).reshape(*xt.shape, -1)
    target = np.broadcast_to(x0[:, None, :, None], (*xt.shape, 1))
    return np.asarray(np.take_along_axis(p, target, axis=-1)[..., 0])


def masks_probability(masks: Bools, alpha: float) -> Floats:
    """q(x_t | x_0) of each set of masks when every token survives with probability alpha: (n, L) -> (n,)."""
    return np.asarray(np.where(masks, 1 - alpha, alpha).prod(axis=1))


def nelbo(process: DiscreteDiffusion, model: Model, x0: Ints, nodes: int = 64, given: Bools | None = None) -> Floats:
    """The continuous-time NELBO of sequences (n, L), in nats (n,), by Gauss-Legendre quadrature over t.

    A schedule that ends above alpha = 0 leaves a jump at t = 1 (`MaskedDiffusion.alpha`): a term of the discrete-time
    bound.
    """
    points, weights = np.polynomial.legendre.leggauss(nodes)
    schedule = process.schedule
    total = np.zeros(len(x0))
    for t, w in zip((points + 1) / 2, weights / 2, strict=True):
        nll, masks = masked_cross_entropy(process, model, x0, float(t), given)
        q = masks_probability(masks, float(schedule.alpha(t)))
        total += w * float(schedule.weight(t)) * (nll @ q)
    nll, masks = masked_cross_entropy(process, model, x0, 1.0, given)
    return np.asarray(total + float(schedule.alpha(1.0)) * (nll @ masks_probability(masks, 0.0)))


def nelbo_by_count(process: DiscreteDiffusion, model: Model, x0: Ints, given: Bools | None = None) -> Floats:
    """The same bound, (n,), in closed form over the number k of masks: sum_k 1/k E_{|masks| = k}[cross-entropy].

    Integrating w(t) q(masks) over t leaves 1 / (k C(A, k)) for a set of k masks on A free positions, whatever the
    schedule, as long as it runs from alpha = 1 to 0 and the model does not look at t.
    """
    nll, masks = masked_cross_entropy(process, model, x0, 0.5, given)
    k, most = masks.sum(axis=1), masks.shape[1]
    weight = np.array([0.0] + [1 / (i * math.comb(most, i)) for i in range(1, most + 1)])
    return np.asarray(nll @ weight[k])


def discrete_nelbo(process: DiscreteDiffusion, model: Model, x0: Ints, steps: int) -> Floats:
    """The NELBO, (n,), of the chain of that many steps: sum_t (alpha_{t-1} - alpha_t) / (1 - alpha_t) E[cross-entropy].

    Sahoo et al. 2024, eq. 8; the chain starts from pure MASK, so there is no prior term.
    """
    alpha = process.schedule.grid(steps)
    total = np.zeros(len(x0))
    for i in range(1, steps + 1):
        nll, masks = masked_cross_entropy(process, model, x0, i / steps)
        total += (alpha[i - 1] - alpha[i]) / (1 - alpha[i]) * (nll @ masks_probability(masks, alpha[i]))
    return total


def any_order_nll(process: DiscreteDiffusion, model: Model, x0: Ints, given: Bools | None = None) -> Floats:
    """Exact -log p(x0) of sequences (n, L) when positions are revealed one at a time in random order: (n,) nats.

    This is the law of the continuous-time process, as no two tokens are revealed at the same moment; but for t = 1,
    where a schedule that ends above alpha = 0 reveals each with that probability (`MaskedDiffusion.alpha`). p is the
    mean over all L! orders of the product of conditionals. By the set S that is revealed, what is left to come obeys
    f(S) = 1/|not S| sum_{i not in S} p(x^i | x^S) f(S + i), which takes 2^L states in place of L! orders.
    The model must not depend on t.
    """
    free = free_positions(x0.shape[1], given)
    masks = all_masks(x0.shape[1], given)  # (2^A, L); the number of a state is its set of masks in binary
    p = true_probabilities(process, model, x0, masks, 0.5)  # (n, 2^A, L)
    f = np.ones((len(x0), len(masks)))  # in the first state nothing is left to come
    for state in range(1, len(masks)):
        hidden = np.flatnonzero(masks[state, free])
        after = state - (1 << (len(free) - 1 - hidden))  # the same with one more position revealed
        f[:, state] = (p[:, state, free[hidden]] * f[:, after]).mean(axis=1)
    at_once = np.where(masks, 1, p[:, -1:])[..., free].prod(axis=-1)  # (n, 2^A): what the first look says of the rest
    jump = masks_probability(masks[:, free], float(process.schedule.alpha(1.0)))
    return np.asarray(-np.log((jump * at_once * f).sum(axis=1)))


def any_order_log_p(process: DiscreteDiffusion, model: Model, x0: Ints, given: Bools | None = None) -> Tensor:
    """Log p(x0) of the same law, with gradients, for schedules that end at alpha = 0: (n, L) to (n,)."""
    free, masks = free_positions(x0.shape[1], given), all_masks(x0.shape[1], given)
    xt = np.where(masks, process.mask_id, x0[:, None])  # (n, 2^A, L)
    logits = model(xt.reshape(-1, x0.shape[1]), np.full(len(x0) * len(masks), 0.5))
    target = np.broadcast_to(x0[:, None], xt.shape).reshape(-1)
    p = (-ops.cross_entropy(logits.reshape(-1, logits.shape[-1]), target)).exp().reshape(*xt.shape)
    count = masks.sum(axis=1)
    f, place = Tensor(np.ones((len(x0), 1), p.dtype)), np.zeros(len(masks), np.int64)  # place of each state in f
    for k in range(1, len(free) + 1):
        states = np.flatnonzero(count == k)
        hidden = np.stack([np.flatnonzero(masks[state, free]) for state in states])  # (m, k)
        after = states[:, None] - (1 << (len(free) - 1 - hidden))
        f = (p[:, states[:, None], free[hidden]] * f[:, place[after]]).mean(axis=2)
        place[states] = np.arange(len(states))
    return f[:, 0].log()
