"""Transition matrices for discrete noise: what one token becomes (Austin et al. 2021, section 3.1, appendix A).

Each kind of noise is a continuous-time Markov chain with a constant generator G, run for an amount `level` of noise:

    Q(level) = exp(level G),    Q(a) Q(b) = Q(a + b),    Q[i, j] = q(after = j | before = i)

so the matrix of a step, the matrix of many steps and the posterior all come from one function of the level. Level 0 is
clean and infinity is the stationary law. `level` of a class says how much noise lets a token survive with probability
alpha; for uniform and absorbing noise that is -log(alpha).

Uniform and absorbing matrices are never built: all that a process needs of them is O(V) per token, so a vocabulary of
30,000 costs no more than its logits. Nearest-neighbour noise diagonalises its generator once, V x V, and keeps no table
over time.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from .. import decoders, ops
from ..arrays import Floats, Ints, check_counts, one_hot
from ..tensor import Tensor


class Transition(Protocol):
    """Noise on single tokens.

    `level` arguments are arrays that broadcast against the tokens they go with: (B, 1) for tokens (B, L).

    Attributes
    ----------
    vocab_size : number V of real tokens
    symbols : number S of states of a token: V, or V + 1 with MASK
    generator : (S, S) rates; its rows sum to zero. For oracles: nothing else builds it

    """

    vocab_size: int
    symbols: int

    @property
    def generator(self) -> Floats: ...

    def into(self, x: Ints) -> Floats:
        """generator[:, x]: the rates at which each state becomes the token seen now, (..., S)."""
        ...

    def level(self, alpha: ArrayLike) -> Floats:
        """The amount of noise that a token survives with probability alpha (and chance hits of its own value)."""
        ...

    def rows(self, level: ArrayLike, x: Ints) -> Floats:
        """Q(level)[x, :]: the law of what becomes of each token, (..., S)."""
        ...

    def columns(self, level: ArrayLike, x: Ints) -> Floats:
        """Q(level)[:, x]: how likely each state is to have become the token seen now, (..., S)."""
        ...

    def push(self, law: Tensor, level: Floats) -> Tensor:
        """law @ Q(level): (B, L, S) laws and (B,) levels to (B, L, S), differentiable."""
        ...

    def draw(self, level: ArrayLike, x: Ints, rng: np.random.Generator) -> Ints:
        """Noise each token."""
        ...


def matrix(noise: Transition, level: float) -> Floats:
    """The whole Q(level), (S, S)."""
    return noise.rows(level, np.arange(noise.symbols))


def check_generator(g: Floats) -> None:
    """Raise ValueError unless exp(level g) is row-stochastic for every level."""
    away = np.where(np.eye(len(g), dtype=bool), 0, g)
    if not (np.allclose(g.sum(axis=1), 0) and (away >= 0).all()):
        row = int(np.argmax(np.abs(g.sum(axis=1)) - away.min(axis=1)))
        raise ValueError(
            f"row {row} of the noise's generator sums to {g[row].sum():g} and its smallest rate is "
            f"{away[row].min():g}; matrices are row-stochastic only if rows sum to 0 and rates are not negative"
        )


def posterior(noise: Transition, x0: Ints, xt: Ints, before: ArrayLike, now: ArrayLike) -> Floats:
    """q(x_s | x_t, x_0) for the levels `before` of x_s and `now` of x_t: (..., S).

    Bayes: proportional to q(x_s | x_0) q(x_t | x_s) (Austin et al. 2021, eq. 3). x_t must be possible given x_0.
    """
    joint = noise.rows(before, x0) * noise.columns(np.asarray(now) - before, xt)
    return np.asarray(joint / joint.sum(axis=-1, keepdims=True))


def _survival_level(alpha: ArrayLike) -> Floats:
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(alpha)) + 0.0  # no minus zero


class Uniform:
    """A token keeps its value with probability alpha, else it is drawn anew from all V: G = 1 1^T / V - I."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = self.symbols = vocab_size

    @property
    def generator(self) -> Floats:
        return np.full((self.symbols, self.symbols), 1 / self.symbols) - np.eye(self.symbols)

    def into(self, x: Ints) -> Floats:
        return np.asarray(1 / self.symbols - one_hot(x, self.symbols))

    def level(self, alpha: ArrayLike) -> Floats:
        return _survival_level(alpha)

    def rows(self, level: ArrayLike, x: Ints) -> Floats:
        keep = np.broadcast_to(np.exp(-np.asarray(level, np.float64)), x.shape)[..., None]
        renewed = np.broadcast_to(-np.expm1(-np.asarray(level, np.float64)), x.shape)[..., None]
        law = np.repeat(renewed / self.symbols, self.symbols, axis=-1)
        at = x[..., None]
        np.put_along_axis(law, at, np.take_along_axis(law, at, -1) + keep, -1)
        return law

    def columns(self, level: ArrayLike, x: Ints) -> Floats:
        return self.rows(level, x)  # the matrix is symmetric

    def push(self, law: Tensor, level: Floats) -> Tensor:
        keep = np.exp(-level)[:, None, None].astype(law.dtype)
        renewed = -np.expm1(-level)[:, None, None].astype(law.dtype)
        return law * Tensor(keep) + law.sum(axis=-1, keepdims=True) * Tensor(renewed / self.symbols)

    def draw(self, level: ArrayLike, x: Ints, rng: np.random.Generator) -> Ints:
        keep = rng.random(x.shape) < np.exp(-np.asarray(level, np.float64))
        return np.where(keep, x, rng.integers(0, self.symbols, x.shape))


class Absorbing:
    """A token keeps its value with probability alpha, else it becomes MASK, id V, for good."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size, self.symbols, self.mask_id = vocab_size, vocab_size + 1, vocab_size

    @property
    def generator(self) -> Floats:
        g = -np.eye(self.symbols)
        g[:, self.mask_id] += 1
        return g

    def into(self, x: Ints) -> Floats:
        return np.asarray((x == self.mask_id)[..., None] - one_hot(x, self.symbols))

    def level(self, alpha: ArrayLike) -> Floats:
        return _survival_level(alpha)

    def rows(self, level: ArrayLike, x: Ints) -> Floats:
        law = np.zeros((*x.shape, self.symbols))
        np.put_along_axis(law, x[..., None], np.broadcast_to(np.exp(-np.asarray(level)), x.shape)[..., None], -1)
        law[..., self.mask_id] = np.where(x == self.mask_id, 1, -np.expm1(-np.asarray(level)))
        return law

    def columns(self, level: ArrayLike, x: Ints) -> Floats:
        seen = np.broadcast_to(np.exp(-np.asarray(level)), x.shape)[..., None] * one_hot(x, self.symbols)
        hidden = np.broadcast_to(-np.expm1(-np.asarray(level)), x.shape)[..., None] * np.ones(self.symbols)
        hidden[..., self.mask_id] = 1
        return np.where((x == self.mask_id)[..., None], hidden, seen)

    def push(self, law: Tensor, level: Floats) -> Tensor:
        keep = np.exp(-level)[:, None, None].astype(law.dtype)
        to_mask = np.zeros((1, 1, self.symbols), law.dtype)
        to_mask[..., self.mask_id] = 1
        return law * Tensor(keep) + law.sum(axis=-1, keepdims=True) * Tensor((1 - keep) * to_mask)

    def draw(self, level: ArrayLike, x: Ints, rng: np.random.Generator) -> Ints:
        return np.where(rng.random(x.shape) < np.exp(-np.asarray(level)), x, self.mask_id)


class Nearest:
    """Tokens turn into neighbours in an embedding space (Austin et al. 2021, appendix A.2.4).

    Who is a neighbour: i and j are joined if one is among the k nearest of the other, twice as strongly if both are.
    G = A - diag(A 1) with A = (K + K^T) / 2k is symmetric, so the stationary law is uniform and G = -U diag(rates) U^T.

    Frequent neighbours would change sooner than lonely tokens, so `level(alpha)` is the amount of noise at which tokens
    are themselves with the same average probability, alpha + (1 - alpha) / V, as under uniform noise: the two can be
    compared at equal alpha. (The paper aligns its matrices by mutual information instead.)

    Parameters
    ----------
    embeddings : (V, d) one row per token
    neighbours : k, Euclidean distance, ties to the lower id

    """

    def __init__(self, embeddings: ArrayLike, neighbours: int = 5) -> None:
        rows = np.asarray(embeddings, np.float64)
        if rows.ndim != 2 or not np.isfinite(rows).all():
            what = f"shape {rows.shape}" if rows.ndim != 2 else "NaN or inf"
            raise ValueError(f"embeddings has {what}; expected finite numbers, one row per token (V, d)")
        if not 1 <= neighbours < len(rows):
            raise ValueError(
                f"neighbours is {neighbours} and embeddings has {len(rows)} rows; expected at least 1 neighbour and "
                "more rows than neighbours"
            )
        self.embeddings, self.neighbours = rows, neighbours
        self.vocab_size = self.symbols = len(rows)
        distance = np.stack([((row - rows) ** 2).sum(axis=-1) for row in rows])
        np.fill_diagonal(distance, np.inf)
        joined = np.zeros(distance.shape)
        nearest = distance.argsort(axis=1, kind="stable")[:, :neighbours]
        np.put_along_axis(joined, nearest, 1.0, axis=1)
        self.adjacency = (joined + joined.T) / (2 * neighbours)
        rates, self._vectors = np.linalg.eigh(-self.generator)
        if len(rates) > 1 and rates[1] < 1e-9:
            raise ValueError(
                f"neighbours is {neighbours}, which leaves the tokens in {(rates < 1e-9).sum()} groups without a link, "
                "so noise would never make a token forget its group; use more neighbours"
            )
        self._rates = np.where(np.arange(len(rates)) == 0, 0.0, rates)  # exact, for level = infinity
        self._vectors[:, 0] = 1 / np.sqrt(len(rates))

    @property
    def generator(self) -> Floats:
        return np.asarray(self.adjacency - np.diag(self.adjacency.sum(axis=1)))

    def into(self, x: Ints) -> Floats:
        return self.generator[x]  # symmetric

    def level(self, alpha: ArrayLike) -> Floats:
        target = np.asarray(alpha, np.float64)
        low, high = np.zeros(target.shape), np.full(target.shape, 800 / self._rates[-1] + 800 / self._rates[1])
        for _ in range(200):  # bisection: the mean of exp(-rate level) falls from 1 to 0
            middle = (low + high) / 2
            survives = np.exp(-self._rates[1:] * middle[..., None]).mean(axis=-1)
            low, high = np.where(survives > target, middle, low), np.where(survives > target, high, middle)
        return np.where(target == 0, np.inf, np.where(target == 1, 0.0, (low + high) / 2))

    def _decay(self, level: ArrayLike) -> Floats:
        """What is left of each eigenvector: any shape -> (..., V). One has rate 0, and stays at infinity too."""
        with np.errstate(invalid="ignore"):
            return np.where(self._rates == 0, 1.0, np.exp(-self._rates * np.asarray(level)[..., None]))

    def rows(self, level: ArrayLike, x: Ints) -> Floats:
        decayed = self._vectors[x] * self._decay(level)  # (..., V)
        return np.asarray(np.maximum(decayed @ self._vectors.T, 0))  # rounding can make tiny entries negative

    def columns(self, level: ArrayLike, x: Ints) -> Floats:
        return self.rows(level, x)  # the matrix is symmetric

    def push(self, law: Tensor, level: Floats) -> Tensor:
        if not level.any():
            return law
        # Not by eigenvectors: in float32 they would drown the small entries of a matrix that hardly mixes.
        matrices = self.rows(level[:, None], np.arange(self.symbols)[None])  # (B, V, V)
        return law @ Tensor(matrices, dtype=law.dtype)

    def draw(self, level: ArrayLike, x: Ints, rng: np.random.Generator) -> Ints:
        return decoders.categorical(self.rows(level, x), rng)


def reverse(noise: Transition, p: Tensor, xt: Ints, before: Floats, now: Floats) -> Tensor:
    """p(x_s | x_t) from what the other positions say about x_0: (B, L, V) probabilities to (B, L, S), differentiable.

    Proportional to q(x_t | x_s) sum_{x_0} q(x_s | x_0) p(x_0) (Austin et al. 2021, eq. 4): the posterior of each x_0,
    mixed by p(x_0) q(x_t | x_0), the prior p times the likelihood of the token seen at the position itself.

    Parameters
    ----------
    before, now : (B,) levels of x_s and x_t

    """
    likelihood = noise.columns((now - before)[:, None], xt)
    joint = noise.push(_widened(noise, p), before) * Tensor(likelihood, dtype=p.dtype)
    stuck = joint.data.sum(axis=-1) == 0  # x_t could not have come about, as a given token at t = 1: it stays
    if stuck.any():
        joint = joint + Tensor(stuck[..., None] * one_hot(xt, noise.symbols), dtype=p.dtype)
    return joint / joint.sum(axis=-1, keepdims=True)


def concrete_score(noise: Transition, p: Floats, xt: Ints, level: Floats) -> Floats:
    """p_t(y) / p_t(x_t^i) for every y, from what the other positions say about x_0: (B, L, V) to (B, L, S).

    Parameters
    ----------
    level : (B,) noise of x_t

    """
    law = noise.push(_widened(noise, Tensor(p)), level).data  # p_t(y | other positions)
    with np.errstate(divide="ignore"):  # infinite where x_t could not have come about
        return np.asarray(law / np.take_along_axis(law, xt[..., None], axis=-1))


def _widened(noise: Transition, p: Tensor) -> Tensor:
    """Laws over the V real tokens as laws over all S symbols: x_0 is never MASK."""
    if noise.symbols == noise.vocab_size:
        return p
    return ops.append_zero(p)


def named(name: str, vocab_size: int, **options: Any) -> Transition:
    """The noise of that name: "uniform", "absorbing", or "nearest" with `embeddings` and `neighbours`."""
    check_counts(vocab_size=vocab_size)
    if name == "nearest":
        noise = Nearest(**options)
        if noise.vocab_size != vocab_size:
            raise ValueError(f"embeddings has {noise.vocab_size} rows; expected vocab_size = {vocab_size}")
        return noise
    if name == "uniform":
        return Uniform(vocab_size)
    if name == "absorbing":
        return Absorbing(vocab_size)
    raise ValueError(f"matrix is {name!r}; expected 'uniform', 'absorbing' or 'nearest'")
