"""Does a masked model still use both sides, or has it become a slow autoregressive one?

Two measures, which are not the same thing. *Order*: in which order positions were committed (AR-ness; DiffuCoder, Gong
et al. 2025, appendix A.2). *Use*: what a model gains from the right, by hiding it with masks,

    gain_i = log p(x^i | left, right) - log p(x^i | left, MASK)                 nats per token

With the data's own conditionals its mean is I(X_i; X_right | X_left). The share of that which a model gains is near 0
if it has collapsed, near 1 if it knows both conditionals, and above 1 where it is bad at the left alone: read it beside
that. A perfect model of a left-to-right language may well write from left to right, and still use the right wherever
it is given.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..arrays import Floats, Ints
from ..data.laws import Law
from ..decoders import Frame
from ..processes.discrete import DiscreteDiffusion, token_probabilities
from ..transformer import Model

AT_ONCE = 1024  # texts that a model is asked for at a time


def commit_order(frames: Iterable[Frame]) -> Ints:
    """The free positions in the order in which they were committed for good: (B, A). Within a step left to right.

    All sequences must have equally many free positions.
    """
    step = free = None
    for frame in frames:
        step = np.zeros(frame.state.shape, np.int64) if step is None else step
        step[frame.committed], free = frame.step, ~frame.given
    if step is None or free is None:
        raise ValueError("frames is empty; expected those of a decoder")
    if len(set(free.sum(axis=1).tolist())) > 1:
        raise ValueError("frames has sequences with different numbers of free positions; measure them apart")
    order = np.where(free, step, step.max() + 1).argsort(axis=1, kind="stable")
    return np.asarray(order[:, : int(free[0].sum())])


def ar_ness(order: Ints, k: int = 1) -> tuple[Floats, Floats]:
    """How far orders go from left to right, locally and globally, each (B,) in 0 .. 1.

    local@k is the share of steps t whose k predecessors are the k positions just before p_t, as sets; global@k that of
    the steps that take one of the k leftmost positions still masked. From left to right they are (L - k) / L and 1; of
    an order drawn at random see `random_ar_ness`.

    Parameters
    ----------
    order : (B, L), the positions in the order of their commits

    """
    order, length = np.asarray(order), np.shape(order)[1]
    _check_k(k, length)
    before = [np.sort(order[:, t - k : t], axis=1) for t in range(k, length)]
    wanted = [order[:, t, None] + np.arange(-k, 0) for t in range(k, length)]
    hits = [(a == b).all(axis=1) for a, b in zip(before, wanted, strict=True)]
    local = np.sum(hits, axis=0) / length if hits else np.zeros(len(order))
    further_left = [(order[:, t + 1 :] < order[:, t, None]).sum(axis=1) < k for t in range(length)]
    return np.asarray(local, np.float64), np.mean(further_left, axis=0)


def random_ar_ness(length: int, k: int = 1) -> tuple[float, float]:
    """What `ar_ness` is on average for an order drawn at random: the zero line.

    local@k = (L - k)^2 k! (L - k - 1)! / (L! L), which is (L - 1) / L^2 for k = 1; global@k = k / L (1 + H_L - H_k),
    H the harmonic numbers.
    """
    _check_k(k, length)
    ways = np.prod([i / (length - k + i) for i in range(1, k + 1)])  # k! (L - k)! / L!
    local = (length - k) / length * float(ways) if length > k else 0.0
    return local, k / length * (1 + sum(1 / i for i in range(k + 1, length + 1)))


def right_gain(process: DiscreteDiffusion, model: Model, ids: Ints) -> Floats:
    """What the model gains from the right at each position of (n, L) texts, in nats: (n, L), 0 at the last."""
    both, left = _hidden(process, ids)
    return _log_p(process, model, ids, both) - _log_p(process, model, ids, left)


def left_to_right_nll(process: DiscreteDiffusion, model: Model, ids: Ints) -> Floats:
    """-log p of (n, L) texts if they are written one by one from the left, all to the right being masked: (n,) nats."""
    _, left = _hidden(process, ids)
    return np.asarray(-_log_p(process, model, ids, left).sum(axis=1))


def gain_of_law(law: Law, ids: Ints) -> tuple[float, float]:
    """What the true conditionals gain from the right in all, nats per text, and its standard error over (n, L) texts.

    sum_i I(X_i; X_right | X_left) = H(X) - sum_i H(X_i | X_others). The entropy is known; the others are averaged over
    texts of the law, in each of which every token is replaced by every other.
    """
    v, (n, length) = law.codec.vocab_size, ids.shape
    surprise = np.empty((n, length))
    for i in range(length):
        for start in range(0, n, max(1, AT_ONCE * 16 // v)):
            some = ids[start : start + max(1, AT_ONCE * 16 // v)]
            changed = np.repeat(some[:, None], v, axis=1)  # (m, V, L)
            changed[:, :, i] = np.arange(v)
            log_p = law.log_p(changed.reshape(-1, length)).reshape(len(some), v)
            most = log_p.max(axis=1)
            total = most + np.log(np.exp(log_p - most[:, None]).sum(axis=1))
            surprise[start : start + len(some), i] = total - log_p[np.arange(len(some)), some[:, i]]
    of_text = surprise.sum(axis=1)
    error = float(of_text.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return float(law.entropy - of_text.mean()), error


def _hidden(process: DiscreteDiffusion, ids: Ints) -> tuple[Ints, Ints]:
    """Each text once for each position i, (n, L, L): with i masked; and with i and all to its right masked."""
    length = ids.shape[1]
    place = np.arange(length)
    texts = ids[:, None]
    return (
        np.where(place == place[:, None], process.mask_id, texts),
        np.where(place >= place[:, None], process.mask_id, texts),
    )


def _log_p(process: DiscreteDiffusion, model: Model, ids: Ints, states: Ints) -> Floats:
    """Log p of token i of each text in state i, (n, L)."""
    n, length = ids.shape
    flat, found = states.reshape(-1, length), np.empty(n * length)
    place, target = np.tile(np.arange(length), n), ids.reshape(-1)
    t = process.schedule.inverse(1 - (flat == process.mask_id).mean(axis=1))
    for start in range(0, len(flat), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        p = token_probabilities(model, flat[part], t[part])
        rows = np.arange(len(p))
        found[part] = np.log(np.maximum(p[rows, place[part], target[part]], 1e-300))
    return found.reshape(n, length)


def _check_k(k: int, length: int) -> None:
    if not 1 <= k <= length:
        raise ValueError(f"k is {k}; expected 1 <= k <= {length}, the number of positions")
