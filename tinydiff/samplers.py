"""Generation as generators of frames: from all MASK to text, some positions per step.

Ways to choose the positions of a step:

- `ancestral`: every masked position is revealed on its own with the probability the reverse process gives it. This is
  exact sampling of the discrete-time chain. `first_hitting` is its limit of infinitely many steps.
- `unmask`: a fixed number per step, those where the model is surest (`low_confidence`, MaskGIT, Chang et al. 2022;
  LLaDA, Nie et al. 2025) or any (`random`). Better text in few steps, but no longer the law of the process.

`chain` samples any other reverse chain on tokens, where every position may change at every step.

Tokens are drawn from logits over the V real tokens, so MASK (id V) is never sampled. Draws use float64: float32 Gumbel
noise cannot exceed 16.6 and silently sharpens the distribution (Zheng et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from . import kernels
from .arrays import Bools, Floats, Ints
from .schedules import Schedule
from .tensor import no_grad
from .transformer import Model

Remasking = Literal["low_confidence", "random"]

Reverse: TypeAlias = Callable[[Ints, float, float], Floats]
"""A reverse chain: x_t (B, L) and the times t > s to the law of each position of x_s, (B, L, S)."""

CHOICE_TEMPERATURE = 8.0
"""What `tinydiff sample` and the demo use: enough for models trained for minutes, see `unmask`."""


@dataclass(frozen=True)
class Frame:
    """What a picture of one sampling step needs; arrays are (B, L) and belong to the frame.

    Attributes
    ----------
    step : 0 before anything happened, then 1, 2, ...
    steps : how many there will be
    t : time after this step, averaged over sequences: 1 is all masked, 0 is done
    state : token ids
    committed : positions filled in this step
    remasked : positions masked again in this step
    confidence : untempered probability of each filled-in token when it was committed; 0 where masked, 1 where given

    """

    step: int
    steps: int
    t: float
    state: Ints
    committed: Bools
    remasked: Bools
    confidence: Floats


@dataclass(frozen=True)
class Draw:
    """How to draw a token from logits.

    Attributes
    ----------
    temperature : divides the logits; 0 takes the most probable token
    top_k : only the k most probable tokens, ties to the lower id
    top_p : only the fewest most probable tokens that together reach probability p (nucleus, Holtzman et al. 2020)

    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature is {self.temperature}; it must be 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; expected 0 < top_p <= 1")

    def __call__(self, logits: Floats, rng: np.random.Generator) -> tuple[Ints, Floats]:
        """A token per row of (n, V) logits.

        Returns
        -------
        tokens : (n,)
        confidence : (n,) probability of each token before temperature, top_k and top_p

        """
        log_p = _log_probabilities(logits)
        if self.temperature == 0:
            tokens = log_p.argmax(axis=-1)
        else:
            kept = self._tempered(log_p)
            tokens = (kept + rng.gumbel(size=kept.shape)).argmax(axis=-1)  # the Gumbel-max trick
        return tokens, np.exp(log_p[np.arange(len(tokens)), tokens])

    def probabilities(self, logits: Floats) -> Floats:
        """The law that tokens are drawn from, for each row of (n, V) logits."""
        log_p = _log_probabilities(logits)
        if self.temperature == 0:
            return np.asarray(np.eye(log_p.shape[-1])[log_p.argmax(axis=-1)])
        return kernels.softmax(self._tempered(log_p))

    def _tempered(self, log_p: Floats) -> Floats:
        """Logits after temperature, top_k and top_p."""
        kept = log_p / self.temperature
        if self.top_k is not None or self.top_p is not None:
            kept = np.where(self._shortlist(kept), kept, -np.inf)
        return kept

    def _shortlist(self, log_p: Floats) -> Bools:
        """Which tokens of each row survive top_k, then top_p."""
        k = log_p.shape[-1] if self.top_k is None else min(self.top_k, log_p.shape[-1])
        values, tokens = kernels.topk(log_p, k)  # most probable first
        keep = np.ones(values.shape, bool)
        if self.top_p is not None:
            p = kernels.softmax(values)
            keep = p.cumsum(axis=-1) - p < self.top_p  # the token that crosses p is kept, so at least one always is
        allowed = np.zeros(log_p.shape, bool)
        np.put_along_axis(allowed, tokens, keep, axis=-1)
        return allowed


def _log_probabilities(logits: Floats) -> Floats:
    log_p = kernels.log_softmax(logits.astype(np.float64))
    if not np.isfinite(log_p.max(initial=-np.inf, axis=-1)).all():
        raise ValueError("logits contain NaN or inf: the model's weights are broken or training diverged")
    return log_p


def categorical(p: Floats, rng: np.random.Generator) -> Ints:
    """Draw from laws (..., S), which need not be normalised: (...). States of probability zero are never drawn."""
    cumulative = np.cumsum(p, axis=-1, dtype=np.float64)
    total = cumulative[..., -1:]
    if not (np.isfinite(total) & (total > 0)).all():
        raise ValueError("probabilities contain NaN, inf or a row of zeros: the model's weights are broken")
    u = rng.random((*p.shape[:-1], 1))
    return np.asarray((cumulative / total <= u).sum(axis=-1))


def first_frame(start: Ints, mask_id: int, steps: int) -> Frame:
    """The frame before any step: given tokens and masks."""
    masked = start == mask_id
    nothing = np.zeros(start.shape, bool)
    return Frame(0, steps, float(masked.mean()), start.copy(), nothing, nothing, (~masked).astype(np.float64))


def chain(reverse: Reverse, start: Ints, fixed: Bools, times: Floats, rng: np.random.Generator) -> Iterator[Frame]:
    """Walk a reverse chain: draw every position of x_s from p(x_s | x_t), for each pair of neighbouring times.

    Parameters
    ----------
    start : (B, L) the state at the last time
    fixed : (B, L) positions that keep their tokens
    times : (steps + 1,) from 0 upwards

    """
    steps = len(times) - 1
    nothing = np.zeros(start.shape, bool)
    state, confidence = start.copy(), fixed.astype(np.float64)
    yield Frame(0, steps, float(times[-1]), state, nothing, nothing, confidence)
    for step in range(1, steps + 1):
        t, s = float(times[steps - step + 1]), float(times[steps - step])
        law = reverse(state, t, s)
        drawn = np.where(fixed, state, categorical(law, rng))
        sure = np.take_along_axis(law, drawn[..., None], axis=-1)[..., 0]
        changed = drawn != state
        confidence = np.where(changed, sure, confidence)
        state = drawn
        yield Frame(step, steps, s, state, changed, nothing, confidence)


def _reveal(
    model: Model, state: Ints, where: Bools, t: Floats, draw: Draw, rng: np.random.Generator
) -> tuple[Ints, Floats]:
    """The model's draw at the positions `where`: tokens and confidences, (B, L), 0 elsewhere."""
    tokens, confidence = np.zeros_like(state), np.zeros(state.shape)
    if where.any():
        with no_grad():
            logits = model(state, t, select=where).data  # (n, V)
        tokens[where], confidence[where] = draw(logits, rng)
    return tokens, confidence


def ancestral(
    model: Model,
    start: Ints,
    mask_id: int,
    schedule: Schedule,
    *,
    steps: int,
    rng: np.random.Generator,
    draw: Draw = Draw(),
) -> Iterator[Frame]:
    """Ancestral sampling of the masked chain (Austin et al. 2021; Sahoo et al. 2024, eq. 6).

    Going from time t to s < t, each masked position is revealed with probability (alpha_s - alpha_t) / (1 - alpha_t),
    independently of the others.

    Parameters
    ----------
    start : (B, L) token ids; positions holding `mask_id` are filled, the others stay

    """
    alpha = schedule.grid(steps)
    frame = first_frame(start, mask_id, steps)
    yield frame
    state, confidence = start.copy(), frame.confidence.copy()
    for step in range(1, steps + 1):
        now, after = steps - step + 1, steps - step  # grid points of t and s
        reveal = (alpha[after] - alpha[now]) / (1 - alpha[now])
        chosen = (state == mask_id) & (rng.random(state.shape) < reveal)
        tokens, sure = _reveal(model, state, chosen, np.full(len(state), now / steps), draw, rng)
        state, confidence = np.where(chosen, tokens, state), np.where(chosen, sure, confidence)
        yield Frame(step, steps, after / steps, state, chosen, np.zeros_like(chosen), confidence)


def first_hitting(
    model: Model,
    start: Ints,
    mask_id: int,
    schedule: Schedule,
    *,
    rng: np.random.Generator,
    draw: Draw = Draw(),
) -> Iterator[Frame]:
    """One position per step, at the times when the continuous-time process reveals them (Zheng et al. 2024, section 3).

    Each of the n positions masked at time t stays so until s with probability (1 - alpha_s) / (1 - alpha_t), so the
    first of them is revealed when 1 - alpha_s = (1 - alpha_t) u^(1/n), u uniform, and it is equally likely to be any.
    As many steps as masks, and exactly the law of ancestral sampling in infinitely many.
    """
    steps = max(int((start == mask_id).sum(axis=1).max()), 1)
    frame = first_frame(start, mask_id, steps)
    yield frame
    state, confidence = start.copy(), frame.confidence.copy()
    masked_fraction = np.ones(len(start))  # 1 - alpha_t of each sequence
    for step in range(1, steps + 1):
        masked = state == mask_id
        left = np.maximum(masked.sum(axis=1), 1)
        masked_fraction = masked_fraction * rng.random(len(start)) ** (1 / left)
        t = schedule.inverse(1 - masked_fraction)
        chosen = _highest(np.where(masked, rng.random(state.shape), -np.inf), np.minimum(masked.sum(axis=1), 1))
        tokens, sure = _reveal(model, state, chosen, t, draw, rng)
        state, confidence = np.where(chosen, tokens, state), np.where(chosen, sure, confidence)
        yield Frame(step, steps, float(t.mean()), state, chosen, np.zeros_like(chosen), confidence)


def unmask(
    model: Model,
    start: Ints,
    mask_id: int,
    schedule: Schedule,
    *,
    steps: int,
    rng: np.random.Generator,
    draw: Draw = Draw(),
    remasking: Remasking = "low_confidence",
    block_length: int | None = None,
    choice_temperature: float = 0.0,
) -> Iterator[Frame]:
    """Fill an even share of the masks per step, keeping the draws the model is surest of or random ones.

    Every step draws a token for all masked positions, commits some and masks the rest again. With `block_length` the
    blocks are filled left to right, each from its own share of the steps (semi-autoregressive, LLaDA section 2.4).
    Sequences with different numbers of masks each spread their own over the steps. At least one step per block.

    Small models are surest of the commonest token, and committing it everywhere makes it likelier still: text of
    nothing but spaces. `choice_temperature` c > 0 prevents that: positions are ranked by log confidence + c f Gumbel
    noise, where f, the share of the masks still there, takes the noise away towards the end (MaskGIT, appendix).
    """
    length = start.shape[1]
    block_length = block_length or length
    frame = first_frame(start, mask_id, steps)
    yield frame
    state, confidence = start.copy(), frame.confidence.copy()
    step = 0
    for block in range(0, length, block_length):
        end = min(block + block_length, length)
        inside = (np.arange(length) >= block) & (np.arange(length) < end)
        block_steps = steps * end // length - steps * block // length  # its share of the steps, at least one
        total = ((state == mask_id) & inside).sum(axis=1)  # (B,)
        for i in range(block_steps):
            step += 1
            masked = state == mask_id
            open_positions = masked & inside
            quota = total * (i + 1) // block_steps - total * i // block_steps  # (B,) commits of this step
            t = schedule.inverse(1 - masked.mean(axis=1))
            tokens, sure = _reveal(model, state, open_positions, t, draw, rng)
            if remasking == "random":
                rank = rng.random(state.shape)
            elif choice_temperature > 0:
                left = open_positions.sum(axis=1, keepdims=True) / np.maximum(total[:, None], 1)  # (B, 1)
                log_sure = np.log(sure, out=np.zeros_like(sure), where=open_positions)
                rank = log_sure + choice_temperature * left * rng.gumbel(size=state.shape)
            else:
                rank = sure
            chosen = _highest(np.where(open_positions, rank, -np.inf), quota)
            state, confidence = np.where(chosen, tokens, state), np.where(chosen, sure, confidence)
            t_after = float((state == mask_id).mean())
            yield Frame(step, steps, t_after, state, chosen, np.zeros_like(chosen), confidence)


def _highest(rank: Floats, quota: Ints) -> Bools:
    """Mark the quota[b] highest ranks of row b, ties to the left."""
    most = int(quota.max(initial=0))
    _, at = kernels.topk(rank, most)  # (B, most), highest first
    chosen = np.zeros(rank.shape, bool)
    np.put_along_axis(chosen, at, np.arange(most) < quota[:, None], axis=1)
    return chosen
