"""Translation models from before diffusion: masks over the target, the source always visible.

- `OnePass`: everything is masked, always (non-autoregressive translation, Gu et al. 2017). Its likelihood is exact,

      -log p(y | x) = -sum_i log p(y^i | x),

  and on average at least H(Y | x) + TC(Y | x): see `tinydiff.exact.total_correlation`.
- `CMLM`: k of the N words are masked, k uniform on 1 .. N, and the loss is the mean over the masked words (conditional
  masked language model, Ghazvininejad et al. 2019, section 2). That is masked diffusion under another name:

      E_k[ 1/k sum over the k masked words of -log p(y^i | x, visible words) ] = NELBO(y | x) / N

  if the mean is taken for each sentence by itself, and if k = N, where every translation begins, is among the k. The
  paper's code takes it over all masked words of a batch, and leaves k = N out.

Both are networks of masks and take every decoder of masked diffusion. A network of `OnePass` has never seen a word of a
target, so that showing it some, as all decoders of several passes do, leads nowhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import decoders
from ..arrays import Floats, Ints
from ..data import Batch
from ..tensor import no_grad
from ..transformer import Model
from .discrete import share
from .divided import Draws
from .masked import MaskedDiffusion


class CMLM(MaskedDiffusion):
    """Conditional masked language model over `vocab_size` tokens; MASK has id V."""

    decoded_by: tuple[type[decoders.Decoder], ...] = (
        decoders.MaskPredict, *[kind for kind in MaskedDiffusion.decoded_by if kind is not decoders.MaskPredict]
    )  # fmt: skip

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size, estimator="count")  # N / k over N words: the mean over those that are masked

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this process again."""
        return {"process": "cmlm", "vocab_size": self.vocab_size}


class OnePass(MaskedDiffusion):
    """Non-autoregressive translation over `vocab_size` tokens; MASK has id V."""

    decoded_by: tuple[type[decoders.Decoder], ...] = (
        decoders.AtOnce, *[kind for kind in MaskedDiffusion.decoded_by if kind is not decoders.AtOnce]
    )  # fmt: skip

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this process again."""
        return {"process": "nat", "vocab_size": self.vocab_size}

    def draw(self, batch: Batch | Ints, rng: np.random.Generator) -> Draws:
        """As of masked diffusion: all free words are masked, and the mean of each sentence counts the same."""
        label, x0, free = self.known(batch)
        xt, t = self._at_once(x0, free)
        return label, x0, xt, t, np.broadcast_to(share(free)[:, None], x0.shape)

    def bound(self, model: Model, batch: Batch | Ints, rng: np.random.Generator, **options: Any) -> Floats:
        """Exact -log p(free | given) of one look: (B,) nats per sequence."""
        model, x0, free = self.unpacked(model, batch)
        nll = np.zeros(x0.shape)
        with no_grad():
            nll[free] = self._weighted_nll(model, x0, *self._at_once(x0, free), np.ones(x0.shape)).data
        return np.asarray(nll.sum(axis=1))

    def _at_once(self, x0: Ints, free: Any) -> tuple[Ints, Floats]:
        """All that is free masked, (B, L), and the times."""
        return np.where(free, self.mask_id, x0), free.mean(axis=1)
