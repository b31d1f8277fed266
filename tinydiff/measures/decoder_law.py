"""Held-out text under the law of a decoder: what fewer steps cost, in bits (`decoders.replay`).

    learning.evaluate(model, DecoderLaw(process, decoders.Entropy(steps=16)), corpus)

The bound of masked diffusion is the mean over all orders, one token at a time. A decoder takes one order, and several
tokens at a time: the first may help, the second costs, and both are in this one number.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import decoders
from ..arrays import Floats, Ints
from ..data import Batch
from ..decoders.replay import check_law
from ..transformer import Model


class DecoderLaw:
    """A process whose bound is the exact -log p of what a decoder of it writes.

    ValueError for a process of another kind or a decoder without an exact likelihood.
    """

    def __init__(self, process: Any, decoder: Any) -> None:
        decoders.suited(decoder, process.decoded_by, type(process).__name__)
        check_law(decoder)
        self.process, self.decoder = process, decoder

    def bound(self, model: Model, batch: Batch | Ints, rng: np.random.Generator) -> Floats:
        """(B,) nats per sequence, of what is free. No chance in it: `rng` is not used."""
        model, x0, free = self.process.unpacked(model, batch)
        return decoders.replay(self.process, model, self.decoder, x0, ~free)
