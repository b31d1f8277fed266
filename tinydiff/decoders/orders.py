"""Decoders that commit a fixed number of positions per step, in some order, all drawn from one look at the text.

Committing k positions at once treats them as independent given what is visible. That is the price of fewer steps: the
text is no longer drawn from the law of the process, but a good order loses little (`tinydiff.exact.unmask_law`).

| order | ranks the masked positions by | its law |
|---|---|---|
| `LowConfidence` | log probability of the token drawn there (Chang et al. 2022; Nie et al. 2025) | bent |
| `MostLikely` | log probability of the most likely token there (Kim et al. 2025, "top probability") | exact |
| `Entropy` | minus the entropy of the law there (Dream, Ye et al. 2025) | exact |
| `Margin` | log of how far the most likely token is ahead of the second (Kim et al. 2025) | exact |
| `Random` | chance, whatever the model says | exact |
| `LeftToRight` | the place | exact |

What "exact" means. A rule that looks only at the state, and not at what was drawn, chooses the same positions whatever
comes up there. So the probability of a text x is that of the positions that the rule commits on the way to x,

    log p(x) = sum over steps of sum over the positions i committed of log p_theta(x^i | state),

averaged over the rule's own chance where it has some. It sums to one over all x; with one position per step, draws at
temperature 1 and the true conditionals it is the data's law by the chain rule, in any such order.

`LowConfidence` looks at the draws: a position is preferred because a likely token came up, and where an unlikely one
did, another is drawn later. That tilts the law towards likely tokens, even where positions are independent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .. import kernels
from ..arrays import Bools, Floats, Ints
from ..transformer import Model
from .canvas import Canvas
from .decoder import Masks, check_steps
from .draws import Draw, logits_at, reveal, untempered
from .frames import Frame
from .quotas import (
    Commits,
    blocks_of,
    check_block_length,
    check_commits,
    filled,
    highest,
    masks_in_blocks,
    shares,
)

CHOICE_TEMPERATURE = 8.0
"""What `tinydiff sample` and the demo use: enough for models trained for minutes, see `Ranked`."""
TINY = float(np.finfo(np.float64).tiny)


class Look(NamedTuple):
    """What a step has before it.

    Attributes
    ----------
    state : (B, L) token ids and masks
    hidden : (B, L) masks that this step may fill
    left : (B,) share of the block's masks that are still there
    t : (B,) time at which that many are masked

    """

    state: Ints
    hidden: Bools
    left: Floats
    t: Floats


Picked = tuple[Bools, Ints, Floats]
"""Which positions a step commits, its tokens, and their confidence: (B, L) each."""


@dataclass(frozen=True)
class Order:
    """Base of them all: how many steps, and how many commits in each.

    Attributes
    ----------
    steps : default one per free position. Sequences with different numbers of masks each spread theirs over the steps
    draw : which token, see `Draw`
    commits : how many per step, as many in each ("linear") or few at first ("cosine"), see `quotas.filled`

    """

    steps: int | None = None
    draw: Draw = Draw()
    commits: Commits = "linear"

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_commits(self.commits)

    def blocks(self, canvas: Canvas) -> Ints:
        """Which block each position belongs to; they are filled one after the other: (B, L)."""
        return blocks_of(canvas, None)

    def pick(self, model: Model, look: Look, quota: Ints, rng: np.random.Generator) -> Picked:
        """The `quota` (B,) positions that this step commits."""
        raise NotImplementedError

    def __call__(self, process: Masks, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """A frame per step."""
        blocks = self.blocks(canvas)
        in_blocks = masks_in_blocks(canvas.free, blocks)
        most, fewest = int(in_blocks.sum()), int((in_blocks > 0).sum())
        steps = most if self.steps is None else self.steps
        if steps > most:
            raise ValueError(f"steps is {steps}, but only {most} positions are masked; use at most {most}")
        if steps < fewest:
            raise ValueError(f"steps is {steps}; the {fewest} blocks with masks need at least one step each")
        return self._frames(process, model, canvas, blocks, shares(in_blocks, steps), rng)

    def _frames(
        self, process: Masks, model: Model, canvas: Canvas, blocks: Ints, in_block: Ints, rng: np.random.Generator
    ) -> Iterator[Frame]:
        steps, step = int(in_block.sum()), 0
        frame = canvas.first(steps)
        yield frame
        state, confidence = canvas.start, frame.confidence
        for block, block_steps in enumerate(in_block.tolist()):
            inside = blocks == block
            total = (canvas.free & inside).sum(axis=1)  # (B,)
            for i in range(block_steps):
                masked = state == canvas.mask_id
                hidden = masked & inside
                left = hidden.sum(axis=1) / np.maximum(total, 1)
                look = Look(state, hidden, left, process.schedule.inverse(1 - masked.mean(axis=1)))
                done, more = (filled(total, j, block_steps, self.commits) for j in (i, i + 1))
                chosen, tokens, sure = self.pick(model, look, more - done, rng)
                step += 1
                state, confidence = np.where(chosen, tokens, state), np.where(chosen, sure, confidence)
                yield canvas.frame(step, steps, float((state == canvas.mask_id).mean()), state, confidence, chosen)


@dataclass(frozen=True)
class LeftToRight(Order):
    """The leftmost first: the order of an autoregressive model, which here also sees what is given to the right."""

    def pick(self, model: Model, look: Look, quota: Ints, rng: np.random.Generator) -> Picked:
        """The leftmost masks."""
        chosen = highest(np.where(look.hidden, 0.0, -np.inf), quota)
        return chosen, *reveal(model, look.state, chosen, look.t, self.draw, rng)


@dataclass(frozen=True)
class InBlocks(Order):
    """Base of the orders that may be kept within blocks.

    Attributes
    ----------
    block_length : fill blocks of this length, counted from the end of the prompt, left to right, each in its share of
        the steps (semi-autoregressive, LLaDA, section 2.4); None for the whole text at once

    """

    block_length: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_block_length(self.block_length)

    def blocks(self, canvas: Canvas) -> Ints:
        """Blocks of `block_length`."""
        return blocks_of(canvas, self.block_length)


@dataclass(frozen=True)
class Random(InBlocks):
    """By chance: with one position per step, any-order autoregression (`tinydiff.exact.any_order_nll`)."""

    def pick(self, model: Model, look: Look, quota: Ints, rng: np.random.Generator) -> Picked:
        """Chosen before the model is asked: less to ask."""
        chosen = highest(np.where(look.hidden, rng.random(look.state.shape), -np.inf), quota)
        return chosen, *reveal(model, look.state, chosen, look.t, self.draw, rng)


@dataclass(frozen=True)
class Ranked(InBlocks):
    """Base of the orders that ask the model, the surest position first; each ranks in nats.

    Small models are surest of the commonest token, and committing it everywhere makes it likelier still: text of
    nothing but spaces. `choice_temperature` c > 0 prevents that: to the rank is added c f times Gumbel noise, where f,
    the share of the masks still there, takes the noise away towards the end (MaskGIT, appendix).

    Attributes
    ----------
    choice_temperature : c

    """

    choice_temperature: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (np.isfinite(self.choice_temperature) and self.choice_temperature >= 0):
            raise ValueError(f"choice_temperature is {self.choice_temperature}; it must be 0 or more")

    def rank(self, p: Floats, tokens: Ints) -> Floats:
        """How sure the model is where it gives the laws (n, V) and (n,) tokens were drawn: (n,), in nats."""
        raise NotImplementedError

    def pick(self, model: Model, look: Look, quota: Ints, rng: np.random.Generator) -> Picked:
        """Drawn at all masks that may be filled, and masked again where the model is least sure."""
        tokens, sure, p = ask(model, look.state, look.hidden, look.t, self.draw, rng)
        rank = np.full(look.state.shape, -np.inf)
        rank[look.hidden] = self.rank(p, tokens[look.hidden])
        if self.choice_temperature > 0:
            rank += self.choice_temperature * look.left[:, None] * rng.gumbel(size=rank.shape)
        return highest(rank, quota), tokens, sure


@dataclass(frozen=True)
class LowConfidence(Ranked):
    """The likeliest of the tokens just drawn (MaskGIT, Chang et al. 2022; LLaDA, Nie et al. 2025). Bends the law.

    Attributes
    ----------
    last : a token that is committed only where nothing else was drawn, EOS for instance: surest of what ends a text, a
        decoder would end it before it has begun (LLaDA's evaluation, `confidence_eos_eot_inf`); None for no such token

    """

    last: int | None = None

    def rank(self, p: Floats, tokens: Ints) -> Floats:
        """Log probability of the drawn token, those of `last` behind all others."""
        sure = np.log(np.maximum(p[np.arange(len(p)), tokens], TINY))
        return np.asarray(sure if self.last is None else np.where(tokens == self.last, sure - 1e6, sure))


@dataclass(frozen=True)
class MostLikely(Ranked):
    """Where the most likely token is likeliest, whatever was drawn: as `LowConfidence` if the draws are greedy."""

    def rank(self, p: Floats, tokens: Ints) -> Floats:
        """Log probability of the most likely token."""
        return np.asarray(np.log(np.maximum(p.max(axis=-1), TINY)))


@dataclass(frozen=True)
class Entropy(Ranked):
    """Where the law has the least entropy (Dream, Ye et al. 2025)."""

    def rank(self, p: Floats, tokens: Ints) -> Floats:
        """Minus the entropy of each law."""
        return np.asarray((p * np.log(np.maximum(p, TINY))).sum(axis=-1))


@dataclass(frozen=True)
class Margin(Ranked):
    """Where the most likely token is furthest ahead of the second (Kim et al. 2025)."""

    def rank(self, p: Floats, tokens: Ints) -> Floats:
        """Log of the difference of the two largest probabilities."""
        best, _ = kernels.topk(p, min(2, p.shape[-1]))
        return np.asarray(np.log(np.maximum(best[:, 0] - (best[:, 1] if best.shape[1] > 1 else 0), TINY)))


def ask(
    model: Model, state: Ints, hidden: Bools, t: Floats, draw: Draw, rng: np.random.Generator
) -> tuple[Ints, Floats, Floats]:
    """Draw at the n positions `hidden`: tokens and confidence, (B, L), 0 elsewhere, and the laws there, (n, V)."""
    tokens, sure = np.zeros_like(state), np.zeros(state.shape)
    logits = logits_at(model, state, hidden, t)
    p = untempered(logits)
    drawn = draw.tokens(logits, p, rng)
    tokens[hidden], sure[hidden] = drawn, p[np.arange(len(p)), drawn]
    return tokens, sure, p
