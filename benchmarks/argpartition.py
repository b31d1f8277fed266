"""Top-k as a NumPy user would write it: argpartition, then sort the k found."""

import numpy as np

from benchmarks import cases

RNG = np.random.default_rng(0)


def describe() -> str:
    """NumPy's version."""
    return f"NumPy {np.__version__} argpartition"


def topk(n: int, v: int, k: int):
    x = RNG.standard_normal((n, v)).astype(np.float32)

    def run() -> None:
        at = np.argpartition(x, v - k, axis=-1)[:, v - k :]
        values = np.take_along_axis(x, at, axis=-1)
        order = np.argsort(-values, axis=-1)
        np.take_along_axis(values, order, axis=-1), np.take_along_axis(at, order, axis=-1)

    return run


CASES = {f"topk {n}x{v} k{k}": (lambda n=n, v=v, k=k: topk(n, v, k)) for n, v, k in cases.TOP_K}
