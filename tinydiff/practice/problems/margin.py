"""Coding problem: the margin. A preference margin through the bound, with little variance at the same price."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ... import exact
from ...arrays import Floats, Ints
from ...processes import MaskedDiffusion
from ...tensor import Tensor
from ..judge import array
from ..models import Asked, Table
from ..question import Function, Question, Seen, Series, Suspect

CALLS = 200
ROOM = 1.35  # standard deviations that are still good


def vrpo_margin(theta: Any, ref: Any, win: Ints, lose: Ints, mask_id: int, n: int, rng: np.random.Generator) -> float:
    """Estimate how much more a model prefers `win` to `lose` than a reference does, in nats:

        s = [B_theta(win) - B_ref(win)] - [B_theta(lose) - B_ref(lose)],    B(x) = -NELBO(x) <= log p(x)

    Estimate each B from n draws: k uniform on 1 .. L, a set of k positions, and L / k times the sum of log p over them.
    The mean over your draws must be s, with as little variance as n draws allow, and neither model may be asked for
    more than n masked copies of each text (LLaDA 1.5, Zhu et al. 2025).

    Parameters
    ----------
    theta, ref : theta(xt) gives log probabilities (B, L, V) for ids (B, L)
    win, lose : (L,) token ids
    mask_id : the id of MASK
    n : draws per text
    rng : all chance comes from here

    Returns
    -------
    One number

    """

    def difference(x: Ints) -> float:
        L = len(x)
        k = rng.integers(1, L + 1, n)  # a count of its own for every mask
        hidden = rng.random((n, L)).argsort(axis=1).argsort(axis=1) < k[:, None]
        xt = np.where(hidden, mask_id, x)
        log_ratio = (theta(xt) - ref(xt))[:, np.arange(L), x]  # the same masks for both: (n, L)
        return float((np.where(hidden, log_ratio, 0).sum(axis=1) * L / k).mean())

    return difference(win) - difference(lose)


# --- how it is judged -------------------------------------------------------------------------------------------------


class Nudged(Table):
    """A table near another one."""

    def __init__(self, model: Table, rng: np.random.Generator, by: float) -> None:
        self.vocab_size, self.length = model.vocab_size, model.length
        table = model.params["table"].data
        moved = table + by * rng.standard_normal(table.shape)
        moved[-1] += rng.choice([-1.0, 1.0], table.shape[1])  # most where all is hidden, which is the last state
        self.params = {"table": Tensor(moved)}


def cases(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """A reference and a model that has moved a little from it, a few times."""
    made: list[tuple[Any, ...]] = []
    for v, win, lose, n in ((2, (0, 1, 0), (1, 0, 1), 4), (2, (0, 0, 1), (1, 1, 0), 8), (3, (2, 0, 1), (0, 1, 2), 6)):
        ref = Table(v, len(win), rng, strength=1.5, tilt=0.7)
        theta = Nudged(ref, rng, 0.25)
        seeded = np.random.default_rng(rng.integers(1 << 30))
        made.append((Asked(theta, log=True), Asked(ref, log=True), np.array(win), np.array(lose), v, n, seeded))
    return made


def moments(theta: Asked, ref: Asked, x: Ints, mask_id: int) -> tuple[float, float]:
    """Mean and variance of one draw's L / k sum of log ratios, over all counts and sets of masks."""
    process, length = MaskedDiffusion(mask_id), len(x)
    ours, masks = exact.masked_cross_entropy(process, theta.model, x[None], 0.5)
    theirs, _ = exact.masked_cross_entropy(process, ref.model, x[None], 0.5)
    k = masks.sum(axis=1)
    chance = np.array([0.0] + [1 / (length * math.comb(length, i)) for i in k[1:]])
    value = (theirs - ours)[0] * length / np.maximum(k, 1)
    mean = float(chance @ value)
    return mean, float(chance @ value**2) - mean**2


def truth(theta: Asked, ref: Asked, win: Ints, lose: Ints, mask_id: int, n: int, rng: np.random.Generator) -> Floats:
    """The mean; the log of the standard deviation that is still good; the masked texts that theta is asked for."""
    (up, of_up), (down, of_down) = (moments(theta, ref, x, mask_id) for x in (win, lose))
    return np.array([up - down, math.log(ROOM * math.sqrt((of_up + of_down) / n)), 2 * n])


def observe(function: Callable[..., Any], case: tuple[Any, ...]) -> Seen:
    """Mean and spread of many calls, and how much the model was asked."""
    theta, ref, win, lose, mask_id, n, rng = case
    right = truth(*case)
    theta.rows = 0
    found = np.array([array(function(theta, ref, win, lose, mask_id, n, rng), ()) for _ in range(CALLS)])
    spread = max(float(found.std(ddof=1)), 1e-12)
    rows = theta.rows / CALLS
    values = np.array([found.mean(), max(math.log(spread), right[1]), max(rows, right[2])])
    return values, np.array([spread / math.sqrt(CALLS), 0.05, 0.0])


# --- what goes wrong --------------------------------------------------------------------------------------------------


def _variant(
    theta: Any, ref: Any, win: Ints, lose: Ints, mask_id: int, n: int, rng: np.random.Generator, wrong: str
) -> float:
    """The margin with one mistake in it."""

    def masks(L: int) -> tuple[Any, Ints]:
        high = L - 1 if wrong == "never all" else L
        k = np.full(n, rng.integers(1, high + 1)) if wrong == "one count" else rng.integers(1, high + 1, n)
        if wrong == "one mask":
            k[:] = k[0]
        ranks = rng.random((n, L)).argsort(axis=1).argsort(axis=1)
        return (ranks[:1] if wrong == "one mask" else ranks) < k[:, None], k

    def elbo(model: Any, x: Ints, hidden: Any, k: Ints) -> float:
        L = len(x)
        log_p = model(np.where(hidden, mask_id, x))[:, np.arange(L), x]
        kept = log_p if wrong == "everywhere" else np.where(hidden, log_p, 0)
        weight = np.ones(n) if wrong == "no weight" else L / k
        each = kept.sum(axis=1) * weight / (L if wrong == "per token" else 1)
        return float(each.sum() if wrong == "sum" else each.mean())

    def difference(x: Ints) -> float:
        hidden, k = masks(len(x))
        ours = elbo(theta, x, hidden, k)
        if wrong == "no reference":
            return ours
        return ours - (elbo(ref, x, *masks(len(x))) if wrong == "unshared" else elbo(ref, x, hidden, k))

    if wrong == "twice":
        halves = [vrpo_margin(theta, ref, win, lose, mask_id, n, rng) for _ in range(2)]
        return sum(halves) / 2
    s = difference(win) - difference(lose)
    if wrong == "loss":
        return math.log1p(math.exp(-s))
    if wrong == "sigmoid":
        return 1 / (1 + math.exp(-s))
    return -s if wrong == "turned" else s


def _mistaken(wrong: str, says: str) -> Suspect:
    return Suspect(partial(_variant, wrong=wrong), says)


PROBLEM = Series(
    "margin",
    "The margin: a preference through the bound",
    "lessons/08_hazards.ipynb",
    (
        Question(
            "The margin",
            "Write the margin that preference training needs, estimated through the bound. It must be right on "
            "average, "
            "with the variance that n draws allow: mean, standard deviation and the number of network calls are "
            "compared "
            "with those of an enumeration.",
            Function(
                vrpo_margin,
                cases,
                (
                    _mistaken(
                        "unshared",
                        "The mean is right and the variance far too large: model and reference see "
                        "different masks. Show both the same ones; then what the masks do to both cancels.",
                    ),
                    _mistaken(
                        "turned",
                        "The sign is turned round: B is minus the NELBO, so a text that the model likes "
                        "better has the larger B.",
                    ),
                    _mistaken("no reference", "The reference is missing: this is the margin of the model alone."),
                    _mistaken("no weight", "The weight L / k is missing, so this is no difference of bounds."),
                    _mistaken(
                        "one count",
                        "The mean is right, the variance too large: all n draws share one count k. "
                        "A new count for each costs nothing and averages over the counts too.",
                    ),
                    _mistaken(
                        "one mask",
                        "The mean is right, but all n draws are the same mask, so that n of them are "
                        "worth one. Draw count and positions anew each time.",
                    ),
                    _mistaken(
                        "never all",
                        "The counts go from 1 to L - 1: rng.integers leaves out its upper end, and the "
                        "state with everything hidden is in the bound too.",
                    ),
                    _mistaken("sum", "This is added up over the n draws; take their mean."),
                    _mistaken("everywhere", "All positions are scored. Only hidden ones are in the bound."),
                    _mistaken(
                        "per token",
                        "This is per token, divided by L. A margin is a difference of logarithms of whole texts.",
                    ),
                    _mistaken(
                        "loss",
                        "This is -log sigma(s), the loss. The margin s itself is asked for; and note that "
                        "the mean of a loss of a noisy margin is not the loss of the mean.",
                    ),
                    _mistaken(
                        "sigmoid", "This is sigma(s), the probability of the preference. The margin s is asked for."
                    ),
                    _mistaken(
                        "twice", "It is right, but the models are asked for twice as many masked texts as allowed."
                    ),
                ),
                oracle=truth,
                observe=observe,
                labels=("the mean", "the log of the standard deviation", "masked texts asked of theta per call"),
                better="Spread the counts: with n a multiple of L take each count equally often, and the part of the "
                "variance that comes from the counts is gone. And complementary masks: hide a set, then its "
                "complement.",
            ),
            (
                "Write a function of one text first: n masks, one answer of each model for the whole batch of n, the "
                "weighted sum over hidden positions, the mean. Then the margin is a difference of two of those.",
                "log_p[:, np.arange(L), x] takes the log probability of the text's own token at each position: (n, L).",
                "theta and ref must see the same xt. If theta is ref, the result must be exactly 0, in every call.",
            ),
            "Var(a - b) = Var a + Var b - 2 Cov(a, b). Shared masks make the covariance nearly as large as the "
            "variances, "
            "because the two networks are close; and n counts with one mask each beat one count with n masks, because "
            "Var = V_t / n_t + V_y / (n_t n_y). The library's is `learning.preferences.Objective`, and "
            "`exact.margin_moments` lists what it does.",
            "lessons/08, section 5",
        ),
    ),
)
