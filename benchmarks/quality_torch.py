"""PyTorch's side of the time to quality: the same network with rotary positions, trained as its users train.

The trained network is judged by tinydiff's own bound, as any model is that maps ids to logits.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.cases import SIZES, Size
from benchmarks.quality_cases import CORPUS, ENTRIES, Board, Entry
from tinydiff import Autoregressive, MaskedDiffusion, Tensor, data, evaluate

torch.set_num_threads(int(os.environ.get("BENCHMARK_THREADS", os.cpu_count() or 1)))
CORPUS_IDS = data.load(CORPUS)
VOCABULARY = CORPUS_IDS.vocab_size
EMA, WARMUP = 0.995, 100


def describe() -> str:
    """Version and threads."""
    return f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"


class Block(nn.Module):
    def __init__(self, d: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.q, self.k, self.v = (nn.Linear(d, d) for _ in range(3))  # apart, as Muon wants them
        self.out, self.up, self.down = nn.Linear(d, d), nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        b, length, d = x.shape
        weight = torch.cat([self.q.weight, self.k.weight, self.v.weight])
        bias = torch.cat([self.q.bias, self.k.bias, self.v.bias])
        qkv = F.linear(self.norm1(x), weight, bias).view(b, length, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, L, D) each
        q, k = (torch.cat([a * cos - c * sin, c * cos + a * sin], -1) for a, c in (q.chunk(2, -1), k.chunk(2, -1)))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(attended.transpose(1, 2).reshape(b, length, d))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Network(nn.Module):
    def __init__(self, size: Size, causal: bool) -> None:
        super().__init__()
        d, half = size.d_model, size.d_model // size.heads // 2
        self.embed = nn.Embedding(VOCABULARY + 1, d)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(d, size.heads, causal) for _ in range(size.layers))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, VOCABULARY)
        angles = torch.outer(torch.arange(size.length), 10_000 ** (-torch.arange(half) / half))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        for block in self.blocks:
            h = block(h, self.cos, self.sin)
        return self.head(self.norm(h))


class Training:
    """A network, its optimisers and its data; `step` is one step."""

    def __init__(self, entry: Entry, board: Board, seed: int) -> None:
        torch.manual_seed(seed)
        self.entry, self.steps, self.done = entry, entry.steps[board], 0
        self.size, self.mode = SIZES[board[0]], board[1]
        self.network = Network(self.size, causal=self.mode == "autoregressive")
        self.ids = torch.tensor(CORPUS_IDS.train).long()
        lr = entry.lr[board]
        parameters = dict(self.network.named_parameters())
        matrices = [p for name, p in parameters.items() if name.startswith("blocks") and p.ndim == 2]
        own = {id(p) for p in matrices} if entry.optimiser == "muon" else set()
        rest = [p for p in parameters.values() if id(p) not in own]
        self.optimisers: list[Any] = [torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.01)]
        if entry.optimiser == "muon":
            self.optimisers.append(torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, momentum=0.9))
        self.peak = lr
        self.average = [p.detach().clone() for p in self.network.parameters()] if entry.averaged else None

    def loss(self) -> torch.Tensor:
        batch, length = self.size.batch, self.size.length
        starts = torch.randint(0, len(self.ids) - length + 1, (batch,))
        x = self.ids[starts[:, None] + torch.arange(length)]
        if self.mode == "autoregressive":
            start = torch.full((batch, 1), VOCABULARY)
            logits = self.network(torch.cat([start, x[:, :-1]], 1))
            return F.cross_entropy(logits.flatten(0, 1), x.flatten())
        uniform = (torch.arange(batch) + torch.rand(1)) / batch
        if self.entry.estimator == "count":
            k = 1 + (uniform * length).long()
            masked = torch.rand(batch, length).argsort(1).argsort(1) < k[:, None]
            weight = length / k
        else:
            t = uniform.clamp_min(1e-3)
            masked, weight = torch.rand(batch, length) < t[:, None], 1 / t
        logits = self.network(torch.where(masked, VOCABULARY, x))
        nll = F.cross_entropy(logits.flatten(0, 1), x.flatten(), reduction="none").view(x.shape)
        return (nll * masked * weight[:, None]).mean()

    def step(self) -> None:
        progress = self.done / self.steps
        relative = min(1, (self.done + 1) / WARMUP) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))
        loss = self.loss()
        for optimiser in self.optimisers:
            optimiser.param_groups[0]["lr"] = self.peak * relative
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self.done += 1
        if self.average is not None:
            decay = min(EMA, (1 + self.done) / (10 + self.done))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.network.parameters()], 1 - decay)


def trained(entry: Entry, board: Board, seed: int) -> Iterator[int | tuple[float, float]]:
    """Train; yields the steps done, and last the held-out bits per character and their standard error."""
    training = Training(entry, board, seed)
    for done in range(1, training.steps + 1):
        training.step()
        yield done
    network = training.network
    if training.average is not None:
        with torch.no_grad():
            for p, average in zip(network.parameters(), training.average, strict=True):
                p.copy_(average)

    def model(x: Any, t: Any = None, *, select: Any = None, causal: bool = False, label: Any = None) -> Tensor:
        with torch.no_grad():
            logits = network(torch.from_numpy(np.asarray(x)).long()).numpy()
        return Tensor(logits if select is None else logits[select])

    process = MaskedDiffusion(VOCABULARY) if training.mode == "masked" else Autoregressive(VOCABULARY)
    found = evaluate(model, process, CORPUS_IDS, windows=3840, length=training.size.length)
    yield found.mean, found.error


def step(entry: Entry, board: Board) -> Callable[[], object]:
    """A call that does one training step, for the clock."""
    return Training(entry, board, 0).step


CASES = {
    f"{' '.join(board)} {name}": (lambda entry=entry, board=board: step(entry, board))
    for name, entry in ENTRIES.items()
    if entry.module == "quality_torch"
    for board in entry.steps
}
