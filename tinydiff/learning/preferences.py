"""Preferences through a bound: DPO for a model whose likelihood is not known.

Direct preference optimisation (Rafailov et al. 2023) raises the margin by which a model prefers the chosen answer w to
the rejected one l, measured from a reference:

    s = [log p(w) - log p_ref(w)] - [log p(l) - log p_ref(l)],    loss = -log sigma(beta s)

Masked diffusion has no log p, only a bound that must be estimated, B(x) = -NELBO(x) <= log p(x). Putting the estimate
in its place (DPO-E; LLaDA 1.5, Zhu et al. 2025, eq. 7) leaves the margin right on average, for the bound; the loss is
not, because -log sigma is bent, and its gradient is as noisy as the estimate:

    grad = -beta sigma(-beta s^) (grad B^(w) - grad B^(l))

VRPO (section 3.2 there) lowers the variance at the same price: spend the budget on noise levels with one mask each, and
show the model and the reference the same masks. The paper calls the latter antithetic sampling; it is what is elsewhere
called common random numbers, and has nothing to do with `spread="antithetic"` of `MaskedDiffusion.bound`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from .. import exact, ops
from ..arrays import Bools, Floats, Ints, check_counts
from ..data import Preferences
from ..processes.discrete import T_MIN, ranks
from ..processes.masked import MaskedDiffusion
from ..tensor import Tensor, concat, no_grad, where
from ..transformer import Model
from .optim import learning_rate
from .options import Options
from .run import Trainable, new_optimiser

Estimator = Literal["count", "stratified", "time", "complementary", "exact"]


@dataclass(frozen=True)
class Objective:
    """DPO, and how the log-likelihoods in it are estimated. The default is VRPO, with counts spread evenly.

    Attributes
    ----------
    beta : how much a nat of margin counts, above 0; the smaller, the further from the reference
    times, masks : noise levels for each text, and sets of masks at each
    estimator : "count": a number of masks k, uniform on 1 .. A of the A free positions, weight A / k. "stratified": the
        same, one k in each of `times` equal parts of 1 .. A. "time": a rate t, uniform above `T_MIN`, masks
        independent, weight 1 / t. "complementary": two sets that together are all, and all: three masks for each time
        (coupled sampling, Gong et al. 2025, with weights that make it unbiased). "exact": no estimate and no bound, but
        log p of decoding in random order, by enumeration, for a few free positions
    shared : whether model and reference see the same masks
    sft : weight of -B(w) / A, which keeps the chosen answers likely (0.05 in LLaDA 1.5)

    """

    beta: float = 0.2
    times: int = 8
    masks: int = 1
    estimator: Estimator = "stratified"
    shared: bool = True
    sft: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.beta) and self.beta > 0):
            raise ValueError(f"beta is {self.beta}; it must be above 0: it says how much a preference counts")
        check_counts(times=self.times, masks=self.masks)
        if self.estimator not in get_args(Estimator):
            raise ValueError(f"estimator is {self.estimator!r}; expected one of {', '.join(get_args(Estimator))}")
        if not (np.isfinite(self.sft) and self.sft >= 0):
            raise ValueError(f"sft is {self.sft}; it must be 0 or more")

    def draws(self, free: Bools, rng: np.random.Generator) -> tuple[Bools, Floats]:
        """Sets of masks for each of (B, L), (B, n, L), and their weights, (B, n): B^ = sum_j weight_j log p(masked).

        n is times x masks, three times that for "complementary".
        """
        most = free.sum(axis=1)[:, None]  # (B, 1), A
        u = rng.random((len(free), self.times))
        if self.estimator == "stratified":
            u = np.minimum((np.arange(self.times) + u) / self.times, np.nextafter(1.0, 0.0))
        u = np.repeat(u, self.masks, axis=1)  # (B, n)
        if self.estimator == "time":
            rate = T_MIN + (1 - T_MIN) * u
            hidden = (rng.random((*u.shape, free.shape[1])) < rate[..., None]) & free[:, None]
            return hidden, 1 / rate / u.shape[1]
        upper = np.maximum(most - 1, 1) if self.estimator == "complementary" else most
        k = 1 + np.floor(u * upper).astype(np.int64)
        rank = ranks(np.repeat(free, u.shape[1], axis=0), rng).reshape(*u.shape, -1)
        hidden = (rank < k[..., None]) & free[:, None]
        if self.estimator != "complementary":
            return hidden, most / k / u.shape[1]
        others, every = ~hidden & free[:, None], np.broadcast_to(free[:, None], hidden.shape)
        half = (most - 1) / 2
        weight = np.concatenate([half / k, half / np.maximum(most - k, 1), np.ones_like(k) / most], axis=1)
        return np.concatenate([hidden, others, every], axis=1), weight / u.shape[1]

    def margins(
        self, process: MaskedDiffusion, model: Model, reference: Model, pairs: Preferences, rng: np.random.Generator
    ) -> Tensor:
        """Estimates of s, (B,)."""
        return self._sides(process, model, reference, pairs, rng)[0]

    def loss(
        self, process: MaskedDiffusion, model: Model, reference: Model, pairs: Preferences, rng: np.random.Generator
    ) -> tuple[Tensor, Floats]:
        """The mean loss of the pairs, a scalar, and the margins that it is of, (B,)."""
        margins, chosen = self._sides(process, model, reference, pairs, rng)
        loss = dpo_loss(margins, self.beta).mean()
        if self.sft:
            loss = loss - (chosen / pairs.free.sum(axis=1)).mean() * self.sft
        return loss, margins.data

    def _sides(
        self, process: MaskedDiffusion, model: Model, reference: Model, pairs: Preferences, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """The margins, and B^(w) of the model: (B,) each."""
        found = []
        for x0 in (pairs.chosen, pairs.rejected):
            if self.estimator == "exact":
                ours = _log_p(process, model, x0, pairs.given)
                with no_grad():
                    theirs = _log_p(process, reference, x0, pairs.given)
            else:
                drawn = self.draws(pairs.free, rng)
                ours = elbo(process, model, x0, *drawn)
                with no_grad():
                    theirs = elbo(process, reference, x0, *(drawn if self.shared else self.draws(pairs.free, rng)))
            found.append((ours, ours - theirs))
        return found[0][1] - found[1][1], found[0][0]


def elbo(process: MaskedDiffusion, model: Model, x0: Ints, hidden: Bools, weight: Floats) -> Tensor:
    """B^ = sum_j weight_j sum_{i in hidden_j} log p(x0^i | the rest), (B,), with gradients.

    Parameters
    ----------
    x0 : (B, L) ids
    hidden : (B, n, L) sets of masks
    weight : (B, n)

    """
    batch, n, length = hidden.shape
    xt = np.where(hidden, process.mask_id, x0[:, None]).reshape(-1, length)
    t = process.schedule.inverse(1 - hidden.mean(axis=2)).reshape(-1)
    logits = model(xt, t)  # (B n, L, V)
    target = np.repeat(x0[:, None], n, axis=1).reshape(-1)
    nll = ops.cross_entropy(logits.reshape(-1, logits.shape[-1]), target).reshape(batch, n, length)
    scored = where(hidden, nll, Tensor(np.zeros((), nll.dtype)))  # not nll * 0, which may be infinity times 0
    return -(scored.sum(axis=2) * weight.astype(nll.dtype)).sum(axis=1)


def dpo_loss(margins: Tensor, beta: float) -> Tensor:
    """-log sigma(beta s) of each margin, (B,): a softmax over a logit of beta s and one of 0."""
    s = (margins * beta).reshape(-1, 1)
    both = concat([s, Tensor(np.zeros_like(s.data))], axis=1)
    return ops.cross_entropy(both, np.zeros(len(s.data), np.int64))


@dataclass(frozen=True)
class PreferenceFrame:
    """One step.

    Attributes
    ----------
    step, steps : steps done and steps in all
    loss : of this step's pairs
    margin : their mean estimated margin, in nats
    preferred : share of them whose estimated margin is above 0
    grad_norm : before clipping

    """

    step: int
    steps: int
    loss: float
    margin: float
    preferred: float
    grad_norm: float


def prefer(
    process: MaskedDiffusion,
    model: Trainable,
    pairs: Preferences,
    objective: Objective | None = None,
    options: Options | None = None,
    *,
    reference: Model | None = None,
) -> Iterator[PreferenceFrame]:
    """Train a model on preferences, in place, yielding a frame per step. It keeps nothing on disk.

    Parameters
    ----------
    options : steps, batch (of pairs), lr, warmup, clip, weight_decay, optimiser and seed are used
    reference : what margins are measured from; default the model as it is now

    """
    objective, options = objective or Objective(), options or Options(steps=300, batch=16, lr=1e-4, warmup=10)
    reference = copy.deepcopy(model) if reference is None else reference
    for part in (model, reference):
        process.check_suits(part)
    theirs = getattr(reference, "length", model.length)
    if not pairs.chosen.shape[1] == model.length == theirs:
        raise ValueError(
            f"pairs are {pairs.chosen.shape[1]} tokens long, the model {model.length} and the reference {theirs}; all "
            "three must agree"
        )
    return _steps(process, model, reference, pairs, objective, options)


def _steps(
    process: MaskedDiffusion, model: Any, reference: Model, pairs: Preferences, objective: Objective, options: Options
) -> Iterator[PreferenceFrame]:
    rng, optimiser = np.random.default_rng(options.seed), new_optimiser(model, options)
    for step in range(options.steps):
        batch = pairs.at(rng.integers(0, len(pairs), options.batch))
        loss, margins = objective.loss(process, model, reference, batch, rng)
        loss.backward()
        norm = optimiser.step(learning_rate(step, options.steps, options.lr, options.warmup))
        yield PreferenceFrame(
            step + 1, options.steps, loss.item(), float(margins.mean()), float((margins > 0).mean()), norm
        )


def judged(
    process: MaskedDiffusion, model: Model, reference: Model, pairs: Preferences, draws: int = 64, seed: int = 1
) -> Floats:
    """Estimated margins of pairs, (N,), with many draws and no gradients: what to report."""
    objective, rng = replace(Objective(), times=draws), np.random.default_rng(seed)
    with no_grad():
        found = [
            objective.margins(process, model, reference, pairs.at(slice(i, i + 16)), rng).data
            for i in range(0, len(pairs), 16)
        ]
    return np.concatenate(found)


def _log_p(process: MaskedDiffusion, model: Model, x0: Ints, given: Bools | None) -> Tensor:
    """Exact log-likelihoods, (B,); what is given must be the same in all rows."""
    if given is not None and (given != given[0]).any():
        raise ValueError("given differs from pair to pair; estimator='exact' lists the masks of one set of positions")
    return exact.any_order_log_p(process, model, x0, None if given is None else given[0])
