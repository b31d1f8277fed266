"""From an autoregressive network to a denoiser (DiffuLLaMA, Gong et al. 2025; Dream, Ye et al. 2025).

A trained autoregressive network knows the language already. Two things stand between it and masked diffusion:

1. Its answers stand one place to the left: it reads START, x^1 .. x^{L-1}, and where it reads x^{i-1} it predicts x^i.
   The **shifted reading** keeps that: the network reads START and all of x_t, L + 1 ids, and the answer for x^i is the
   one at i - 1. START alone has nothing to predict from but what attention brings; the last position predicts nothing.
2. It looks left only. How its **attention is opened** is a choice: all at once, a random share of what is to the right
   that grows (`annealed`), or blocks that grow (`in_blocks`).

With a causal mask and all of the left visible, the shifted reading *is* the autoregressive model:

    p_theta(x^i | x_t) = p_AR(x^i | x^{<i}),

so at the start unmasking left to right has its law, and `Autoregressive.bound` of the same network says at any time how
much of it is left. Whatever a mask of attention lets through, targets are MASK in what is read: no mask makes the bound
less of one.

    shifted = Shifted(trained)                       # a `Model` for MaskedDiffusion, over windows one shorter
    run = Run(corpus, MaskedDiffusion(V), shifted, options)
    for frame in train(run):
        shifted.mask = annealed(shifted.length, frame.step / 300, rng)

START and MASK are the same id, V, and the same vector: MASK begins as what START was. Not here: time inputs, and a
folder for a shifted run. `tinydiff train --start-from RUN` takes the weights without the shift: bits at first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Bools, Floats
from ..processes import Autoregressive, Process
from ..tensor import Tensor
from ..transformer import Transformer


class Shifted:
    """An autoregressive network, read as a denoiser: the answer for x^i comes from where x^{i-1} is read.

    Parameters
    ----------
    network : a Transformer over L + 1 ids. Its weights are trained, not copied

    Attributes
    ----------
    mask : (L + 1, L + 1), True where START and the tokens (rows) may see the columns; None for all
    causal : as of `Transformer`: 0 for all, 1 left to right, b for blocks of b of these L + 1

    """

    def __init__(self, network: Transformer) -> None:
        if network.vocab_size is None:
            raise ValueError("network reads vectors; expected one over tokens")
        if network.length < 2:
            raise ValueError("network has length 1; START takes one place, and at least one is needed beside it")
        self.network, self.vocab_size, self.length = network, network.vocab_size, network.length - 1
        self.time = network.time
        self.mask: Bools | None = None
        self.causal = 0

    @property
    def params(self) -> dict[str, Tensor]:
        """Those of the network."""
        return self.network.params

    def __call__(
        self, x: Any, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None, **options: Any
    ) -> Tensor:
        """Logits (B, L, V) for the ids (B, L), or (n, V) for those that `select` (B, L) marks."""
        batch, length = np.shape(x)
        read = np.concatenate([np.full((batch, 1), self.vocab_size), x], axis=1)  # START, x
        answered = np.zeros(read.shape, bool)
        answered[:, :-1] = True if select is None else select  # what is asked of i is answered at i - 1
        mask = None if self.mask is None else self.mask[: length + 1, : length + 1]
        logits = self.network(read, t, causal=causal or self.causal, mask=mask, select=answered, **options)
        return logits if select is not None else logits.reshape(batch, length, self.vocab_size)


def shifted_from(network: Transformer, process: Process, vocab_size: int, length: int) -> Shifted:
    """The shifted reading of an autoregressive run, for data of that many tokens and windows of that length.

    Parameters
    ----------
    network, process : as `tinydiff.load` returns them

    """
    if not isinstance(process, Autoregressive):
        raise ValueError(
            f"process is {type(process).__name__}; expected Autoregressive, whose answers stand one place to the left"
        )
    if network.vocab_size != vocab_size:
        raise ValueError(
            f"network has {network.vocab_size} tokens and the data {vocab_size}; expected the same alphabet for both"
        )
    if network.length != length + 1:
        raise ValueError(
            f"network has length {network.length}; START and windows of {length} take {length + 1}: train the "
            f"autoregressive one with length={length + 1}, or use windows of {network.length - 1}"
        )
    return Shifted(network)


def annealed(length: int, share: float, rng: np.random.Generator) -> Bools | None:
    """Causal attention, opened by chance: a mask for START and `length` tokens, or None once all is open.

    Each position sees what is to its left, itself, and what is to its right with probability `share`, drawn anew for
    every step and the same for all sequences, heads and layers (Gong et al. 2025, section 3.2).
    """
    if share >= 1:
        return None
    size = length + 1
    return np.asarray(np.tri(size, dtype=bool) | (rng.random((size, size)) < share))


def in_blocks(length: int, share: float) -> int:
    """Causal attention, opened by blocks 1, 2, 4 .. each for an equal share of the way; 0, all is open, at the end.

    "Warm-up" of LLaDA2.0 (Bie et al. 2025), by the mask of attention alone: what is before a block is noised too, where
    block diffusion has it clean.
    """
    stages = int(np.ceil(np.log2(length + 1)))
    stage = int(share * stages)
    return 0 if stage >= stages else 2**stage
