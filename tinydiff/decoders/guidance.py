"""Classifier-free guidance (Ho and Salimans 2022): a model that knows its labels, and follows them as closely as asked.

A network that has sometimes been trained without its label answers with and without it. Going beyond the first answer,
away from the second,

    guided = answer(x, label) + cfg_scale (answer(x, label) - answer(x, no class))

trades variety for likeness to the class. The predictions eps, x_0, v and velocity are affine in one another given x_t,
so it does not matter which of them the network makes.

For text the label may be a prompt, and the second answer the one with the prompt masked: a masked model has learnt to
answer without it, so nothing has to be trained for that (Nie et al. 2024, "unsupervised" guidance; LLaDA, 2025).

The result is a model like any other: processes know nothing of labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import Bools, Floats, Ints
from ..tensor import Tensor
from ..transformer import Model


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

    def guided(x: Any, t: Floats | None = None, **options: Any) -> Tensor:
        answer = model(x, t, label=label, **options)
        if cfg_scale == 0:
            return answer
        return answer + (answer - model(x, t, **options)) * cfg_scale

    return guided


def prompted(model: Model, prompt: Bools, mask_id: int, cfg_scale: float = 0.0) -> Model:
    """The masked model that exaggerates what its prompt says.

    Parameters
    ----------
    prompt : (B, L) positions of the prompt, the same in every later call
    cfg_scale : 0 leaves the model as it is; more pushes away from what it would say without the prompt

    """
    if not math.isfinite(cfg_scale):
        raise ValueError(f"cfg_scale is {cfg_scale}; it must be finite")
    if cfg_scale == 0:
        return model
    if not prompt.any():
        raise ValueError(f"cfg_scale is {cfg_scale}, but nothing is given to follow; leave it out or give a prompt")

    def guided(x: Any, t: Floats | None = None, *, select: Bools | None = None, **options: Any) -> Tensor:
        both = np.concatenate([x, np.where(prompt, mask_id, x)])  # (2 B, L): one call for both answers
        for name, shared in (("positions", 1), ("mask", 2)):  # of that many dimensions they are those of all sequences
            if name in options and np.ndim(options[name]) > shared:
                options[name] = np.concatenate([options[name], options[name]])
        answer = model(
            both,
            None if t is None else np.concatenate([t, t]),
            select=None if select is None else np.concatenate([select, select]),
            **options,
        ).data
        told, untold = np.split(answer, 2)
        known = np.isfinite(told) & np.isfinite(untold)  # what is impossible stays so
        return Tensor(told + cfg_scale * np.subtract(told, untold, out=np.zeros_like(told), where=known))

    return guided
