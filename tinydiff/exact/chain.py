"""Discrete time: the law, the bound and the gap of a reverse chain, for any noise that acts on tokens one by one.

A process defines q(x_t | x_s) of a token as a matrix (`forward`), the law the chain starts from (`prior`) and
p_theta(x_s^i | x_t) (`reverse`). Everything else follows by matrix products and Bayes' rule over all S^L states.
"""

from __future__ import annotations

import itertools

import numpy as np

from ..arrays import Bools, Floats, Ints
from ..decoders import Reverse
from ..processes.discrete import DiscreteDiffusion, divergence
from ..transformer import Model
from .states import all_sequences, free_positions, product_law, state_index


def walk(reverse: Reverse, law: Floats, states: Ints, times: Floats) -> Floats:
    """Push a law over `states` (all S^L of them) through every step of a reverse chain: (S^L,) to (S^L,)."""
    for s, t in zip(times[-2::-1], times[:0:-1], strict=True):
        alive = np.flatnonzero(law)
        law = law[alive] @ product_law(reverse(states[alive], float(t), float(s)))
    return law


def start_law(process: DiscreteDiffusion, length: int, given: Bools | None = None) -> Floats:
    """Law of x_1 over all S^L states: (S^L,). For each content of the positions that are `given`, where there are."""
    each = np.tile(process.prior, (length, 1))
    if given is not None:
        free_positions(length, given)
        each[given] = np.arange(process.symbols) < process.vocab_size
    return np.asarray(product_law(each[None])[0])


def clamped(process: DiscreteDiffusion, model: Model, given: Bools | None = None) -> Reverse:
    """The reverse chain of a process, in which what is `given` (L,) stays as it is."""

    def reverse(xt: Ints, t: float, s: float) -> Floats:
        p = process.reverse(model, xt, t, s)
        return p if given is None else np.where(given[:, None], np.eye(process.symbols)[xt], p)

    return reverse


def ancestral_law(
    process: DiscreteDiffusion, model: Model, length: int, steps: int, given: Bools | None = None
) -> Floats:
    """p(x_0) of every sequence of real tokens, in the order of `all_sequences`: (V^L,).

    With `given` (L,), p(free | given), which sums to 1 for each content of the given positions.
    """
    states = all_sequences(process.symbols, length)
    law = walk(clamped(process, model, given), start_law(process, length, given), states, process.grid(steps))
    return np.asarray(law[(states < process.vocab_size).all(axis=1)])


def step_nelbo(
    process: DiscreteDiffusion, model: Model, x0: Ints, t: float, s: float, given: Bools | None = None
) -> Floats:
    """E_{x_t ~ q(. | x_0)} KL(q(x_s | x_t, x_0) || p_theta(x_s | x_t)) for sequences (n, L): (n,) nats."""
    states = all_sequences(process.symbols, x0.shape[1])
    until_s, until_t, step = process.forward(0.0, s), process.forward(0.0, t), process.forward(s, t)
    joint = until_s[:, None, :] * step.T[None]  # q(x_s, x_t | x_0) at [x_0, x_t, x_s]
    q = np.divide(joint, until_t[:, :, None], out=np.zeros_like(joint), where=until_t[:, :, None] > 0)
    p = process.reverse(model, states, t, s)  # (N, L, S)
    per_token = divergence(q[:, states], p)  # [x_0, state, position]
    return expected(per_token, until_t, x0, states, given)


def expected(per_token: Floats, until_t: Floats, x0: Ints, states: Ints, given: Bools | None = None) -> Floats:
    """Sum over free positions, mean over x_t ~ q(. | x_0), of a quantity [x_0^i, x_t, i]: (n, L) sequences to (n,)."""
    free = free_positions(x0.shape[1], given)
    values = per_token[x0[:, None, free], np.arange(len(states))[None, :, None], free]  # (n, N, A)
    each = until_t[x0[:, None, :], states]  # (n, N, L)
    if given is not None:
        each = np.where(given, x0[:, None, :] == states, each)
    q = each.prod(axis=-1)  # (n, N)
    return np.asarray(np.where(q > 0, q * values.sum(axis=-1), 0).sum(axis=1))


def prior_nelbo(process: DiscreteDiffusion, x0: Ints, given: Bools | None = None) -> Floats:
    """L_T = KL(q(x_1 | x_0) || prior) of sequences (n, L), over the positions that are not `given`: (n,) nats."""
    free = free_positions(x0.shape[1], given)
    return np.asarray(divergence(process.forward(0.0, 1.0), process.prior)[x0[:, free]].sum(axis=1))


def chain_nelbo(process: DiscreteDiffusion, model: Model, x0: Ints, steps: int, given: Bools | None = None) -> Floats:
    """L_T + sum_t L_{t-1} + L_0 of sequences (n, L), in nats (n,) (Austin et al. 2021, eq. 1)."""
    times = process.grid(steps)
    total = prior_nelbo(process, x0, given)
    for s, t in itertools.pairwise(times):
        total = total + step_nelbo(process, model, x0, float(t), float(s), given)
    return np.asarray(total)


def path_gap(process: DiscreteDiffusion, model: Model, x0: Ints, steps: int) -> tuple[float, float]:
    """KL(q(x_{1:T} | x_0) || p_theta(x_{1:T} | x_0)) of one sequence (L,), and -log p_theta(x_0): both in nats.

    Every path of states is enumerated, N^T of them with N = S^L; no posterior and no bound enters.
    """
    times, states = process.grid(steps), all_sequences(process.symbols, len(x0))
    at = int(state_index(x0[None], process.symbols)[0])
    n = len(states)
    q, p = np.ones(()), start_law(process, len(x0))  # axes: x_1, ..., x_T; p grows from its end
    for s, t in itertools.pairwise(times):
        step = product_law(process.forward(float(s), float(t))[states])  # (N, N)
        q = q[..., None] * (step[at] if s == 0 else step)
    for s, t in zip(times[-2::-1], times[:0:-1], strict=True):
        step = product_law(process.reverse(model, states, float(t), float(s)))  # [x_t, x_s]
        back = step[:, at] if s == 0 else step.T  # [x_s, x_t]
        p = back.reshape(back.shape + (1,) * (p.ndim - 1)) * p
    assert q.shape == p.shape == (n,) * steps
    likelihood = p.sum()
    return float(divergence(q.ravel(), p.ravel() / likelihood)), float(-np.log(likelihood))
