"""AdamW, gradient clipping, the moving average of the weights, and the learning-rate schedule.

Parameters and their gradients are moved into one flat array each, so that clipping, the update and the average are each
one pass over memory instead of one per parameter.
"""

from __future__ import annotations

import math

import numpy as np

from .. import kernels
from ..arrays import Floats
from ..tensor import Tensor

WHOLE = slice(None)


class Flat:
    """The parameters as views of one array, matrices first (those are decayed); likewise their gradients."""

    def __init__(self, params: dict[str, Tensor]) -> None:
        ordered = sorted(params, key=lambda name: params[name].ndim < 2)  # stable: keeps the order within each group
        dtype = params[ordered[0]].dtype
        self.slices: dict[str, tuple[slice, tuple[int, ...]]] = {}
        start = 0
        for name in ordered:
            size = params[name].size
            self.slices[name] = (slice(start, start + size), params[name].shape)
            start += size
        self.decayed = sum(p.size for p in params.values() if p.ndim >= 2)
        self.values: Floats = np.empty(start, dtype)
        self.grads: Floats = np.zeros(start, dtype)
        for name, view in self.named(self.values).items():
            view[...] = params[name].data
        self.bind(params)

    def bind(self, params: dict[str, Tensor]) -> None:
        """Make the parameters and their gradients views of these arrays."""
        for name, view in self.named(self.values).items():
            params[name].data = view
        for name, view in self.named(self.grads).items():
            params[name].grad = view

    def check_bound(self, params: dict[str, Tensor]) -> None:
        """Raise ValueError unless the parameters are views of this array still: what moves here must move them."""
        for name, view in self.named(self.values).items():
            if not np.may_share_memory(params[name].data, view):
                raise ValueError(
                    f"parameter {name} is not this run's any more: another run was made with the same model; give "
                    "each a model of its own, for example copy.deepcopy(model)"
                )

    def named(self, flat: Floats) -> dict[str, Floats]:
        """The part of a flat array that belongs to each parameter, as views of its shape."""
        return {name: flat[part].reshape(shape) for name, (part, shape) in self.slices.items()}


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019); matrices decay, biases and norms do not.

    Parameters
    ----------
    clip : the gradient is scaled down to this Euclidean norm if it is longer

    """

    def __init__(
        self,
        params: dict[str, Tensor],
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        clip: float = 1.0,
    ) -> None:
        self.flat = Flat(params)
        self.betas, self.eps, self.weight_decay, self.clip = betas, eps, weight_decay, clip
        self.m, self.v = np.zeros_like(self.flat.values), np.zeros_like(self.flat.values)
        self.steps = 0
        self.parts = [(slice(self.flat.decayed), weight_decay), (slice(self.flat.decayed, None), 0.0)]

    def state(self) -> dict[str, Floats]:
        """What the next step depends on beside the weights: views by name."""
        moments = {"adam.m": self.flat.named(self.m), "adam.v": self.flat.named(self.v)}
        return {f"{moment}/{name}": view for moment, views in moments.items() for name, view in views.items()}

    def step(self, lr: float, own: slice = WHOLE) -> float:
        """Clip, update the parameters, clear the gradients; return the gradient's norm before clipping.

        Parameters
        ----------
        own : update only these places of the flat array, which end where parameters do; others are another rank's

        """
        flat = self.flat
        norm = math.sqrt(float(np.dot(flat.grads, flat.grads)))
        if not math.isfinite(norm):
            flat.grads[...] = 0  # or they would spoil every later step too
            raise FloatingPointError(
                f"the gradient became {norm} after {self.steps} steps; train again with a learning rate below {lr:g}"
            )
        if norm > self.clip:
            flat.grads *= self.clip / norm
        self.steps += 1
        self._update(lr, slice(*own.indices(flat.grads.size)))
        flat.grads[...] = 0
        return norm

    def _update(self, lr: float, own: slice) -> None:
        for whole, decay in self.parts:
            start, stop, _ = whole.indices(self.flat.grads.size)
            part = slice(max(start, own.start), max(start, own.start, min(stop, own.stop)))
            kernels.adamw(
                self.flat.values[part], self.flat.grads[part], self.m[part], self.v[part],
                lr, *self.betas, self.eps, decay, self.steps,
            )  # fmt: skip


class EMA:
    """Exponential moving average of the weights: smoother than the last step, and what is evaluated and sampled.

    It never touches the model, which trains on; `Run.averaged` makes one that has these weights.
    The decay starts low, min(decay, (1 + n) / (10 + n)) at step n, so that the random start is forgotten.
    """

    def __init__(self, flat: Flat, decay: float = 0.999) -> None:
        self.flat, self.decay = flat, decay
        self.values = flat.values.copy()

    def update(self, step: int, own: slice = WHOLE) -> None:
        """Move towards the current weights; `step` counts from 1, and `own` is as of `AdamW.step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        self.values[own] += (1 - decay) * (self.flat.values[own] - self.values[own])


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100, final: float = 0.1) -> float:
    """Linear warm-up to `peak`, then a cosine down to `final * peak` at the end; `step` counts from 0."""
    progress = min(step / steps, 1.0)
    return peak * min(1.0, (step + 1) / warmup) * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
