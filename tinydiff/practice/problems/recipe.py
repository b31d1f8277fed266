"""Coding problem: the recipe. The loss of masked diffusion in ten lines, compared with the bound that it estimates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ... import exact, ops
from ...arrays import Bools, Ints
from ...processes import MaskedDiffusion
from ...tensor import Tensor
from ..judge import Refused, array
from ..models import Table
from ..question import Function, Question, Seen, Series, Suspect

ROWS, CALLS = 64, 32
MOST, SCATTER = 512, 0.1
"""Calls at most, and the share of the mean that chance may then still move it by: weights of 1/t need some 5 %."""


def masked_loss(model: Any, x0: Ints, mask_id: int, rng: np.random.Generator) -> Tensor:
    """Estimate the bound of masked diffusion for a batch of texts, in nats per token.

    Hide some positions of every text, ask the model about what is hidden, and weight the answers so that the mean over
    your draws is NELBO / L, averaged over the texts:

        NELBO(x0) = E_t E_{x_t}[ w(t) sum over masked i of -log p(x0^i | x_t) ]

    with any schedule, w(t) = 1/t for the linear one; or the same with exactly k of the L positions hidden, k uniform on
    1 .. L, and weight L / k.

    Parameters
    ----------
    model : model(xt) gives logits (B, L, V), a Tensor; model(xt, select=hidden) only those of the n hidden ones, (n, V)
    x0 : (B, L) token ids below V
    mask_id : the id of MASK
    rng : all chance comes from here

    Returns
    -------
    A Tensor with one number, so that `.backward()` trains the model. ops.cross_entropy(logits, targets) with (n, V) and
    (n,) gives (n,) nats.

    """
    B, L = x0.shape
    k = rng.integers(1, L + 1, B)
    hidden = rng.random((B, L)).argsort(axis=1).argsort(axis=1) < k[:, None]
    xt = np.where(hidden, mask_id, x0)
    nll = ops.cross_entropy(model(xt, select=hidden), x0[hidden])  # (n,)
    weight = np.broadcast_to(L / k[:, None], x0.shape)[hidden]
    loss: Tensor = (nll * weight).sum() / x0.size
    return loss


# --- how it is judged -------------------------------------------------------------------------------------------------


def cases(rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Tables of logits, and a batch of the same text over and over: one that is likely, one that is not, any."""
    made: list[tuple[Any, ...]] = []
    for v, length, token in ((2, 3, 1), (2, 2, 1), (2, 3, 0), (3, 4, 2), (3, 3, None)):
        model = Table(v, length, rng, strength=0.4, tilt=1.0)
        text = rng.integers(v, size=length) if token is None else np.full(length, token)
        made.append((model, np.tile(text, (ROWS, 1)), v, np.random.default_rng(rng.integers(1 << 30))))
    return made


def truth(model: Table, x0: Ints, mask_id: int, rng: np.random.Generator) -> float:
    """NELBO / L by adding up every set of masks."""
    return float(exact.nelbo_by_count(MaskedDiffusion(mask_id), model, x0[:1])[0] / x0.shape[1])


def observe(function: Callable[..., Any], case: tuple[Any, ...]) -> Seen:
    """The mean of some calls; and that chance comes from rng, and that there is a gradient, which is the right one."""
    model, x0, mask_id, rng = case
    seeds = rng.integers(1 << 30, size=MOST)

    def called(seed: int) -> Any:
        return function(model, x0, mask_id, np.random.default_rng(seed))

    losses = [float(array(called(seed), ())) for seed in seeds[:CALLS]]
    if not np.isfinite(losses).all():
        raise Refused("finite", f"The result is {'NaN' if np.isnan(losses).any() else 'infinite'}.")
    if float(array(called(seeds[0]))) != losses[0]:
        raise Refused("property", "Twice the same generator, and two results: draw all chance from rng.")
    if np.ptp(losses) == 0:
        raise Refused("property", "New draws, and the same result: draw what is hidden from rng, anew in every call.")
    check_gradient(called, model, int(seeds[0]))
    while (error := np.std(losses, ddof=1) / np.sqrt(len(losses))) > SCATTER / 4 * abs(np.mean(losses)):
        if len(losses) == MOST:
            break
        losses += [float(array(called(seed), ())) for seed in seeds[len(losses) : 2 * len(losses)]]
    if error > SCATTER * abs(np.mean(losses)):
        raise Refused(
            "property",
            "The results scatter beyond all bounds from call to call, as no right weight makes them do: is something "
            "divided by t (or k) twice, once by a mean and once by the weight?",
        )
    return np.asarray(np.mean(losses)), np.asarray(error)


def check_gradient(called: Callable[[int], Any], model: Table, seed: int) -> None:
    """`Refused` unless what `backward` leaves is the slope of the loss, with the same masks."""
    table = model.params["table"]
    table.grad = None
    loss = called(seed)
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise Refused("type", "The result has no gradient, so nothing can be learnt: stay with Tensors to the end.")
    loss.backward()
    direction = np.random.default_rng(0).standard_normal(table.shape)
    slope = 0.0 if table.grad is None else float((table.grad * direction).sum())
    clean, h = table.data.copy(), 1e-5
    try:
        table.data = clean + h * direction
        above = float(array(called(seed)))
        table.data = clean - h * direction
        below = float(array(called(seed)))
    finally:
        table.data, table.grad = clean, None
    if abs(slope - (above - below) / (2 * h)) > 1e-5 * max(1.0, abs(slope)):
        raise Refused("property", "The gradient is not the slope of the loss: a part of it was taken off the tape.")


# --- what goes wrong --------------------------------------------------------------------------------------------------


def hide(x0: Ints, k: Ints, rng: np.random.Generator) -> Bools:
    """Exactly k[b] positions of row b."""
    return np.asarray(rng.random(x0.shape).argsort(axis=1).argsort(axis=1) < k[:, None])


def counts(x0: Ints, rng: np.random.Generator, low: int = 1, high: int | None = None) -> Ints:
    """How many to hide in each row."""
    return rng.integers(low, (x0.shape[1] if high is None else high) + 1, len(x0))


def weighed(model: Any, x0: Ints, hidden: Bools, mask_id: int, weight: Any) -> Tensor:
    """The cross-entropies of what is hidden, weighted by row and added up."""
    nll = ops.cross_entropy(model(np.where(hidden, mask_id, x0), select=hidden), x0[hidden])
    return (nll * np.broadcast_to(np.asarray(weight, float).reshape(-1, 1), x0.shape)[hidden]).sum()


def _unweighted(model: Any, x0: Ints, mask_id: int, rng: np.random.Generator) -> Tensor:
    return weighed(model, x0, hide(x0, counts(x0, rng), rng), mask_id, 1.0) / x0.size


def _mean_of_batch(model: Any, x0: Ints, mask_id: int, rng: np.random.Generator) -> Tensor:
    hidden = hide(x0, counts(x0, rng), rng)
    return weighed(model, x0, hidden, mask_id, 1.0) / int(hidden.sum())


def _everywhere(model: Any, x0: Ints, mask_id: int, rng: np.random.Generator) -> Tensor:
    k = counts(x0, rng)
    logits = model(np.where(hide(x0, k, rng), mask_id, x0))
    nll = ops.cross_entropy(logits.reshape(x0.size, -1), x0.ravel())
    return (nll * np.repeat(x0.shape[1] / k, x0.shape[1])).sum() / x0.size


def _one_rate(model: Any, x0: Ints, mask_id: int, rng: np.random.Generator) -> Tensor:
    hidden = rng.random(x0.shape) < 0.15
    return weighed(model, x0, hidden, mask_id, 1.0) / max(int(hidden.sum()), 1)


def _never_all(model: Any, x0: Ints, mask_id: int, rng: np.random.Generator) -> Tensor:
    k = counts(x0, rng, high=x0.shape[1] - 1)
    return weighed(model, x0, hide(x0, k, rng), mask_id, x0.shape[1] / k) / x0.size


def _from_zero(model: Any, x0: Ints, mask_id: int, rng: np.random.Generator) -> Tensor:
    k = counts(x0, rng, low=0, high=x0.shape[1] - 1)
    return weighed(model, x0, hide(x0, k, rng), mask_id, x0.shape[1] / np.maximum(k, 1)) / x0.size


def _per_text(model: Any, x0: Ints, mask_id: int, rng: np.random.Generator) -> Tensor:
    k = counts(x0, rng)
    return weighed(model, x0, hide(x0, k, rng), mask_id, x0.shape[1] / k) / len(x0)


def _summed(model: Any, x0: Ints, mask_id: int, rng: np.random.Generator) -> Tensor:
    k = counts(x0, rng)
    return weighed(model, x0, hide(x0, k, rng), mask_id, x0.shape[1] / k)


def _weighted_twice(model: Any, x0: Ints, mask_id: int, rng: np.random.Generator) -> Tensor:
    k = counts(x0, rng)
    return weighed(model, x0, hide(x0, k, rng), mask_id, (x0.shape[1] / k) ** 2) / x0.size


def _peeking(model: Any, x0: Ints, mask_id: int, rng: np.random.Generator) -> Tensor:
    k = counts(x0, rng)
    hidden = hide(x0, k, rng)
    nll = ops.cross_entropy(model(x0, select=hidden), x0[hidden])
    return (nll * np.broadcast_to(x0.shape[1] / k[:, None], x0.shape)[hidden]).sum() / x0.size


def _detached(model: Any, x0: Ints, mask_id: int, rng: np.random.Generator) -> Tensor:
    return Tensor(masked_loss(model, x0, mask_id, rng).data)


def _elsewhere(model: Any, x0: Ints, mask_id: int, rng: np.random.Generator) -> Tensor:
    return masked_loss(model, x0, mask_id, np.random.default_rng())


PROBLEM = Series(
    "recipe",
    "The recipe: a loss in ten lines",
    "lessons/03_masked_elbo.ipynb",
    (
        Question(
            "The recipe",
            "Write the training loss of masked diffusion. It is compared with the exact bound, found by adding up "
            "every "
            "set of masks; any estimate that is right on average will do.",
            Function(
                masked_loss,
                cases,
                (
                    Suspect(
                        _unweighted,
                        "The weight is missing. Without L / k (or 1 / t) states with few masks count too little, and "
                        "the "
                        "mean is no bound of the likelihood.",
                    ),
                    Suspect(
                        _mean_of_batch,
                        "This is the mean over all masked tokens of the batch. Each text must be weighted by its own "
                        "L / k: a mean over the batch counts a token the same whether its text is nearly clean or all "
                        "hidden, which is no bound.",
                    ),
                    Suspect(
                        _everywhere,
                        "All positions are scored, the visible ones too. Only hidden ones are in the sum: what the "
                        "model "
                        "says about a token that it sees is not in the bound.",
                    ),
                    Suspect(
                        _one_rate,
                        "The share of masks is always the same, 0.15. That is BERT's loss: one slice of the integral, "
                        "and a model that never saw other shares. Draw it anew for every text, from 0 to 1.",
                    ),
                    Suspect(
                        _never_all,
                        "Nothing is ever hidden completely: k goes from 1 to L - 1. rng.integers leaves out its upper "
                        "end. The first step of every generation, from all masks, would never be trained.",
                    ),
                    Suspect(
                        _from_zero,
                        "k goes from 0 to L - 1: rng.integers starts at 0 and leaves out its upper end. It should be "
                        "1 .. L.",
                    ),
                    Suspect(
                        _per_text,
                        "This is in nats per text, L times too much: divide by the number of tokens, not of texts.",
                    ),
                    Suspect(
                        _summed,
                        "This is added up over the batch: it grows with the number of texts. Divide by the tokens.",
                    ),
                    Suspect(
                        _weighted_twice,
                        "The weight is there twice. A mean over the k hidden tokens has divided by k already: either "
                        "add up and weight by L / k, or take the mean.",
                    ),
                    Suspect(
                        _peeking,
                        "The model reads x0, with nothing hidden, and is asked about what it sees. Give it x_t.",
                    ),
                    Suspect(
                        _detached,
                        "The result has no gradient: .data or float() took it off the tape. Stay with Tensors.",
                    ),
                    Suspect(
                        _elsewhere,
                        "Chance comes from somewhere else than rng, so no run can be repeated. Draw all of it from "
                        "rng.",
                    ),
                ),
                oracle=truth,
                observe=observe,
                unit="nats",
                better="Spread the draws: one k in each of B equal parts of 1 .. L (shuffled) has the same mean, less "
                "variance, for nothing. MaskedDiffusion.loss does that with its times, and "
                "MaskedDiffusion.bound(spread=...) lets you compare.",
            ),
            (
                "Three lines make x_t: how many to hide in each row, which ones, and np.where(hidden, mask_id, x0). To "
                "hide exactly k of a row, give every position a random number and hide those of the k lowest ranks.",
                "ops.cross_entropy(model(xt, select=hidden), x0[hidden]) gives -log p of the n hidden tokens. Every "
                "one "
                "of them needs the weight of its own row: np.broadcast_to(weight[:, None], x0.shape)[hidden].",
                "With k uniform on 1 .. L, weight L / k, the sum over all hidden tokens divided by B L is the bound "
                "per "
                "token. Try a model that says 1/V everywhere: the loss must come out as log V, whatever is hidden.",
            ),
            "E over t of w(t) times the probability of hiding just this set of k positions is 1 / (k C(L, k)), "
            "whatever the "
            "schedule. Drawing k uniformly and then a set has probability 1 / (L C(L, k)); the weight L / k makes up "
            "the "
            "difference.",
            "lessons/03_masked_elbo.ipynb, section 4",
        ),
    ),
)
