"""tinydiff's side of the benchmarks; TINYDIFF_KERNELS and TINYDIFF_ISA choose which."""

import numpy as np

from benchmarks import cases
from tinydiff import AdamW, MaskedDiffusion, Transformer, kernels, no_grad

RNG = np.random.default_rng(0)


def describe() -> str:
    """Kernels, instruction set and threads."""
    if kernels.active() == "numpy" or kernels.native is None:
        return f"tinydiff, NumPy {np.__version__} kernels"
    native = kernels.native
    return f"tinydiff, native {native.isa()} kernels, {native.threads()} threads of {native.pool()}"


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def model(size: cases.Size, precision: str = "full") -> Transformer:
    return Transformer(
        cases.VOCABULARY, size.length, d_model=size.d_model, layers=size.layers, heads=size.heads,
        positions="learned", precision=precision, rng=RNG,
    )  # fmt: skip


def train_step(size: cases.Size, precision: str = "full"):
    network, process = model(size, precision), MaskedDiffusion(cases.VOCABULARY)
    optimiser = AdamW(network.params, betas=cases.BETAS, weight_decay=cases.WEIGHT_DECAY, clip=cases.CLIP)
    x0 = RNG.integers(0, cases.VOCABULARY, (size.batch, size.length))

    def step() -> None:
        process.loss(network, x0, RNG).backward()
        optimiser.step(cases.LEARNING_RATE)

    return step


def forward(batch: int):
    size = cases.SIZES["M"]
    network = model(size)
    x = RNG.integers(0, cases.VOCABULARY + 1, (batch, size.length))

    def run() -> None:
        with no_grad():
            network(x)

    return run


def attention(shape: tuple[int, int, int, int], backward: bool, half: bool = False):
    b, h, length, d = shape
    qkv = normal(b, length, 3, h, d)
    q, k, v = (qkv[:, :, i] for i in range(3))
    g = normal(b, length, h, d)

    def run() -> None:
        out, lse = kernels.attention(q, k, v, bfloat16=half)
        if backward:
            d_qkv = np.empty_like(qkv)
            dq, dk, dv = (d_qkv[:, :, i] for i in range(3))
            kernels.attention_backward(g, q, k, v, out, lse, dq, dk, dv, bfloat16=half)

    return run


def cross_entropy(shape: tuple[int, int]):
    x, targets, g = normal(*shape), RNG.integers(0, shape[1], shape[0]), normal(shape[0])

    def run() -> None:
        _, lse = kernels.cross_entropy(x, targets)
        kernels.cross_entropy_backward(g, x, targets, lse)

    return run


def layer_norm(shape: tuple[int, int]):
    x, w, b, g = normal(*shape), normal(shape[1]), normal(shape[1]), normal(*shape)

    def run() -> None:
        _, mean, rstd = kernels.layer_norm(x, w, b)
        kernels.layer_norm_backward(g, x, w, mean, rstd)

    return run


def gelu(shape: tuple[int, int]):
    x, g = normal(*shape), normal(*shape)

    def run() -> None:
        kernels.gelu(x)
        kernels.gelu_backward(g, x)

    return run


def softmax(shape: tuple[int, int]):
    x = normal(*shape)
    return lambda: kernels.softmax(x)


def topk(n: int, v: int, k: int):
    x = normal(n, v)
    return lambda: kernels.topk(x, k)


def adamw():
    p, g, m, v = (normal(cases.PARAMETERS) for _ in range(4))
    v = np.abs(v)
    arguments = (cases.LEARNING_RATE, *cases.BETAS, cases.EPS, cases.WEIGHT_DECAY, 10)
    return lambda: kernels.adamw(p, g, m, v, *arguments)


HALVED = cases.SIZES.items() if kernels.active() == "native" and kernels.has_bfloat16() else ()
CASES = {
    **{f"train step {name}": (lambda size=size: train_step(size)) for name, size in cases.SIZES.items()},
    **{f"train step {name} bfloat16": (lambda size=size: train_step(size, "bfloat16")) for name, size in HALVED},
    **{f"forward M B{b}": (lambda b=b: forward(b)) for b in cases.SAMPLING_BATCHES},
    **{
        cases.attention_name(shape, backward): (lambda shape=shape, backward=backward: attention(shape, backward))
        for shape in cases.ATTENTION
        for backward in (False, True)
    },
    **{
        f"{cases.attention_name(shape, True)} bfloat16": (lambda shape=shape: attention(shape, True, half=True))
        for shape in cases.ATTENTION
        if HALVED
    },
    **{
        f"{f.__name__} {shape}": (lambda f=f, shape=shape: f(shape))
        for f in (softmax, cross_entropy, layer_norm, gelu)
        for shape in cases.ROWS
    },
    **{f"topk {n}x{v} k{k}": (lambda n=n, v=v, k=k: topk(n, v, k)) for n, v, k in cases.TOP_K},
    "adamw": adamw,
}
