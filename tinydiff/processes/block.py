"""Block diffusion: left to right from block to block, masked diffusion inside each (BD3-LM, Arriola et al. 2025).

    log p(x) = sum_b log p(x^b | x^{<b})                                                  (their eq. 3)
    NELBO(x) = sum_b E_{t_b} E[ w(t_b) sum_{i in b masked} -log p_theta(x^i | x_t^b, x^{<b}) ],  w(t) = 1 / t

A block of one token is autoregression, a block of the whole length is masked diffusion, and there is one network for
all of them: a position sees its own block and those before. Finished blocks never change and see nothing that comes
later, so what the network computed of them can be kept, exactly (`decoders.Blocks`).

Training wants every block behind clean text and with masks at once. Two passes per block would do; one pass over x_t
and x_0 side by side does the same for all of them (their section 3.2), if both halves stand at the same positions and

    masked block b sees          itself, and the clean blocks before b, never its own clean half
    clean block b sees           itself, and the clean blocks before b

`one_by_one` is the plain loop, the specification of `together`.

Only the share of masks matters, so there is one schedule, the linear one. If the block length does not divide the
length, the last block is shorter. What is given to the right of a blank cannot be seen from another block: infilling is
for masked diffusion.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import decoders, ops
from ..arrays import Bools, Floats, Ints, check_counts
from ..data import Batch
from ..tensor import Tensor, no_grad
from ..transformer import Model
from .discrete import T_MIN, Spread, share, uniforms
from .divided import Divided, Draws
from .masked import Estimator, MaskedDiffusion


class BlockDiffusion(Divided):
    """Masked diffusion in blocks, over `vocab_size` tokens.

    Parameters
    ----------
    vocab_size : number V of real tokens
    block_length : b, of which the bound and the decoder speak
    mixture : block lengths that training takes turns with by chance, one for each batch; none for `block_length` alone
    clip : times of training are drawn from this interval within (0, 1]. A narrower one is no bound any more but varies
        less (their section 5.2, see `least_varying`); (1, 1) for blocks of one token is autoregression. `bound` never
        clips
    estimator : how `loss` corrupts a block: "time" masks each token with the probability of a random time, "count" as
        many as a random number says, at least one: the same mean, less noise, and autoregression for blocks of one

    """

    needs_time = False
    decoded_by: tuple[type[decoders.Decoder], ...] = (decoders.Blocks,)

    def __init__(
        self,
        vocab_size: int,
        block_length: int = 8,
        mixture: Sequence[int] = (),
        clip: Sequence[float] = (T_MIN, 1.0),
        estimator: Estimator = "time",
    ) -> None:
        check_counts(block_length=block_length)
        for length in mixture:
            check_counts(mixture=length)
        if len(clip) != 2 or not 0 < clip[0] <= clip[1] <= 1:
            raise ValueError(f"clip is {tuple(clip)}; expected two times, 0 < first <= second <= 1")
        if estimator == "count" and tuple(clip) != (T_MIN, 1.0):
            raise ValueError(f"clip is {tuple(clip)}, but estimator is 'count', which draws no times: leave one out")
        self.inside = MaskedDiffusion(vocab_size, estimator=estimator)  # what happens within a block
        self.estimator = estimator
        self.vocab_size, self.mask_id = vocab_size, self.inside.mask_id
        self.block_length, self.mixture, self.clip = block_length, tuple(mixture), (float(clip[0]), float(clip[1]))

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this process again."""
        return {
            "process": "block", "vocab_size": self.vocab_size, "block_length": self.block_length,
            "mixture": list(self.mixture), "clip": list(self.clip), "estimator": self.estimator,
        }  # fmt: skip

    def corrupt(self, x0: Ints, t: Floats, rng: np.random.Generator, given: Bools | None = None) -> Ints:
        """Mask each token with probability t: (B, L) ids and (B,) times, or one per block, (B, blocks)."""
        if np.ndim(t) == 1:
            return self.inside.corrupt(x0, t, rng, given)
        return self._masked_at(x0, np.asarray(t)[:, block_of(x0.shape[1], self.block_length)], rng, given)

    def draw(self, batch: Batch | Ints, rng: np.random.Generator) -> Draws:
        """Labels, x_0, x_t, 1 / t with each sequence's share of free tokens, (B, L), and the length of blocks, (B,).

        Every block of every sequence has its own time, or count. Those of a batch are stratified and then shuffled: in
        order, the first block would always have little noise and the last one much.
        """
        length = self.block_length if not self.mixture else int(rng.choice(self.mixture))
        label, x0, free = self.inside.known(batch)
        check_seen(free, length)
        at = block_of(x0.shape[1], length)
        u = uniforms(len(x0) * (at[-1] + 1), rng, "stratified").reshape(len(x0), -1)
        if self.estimator == "count":
            xt, weight = self._counted(x0, free, length, u, rng)
        else:
            low, high = self.clip
            t = (low + (high - low) * u)[:, at]  # (B, L)
            xt, weight = self._masked_at(x0, t, rng, ~free), 1 / t
        return label, x0, xt, share(free)[:, None] * weight, np.full(len(x0), length)

    def loss_of(self, model: Model, draws: Draws) -> Tensor:
        """Weighted masked cross-entropy, a scalar in nats per free token: an estimate of NELBO / A, averaged."""
        label, x0, xt, weight, length = draws
        masked = xt == self.mask_id
        logits = together(self.inside.told(model, label), x0, xt, int(length[0]), masked)
        weighted: Tensor = (ops.cross_entropy(logits, x0[masked]) * weight[masked]).sum() / x0.size
        return weighted

    def bound(
        self,
        model: Model,
        batch: Batch | Ints,
        rng: np.random.Generator,
        *,
        estimator: Estimator = "count",
        spread: Spread = "stratified",
    ) -> Floats:
        """One unbiased estimate of each sequence's NELBO(free | given): (B,) nats per sequence.

        Parameters
        ----------
        estimator : "count" masks exactly k of the A free positions of each block, k uniform on 1..A, with weight A / k:
            exact likelihood for blocks of one token. "time" draws a time for each block, weight 1 / t
        spread : how the uniform numbers behind k or t are spread over the blocks of the batch, see `discrete.uniforms`

        """
        model, x0, free = self.unpacked(model, batch, self.block_length)
        at = block_of(x0.shape[1], self.block_length)
        blocks = int(at[-1]) + 1
        u = uniforms(len(x0) * blocks, rng, spread).reshape(len(x0), blocks)
        if estimator == "count":
            xt, weight = self._counted(x0, free, self.block_length, u, rng)
        elif estimator == "time":
            t = (1 - u)[:, at]  # in (0, 1]
            xt, weight = self._masked_at(x0, t, rng, ~free), 1 / t
        else:
            raise ValueError(f"estimator is {estimator!r}; expected 'count' or 'time'")
        masked, total = xt == self.mask_id, np.zeros(x0.shape)
        with no_grad():
            logits = together(model, x0, xt, self.block_length, masked)
            total[masked] = ops.cross_entropy(logits, x0[masked]).data * weight[masked]
        return np.asarray(total.sum(axis=1))

    def sample(
        self,
        model: Model,
        length: int,
        batch: int = 1,
        *,
        decoder: decoders.Decoder | None = None,
        x0: ArrayLike | None = None,
        given: ArrayLike | None = None,
        allowed: Bools | None = None,
        rng: np.random.Generator,
    ) -> Iterator[decoders.Frame]:
        """Generate (batch, length) ids block by block, yielding a frame per step; longer than the model if asked.

        Parameters
        ----------
        decoder : a `decoders.Blocks`
        x0, given : (L,) or (B, L) token ids, and where they are known beforehand: a prompt, and anything within the
            block where it ends
        allowed : (L, V) or (B, L, V), True for the tokens that a position may hold

        """
        chosen = decoders.suited(decoder, self.decoded_by, type(self).__name__)
        canvas = decoders.Canvas.of(length, batch, self.mask_id, x0=x0, given=given, allowed=allowed)
        check_seen(canvas.free, self.block_length)
        return chosen(self, model, canvas, rng)

    def unpacked(self, model: Model, batch: Batch | Ints, block_length: int | None = None) -> tuple[Model, Ints, Bools]:
        """The model, told the labels of the batch; its ids; and which of them are free, that is not given: (B, L)."""
        model, x0, free = self.inside.unpacked(model, batch)
        check_seen(free, self.block_length if block_length is None else block_length)
        return model, x0, free

    def _counted(self, x0: Ints, free: Bools, length: int, u: Floats, rng: np.random.Generator) -> tuple[Ints, Floats]:
        """k of A free tokens of each block masked, k from 1 to A by `u` (B, blocks): ids and weights A / k, (B, L)."""
        at = block_of(x0.shape[1], length)
        most = np.add.reduceat(free, np.arange(0, x0.shape[1], length), axis=1)  # A, (B, blocks)
        k = 1 + np.floor(u * most).astype(np.int64)
        order = at + np.where(free, rng.random(x0.shape) / 2, 0.5)  # of each block first its free positions
        rank = order.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable") - at * length
        return np.where(free & (rank < k[:, at]), self.mask_id, x0), (most / k)[:, at]

    def _masked_at(self, x0: Ints, t: Floats, rng: np.random.Generator, given: Bools | None) -> Ints:
        """Mask each token with its own probability t, (B, L)."""
        masked = rng.random(x0.shape) < t
        return np.where(masked if given is None else masked & ~given, self.mask_id, x0)


CLIPS = tuple((low / 20, (low + width) / 20) for width in (10, 12, 14, 16, 18) for low in range(1, 21 - width))
"""The intervals that are tried: widths 0.5 to 0.9, in steps of 0.05, without times near 0."""


def least_varying(
    process: BlockDiffusion,
    model: Model,
    x0: Ints,
    rng: np.random.Generator,
    *,
    clips: Sequence[tuple[float, float]] = CLIPS,
    draws: int = 16,
) -> list[tuple[float, tuple[float, float]]]:
    """How much the loss of a window varies over its masks, by the interval of times: least first (their section 5.2).

    Parameters
    ----------
    process, model : who is trained. The paper looks again after each validation, with the weights as they are then
    x0 : (B, L) windows
    clips : intervals within (0, 1]
    draws : of masks, at least 2, of each window and interval; the same chance for all intervals

    Returns
    -------
    Standard deviation in nats per token, and interval; the first one is for `clip`

    """
    if draws < 2:
        raise ValueError(f"draws is {draws}; it takes at least 2 to vary")
    seed, found = int(rng.integers(1 << 62)), []
    for clip in clips:
        trained = BlockDiffusion(process.vocab_size, process.block_length, process.mixture, clip)
        chance = np.random.default_rng(seed)
        with no_grad():
            losses = [[trained.loss(model, row[None], chance).item() for _ in range(draws)] for row in x0]
        found.append((float(np.sqrt(np.var(losses, axis=1, ddof=1).mean())), clip))
    return sorted(found)


def block_of(length: int, block_length: int) -> Ints:
    """The block of each position: (L,)."""
    return np.arange(length) // block_length


def check_seen(free: Bools, block_length: int) -> None:
    """ValueError if something is given behind a block that is still to be filled, from where it cannot be seen."""
    at = block_of(free.shape[1], block_length)
    first = np.where(free.any(axis=1), at[free.argmax(axis=1)], at[-1] + 1)  # the first block with a free position
    unseen = np.argwhere(~free & (at > first[:, None]))
    if len(unseen):
        row, i = unseen[0]
        raise ValueError(
            f"given is True at position {i} of sequence {row}, behind block {first[row]} (of {block_length} tokens), "
            "which has free positions and cannot see it: give a prompt, or use a masked model"
        )


def seen_together(length: int, block_length: int) -> Bools:
    """Who sees whom in the pass over x_t and the clean x_0 before the last block: (L + C, L + C), True where seen."""
    at = block_of(length, block_length)
    clean = at[: at[-1] * block_length]  # nobody reads the clean half of the last block
    rows, noisy = np.concatenate([at, clean]), np.arange(length + len(clean)) < length
    own = (noisy[:, None] == noisy) & (rows[:, None] == rows)  # the same block in the same half
    return np.asarray(own | (~noisy & (rows[:, None] > rows)))  # or a clean one strictly before


def together(model: Model, x0: Ints, xt: Ints, block_length: int, select: Bools) -> Tensor:
    """Logits of x_0 at the n positions that `select` (B, L) marks, each block with clean ones before it: (n, V).

    One pass over x_t and x_0. The model must take `mask` and `positions`, as a Transformer does.
    """
    length = x0.shape[1]
    mask = seen_together(length, block_length)
    both = np.concatenate([xt, x0], axis=1)[:, : len(mask)]  # (B, L + C)
    places = np.concatenate([np.arange(length)] * 2)[: len(mask)]
    chosen = np.zeros(both.shape, bool)
    chosen[:, :length] = select
    told: Any = model
    logits: Tensor = told(both, mask=mask, positions=places, select=chosen)
    return logits


def one_by_one(model: Model, x0: Ints, xt: Ints, block_length: int) -> Floats:
    """Logits of x_0 at every position, (B, L, V), by a pass for each block: x_0 before it, x_t in it, nothing after."""
    at, logits = block_of(x0.shape[1], block_length), []
    for block in range(at[-1] + 1):
        stop = min((block + 1) * block_length, x0.shape[1])
        state = np.where(at < block, x0, xt)[:, :stop]
        with no_grad():
            logits.append(model(state, causal=block_length).data[:, block * block_length :])
    return np.concatenate(logits, axis=1)
