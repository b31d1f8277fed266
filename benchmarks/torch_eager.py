"""PyTorch's side: the same network and steps, written as its users write them."""

import os

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import cases

torch.set_num_threads(int(os.environ["BENCHMARK_THREADS"]))
torch.manual_seed(0)

MASK = cases.VOCABULARY


def describe() -> str:
    """Version and threads."""
    return f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"


class Block(nn.Module):
    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, length, d = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, length, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, length, d)
        x = x + self.out(attended)
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Network(nn.Module):
    def __init__(self, size: cases.Size) -> None:
        super().__init__()
        d = size.d_model
        self.embed = nn.Embedding(cases.VOCABULARY + 1, d)
        self.position = nn.Parameter(0.02 * torch.randn(size.length, d))
        self.blocks = nn.Sequential(*(Block(d, size.heads) for _ in range(size.layers)))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, cases.VOCABULARY)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.embed(x) + self.position)))


def compiled(network: nn.Module) -> nn.Module:
    """Hook for torch_compiled.py."""
    return network


def train_step(size: cases.Size, half: bool = False):
    network = Network(size)
    run = compiled(network)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=cases.LEARNING_RATE, betas=cases.BETAS, eps=cases.EPS, weight_decay=cases.WEIGHT_DECAY
    )
    x0 = torch.randint(0, cases.VOCABULARY, (size.batch, size.length))

    def step() -> None:
        t = ((torch.arange(size.batch) + torch.rand(1)) / size.batch).clamp_min(1e-3)[:, None]
        masked = torch.rand(x0.shape) < t
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = run(torch.where(masked, MASK, x0)).float()
        nll = F.cross_entropy(logits.flatten(0, 1), x0.flatten(), reduction="none").view(x0.shape)
        loss = (nll * masked / t).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), cases.CLIP)
        optimiser.step()

    return step


def forward(batch: int):
    size = cases.SIZES["M"]
    run = compiled(Network(size).eval())
    x = torch.randint(0, cases.VOCABULARY + 1, (batch, size.length))

    def call() -> None:
        with torch.no_grad():
            run(x)

    return call


def attention(shape: tuple[int, int, int, int], backward: bool, dtype: torch.dtype = torch.float32):
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=backward) for _ in range(3))
    g = torch.randn(shape, dtype=dtype)

    def run() -> None:
        out = F.scaled_dot_product_attention(q, k, v)
        if backward:
            torch.autograd.grad(out, (q, k, v), g)

    return run


def cross_entropy(shape: tuple[int, int]):
    x, targets = torch.randn(shape, requires_grad=True), torch.randint(0, shape[1], shape[:1])
    g = torch.randn(shape[0])
    return lambda: torch.autograd.grad(F.cross_entropy(x, targets, reduction="none"), x, g)


def layer_norm(shape: tuple[int, int]):
    x, w, b = (torch.randn(s, requires_grad=True) for s in (shape, shape[1:], shape[1:]))
    g = torch.randn(shape)
    return lambda: torch.autograd.grad(F.layer_norm(x, shape[1:], w, b), (x, w, b), g)


def gelu(shape: tuple[int, int]):
    x, g = torch.randn(shape, requires_grad=True), torch.randn(shape)
    return lambda: torch.autograd.grad(F.gelu(x, approximate="tanh"), x, g)


def softmax(shape: tuple[int, int]):
    x = torch.randn(shape)
    return lambda: torch.softmax(x, dim=-1)


def topk(n: int, v: int, k: int):
    x = torch.randn(n, v)
    return lambda: torch.topk(x, k)


def adamw():
    p = torch.randn(cases.PARAMETERS, requires_grad=True)
    p.grad = torch.randn(cases.PARAMETERS)
    optimiser = torch.optim.AdamW(
        [p], lr=cases.LEARNING_RATE, betas=cases.BETAS, eps=cases.EPS, weight_decay=cases.WEIGHT_DECAY
    )
    return optimiser.step


CASES = {
    **{f"train step {name}": (lambda size=size: train_step(size)) for name, size in cases.SIZES.items()},
    **{f"train step {name} bfloat16": (lambda size=size: train_step(size, True)) for name, size in cases.SIZES.items()},
    **{f"forward M B{b}": (lambda b=b: forward(b)) for b in cases.SAMPLING_BATCHES},
    **{
        cases.attention_name(shape, backward): (lambda shape=shape, backward=backward: attention(shape, backward))
        for shape in cases.ATTENTION
        for backward in (False, True)
    },
    **{
        f"{cases.attention_name(shape, True)} bfloat16": (lambda shape=shape: attention(shape, True, torch.bfloat16))
        for shape in cases.ATTENTION
    },
    **{
        f"{f.__name__} {shape}": (lambda f=f, shape=shape: f(shape))
        for f in (softmax, cross_entropy, layer_norm, gelu)
        for shape in cases.ROWS
    },
    **{f"topk {n}x{v} k{k}": (lambda n=n, v=v, k=k: topk(n, v, k)) for n, v, k in cases.TOP_K},
    "adamw": adamw,
}
