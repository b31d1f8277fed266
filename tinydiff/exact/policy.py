"""Policy gradients without a likelihood: what is put in the place of log p, and what becomes of the gradient.

The reward that a model can expect, J = sum_y p(y) r(y), rises along (REINFORCE, Williams 1992)

    grad J = E_{y ~ p}[ (r(y) - J) grad log p(y) ],

and masked diffusion has no log p. Everybody puts something in its place. Here that is not drawn but listed, over all
sets of masks of all texts, so that what is left of the difference is no noise. With ce(M) = -log p(x^i | x without M),
summed over the masked i in M, and k = |M|:

- "log p" : itself, of writing one position after the other in random order (`any_order_log_p`)
- "elbo" : -E_k E_{|M| = k}[L/k ce(M)], its lower bound
- "mean" : -E_k E_{|M| = k}[ce(M) / k], a mean over masked tokens (UniGRPO; MMaDA, Yang et al. 2025): elbo / L
- "one look" : -ce(all), each token by itself (diffu-GRPO; d1, Zhao et al. 2025)
- "coupled" : -1/2 (L/k ce(M) + L/(L-k) ce(rest) + ce(all)), k = 1 .. L-1 (coupled-GRPO; DiffuCoder, Gong et al. 2025)
- "coupled, unbiased" : the same three sets with weights that make it the elbo, see `Objective`
- "sandwich" : the elbo where a text is better than the mean, an upper bound (`eubo`) where it is worse, so that a text
  that is pushed down is pushed down in truth (SPG, Wang et al. 2025, arXiv 2510.09541)
- "trace" : sum_t log p(what step t wrote | what stood there), along the way in which the text came about (TraceRL, Wang
  et al. 2025, arXiv 2509.06949). One token per step in an order that the weights have no part in: exact

Clipped ratios, groups and penalties are not here, nor is the order by confidence, in which the weights do have a part.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

from .. import ops
from ..arrays import Bools, Floats, Ints
from ..processes.discrete import DiscreteDiffusion
from ..tensor import Tensor, where
from ..transformer import Model
from .masked import any_order_log_p
from .states import all_masks

StandIn = Literal["log p", "elbo", "mean", "one look", "coupled", "coupled, unbiased", "sandwich", "trace"]


def stand_in(
    kind: StandIn, process: DiscreteDiffusion, model: Model, x0: Ints, *, better: Bools | None = None, beta: float = 1.0
) -> Tensor:
    """What a method has for log p(x0) on average over its draws, with gradients: (n, L) ids to (n,).

    Parameters
    ----------
    better : (n,), True where a text's reward is above the mean: "sandwich" only
    beta : of its upper bound, see `eubo`

    """
    if kind not in get_args(StandIn):
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(get_args(StandIn))}")
    if kind == "log p":
        return any_order_log_p(process, model, x0)
    length, masks = x0.shape[1], all_masks(x0.shape[1])
    log_p = masked_log_p(process, model, x0, masks)  # (n, 2^L, L)
    if kind == "trace":
        return (log_p * _passed(np.exp(log_p.data), masks)).sum(axis=(1, 2))
    if kind == "sandwich":
        if better is None or better.shape != (len(x0),):
            shape = None if better is None else better.shape
            raise ValueError(f"better has shape {shape}; expected ({len(x0)},): which texts are to become likelier")
        return where(better, _elbo(log_p, masks), _eubo(log_p, masks, beta))
    k = masks.sum(axis=1)
    share = np.array([1 / math.comb(length, int(i)) for i in k])  # of a set among those of its size
    count, last = np.maximum(k, 1), k == length
    weight = {
        "elbo": share / count,
        "mean": share / count / length,
        "one look": last,
        "coupled": np.where(last, 0.5, share / max(length - 1, 1) * length / count),
        "coupled, unbiased": np.where(last, 1 / length, share / count),
    }[kind]
    return (log_p.sum(axis=2) * np.where(k > 0, weight, 0.0)).sum(axis=1)


def eubo(process: DiscreteDiffusion, model: Model, x0: Ints, beta: float) -> Tensor:
    """sum_i (1/beta) log E_{M with i}[p(x^i | x without M)^beta], (n,): the evidence's upper bound of SPG, by counts.

    M is uniform among the sets of size k that hide i, k uniform on 1 .. L. By Hoelder's inequality it is at least log p
    for beta >= L. Below, it is if the conditionals are those of one law, and need not be for a network; the paper's
    constant, which would mend that, grows without end as the steps become many.
    """
    if not beta > 0:
        raise ValueError(f"beta is {beta}; it must be above 0")
    masks = all_masks(x0.shape[1])
    return _eubo(masked_log_p(process, model, x0, masks), masks, beta)


def masked_log_p(process: DiscreteDiffusion, model: Model, x0: Ints, masks: Bools) -> Tensor:
    """Log p(x0^i | what masks leave visible) where masked, 0 elsewhere: (n, 2^L, L)."""
    xt = np.where(masks, process.mask_id, x0[:, None])
    logits = model(xt.reshape(-1, x0.shape[1]), np.full(len(x0) * len(masks), 0.5))
    target = np.broadcast_to(x0[:, None], xt.shape).reshape(-1)
    found = -ops.cross_entropy(logits.reshape(-1, logits.shape[-1]), target).reshape(*xt.shape)
    return where(np.broadcast_to(masks, xt.shape), found, Tensor(np.zeros((), found.dtype)))


def _elbo(log_p: Tensor, masks: Bools) -> Tensor:
    return (log_p * _chance(masks)).sum(axis=(1, 2))


def _eubo(log_p: Tensor, masks: Bools, beta: float) -> Tensor:
    return (((log_p * beta).exp() * _chance(masks)).sum(axis=1).log() * (1 / beta)).sum(axis=1)


def _chance(masks: Bools) -> Floats:
    """P(M | i in M) with k uniform on 1 .. L and M uniform of that size: (2^L, L), each column a law."""
    length, k = masks.shape[1], masks.sum(axis=1)
    each = np.array([1 / length / math.comb(length - 1, i - 1) if i else 0.0 for i in k.tolist()])
    return np.asarray(masks * each[:, None])


def _passed(p: Floats, masks: Bools) -> Floats:
    """P(position i is written at the masks M | the text that came out), (n, 2^L, L), in random order.

    Forwards, the chance of coming to M with this text; backwards, of going on to it. No order is listed.
    """
    n, length = len(p), masks.shape[1]
    reached, onward = np.zeros((n, len(masks))), np.ones((n, len(masks)))
    bit = 1 << np.arange(length)[::-1]  # sets are listed in counting order
    for state in range(1, len(masks)):
        hidden = np.flatnonzero(masks[state])
        onward[:, state] = (p[:, state, hidden] * onward[:, state - bit[hidden]]).mean(axis=1)
    reached[:, -1] = 1.0
    passed = np.zeros(p.shape)
    for state in range(len(masks) - 1, 0, -1):
        for i in np.flatnonzero(masks[state]):
            step = reached[:, state] * p[:, state, i] / masks[state].sum()
            reached[:, state - bit[i]] += step
            passed[:, state, i] = step * onward[:, state - bit[i]]
    return np.asarray(passed / onward[:, -1, None, None])
