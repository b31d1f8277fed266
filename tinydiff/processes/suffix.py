"""Masks that hide a suffix: how masked diffusion unlearns to look to its right.

The same network, loss and weights as in `masked.py`, but in a share of the texts the k masks are the last k positions.
Then nothing to the right of a mask is ever visible, and the network learns p(x^i | left) and no more: quasi
autoregressive, at the price of diffusion. For experiments, see `tinydiff.measures.order`; nobody would want it, but
training on texts that were written from left to right, step by step, comes close (DiffuCoder, Gong et al. 2025).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Ints
from ..data import Batch
from .discrete import ranks, share, stratified
from .divided import Draws
from .masked import MaskedDiffusion


class SuffixMasks(MaskedDiffusion):
    """Masked diffusion over `vocab_size` tokens that hides suffixes.

    Parameters
    ----------
    suffixes : the share of the texts in which it does; in the others the same number of masks is anywhere

    """

    def __init__(self, vocab_size: int, suffixes: float = 1.0) -> None:
        if not 0 <= suffixes <= 1:
            raise ValueError(f"suffixes is {suffixes}; expected 0 <= suffixes <= 1, a share of the texts")
        super().__init__(vocab_size)
        self.suffixes = suffixes

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this process again."""
        return {"process": "suffix", "vocab_size": self.vocab_size, "suffixes": self.suffixes}

    def draw(self, batch: Batch | Ints, rng: np.random.Generator) -> Draws:
        """As of masked diffusion: k masks with weight A / k, k uniform on 1 .. A."""
        label, x0, free = self.known(batch)
        most = free.sum(axis=1)
        k = 1 + np.floor(stratified(len(x0), rng) * most).astype(np.int64)
        from_right = np.cumsum(free[:, ::-1], axis=1)[:, ::-1] - 1
        last = rng.random(len(x0)) < self.suffixes
        hidden = free & (np.where(last[:, None], from_right, ranks(free, rng)) < k[:, None])
        weight = np.broadcast_to((most / k * share(free))[:, None], x0.shape)
        return label, x0, np.where(hidden, self.mask_id, x0), k / most, weight
