"""Classifier-free guidance (Ho and Salimans 2022): a model that knows its labels, and follows them as closely as asked.

A network that has sometimes been trained without its label answers with and without it. Going beyond the first answer,
away from the second,

    guided = answer(x, label) + cfg_scale (answer(x, label) - answer(x, no class))

trades variety for likeness to the class. The predictions eps, x_0, v and velocity are affine in one another given x_t,
so it does not matter which of them the network makes.

The result is a model like any other: processes know nothing of labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .arrays import Bools, Floats, Ints
from .tensor import Tensor


def conditioned(model: Callable[..., Tensor], label: Ints | None, cfg_scale: float = 0.0) -> Callable[..., Tensor]:
    """The model that answers for these labels.

    Parameters
    ----------
    model : a Transformer with classes
    label : (B,) classes, one for each sequence of every later call; None leaves the model as it is
    cfg_scale : 0 is the conditional model, -1 the unconditional one, more than 0 guides

    """
    if not math.isfinite(cfg_scale):
        raise ValueError(f"cfg_scale is {cfg_scale}; it must be finite")
    if label is None:
        if cfg_scale:
            raise ValueError(f"cfg_scale is {cfg_scale}, but there is no label to follow; leave it out or give one")
        return model

    def guided(x: Any, t: Floats | None = None, *, causal: bool = False, select: Bools | None = None) -> Tensor:
        answer = model(x, t, causal=causal, select=select, label=label)
        if cfg_scale == 0:
            return answer
        return answer + (answer - model(x, t, causal=causal, select=select)) * cfg_scale

    return guided
