"""One transformer for every process: tokens or vectors in; full, causal or any masked attention; optional time.

Pre-norm blocks (Xiong et al. 2020): x += attention(norm(x)); x += mlp(norm(x)). Which positions see which is an
argument of the call, not of the model: the same weights run left to right, in blocks or in both directions.

Positions are rotary (Su et al. 2021): queries and keys turn with their place, so only distances count, and a window
looks the same wherever in a text it begins. But where every token is MASK, attention mixes equal values, and the logits
are the same everywhere: a model that starts from masks could not tell its first position from its last. So a learned
vector per place is added to the embedding. It starts at zero: what it says is only what training found worth saying.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import DTypeLike

from . import experts as mixtures
from . import kernels, ops
from .arrays import Bools, Floats, Ints, check_counts
from .tensor import Tensor

ROTARY_BASE = 10_000.0
TIME_SCALE = 1_000.0  # times in [0, 1] are spread over the range that sinusoidal features tell apart


class Model(Protocol):
    """What a process needs of a network: the transformer is one, the exact oracles are others."""

    def __call__(self, x: Any, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
        """Tokens (B, L) and times (B,) to logits (B, L, V), or (n, V) for the n positions that `select` marks.

        With `causal` = 1 (or True) no position sees one after it, with b none that is after its own block of b.
        """
        ...


class Cache:
    """Keys and values of the positions already seen, so that causal generation computes each only once.

    One array per layer, (B, L, 2, H, D), filled up to `length`. Whoever holds it may lower `length`, and what lies
    behind is forgotten: so a block of masks is read again and again until it is text.
    """

    def __init__(self, layers: int, batch: int, capacity: int, heads: int, depth: int, dtype: DTypeLike) -> None:
        self.keys_values = [np.empty((batch, capacity, 2, heads, depth), dtype) for _ in range(layers)]
        self.length = 0
        self.ahead = 0  # positions behind the new ones that are seen too, as they were left by an earlier call


class Transformer:
    """The network.

    Parameters
    ----------
    vocab_size : number V of tokens it predicts. It reads one more, the special token with id V: MASK for diffusion,
        the start of the sequence for autoregression. None for vector input.
    length : longest sequence L
    d_model, layers, heads : width, depth, attention heads (of size d_model / heads)
    features : size F of the vectors read and predicted, instead of `vocab_size`
    positions : "rotary", "learned" (one vector per place), or "both"
    time : whether the network is told the time t
    classes : number of classes that it can be told, next to "no class"
    rng : initial weights; uniform in +-1/sqrt(inputs) for matrices, normal for embeddings
    experts : feed-forward networks per block, 0 for a single one without a router, see `tinydiff.experts`
    active : how many of them work for a token, each 1 / active of the usual width: so the work is that of no experts
    routing : "token": each token takes its best experts; "expert": each expert takes its best tokens of a sequence
    precision : "bfloat16" rounds what is multiplied, by a matrix and in attention, forward and backward: faster with
        AVX512_BF16 or AMX. Weights, sums and the softmax stay float32

    """

    def __init__(
        self,
        vocab_size: int | None = None,
        length: int = 64,
        *,
        d_model: int = 64,
        layers: int = 2,
        heads: int = 4,
        features: int | None = None,
        positions: Literal["both", "rotary", "learned"] = "both",
        time: bool = False,
        classes: int = 0,
        experts: int = 0,
        active: int = 1,
        routing: mixtures.Routing = "token",
        rng: np.random.Generator,
        dtype: DTypeLike = np.float32,
        precision: ops.Precision = "full",
    ) -> None:
        if (vocab_size is None) == (features is None):
            raise ValueError(f"vocab_size is {vocab_size} and features is {features}; give exactly one of them")
        what = {"features": features} if vocab_size is None else {"vocab_size": vocab_size}
        check_counts(**what, length=length, d_model=d_model, layers=layers, heads=heads)
        if positions not in ("both", "rotary", "learned"):
            raise ValueError(f"positions is {positions!r}; expected 'both', 'rotary' or 'learned'")
        if d_model % heads or (positions != "learned" and d_model // heads % 2):
            raise ValueError(
                f"d_model is {d_model} and heads is {heads}; d_model must be a multiple of heads"
                + (", of twice the heads for rotary positions" if positions != "learned" else "")
            )
        if time and d_model % 2:
            raise ValueError(f"d_model is {d_model}; it must be even to carry the time")
        if classes < 0:
            raise ValueError(f"classes is {classes}; it must be 0 or more")
        if experts < 0:
            raise ValueError(f"experts is {experts}; it must be 0, for none, or more")
        if not 1 <= active <= max(experts, 1):
            raise ValueError(f"active is {active}, of {experts} experts; expected 1 <= active <= {max(experts, 1)}")
        if 4 * d_model % active:
            raise ValueError(f"active is {active}, which does not divide the width 4 d_model = {4 * d_model}")
        if routing not in ("token", "expert"):
            raise ValueError(f"routing is {routing!r}; expected 'token' or 'expert'")
        if precision not in ("full", "bfloat16"):
            raise ValueError(f"precision is {precision!r}; expected 'full' or 'bfloat16'")
        if precision == "bfloat16":
            if np.dtype(dtype) != np.float32:
                raise ValueError(f"precision is 'bfloat16' and dtype {np.dtype(dtype)}; only float32 is rounded to it")
            if not kernels.has_bfloat16():
                raise NotImplementedError(
                    "precision is 'bfloat16', but this CPU, or the instruction set chosen by TINYDIFF_ISA, has neither "
                    "AVX512_BF16 nor AMX; use precision='full'"
                )
        self.vocab_size, self.length, self.d_model, self.layers, self.heads = vocab_size, length, d_model, layers, heads
        self.features, self.positions, self.time, self.dtype = features, positions, time, np.dtype(dtype)
        self.classes, self.precision = classes, precision
        self.experts, self.active, self.routing = experts, active, routing
        self.depth = d_model // heads

        self.params: dict[str, Tensor] = {}

        def parameter(name: str, values: Floats) -> None:
            self.params[name] = Tensor(values.astype(self.dtype), requires_grad=True)

        def linear(name: str, inputs: int, outputs: int) -> None:
            bound = 1 / math.sqrt(inputs)
            parameter(f"{name}.weight", rng.uniform(-bound, bound, (inputs, outputs)))
            parameter(f"{name}.bias", np.zeros(outputs))

        def norm(name: str) -> None:
            parameter(f"{name}.weight", np.ones(d_model))
            parameter(f"{name}.bias", np.zeros(d_model))

        if vocab_size is not None:
            parameter("embed", 0.02 * rng.standard_normal((vocab_size + 1, d_model)))
        else:
            linear("embed", features or 0, d_model)
        if positions == "learned":
            parameter("position", 0.02 * rng.standard_normal((length, d_model)))
        elif positions == "both":
            parameter("position", np.zeros((length, d_model)))
        if time:
            linear("time.up", d_model, d_model)
            linear("time.down", d_model, d_model)
        if classes:
            parameter("class", 0.02 * rng.standard_normal((classes + 1, d_model)))  # the last row: no class
        for i in range(layers):
            norm(f"block{i}.norm1")
            linear(f"block{i}.qkv", d_model, 3 * d_model)
            linear(f"block{i}.out", d_model, d_model)
            norm(f"block{i}.norm2")
            if experts:
                width = 4 * d_model // active
                linear(f"block{i}.router", d_model, experts)
                for name, inputs, outputs in (("up", d_model, width), ("down", width, d_model)):
                    bound = 1 / math.sqrt(inputs)
                    parameter(f"block{i}.experts.{name}", rng.uniform(-bound, bound, (experts, inputs, outputs)))
            else:
                linear(f"block{i}.up", d_model, 4 * d_model)
                linear(f"block{i}.down", 4 * d_model, d_model)
        norm("norm")
        linear("head", d_model, vocab_size or features or 0)

        angles = np.outer(np.arange(length), ROTARY_BASE ** (-np.arange(0, self.depth, 2) / self.depth))
        self._cos, self._sin = np.cos(angles).astype(self.dtype), np.sin(angles).astype(self.dtype)  # (L, D/2)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build a network of this shape, for checkpoints."""
        names = ("vocab_size", "length", "d_model", "layers", "heads", "features", "positions", "time", "classes")
        config = {name: getattr(self, name) for name in names} | {"dtype": self.dtype.name}
        if self.experts:
            config |= {"experts": self.experts, "active": self.active, "routing": self.routing}
        return config if self.precision == "full" else config | {"precision": self.precision}

    def new_cache(self, batch: int) -> Cache:
        """An empty cache for `batch` sequences of up to `length` positions."""
        return Cache(self.layers, batch, self.length, self.heads, self.depth, self.dtype)

    def __call__(
        self,
        x: Any,
        t: Floats | None = None,
        *,
        causal: int = 0,
        mask: Bools | None = None,
        select: Bools | None = None,
        cache: Cache | None = None,
        label: Ints | None = None,
        positions: Ints | None = None,
        routes: list[Bools] | None = None,
    ) -> Tensor:
        """Logits (or predicted vectors) for every position.

        Parameters
        ----------
        x : (B, L) token ids in [0, V], or (B, L, F) vectors, as a Tensor if their gradient is wanted
        t : (B,) times; needed if the network was built with time=True, ignored otherwise
        causal : 0 for all; 1 (or True): position i sees positions j <= i only; b: those with j // b <= i // b, that is,
            the blocks of length b before its own, and its own
        mask : (L, L) or (B, L, L), True where the row's position may see the column's; None for all
        select : (B, L); only these positions go through the output head
        cache : x continues the sequences in the cache, which is extended (no gradients); each new position sees all
            that is cached, and of the new ones those that `causal` lets it see
        label : (B,) classes, `classes` itself for "no class"; None for "no class" everywhere
        positions : (L,) or (B, L), where each token stands, in [0, length); several may stand in one place, and then x
            may be longer than the model. None: one after the other
        routes : a list to which every block appends which experts work for which token, (B, L, E)

        Returns
        -------
        (B, L, V) logits, or (n, V) for the n positions of `select`, in order; F in place of V for vectors

        """
        if cache is not None and self.experts and self.routing == "expert":
            raise ValueError(
                "cache is there, but experts that choose tokens would choose others as more come; use none"
            )
        past, ahead = (0, 0) if cache is None else (cache.length, cache.ahead)
        h = self._embed(x)  # (B, L, d)
        stop = past + h.shape[1]
        if positions is None:
            places: Any = slice(past, stop)
            if stop > self.length:
                raise ValueError(
                    f"x brings the sequence to {stop} positions; this model was built for at most length={self.length}"
                )
        else:
            places = self._checked_positions(positions, h.shape[:2])
        if "position" in self.params:
            table = self.params["position"]
            h = h + (table[places] if positions is None else ops.embedding(table, places))
        if self.time:
            h = h + self._time_features(t, len(h.data))
        if self.classes or label is not None:
            h = h + self._class_features(label, len(h.data))
        cos, sin = self._cos[places], self._sin[places]  # (L, D/2), or (B, L, D/2)
        for i in range(self.layers):
            qkv = self._linear(f"block{i}.qkv", self._norm(f"block{i}.norm1", h))
            qkv = qkv.reshape(*h.shape[:2], 3, self.heads, self.depth)
            if self.positions != "learned":
                qkv = ops.rotary(qkv, cos, sin)
            if cache is None:
                attended = ops.self_attention(qkv, mask, causal, self.precision)  # (B, L, d)
            else:
                attended = self._cached_attention(qkv.data, cache.keys_values[i], past, ahead, causal)
            h = self._linear(f"block{i}.out", attended, h)
            if self.experts:
                h = h + self._mixture(f"block{i}", self._norm(f"block{i}.norm2", h), routes)
            else:
                up = ops.gelu(self._linear(f"block{i}.up", self._norm(f"block{i}.norm2", h)))
                h = self._linear(f"block{i}.down", up, h)
        if cache is not None:
            cache.length = stop
        if select is not None:
            h = ops.take_rows(h, select)
        return self._linear("head", self._norm("norm", h))

    def _embed(self, x: Any) -> Tensor:
        rank = 2 if self.features is None else 3
        if np.ndim(x) != rank or (rank == 3 and np.shape(x)[2] != self.features):
            wanted = "(B, L)" if rank == 2 else f"(B, L, {self.features})"
            raise ValueError(f"x has shape {np.shape(x)}; expected {wanted}")
        if rank == 2:
            return ops.embedding(self.params["embed"], x)
        return self._linear("embed", x.astype(self.dtype) if isinstance(x, Tensor) else Tensor(x, dtype=self.dtype))

    def _checked_positions(self, positions: Ints, shape: tuple[int, ...]) -> Ints:
        at = np.asarray(positions)
        if at.shape not in (shape, shape[1:]) or at.dtype.kind not in "iu":
            raise ValueError(
                f"positions has shape {at.shape} and dtype {at.dtype}; expected {shape[1:]} or {shape} integers"
            )
        if at.size and not (at.min() >= 0 and at.max() < self.length):
            raise ValueError(f"positions contains {at.min()}..{at.max()}; expected 0 <= position < {self.length}")
        return at

    def _time_features(self, t: Floats | None, batch: int) -> Tensor:
        if t is None or np.shape(t) != (batch,):
            raise ValueError(f"t has shape {None if t is None else np.shape(t)}; expected ({batch},)")
        half = self.d_model // 2
        angles = np.outer(np.asarray(t) * TIME_SCALE, ROTARY_BASE ** (-np.arange(half) / half))
        waves = Tensor(np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(self.dtype))  # (B, d)
        features = self._linear("time.down", ops.gelu(self._linear("time.up", waves)))
        return features.reshape(batch, 1, self.d_model)

    def _class_features(self, label: Ints | None, batch: int) -> Tensor:
        ids = np.full(batch, self.classes) if label is None else np.asarray(label)
        if ids.shape != (batch,) or ids.dtype.kind not in "iu":
            raise ValueError(f"label has shape {ids.shape} and dtype {ids.dtype}; expected ({batch},) integers")
        if ids.size and not (self.classes and ids.min() >= 0 and ids.max() <= self.classes):
            raise ValueError(
                f"label contains {ids.min()}..{ids.max()}, but this model "
                + (f"knows classes 0..{self.classes - 1} and {self.classes}, no class" if self.classes else "has none")
            )
        return ops.embedding(self.params["class"], ids).reshape(batch, 1, self.d_model)

    def _cached_attention(self, qkv: Floats, keys_values: Floats, past: int, ahead: int, causal: int) -> Tensor:
        stop = past + qkv.shape[1]
        keys_values[:, past:stop] = qkv[:, :, 1:]
        seen = keys_values[:, : stop + ahead]
        q, k, v = qkv[:, :, 0], seen[:, :, 0], seen[:, :, 1]  # (B, L, H, D) each
        out, _ = kernels.attention(q, k, v, causal=causal, bfloat16=self.precision == "bfloat16")
        return Tensor(out.reshape(*out.shape[:2], self.d_model))

    def _mixture(self, block: str, x: Tensor, routes: list[Bools] | None) -> Tensor:
        """What the experts make of (B, L, d)."""
        rows = x.reshape(-1, self.d_model)  # (T, d)
        logits = self._linear(f"{block}.router", rows)  # (T, E)
        if self.routing == "token":
            chosen = mixtures.chosen_by_token(logits.data, self.active)
        else:
            by_sequence = logits.data.reshape(*x.shape[:2], self.experts)
            chosen = mixtures.chosen_by_expert(by_sequence, self.active).reshape(logits.shape)
        if routes is not None:
            routes.append(chosen.reshape(*x.shape[:2], self.experts))
        logits = mixtures.steadied(logits, chosen, mixtures.BALANCE if self.routing == "token" else 0.0)
        up, down = self.params[f"{block}.experts.up"], self.params[f"{block}.experts.down"]
        gate = mixtures.gates(logits, chosen, self.routing)
        return mixtures.mixture(rows, up, down, gate, chosen, self.precision == "bfloat16").reshape(*x.shape)

    def _linear(self, name: str, x: Tensor, residual: Tensor | None = None) -> Tensor:
        weight, bias = self.params[f"{name}.weight"], self.params[f"{name}.bias"]
        return ops.linear(x, weight, bias, residual, self.precision)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.params[f"{name}.weight"], self.params[f"{name}.bias"])
