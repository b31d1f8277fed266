"""Brute-force oracles: exact likelihoods and bounds by enumerating every state, and `check_elbo`.

For vocabularies and lengths small enough to list (V up to 4, L up to 5 or so) these say what the estimators and
samplers of this package should give. They use a process's own definitions (its MASK, its schedule) and the model's
probabilities, and no other code that they judge.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from .arrays import Bools, Floats, Ints
from .processes.masked import MaskedDiffusion
from .tensor import Tensor, no_grad
from .transformer import Model

MOST_STATES = 1_000_000


def all_sequences(symbols: int, length: int) -> Ints:
    """Every sequence over 0 .. symbols - 1, in counting order: (symbols^length, length)."""
    count = symbols**length
    if count > MOST_STATES:
        fits = int(math.log(MOST_STATES) / math.log(symbols))
        raise ValueError(
            f"{symbols} symbols at length {length} make {count:,} states, more than the {MOST_STATES:,} that can be "
            f"enumerated; with {symbols} symbols use a length of at most {fits}"
        )
    return np.array(list(itertools.product(range(symbols), repeat=length)), np.int64).reshape(count, length)


def all_masks(length: int) -> Bools:
    """Every subset of the positions, in counting order: (2^length, length)."""
    return all_sequences(2, length).astype(bool)


def state_index(states: Ints, symbols: int) -> Ints:
    """The place of each row of `states` in `all_sequences`: (n, L) -> (n,)."""
    return np.asarray(states @ symbols ** np.arange(states.shape[1])[::-1])


def token_probabilities(model: Model, states: Ints, t: float) -> Floats:
    """p_theta(x_0^i = v | x_t) for every position of every state at time t: (n, L) -> (n, L, V), float64."""
    with no_grad():
        logits = model(states, np.full(len(states), t)).data.astype(np.float64)
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


# --- the bound ------------------------------------------------------------------------------------------------------


def masked_cross_entropy(process: MaskedDiffusion, model: Model, x0: Ints, t: float) -> tuple[Floats, Bools]:
    """Sum over masked positions of -log p_theta(x_0^i | x_t), for every set of masks of sequences x0 (n, L).

    Returns
    -------
    (n, 2^L) cross-entropies in nats, and the (2^L, L) sets of masks they belong to

    """
    masks = all_masks(x0.shape[1])
    nll = -np.log(true_probabilities(process, model, x0, masks, t))  # (n, 2^L, L)
    return np.where(masks, nll, 0).sum(axis=-1), masks


def true_probabilities(process: MaskedDiffusion, model: Model, x0: Ints, masks: Bools, t: float) -> Floats:
    """p_theta(x_0^i | x_t) at every position, for sequences (n, L) under each set of masks (m, L): (n, m, L)."""
    xt = np.where(masks, process.mask_id, x0[:, None])  # (n, m, L)
    p = token_probabilities(model, xt.reshape(-1, x0.shape[1]), t).reshape(*xt.shape, -1)
    target = np.broadcast_to(x0[:, None, :, None], (*xt.shape, 1))
    return np.asarray(np.take_along_axis(p, target, axis=-1)[..., 0])


def masks_probability(masks: Bools, alpha: float) -> Floats:
    """q(x_t | x_0) of each set of masks when every token survives with probability alpha: (n, L) -> (n,)."""
    return np.asarray(np.where(masks, 1 - alpha, alpha).prod(axis=1))


def nelbo(process: MaskedDiffusion, model: Model, x0: Ints, nodes: int = 64) -> Floats:
    """The continuous-time NELBO of sequences (n, L), in nats (n,), by Gauss-Legendre quadrature over t.

    Schedules that start above alpha = 0 or end below alpha = 1 leave a step at either end, where the process jumps
    (`Schedule.grid`): those enter as terms of the discrete-time bound.
    """
    points, weights = np.polynomial.legendre.leggauss(nodes)
    schedule = process.schedule
    total = np.zeros(len(x0))
    for t, w in zip((points + 1) / 2, weights / 2, strict=True):
        nll, masks = masked_cross_entropy(process, model, x0, float(t))
        q = masks_probability(masks, float(schedule.alpha(t)))
        total += w * float(schedule.weight(t)) * (nll @ q)
    first, last = float(schedule.alpha(0.0)), float(schedule.alpha(1.0))
    for before, after, t in ((1.0, first, 0.0), (last, 0.0, 1.0)):
        if before > after:
            nll, masks = masked_cross_entropy(process, model, x0, t)
            total += (before - after) / (1 - after) * (nll @ masks_probability(masks, after))
    return total


def nelbo_by_count(process: MaskedDiffusion, model: Model, x0: Ints) -> Floats:
    """The same bound, (n,), in closed form over the number k of masks: sum_k 1/k E_{|masks| = k}[cross-entropy].

    Integrating w(t) q(masks) over t leaves 1 / (k C(L, k)) for a set of k masks, whatever the schedule, as long as it
    runs from alpha = 1 to 0 and the model does not look at t.
    """
    nll, masks = masked_cross_entropy(process, model, x0, 0.5)
    length = x0.shape[1]
    k = masks.sum(axis=1)
    weight = np.array([0.0] + [1 / (i * math.comb(length, i)) for i in range(1, length + 1)])
    return np.asarray(nll @ weight[k])


def discrete_nelbo(process: MaskedDiffusion, model: Model, x0: Ints, steps: int) -> Floats:
    """The NELBO, (n,), of the chain of that many steps: sum_t (alpha_{t-1} - alpha_t) / (1 - alpha_t) E[cross-entropy].

    Sahoo et al. 2024, eq. 8; the chain starts from pure MASK, so there is no prior term.
    """
    alpha = process.schedule.grid(steps)
    total = np.zeros(len(x0))
    for i in range(1, steps + 1):
        nll, masks = masked_cross_entropy(process, model, x0, i / steps)
        total += (alpha[i - 1] - alpha[i]) / (1 - alpha[i]) * (nll @ masks_probability(masks, alpha[i]))
    return total


# --- likelihoods ----------------------------------------------------------------------------------------------------


def ancestral_law(process: MaskedDiffusion, model: Model, length: int, steps: int) -> Floats:
    """p(x_0) of every sequence under ancestral sampling in that many steps: (V^L,), in the order of `all_sequences`.

    The law of the chain's state is pushed through every reverse step over all (V + 1)^L states.
    """
    symbols = process.vocab_size + 1
    states = all_sequences(symbols, length)
    alpha = process.schedule.grid(steps)
    law = np.zeros(len(states))
    law[state_index(np.full((1, length), process.mask_id), symbols)] = 1.0
    for i in range(steps, 0, -1):
        reveal = (alpha[i - 1] - alpha[i]) / (1 - alpha[i])
        alive = np.flatnonzero(law)
        p = token_probabilities(model, states[alive], i / steps)  # (n, L, V)
        # What each position becomes: itself if it is no MASK, else MASK or one of the V tokens.
        becomes = np.zeros((len(alive), length, symbols))
        np.put_along_axis(becomes, states[alive][..., None], 1.0, axis=-1)
        masked = states[alive] == process.mask_id
        becomes[masked] = np.concatenate([reveal * p[masked], np.full((masked.sum(), 1), 1 - reveal)], axis=1)
        law = law[alive] @ _product_law(becomes)
    return np.asarray(law[~(states == process.mask_id).any(axis=1)])


def _product_law(each: Floats) -> Floats:
    """Law of sequences whose positions are independent: (n, L, S) -> (n, S^L)."""
    joint = np.ones((len(each), 1))
    for i in range(each.shape[1]):
        joint = (joint[:, :, None] * each[:, None, i]).reshape(len(each), -1)
    return joint


def any_order_nll(process: MaskedDiffusion, model: Model, x0: Ints) -> Floats:
    """Exact -log p(x0) of sequences (n, L) when positions are revealed one at a time in random order: (n,) nats.

    This is the law of the continuous-time process (no two tokens are revealed at the same moment). p is the mean over
    all L! orders of the product of conditionals; over subsets S of revealed positions it obeys
    f(S) = 1/|S| sum_{i in S} f(S - i) p(x^i | x^{S - i}), which takes 2^L states in place of L! orders.
    The model must not depend on t.
    """
    length = x0.shape[1]
    masks = all_masks(length)
    p = true_probabilities(process, model, x0, masks, 0.5)  # (n, 2^L, L)
    f = np.ones((len(x0), len(masks)))  # nothing is revealed in the last state, and 1 is its probability
    for hidden in range(len(masks) - 2, -1, -1):  # the state number is the set of masks in binary: all masked first
        revealed = np.flatnonzero(~masks[hidden])
        before = hidden + (1 << (length - 1 - revealed))  # the same with one revealed position masked again
        f[:, hidden] = (f[:, before] * p[:, before, revealed]).mean(axis=1)
    return np.asarray(-np.log(f[:, 0]))


# --- a model that knows the truth -----------------------------------------------------------------------------------


class BayesDenoiser:
    """The exact p(x_0^i | visible tokens) of a known law over all V^L sequences, as a `Model`."""

    def __init__(self, law: Floats, vocab_size: int, length: int) -> None:
        if law.shape != (vocab_size**length,) or not np.isclose(law.sum(), 1):
            raise ValueError(
                f"law has shape {law.shape} and sums to {law.sum()}; expected ({vocab_size**length},) and 1"
            )
        self.law, self.vocab_size = law, vocab_size
        self.sequences = all_sequences(vocab_size, length)

    def __call__(
        self, x: Ints, t: Floats | None = None, *, causal: bool = False, select: Bools | None = None
    ) -> Tensor:
        """Log-probabilities (B, L, V), or (n, V) for the positions of `select`."""
        visible = x != self.vocab_size  # (B, L)
        agrees = ((x[:, None] == self.sequences) | ~visible[:, None]).all(axis=-1)  # (B, V^L)
        posterior = agrees * self.law
        posterior = posterior / posterior.sum(axis=1, keepdims=True)
        onehot = np.eye(self.vocab_size)[self.sequences]  # (V^L, L, V)
        marginals = np.einsum("bs,slv->blv", posterior, onehot)
        with np.errstate(divide="ignore"):
            log_p = np.log(marginals)
        return Tensor(log_p if select is None else log_p[select])


# --- check_elbo -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ElboCheck:
    """Exact -log p(x0) and its exact bound for every sequence, in nats: (V^L,) each."""

    sequences: Ints
    nll: Floats
    bound: Floats

    @property
    def gap(self) -> Floats:
        return self.bound - self.nll

    def __str__(self) -> str:
        shown = np.argsort(-self.gap, kind="stable")[:5]
        rows = [f"{'x0':>12}  {'exact NLL':>10}  {'NELBO':>10}  {'gap':>10}   (nats; the five largest gaps)"]
        for i in shown:
            x0 = "".join(map(str, self.sequences[i]))
            rows.append(f"{x0:>12}  {self.nll[i]:10.6f}  {self.bound[i]:10.6f}  {self.gap[i]:10.2e}")
        rows.append(
            f"{len(self.nll)} sequences, total probability {np.exp(-self.nll).sum():.12f}, "
            f"smallest gap {self.gap.min():.2e}"
        )
        return "\n".join(rows)


def check_elbo(process: MaskedDiffusion, model: Model, length: int, steps: int | None = None) -> ElboCheck:
    """Compare the exact bound with the exact likelihood of every sequence; raise AssertionError where it is broken.

    Parameters
    ----------
    steps : of the discrete-time chain; None for continuous time (then the model must not depend on t)

    Returns
    -------
    A table that prints itself

    """
    sequences = all_sequences(process.vocab_size, length)
    if steps is None:
        nll, bound = any_order_nll(process, model, sequences), nelbo(process, model, sequences)
    else:
        with np.errstate(divide="ignore"):
            nll = -np.log(ancestral_law(process, model, length, steps))
        bound = discrete_nelbo(process, model, sequences, steps)
    check = ElboCheck(sequences, nll, bound)
    slack = 1e-9 * np.maximum(1, nll)
    if not (np.isclose(np.exp(-nll).sum(), 1, atol=1e-9) and (check.gap >= -slack).all()):
        raise AssertionError(f"the bound is broken\n{check}")
    return check
